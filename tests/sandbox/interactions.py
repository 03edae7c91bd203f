"""``GET /v2/hc-interactions/public``, as Fini's newer reference describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tests.sandbox.interaction_data import agent_of
from tests.sandbox.paging import Refusal, integer, page_of, refuse_unknown, window_of
from tests.sandbox.world import Entry, World, are_timed, in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tests.sandbox.switches import Switches

PATH = "/v2/hc-interactions/public"

ENDS = ("since", "until")

MAX_LIMIT = 100

SOURCES = (
    *("api", "widget", "ui", "standalone", "testsuite", "replay", "zendesk", "intercom", "front"),
    *("hubspot", "salesforce", "gorgias", "livechat", "slack", "discord", "freshdesk"),
    "freshchat",
)


def world_of(interactions: Iterable[dict[str, Any]] = ()) -> World:
    """Make a world of interactions."""
    return World(interactions, entry_of=entry_of, as_served=as_served)


def answer(
    world: World, params: Mapping[str, str], switches: Switches, now: int
) -> tuple[bytes, tuple[str, ...]]:
    """Return the body of the answer, and the ids of the interactions in it.

    Args:
        world: what there is.
        params: the query parameters, none of them repeated.
        switches: how this Fini behaves.
        now: the server's time in epoch milliseconds.

    Raises:
        Refusal: the request breaks a rule.
    """
    refuse_unknown(params, KNOWN)
    if integer("limit", params.get("limit", "1")) > MAX_LIMIT:
        raise Refusal(400, f"limit must not be greater than {MAX_LIMIT}")
    window = window_of(params, ENDS, now, switches)
    tests = {name: make(params[name]) for name, make in FILTERS.items() if name in params}
    rows, page = page_of(world, params, window, tests, switches)
    tail = msgspec.json.encode({"hasMore": page.has_more, **page.cursors})
    head = f'{{"{switches.interactions_key}":['.encode()
    return head + rows + b"]," + tail[1:], tuple(e.id for e in page.rows)


def latest_event(interaction: dict[str, Any]) -> int | None:
    """Return the time of an interaction's latest event; None without one that has a time."""
    events = interaction.get("events")
    return max(
        (
            event["createdAt"]
            for event in (events if isinstance(events, list) else ())
            if isinstance(event, dict) and type(event.get("createdAt")) is int
        ),
        default=None,
    )


def entry_of(interaction: dict[str, Any]) -> Entry:
    """Encode an interaction.

    Raises:
        ValueError: no id, or no time at all to select it by.
    """
    if not isinstance(interaction.get("id"), str) or not interaction["id"]:
        msg = "an interaction needs an id"
        raise ValueError(msg)
    created, latest = interaction.get("createdAt"), latest_event(interaction)
    times = [at for at in (created, latest) if type(at) is int]
    if not times:
        msg = "an interaction needs a time in epoch milliseconds"
        raise ValueError(msg)
    return Entry(
        id=interaction["id"],
        json=msgspec.json.encode(interaction),
        times={"createdAt": times[0], "updatedAt": times[-1]},
        source=interaction.get("source"),
        channel=interaction.get("channel"),
        agent=agent_of(interaction["id"]),
    )


def as_served(interaction: dict[str, Any], switches: Switches) -> dict[str, Any]:
    """Turn an interaction, in place, into what the API shows under ``switches``."""
    events = interaction.get("events")
    if are_timed(events):
        events.sort(key=lambda event: event["createdAt"])
        interaction["events"] = in_order(events, interaction["id"], switches)
    return interaction


def _source(value: str) -> Callable[[Entry], bool]:
    wanted = set(value.split(","))
    if not wanted <= set(SOURCES):
        raise Refusal(
            400, f"each value in source must be one of the following values: {', '.join(SOURCES)}"
        )
    return lambda entry: entry.source in wanted


def _channel(value: str) -> Callable[[Entry], bool]:
    wanted = set(value.split(","))
    if "" in wanted:
        raise Refusal(400, "each value in channel should not be empty")
    return lambda entry: entry.channel in wanted


FILTERS: dict[str, Callable[[str], Callable[[Entry], bool]]] = {
    "agentId": lambda value: lambda entry: bool(entry.agent == value),
    "source": _source,
    "channel": _channel,
}
"""The documented filters: from a parameter's value to what it lets through."""

KNOWN = {*ENDS, "limit", "direction", "cursor", *FILTERS}
