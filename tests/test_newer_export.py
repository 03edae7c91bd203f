"""What is particular to interactions and agents: selection, filters, odd events, one response."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tap_fini.client import FiniError
from tap_fini.pagination import BareArray, ExportPage
from tap_fini.settings import SettingsError
from tap_fini.streams import INTERACTIONS as DECLARED
from tap_fini.tap import TapFini
from tests.expected import event_rows, interaction_row
from tests.exports import CHAT_HISTORY, INTERACTIONS
from tests.sandbox import (
    Fault,
    Sandbox,
    Switches,
    documented_interaction,
    make_agents,
    make_conversations,
    make_interactions,
)
from tests.sandbox.interaction_data import AGENTS, agent_of
from tests.support import MARKER, config_for, run_command, run_tap

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHAT_PATH, PATH, AGENT_PATH = (
    *("/v2/bots/requests/public", "/v2/hc-interactions/public"),
    "/v2/bots/public",
)
FORM = ExportPage(DECLARED.record_keys, DECLARED.shape)
AGENT_CATALOG = INTERACTIONS.catalog(["agents"])


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A workspace that has everything."""
    with Sandbox(
        make_conversations(20, seed=1),
        interactions=make_interactions(60, seed=2, marker=MARKER),
        agents=make_agents(),
    ) as running:
        yield running


# --- selection ------------------------------------------------------------------------------------


def test_without_a_catalog_only_chat_history_is_read(sandbox: Sandbox) -> None:
    output = run_tap(config_for(sandbox))
    assert {request.path for request in sandbox.requests} == {CHAT_PATH}
    assert {m["stream"] for m in output.of_type("SCHEMA")} == set(CHAT_HISTORY.streams)


def test_a_workspace_without_the_newer_endpoints_passes_the_test(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(config_for(sandbox)), encoding="utf-8")
    done = run_command("--config", str(config), "--test")
    assert done.returncode == 0, done.stderr
    assert {request.path for request in sandbox.requests} == {CHAT_PATH}


def test_everything_at_once(sandbox: Sandbox) -> None:
    catalog = INTERACTIONS.catalog([*CHAT_HISTORY.streams, *INTERACTIONS.streams, "agents"])
    output = run_tap(config_for(sandbox), catalog=catalog)
    assert CHAT_HISTORY.loaded(output) == CHAT_HISTORY.truth(sandbox)
    assert INTERACTIONS.loaded(output) == INTERACTIONS.truth(sandbox)
    assert output.records("agents") == make_agents()
    paths = [request.path for request in sandbox.requests]
    assert list(dict.fromkeys(paths)) == [AGENT_PATH, CHAT_PATH, PATH]
    assert MARKER not in output.text


def test_one_throttle_for_all_endpoints(sandbox: Sandbox) -> None:
    sandbox.switches = Switches(throttle=100)
    catalog = INTERACTIONS.catalog([*CHAT_HISTORY.streams, *INTERACTIONS.streams, "agents"])
    run_tap(config_for(sandbox, max_requests_per_minute=100, window_days=6), catalog=catalog)
    assert 60 < len(sandbox.requests) <= 100
    assert sandbox.violations == 0


# --- filters --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        ({"source": "zendesk"}, {"source": "zendesk"}),
        ({"source": "slack, front,freshchat"}, {"source": "freshchat,front,slack"}),
        ({"channel": "email,web"}, {"channel": "email,web"}),
        ({"agent_id": AGENTS[0]}, {"agentId": AGENTS[0]}),
        ({"agent_id": AGENTS[1], "channel": "email"}, {"agentId": AGENTS[1], "channel": "email"}),
    ],
)
def test_filters_let_through_what_they_name(
    sandbox: Sandbox, settings: dict[str, str], sent: dict[str, str]
) -> None:
    output = INTERACTIONS.run(config_for(sandbox, **settings))
    expected = [
        row
        for row in sandbox.interactions.truth(sandbox.switches)
        if str(row["source"]) in sent.get("source", str(row["source"])).split(",")
        and ("channel" not in sent or row["channel"] in set(sent["channel"].split(",")))
        and agent_of(row["id"]) == sent.get("agentId", agent_of(row["id"]))
    ]
    assert 0 < len(expected) < 60
    assert INTERACTIONS.loaded(output) == INTERACTIONS.tables(expected)
    window = {"since", "until", "limit", "cursor", "direction"}
    for request in sandbox.requests:
        assert {n: v for n, v in request.params.items() if n not in window} == sent


SOURCES = (
    "api, widget, ui, standalone, testsuite, replay, zendesk, intercom, front, hubspot, "
    "salesforce, gorgias, livechat, slack, discord, freshdesk, freshchat"
)
NO_SOURCE = (
    "The setting 'source' has to be one or more, separated by commas, of "
    f"{SOURCES} for 'interactions'."
)
NO_CHAT_SOURCE = (
    "The setting 'source' has to be one of all, zendesk, slack, discord, widget, intercom, ui, api "
    "for 'conversations'."
)


def no_filter(name: str, *streams: str) -> str:
    return (
        f"The filter '{name}' cannot be applied to {' and '.join(map(repr, streams))}, for Fini "
        "has none of that kind there: leave it out, or deselect what it does not fit."
    )


@pytest.mark.parametrize(
    ("streams", "settings", "sentence"),
    [
        (INTERACTIONS.streams, {"source": "all"}, NO_SOURCE),
        (INTERACTIONS.streams, {"source": "front,email"}, NO_SOURCE),
        (INTERACTIONS.streams, {"source": ","}, NO_SOURCE),
        (
            INTERACTIONS.streams,
            {"channel": " , "},
            "The setting 'channel' has to be a text for 'interactions'.",
        ),
        (INTERACTIONS.streams, {"user_id": "u"}, no_filter("user_id", *INTERACTIONS.streams)),
        (("interaction_events",), {"question": "?"}, no_filter("question", "interaction_events")),
        (("conversations",), {"agent_id": "a"}, no_filter("agent_id", "conversations")),
        (("conversations", "interactions"), {"source": "front"}, NO_CHAT_SOURCE),
        (("conversations", "interactions"), {"source": "zendesk,slack"}, NO_CHAT_SOURCE),
        (
            ("conversations", "interactions"),
            {"category": "x", "agent_id": "a"},
            f"{no_filter('agent_id', 'conversations')} {no_filter('category', 'interactions')}",
        ),
    ],
)
def test_a_filter_that_does_not_fit_is_an_error_before_any_request(
    sandbox: Sandbox, streams: tuple[str, ...], settings: dict[str, str], sentence: str
) -> None:
    catalog = INTERACTIONS.catalog(streams)
    output = run_tap(config_for(sandbox, **settings), catalog=catalog, fails=SettingsError)
    assert str(output.error) == sentence
    assert sandbox.requests == []


@pytest.mark.parametrize("settings", [{"source": "front"}, {"agent_id": "a"}, {"category": "x"}])
def test_filters_are_not_for_agents(sandbox: Sandbox, settings: dict[str, str]) -> None:
    output = run_tap(config_for(sandbox, **settings), catalog=AGENT_CATALOG)
    assert output.records("agents") == make_agents()


def test_a_source_that_both_have(sandbox: Sandbox) -> None:
    catalog = INTERACTIONS.catalog([*CHAT_HISTORY.streams, *INTERACTIONS.streams])
    output = run_tap(config_for(sandbox, source="zendesk"), catalog=catalog)
    for stream in ("conversations", "interactions"):
        assert {row["source"] for row in output.records(stream)} == {"zendesk"}


# --- interactions ---------------------------------------------------------------------------------


def test_a_rating_of_zero_stays_zero() -> None:
    raw = documented_interaction()
    with Sandbox(interactions=[raw]) as sandbox:
        output = INTERACTIONS.run(config_for(sandbox))
    assert output.records("interactions") == [interaction_row(raw)]
    assert output.records("interaction_events") == event_rows(raw)
    assert [row["csatRating"] for row in output.records("interaction_events")] == [None, 0]


def test_events_without_a_key_of_their_own_land_with_one_warning() -> None:
    raw = documented_interaction()
    raw["events"] = [{k: v for k, v in event.items() if k != "id"} for event in raw["events"]]
    with Sandbox(interactions=[raw]) as sandbox:
        output = INTERACTIONS.run(config_for(sandbox))
    rows = output.records("interaction_events")
    assert [row["id"] for row in rows] == ["position:0", "position:1"]
    assert [line for line in output.log if line.startswith("WARNING tap-fini.interactions:")] == [
        (
            "WARNING tap-fini.interactions: Field 'id' of 'interaction_events' is not usable, so "
            "its position serves in its place; the record is complete all the same, see its 'extra'"
        )
    ]


def page(*rows: Any) -> Any:
    body = {"interactions": [{"id": str(n), **row} for n, row in enumerate(rows)], "hasMore": False}
    return FORM.parse(json.dumps(body).encode())


@pytest.mark.parametrize("odd", [{"events": [None]}, {"events": "?"}, {"events": {"a": 1}}, None])
def test_the_heads_of_interactions_know_their_latest_event(odd: Any) -> None:
    """Also on a page with a record whose events are none."""
    events = [{"createdAt": 1740000000005}, {"createdAt": "2025-02-19T21:20:00.009Z"}, {}]
    rows: list[Any] = [
        {"createdAt": 1740000000001, "events": events},
        {"createdAt": 1740000000002, "events": [{"createdAt": 5}]},
        {"createdAt": 1740000000003, "events": None},
        {"createdAt": 1740000000004},
        {},
    ]
    found = page(*rows, *([odd] if odd else []))
    assert found.ids == tuple(map(str, range(len(rows) + bool(odd))))
    assert found.created[:5] == (*(1740000000000 + n for n in range(1, 5)), None)
    assert found.updated[:5] == (1740000000009, *(1740000000000 + n for n in (2, 3, 4)), None)


def test_heads_decode_nothing_but_times() -> None:
    """A text that is no UTF-8 is left for the record's turn."""
    body = b'{"interactions":[{"id":"a","events":[{"createdAt":1740000000005,"message":"\xff"}]}]'
    found = FORM.parse(body + b',"hasMore":false}')
    assert (found.updated, found.replaced) == ((1740000000005,), 0)
    (record,), replaced = found.records()
    assert (record["events"][0]["message"], replaced) == ("\ufffd", 1)


# --- agents ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"agents": []}', "an object with the keys 'agents'"),
        (b"{}", "an empty object"),
        (b'["a"]', "an array of something else than objects"),
        (b"null", "null"),
        (b"5", "a number"),
    ],
)
def test_agents_of_another_shape(sandbox: Sandbox, body: bytes, found: str) -> None:
    sandbox.faults = [Fault("wrong_shape", body=body)]
    output = run_tap(config_for(sandbox), catalog=AGENT_CATALOG, fails=FiniError)
    assert str(output.error) == (
        f"Fini's response is {found}; expected an array of objects: check 'api_url', and whether a "
        "newer tap-fini is out."
    )


def test_agents_keep_what_is_new_and_odd(sandbox: Sandbox) -> None:
    sandbox.agents[:] = [{"id": 7, "name": ["x"], "createdAt": 1740000000005, "model": "m\0"}]
    output = run_tap(config_for(sandbox), catalog=AGENT_CATALOG)
    assert output.records("agents") == [
        {
            "id": "7",
            "name": None,
            "createdAt": "2025-02-19T21:20:00.005Z",
            "extra": {"name": ["x"], "model": "m\ufffd"},
        }
    ]
    assert len(re.findall(r"Field '\w+' of 'agents' ", output.text)) == 2
    assert "Replaced 1 characters" in output.text


def test_an_agent_without_a_usable_id_is_refused(sandbox: Sandbox) -> None:
    sandbox.agents.append({"name": "Nobody"})
    output = run_tap(config_for(sandbox), catalog=AGENT_CATALOG, fails=FiniError)
    assert str(output.error).startswith("Fini returned one of its agents without a usable 'id'")


def test_no_agents_at_all(sandbox: Sandbox) -> None:
    sandbox.agents.clear()
    output = run_tap(config_for(sandbox), catalog=AGENT_CATALOG)
    assert [(m["type"], m["stream"]) for m in output.messages] == [("SCHEMA", "agents")]


def test_agents_may_come_after_an_export(sandbox: Sandbox) -> None:
    """Which closes the connection behind itself."""
    tap = TapFini(config=config_for(sandbox), catalog=INTERACTIONS.catalog(["agents"]))
    tap.connection.close()
    tap.streams["agents"].sync()
    assert [request.path for request in sandbox.requests] == [AGENT_PATH]


@pytest.mark.parametrize("kind", ["429", "500", "502_html", "reset", "truncated", "bad_json"])
def test_agents_are_asked_for_again(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    monkeypatch.setattr("tap_fini.client._WAITS", (0.001,) * 3)
    sandbox.faults = [Fault(kind, at=(1, 2))]
    output = run_tap(config_for(sandbox), catalog=AGENT_CATALOG)
    assert output.records("agents") == make_agents()
    assert len(sandbox.requests) == 3


def test_a_bare_array_is_one_page() -> None:
    found = BareArray().parse(b'[{"id": "a", "n": 1e999}]', served_at=5)
    assert (found.has_more, found.cursor, found.served_at) == (False, None, 5)
    assert found.records() == ([{"id": "a", "n": "1e999"}], 0)
