"""The words of the made-up support chats; ``{n}`` becomes a number."""

# Prose is as long as it is, and look-alike letters are what it is full of.
# ruff: noqa: E501, RUF001

from __future__ import annotations

ARTICLES = (
    "How to reset your password",
    "Refunds and cancellations",
    "Understanding your invoice",
    "Tracking a delivery",
    "Changing your plan",
    "Two-factor authentication",
    "Payment methods we accept",
    "Returning a damaged item",
    "Inviting your team",
    "Where is my order?",
    "API keys and scopes",
    "Exporting your data",
    "Connecting Slack",
    "Deleting an account",
    "Shipping times by country",
    "Roles and permissions",
    "Webhooks: signing and retries",
    "Discounts for non-profits",
    "Using the mobile app offline",
    "VAT numbers and tax exemption",
    "Häufige Fragen zur Rechnung",
    "Preguntas sobre el envío",
    "パスワードを忘れた場合",
    "Single sign-on with Okta",
    "Service status and maintenance",
)

# category, what is asked, what is answered
TOPICS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "fini-other",
        ("Hello", "Hi there, is this a real person? Order {n}", "Thanks, that is all 👍 ({n})"),
        (
            "Hello, how can I help you?",
            "You are talking to an assistant. I can look into **{n}** for you: what happened?",
        ),
    ),
    (
        "billing",
        (
            "Why was I charged twice for invoice {n}?",
            "Invoice {n} shows VAT although we are exempt, can you correct it?",
            "Warum steht auf Rechnung {n} noch die alte Adresse? Das wäre schön früher aufgefallen …",
            "The card ending in {n} was declined but the bank says it is fine",
        ),
        (
            (
                "I am sorry about the confusion with {n}. The second line is a *pre-authorisation*: your bank releases it "
                "within 3–5 working days, and nothing else is due."
            ),
            (
                "You can add your VAT number under **Settings → Billing → Tax**. Invoice {n} is then issued again, and the "
                "difference is credited to your account."
            ),
            "Für die Rechnung {n} können Sie die Adresse unter „Einstellungen“ ändern; die nächste stimmt dann.",
        ),
    ),
    (
        "account",
        (
            "I can't log in any more, the code for {n} never arrives",
            "How do I transfer ownership of workspace {n} to a colleague?",
            "パスワードを忘れました。アカウント {n} を復旧できますか？",
            "שלום, איך מוחקים את החשבון {n}?",
        ),
        (
            "Codes expire after ten minutes. Please request a new one, and check the spam folder for mail about {n}.",
            "Only an owner can do that: **Members → ⋯ → Make owner**. Workspace {n} keeps its plan and its data.",
            "「パスワードをお忘れの場合」を押してください。アカウント {n} にメールが届きます。📩",
            "אפשר למחוק את החשבון {n} בהגדרות, בלשונית ״פרטיות״.",
        ),
    ),
    (
        "shipping",
        (
            "Where is parcel {n}? It was promised for Tuesday 😡",
            "¿Cuándo llega el pedido {n}? Necesito la dirección corregida, por favor.",
            "أين طلبي رقم {n}؟",
            "Parcel {n} arrived damaged, photos attached",
        ),
        (
            (
                "Parcel {n} left our warehouse and is with the carrier. Tracking updates can lag by a day; if nothing moves "
                "by tomorrow evening, I will open an investigation for you."
            ),
            "Su pedido {n} llegará mañana. La dirección ya está corregida. 🚚",
            "طلبك رقم {n} في الطريق وسيصل خلال يومين.",
            "I am sorry to hear that. Keep the packaging of {n}; a replacement is free and leaves today.",
        ),
    ),
    (
        "technical",
        (
            "Webhook {n} returns 401 since this morning, nothing changed on our side",
            "Is there a limit on exports? Job {n} stops at 10,000 rows",
            'The page says "Error {n}: unexpected token <" when I press \\ in the search',
            "Does the SSO integration support SCIM? Ticket {n} was never answered",
        ),
        (
            (
                "A 401 on webhook {n} means that the signing secret was rotated. Copy the new one from **Developers → "
                "Webhooks** and deploy it; deliveries of the last 72 hours are then sent again."
            ),
            "Exports above 10,000 rows are cut into several files. Job {n} has its other parts in the same folder.",
            'That is a known problem (error {n}) with the quotes " and \\ in a search. A fix is being rolled out.',
        ),
    ),
    (
        "cancellation",
        (
            "Please cancel subscription {n} and refund the last month",
            "How do I downgrade {n} without losing our history?",
        ),
        (
            (
                "Subscription {n} can be cancelled under **Settings → Plan**. It runs to the end of the paid month; a refund "
                "is possible within 14 days."
            ),
            "A downgrade of {n} keeps all history; only the seats above the new limit become read-only.",
        ),
    ),
)

CLOSINGS = (
    "Is there anything else I can help with?",
    "Let me know if that does not work, and I will bring in a colleague.",
    "You find every step in our help centre: https://help.example.com/articles/{n}",
    "Anything else? 😊",
)

SECTIONS = (
    (
        "### Before you start\n\n- Sign in as an **owner** or **admin**\n- Have the reference `{n}` at hand\n- Close other "
        "tabs of the same workspace, otherwise the change may be overwritten\n"
    ),
    (
        "### Step by step\n\n1. Open **Settings → Workspace**\n2. Choose *Advanced* and scroll down to “Danger zone”\n3. "
        "Press **Request change** and enter `{n}`\n4. Confirm with the code that arrives by e-mail\n"
    ),
    (
        "### What changes for you\n\n| before | after |\n|---|---|\n| one invoice a seat | one invoice a month |\n| cards "
        "only | cards, SEPA, ACH |\n| 30 days of logs | 365 days of logs |\n"
    ),
    (
        "### If it fails\n\nThe message `E_CONFLICT` means that somebody else has the page open. Wait a minute, reload, and "
        "try again. With `E_LOCKED`, an export is running: its progress is shown at the top right, and the change goes "
        "through as soon as it has finished.\n"
    ),
    (
        "### From the command line\n\n```bash\ncurl -X POST https://api.example.com/v1/changes \\\n  -H 'Content-Type: "
        'application/json\' \\\n  -d \'{{"reference": "{n}", "notify": true}}\'\n```\n'
    ),
    (
        "### Good to know\n\n> Changes are kept for 90 days and can be undone by an owner.\n\nThe same page exists in "
        "German („Änderungen rückgängig machen“), in Japanese (変更を元に戻す) and in Arabic (التراجع عن التغييرات).\n"
    ),
)

REASONS = (
    "The user asks about {n}; the first article answers it directly.",
    "No article covers {n}. The closest one is about a different product, so the answer stays general and offers a human.",
    "The user is upset 😠 about {n} and asked for a person: escalate.",
    "Two articles contradict each other on {n}; the newer one was preferred.",
)
