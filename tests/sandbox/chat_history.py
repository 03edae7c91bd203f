"""``GET /v2/bots/requests/public``, as Fini's page "Get chat history" describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tests.sandbox.paging import Refusal, page_of, refuse_unknown, window_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.sandbox.switches import Switches
    from tests.sandbox.world import Entry, World

PATH = "/v2/bots/requests/public"

ENDS = ("startEpoch", "endEpoch")

SOURCES = ("zendesk", "slack", "discord", "widget", "intercom", "ui", "api")

FEEDBACK = {"thumbs_up": "thumbs_up", "thumbs_down": "thumbs_down", "no_feedback": None}


class _BotRequest(msgspec.Struct):
    question: Any = None


class _Questions(msgspec.Struct):
    botRequests: list[_BotRequest] = []  # noqa: N815


def answer(
    world: World, params: Mapping[str, str], switches: Switches, now: int
) -> tuple[bytes, tuple[str, ...]]:
    """Return the body of the answer, and the ids of the conversations in it.

    Args:
        world: what there is.
        params: the query parameters, none of them repeated.
        switches: how this Fini behaves.
        now: the server's time in epoch milliseconds.

    Raises:
        Refusal: the request breaks a rule.
    """
    refuse_unknown(params, KNOWN)
    window = window_of(params, ENDS, now, switches)
    tests = {name: make(params[name]) for name, make in FILTERS.items() if name in params}
    rows, page = page_of(world, params, window, tests, switches)
    tail = msgspec.json.encode({"hasMore": page.has_more, **page.cursors})
    return b'{"conversations":[' + rows + b"]," + tail[1:], tuple(e.id for e in page.rows)


def _source(value: str) -> Callable[[Entry], bool]:
    if value == "all":
        return lambda _: True
    if value not in SOURCES:
        raise Refusal(
            400, f"source must be one of the following values: {', '.join(('all', *SOURCES))}"
        )
    return lambda entry: bool(entry.source == value)


def _feedback(value: str) -> Callable[[Entry], bool]:
    if value not in FEEDBACK:
        raise Refusal(
            400, f"feedbackType must be one of the following values: {', '.join(FEEDBACK)}"
        )
    return lambda entry: bool(entry.feedback == FEEDBACK[value])


def _flag(name: str, value: str) -> bool:
    if value not in {"true", "false"}:
        raise Refusal(400, f"{name} must be a boolean value")
    return value == "true"


def _escalation(value: str) -> Callable[[Entry], bool]:
    wanted = _flag("escalation", value)
    return lambda entry: entry.escalation is wanted


def _has_links(value: str) -> Callable[[Entry], bool]:
    wanted = _flag("hasLinks", value)
    return lambda entry: entry.has_links is wanted


def _question(value: str) -> Callable[[Entry], bool]:
    wanted = value.casefold()

    def asks(entry: Entry) -> bool:
        try:
            asked = msgspec.json.decode(entry.json, type=_Questions).botRequests
        except msgspec.ValidationError:
            return False
        return any(isinstance(r.question, str) and wanted in r.question.casefold() for r in asked)

    return asks


FILTERS: dict[str, Callable[[str], Callable[[Entry], bool]]] = {
    "source": _source,
    "category": lambda value: lambda entry: value in entry.categories,
    "feedbackType": _feedback,
    "escalation": _escalation,
    "hasLinks": _has_links,
    "userId": lambda value: lambda entry: bool(entry.user_id == value),
    "ticketId": lambda value: lambda entry: bool(entry.ticket_id == value),
    "question": _question,
}
"""The documented filters: from a parameter's value to what it lets through."""

KNOWN = {*ENDS, "limit", "direction", "cursor", *FILTERS}
