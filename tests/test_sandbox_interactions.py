"""The sandbox's newer endpoints: as documented, and never kinder than that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.sandbox import (
    API_KEY,
    WRITE_ONLY_KEY,
    Fault,
    Sandbox,
    Switches,
    as_interaction,
    documented_interaction,
    make_agents,
    make_conversations,
    make_interactions,
)
from tests.sandbox.interaction_data import AGENTS, agent_of
from tests.sandbox.interactions import SOURCES, latest_event

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERACTIONS = "/v2/hc-interactions/public"
AGENT_LIST = "/v2/bots/public"
DAY = 86_400_000
T0 = 1_740_000_000_000
WINDOW = {"since": T0, "until": T0 + DAY}


def interaction(name: str, created: int, *events: int, **more: Any) -> dict[str, Any]:
    """Make an interaction with other times after T0 than the documented one."""
    event = documented_interaction()["events"][0]
    return {
        **documented_interaction(),
        "id": name,
        "createdAt": T0 + created,
        "events": [event | {"id": f"{name}{at}", "createdAt": T0 + at} for at in events],
        **more,
    }


# By the latest event: a b c d e; by createdAt: e d c b a. The last has no event at all.
FIVE = [interaction(name, 60 - 10 * n, 5, 100 + 10 * n) for n, name in enumerate("bcde", 1)]
FIVE.insert(0, interaction("a", 60))


class Client:
    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def raw(self, path: str, key: str = API_KEY, **params: Any) -> requests.Response:
        return requests.get(
            self.sandbox.url + path,
            params=params,
            headers={"Authorization": f"Bearer {key}"},
            timeout=5,
        )

    def page(self, **params: Any) -> dict[str, Any]:
        response = self.raw(INTERACTIONS, **{**WINDOW, **params})
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body

    def ids(self, **params: Any) -> str:
        return "".join(row["id"] for row in self.page(**params)["interactions"])

    def refused(self, path: str = INTERACTIONS, **params: Any) -> str:
        window = WINDOW if path == INTERACTIONS else {}
        response = self.raw(path, **{**window, **params})
        assert (response.status_code, response.json()["error"]) == (400, "Bad Request")
        return str(response.json()["message"])


@pytest.fixture
def open_sandbox() -> Iterator[Any]:
    made: list[Sandbox] = []

    def make(rows: Any = FIVE, clock: Any = None, **switches: Any) -> Client:
        sandbox = Sandbox(
            switches=Switches(**switches), interactions=rows, agents=make_agents(), clock=clock
        )
        sandbox.start()
        made.append(sandbox)
        return Client(sandbox)

    yield make
    for sandbox in made:
        sandbox.stop()


@pytest.mark.parametrize("key", ["interactions", "conversations"])
def test_the_documented_interaction(open_sandbox: Any, key: str) -> None:
    client = open_sandbox([documented_interaction()], cursor="next_id", interactions_key=key)
    window = {"since": 1740407000000, "until": 1740408000000}
    assert client.page(**window) == {
        key: [documented_interaction()],
        "hasMore": False,
        "nextCursor": None,
        "prevCursor": None,
    }


def test_order_and_field(open_sandbox: Any) -> None:
    client = open_sandbox()
    found = {}
    for field in ("updatedAt", "createdAt"):
        for order in ("newest", "oldest"):
            client.sandbox.switches = Switches(order=order, filter_field=field)
            found[field, order] = client.ids()
    assert found == {
        ("updatedAt", "newest"): "edcba",
        ("updatedAt", "oldest"): "abcde",
        ("createdAt", "newest"): "abcde",
        ("createdAt", "oldest"): "edcba",
    }


def test_the_time_of_the_latest_event_is_filtered_by(open_sandbox: Any) -> None:
    client = open_sandbox()
    assert client.ids(since=T0 + 120, until=T0 + 130) == "dc"
    client.sandbox.switches = Switches(start_inclusive=False, end_inclusive=False)
    assert client.ids(since=T0 + 119, until=T0 + 131) == "dc"
    assert client.ids(since=T0 + 120, until=T0 + 130) == ""


def test_cursors_that_are_ids(open_sandbox: Any) -> None:
    client = open_sandbox(cursor="next_id")
    first = client.page(limit=2)
    assert (first["hasMore"], first["nextCursor"], first["prevCursor"]) == (True, "d", None)
    second = client.page(limit=2, cursor="d", direction="next")
    assert (second["nextCursor"], second["prevCursor"]) == ("b", "c")
    last = client.page(limit=2, cursor="b")
    assert (last["hasMore"], last["nextCursor"], last["prevCursor"]) == (False, None, "a")
    back = client.page(limit=2, cursor="a", direction="previous")
    assert [row["id"] for row in back["interactions"]] == ["c", "b"]
    assert client.refused(cursor="nobody") == "cursor is not valid"


def test_filters(open_sandbox: Any) -> None:
    rows = [
        interaction("a", 1, source="front", channel="email"),
        interaction("b", 2, source="slack", channel="#help"),
        interaction("c", 3, source="zendesk", channel="email"),
    ]
    client = open_sandbox(rows, order="oldest")
    expected = {
        ("source", "front"): "a",
        ("source", "front,zendesk"): "ac",
        ("source", "api"): "",
        ("channel", "email"): "ac",
        ("channel", "email,#help"): "abc",
        ("channel", "mail"): "",
        ("agentId", "nobody"): "",
        **{
            ("agentId", agent): "".join(name for name in "abc" if agent_of(name) == agent)
            for agent in AGENTS
        },
    }
    assert {query: client.ids(**dict([query])) for query in expected} == expected
    assert client.ids(source="front,slack", channel="email") == "a"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"source": "all"}, "each value in source must be one of the following values: api, "),
        ({"source": "front, zendesk"}, "each value in source must be one of the following"),
        ({"source": "front,"}, "each value in source must be one of the following values"),
        ({"channel": "a,,b"}, "each value in channel should not be empty"),
        ({"category": "x"}, "property category should not exist"),
        ({"startEpoch": "1"}, "property startEpoch should not exist"),
        ({"limit": "101"}, "limit must not be greater than 100"),
        ({"limit": "0"}, "limit must not be less than 1"),
        ({"limit": "ten"}, "limit must be a non-negative integer"),
        ({"since": T0 + DAY}, "since must be before until"),
        ({"until": T0 + 90 * DAY + 1}, "The time range must not be wider than 90 days"),
        ({"until": "soon"}, "until must be a non-negative integer"),
        ({"direction": "older"}, "direction must be one of the following values: next, previous"),
        *(({name: ""}, f"{name} should not be empty") for name in ("since", "source", "agentId")),
    ],
)
def test_refused_parameters(open_sandbox: Any, params: dict[str, Any], message: str) -> None:
    assert open_sandbox().refused(**params).startswith(message)


def test_limits_and_defaults(open_sandbox: Any) -> None:
    client = open_sandbox(make_interactions(300, seed=1, start=T0, end=T0 + DAY))
    assert [len(client.page(**more)["interactions"]) for more in ({}, {"limit": 100})] == [50, 100]
    client.sandbox.switches = Switches(max_limit=30)
    assert len(client.page(limit=100)["interactions"]) == 30
    assert client.page(until=T0 + 90 * DAY)["hasMore"]


def test_the_default_window_is_the_last_seven_days(open_sandbox: Any) -> None:
    client = open_sandbox(clock=lambda: T0 + 7 * DAY + 125)
    rows = client.raw(INTERACTIONS).json()["interactions"]
    assert "".join(row["id"] for row in rows) == "ed"


@pytest.mark.parametrize(("order", "expected"), [("oldest", [5, 110]), ("newest", [110, 5])])
def test_the_order_of_events(open_sandbox: Any, order: str, expected: list[int]) -> None:
    client = open_sandbox(FIVE[1:2], bot_request_order=order)
    (row,) = client.page()["interactions"]
    assert [event["createdAt"] - T0 for event in row["events"]] == expected
    assert client.sandbox.interactions.truth(client.sandbox.switches) == [row]


def test_the_agents(open_sandbox: Any) -> None:
    client = open_sandbox()
    assert client.raw(AGENT_LIST).json() == make_agents()
    assert client.refused(AGENT_LIST, limit=5) == "property limit should not exist"
    assert client.raw(AGENT_LIST, "fini_wrong").status_code == 401


@pytest.mark.parametrize("path", [INTERACTIONS, AGENT_LIST])
def test_keys_faults_and_throttle_are_the_same_everywhere(open_sandbox: Any, path: str) -> None:
    client = open_sandbox()
    assert client.raw(path, WRITE_ONLY_KEY).status_code == 403
    client.sandbox.faults = [Fault("503", at=2)]
    assert client.raw(path).status_code == 503
    client.sandbox.switches = Switches(throttle=2)
    assert client.raw(path).status_code == 429
    assert client.sandbox.violations == 1


def test_what_conversations_become() -> None:
    for conversation in make_conversations(300, seed=4):
        made = as_interaction(conversation)
        times = [event["createdAt"] for event in made["events"]]
        assert latest_event(made) == conversation["updatedAt"]
        assert min(times) >= made["createdAt"] == conversation["createdAt"]
        assert len({event["id"] for event in made["events"]}) == len(times)
        assert made["source"] in SOURCES


def test_made_interactions_are_varied_and_the_same_everywhere() -> None:
    made = make_interactions(600, seed=0)
    assert made == make_interactions(600, seed=0) != make_interactions(600, seed=1)
    events = [event for row in made for event in row["events"]]
    assert {row["status"] for row in made} == {"Escalated to Human Agent", "Handled by Fini"}
    assert {len(row["usedSubfolders"]) for row in made} == {0, 1, 2}
    assert {bool(row["usedArticles"]) for row in made} == {True, False}
    assert {event["role"] for event in events} == {"user", "finibot"}
    assert {event["csatRating"] for event in events} == {None, 0, 1, 2, 3, 4, 5}
    for name in ("approved", "resolved", "feedback", "externalCreatedAt"):
        assert {event[name] is None for event in events} == {True, False}
    for name in ("attachments", "tags", "usedArticles"):
        assert {bool(event[name]) for event in events} == {True, False}
    assert sum(not row["events"] for row in made) == 21
