"""Made-up interactions: made-up conversations, told in the words of the newer export."""

from __future__ import annotations

from typing import Any

from tests.sandbox.data import END, START, Shape, make_conversations
from tests.sandbox.world import shuffle_key

AGENTS = ("9d0c4d7e-1f57-4c63-8a52-07b5f1c7a001", "9d0c4d7e-1f57-4c63-8a52-07b5f1c7a002")
"""The ids of the agents that had these interactions."""

_SOURCES = {"zendesk": ("zendesk", "front", "freshdesk"), "ui": ("ui", "standalone", "testsuite")}
_FOLDERS = ("Billing", "Accounts", "Shipping")
_BOUNDS = (0, 0, 1, 2, 3, 4, 5)


def agent_of(interaction_id: str) -> str:
    """Return the id of the agent that had an interaction; the export itself does not tell."""
    return AGENTS[_draw(len(AGENTS), "agent", interaction_id)]


def make_agents() -> list[dict[str, Any]]:
    """Make up the agents."""
    return [
        {"id": key, "name": name, "createdAt": f"2024-0{month}-17T09:30:00.{month}21Z"}
        for month, (key, name) in enumerate(zip(AGENTS, ("Fin", "Fina"), strict=True), 3)
    ]


def documented_interaction() -> dict[str, Any]:
    """Return an interaction with every field that Fini's newer reference shows."""
    article = {
        "id": "5b1f3e4c-77a2-4f0e-9d0a-2c8f6f1d0a11",
        "title": "How to reset your password",
        "documentUrl": "https://help.acme.com/reset",
    }
    return {
        "id": "0f6c1f0a-3d1e-4b58-9a7e-6a1d2c3b4e5f",
        "createdAt": 1740407169191,
        "source": "zendesk",
        "channel": "email",
        "status": "Escalated to Human Agent",
        "externalId": "48213",
        "url": "https://acme.zendesk.com/agent/tickets/48213",
        "subjectPreview": "I cannot log in",
        "hasFeedback": True,
        "resolved": None,
        "userAttributes": {"plan": "pro", "seats": 12, "tags": ["vip"]},
        "usedArticles": [article],
        "usedSubfolders": [{"id": "folder-1", "title": "Accounts"}],
        "events": [
            {
                "id": "e-1",
                "createdAt": 1740407169191,
                "role": "user",
                "type": "message",
                "message": "I cannot log in",
                "externalId": "900001",
                "externalCreatedAt": 1740407168000,
                "csatRating": None,
                "feedback": None,
                "approved": None,
                "resolved": None,
                "attachments": [],
                "tags": [],
                "usedArticles": [],
            },
            {
                "id": "e-2",
                "createdAt": 1740407178963,
                "role": "finibot",
                "type": "message",
                "message": "Use the link on the login page.",
                "externalId": None,
                "externalCreatedAt": None,
                "csatRating": 0,
                "feedback": "The link was dead",
                "approved": False,
                "resolved": False,
                "attachments": [],
                "tags": [],
                "usedArticles": [article],
            },
        ],
    }


def make_interactions(
    count: int,
    *,
    seed: int = 0,
    start: int = START,
    end: int = END,
    marker: str = "",
    shape: Shape = "even",
) -> list[dict[str, Any]]:
    """Make up ``count`` interactions, the oldest first, some of them without any event.

    The arguments are those of :func:`make_conversations`.
    """
    made = [
        as_interaction(conversation)
        for conversation in make_conversations(
            count, seed=seed, start=start, end=end, marker=marker, shape=shape
        )
    ]
    for interaction in made[7::29]:
        interaction["events"] = []
    return made


def as_interaction(conversation: dict[str, Any]) -> dict[str, Any]:
    """Tell a made-up conversation as an interaction.

    Its latest event is at the conversation's ``updatedAt``.
    """
    key, created, updated = (conversation[name] for name in ("id", "createdAt", "updatedAt"))
    turns = conversation["botRequests"]
    events: list[dict[str, Any]] = []
    for number, turn in enumerate(turns):
        answered = updated if number == len(turns) - 1 else min(turn["createdAt"], updated)
        asked = max(created, answered - 700)
        events += [
            _event(key, len(events), min(asked, updated), "user", turn.get("question")),
            _event(key, len(events) + 1, answered, "finibot", turn.get("answer"))
            | _review(key, number, turn),
        ]
    sources = _SOURCES.get(conversation.get("source") or "", (conversation.get("source"),))
    articles = {a["id"]: a for event in events for a in event["usedArticles"]}
    escalated = conversation.get("escalation")
    return {
        "id": key,
        "createdAt": created,
        "source": sources[_draw(len(sources), "source", key)],
        "channel": conversation.get("channel"),
        "status": "Escalated to Human Agent" if escalated else "Handled by Fini",
        "externalId": conversation.get("externalId"),
        "url": conversation.get("url"),
        "subjectPreview": turns[0].get("question") if turns else None,
        "hasFeedback": bool(conversation.get("feedbackType")),
        "resolved": None if escalated is None else not escalated,
        "userAttributes": {
            "userId": conversation.get("userId"),
            "plan": ("free", "pro")[_draw(2, "plan", key)],
        },
        "usedArticles": list(articles.values()),
        "usedSubfolders": [
            {"id": f"folder-{n}", "title": _FOLDERS[n]} for n in range(_draw(3, "folders", key))
        ],
        "events": events,
    }


def _event(key: str, place: int, at: int, role: str, message: Any) -> dict[str, Any]:
    digits = shuffle_key("event", key, place)
    return {
        "id": f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}",
        "createdAt": at,
        "role": role,
        "type": "message",
        "message": message,
        "externalId": None,
        "externalCreatedAt": at - 17 if _draw(2, "external", key) else None,
        "csatRating": None,
        "feedback": None,
        "approved": None,
        "resolved": None,
        "attachments": [],
        "tags": [],
        "usedArticles": [],
    }


def _review(key: str, number: int, turn: dict[str, Any]) -> dict[str, Any]:
    """Draw what a review leaves on an answer."""
    thumbs = turn.get("feedbackType")
    used = [
        {
            "id": article["id"] if isinstance(article["id"], str) else article["id"][0],
            "title": article["title"],
            "documentUrl": f"https://help.acme.com/{article.get('sourceId', 'new')}",
        }
        for article in turn.get("basedOn") or ()
    ]
    return {
        "csatRating": _BOUNDS[_draw(len(_BOUNDS), "csat", key, number)] if thumbs else None,
        "feedback": f"About: {turn.get('question')}" if thumbs == "thumbs_down" else None,
        "approved": None if thumbs is None else thumbs == "thumbs_up",
        "resolved": True if thumbs == "thumbs_up" else None,
        "attachments": [{"name": "log.txt", "size": number}] if thumbs == "thumbs_down" else [],
        "tags": list(turn.get("categories") or ()),
        "usedArticles": used,
    }


def _draw(bound: int, *parts: object) -> int:
    return int(shuffle_key(*parts)[:8], 16) % bound
