"""The sandbox does what its switches and faults say: everything else is tested against it."""

from __future__ import annotations

import hashlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import requests

from tests.sandbox import (
    API_KEY,
    WRITE_ONLY_KEY,
    Fault,
    Sandbox,
    Switches,
    documented_example,
    edited,
    make_conversations,
)
from tests.sandbox.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = "/v2/bots/requests/public"
DAY = 86_400_000
T0 = 1_740_000_000_000
T1 = T0 + DAY
WINDOW = {"startEpoch": T0, "endEpoch": T1}


def conversation(
    name: str, created: int, updated: int | None = None, **more: Any
) -> dict[str, Any]:
    """Make the documented conversation, with another id and other times after T0."""
    times = {"createdAt": T0 + created, "updatedAt": T0 + (created if updated is None else updated)}
    return {**documented_example(), "id": name, **times, **more}


# By updatedAt: a b c d e; by createdAt: e d c b a.
FIVE = [conversation(name, 60 - 10 * n, 100 + 10 * n) for n, name in enumerate("abcde", 1)]


class Client:
    """Asks one sandbox, on one connection."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.session = requests.Session()
        self.session.trust_env = False

    def raw(self, **params: Any) -> requests.Response:
        return self.session.get(
            self.sandbox.url + PATH,
            params=params,
            headers={"Authorization": f"Bearer {API_KEY}"},
            timeout=5,
            allow_redirects=False,
        )

    def page(self, **params: Any) -> dict[str, Any]:
        response = self.raw(**{**WINDOW, **params})
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body

    def ids(self, **params: Any) -> str:
        return "".join(c["id"] for c in self.page(**params)["conversations"])

    def refused(self, **params: Any) -> str:
        response = self.raw(**{**WINDOW, **params})
        body = response.json()
        assert (response.status_code, body["statusCode"]) == (400, 400), body
        assert body == {"statusCode": 400, "message": body["message"], "error": "Bad Request"}
        return str(body["message"])


@pytest.fixture
def open_sandbox() -> Iterator[Any]:
    """A maker of (sandbox, client) pairs, all closed at the end."""
    made: list[tuple[Sandbox, Client]] = []

    def make(conversations: Any = FIVE, clock: Any = None, **switches: Any) -> Any:
        sandbox = Sandbox(conversations, Switches(**switches), clock=clock)
        sandbox.start()
        made.append((sandbox, Client(sandbox)))
        return made[-1]

    yield make
    for sandbox, client in made:
        client.session.close()
        sandbox.stop()


# --- the page and its order -----------------------------------------------------------------------


def test_documented_example_is_served_as_documented(open_sandbox: Any) -> None:
    sandbox, client = open_sandbox([documented_example()])
    page = client.page(startEpoch=1740407178879, endEpoch=1740407178880)
    assert page == {"conversations": [documented_example()], "hasMore": False}
    assert sandbox.truth() == sandbox.world.conversations == [documented_example()]


@pytest.mark.parametrize(
    ("order", "order_field", "filter_field", "expected"),
    [
        ("newest", None, "updatedAt", "edcba"),
        ("oldest", None, "updatedAt", "abcde"),
        ("newest", None, "createdAt", "abcde"),
        ("oldest", None, "createdAt", "edcba"),
        ("oldest", "createdAt", "updatedAt", "edcba"),
        ("oldest", "updatedAt", "createdAt", "abcde"),
        ("newest", "createdAt", "updatedAt", "abcde"),
        ("shuffled", None, "updatedAt", "daebc"),
        ("shuffled", "createdAt", "createdAt", "daebc"),
    ],
)
def test_order(
    open_sandbox: Any, order: str, order_field: str | None, filter_field: str, expected: str
) -> None:
    _, client = open_sandbox(order=order, order_field=order_field, filter_field=filter_field)
    assert client.ids() == expected
    assert client.ids(limit=2) == expected[:2]
    assert client.ids(limit=2, cursor=expected[1]) == expected[2:4]


def test_ties_are_broken_by_id(open_sandbox: Any) -> None:
    same = [conversation(name, 5) for name in "cab"]
    assert open_sandbox(same, order="oldest")[1].ids() == "abc"
    assert open_sandbox(same, order="newest")[1].ids() == "cba"


def test_switches_may_be_replaced_at_any_time(open_sandbox: Any) -> None:
    sandbox, client = open_sandbox()
    window = {"startEpoch": T0 + 20, "endEpoch": T0 + 120}
    for switches, expected in [
        (Switches(), "ba"),
        (Switches(order="oldest"), "ab"),
        (Switches(order="oldest", order_field="createdAt"), "ba"),
        (Switches(order="oldest", end_inclusive=False), "a"),
        (Switches(filter_field="createdAt"), "abcd"),
        (Switches(filter_field="createdAt", start_inclusive=False), "abc"),
    ]:
        sandbox.switches = switches
        assert client.ids(**window) == expected, switches


@pytest.mark.parametrize("filter_field", ["updatedAt", "createdAt"])
@pytest.mark.parametrize("start_inclusive", [True, False])
@pytest.mark.parametrize("end_inclusive", [True, False])
def test_window_ends(
    open_sandbox: Any, filter_field: str, *, start_inclusive: bool, end_inclusive: bool
) -> None:
    _, client = open_sandbox(
        filter_field=filter_field,
        start_inclusive=start_inclusive,
        end_inclusive=end_inclusive,
        order="oldest",
        order_field="updatedAt",
    )
    first, last = ("b", "d") if filter_field == "updatedAt" else ("d", "b")
    times = {c["id"]: c[filter_field] for c in FIVE}
    found = client.ids(startEpoch=times[first], endEpoch=times[last])
    expected = {"c", *([first] if start_inclusive else []), *([last] if end_inclusive else [])}
    assert found == "".join(sorted(expected))


# --- cursors --------------------------------------------------------------------------------------


def test_cursor_last_id(open_sandbox: Any) -> None:
    _, client = open_sandbox()
    assert client.page(limit=2).keys() == {"conversations", "hasMore"}
    for empty in ({"cursor": ""}, {"direction": ""}, {"cursor": "", "direction": ""}):
        assert client.ids(limit=2, **empty) == "ed"
    assert client.ids(limit=2, cursor="d", direction="next") == "cb"
    assert client.ids(limit=2, cursor="a") == ""
    assert client.ids(limit=2, cursor="b", direction="previous") == "dc"
    assert client.page(limit=2, cursor="b", direction="previous")["hasMore"] is True
    assert client.page(limit=3, cursor="b", direction="previous")["hasMore"] is False
    assert client.ids(limit=2, cursor="e", direction="previous") == ""


@pytest.mark.parametrize(
    ("behaviour", "found"), [("empty", ""), ("first", "ed"), ("refused", None)]
)
def test_unknown_cursor(open_sandbox: Any, behaviour: str, found: str | None) -> None:
    sandbox, client = open_sandbox(unknown_cursor=behaviour)
    sandbox.world.delete("c")
    # Deleted, outside of the window, never there.
    for query in ({"cursor": "c"}, {"cursor": "e", "endEpoch": T0 + 145}, {"cursor": "x"}):
        if found is None:
            assert client.refused(**query) == "cursor is not valid"
        elif behaviour == "empty":
            assert client.page(**query) == {"conversations": [], "hasMore": False}
    if behaviour == "first":
        assert client.ids(limit=2, cursor="c") == "ed"


def follow(client: Client, name: str, limit: int) -> list[str]:
    """Read on by a cursor of the body until hasMore is false."""
    pages, params = [], {"limit": limit}
    while True:
        page = client.page(**params)
        pages.append("".join(c["id"] for c in page["conversations"]))
        if not page["hasMore"]:
            return pages
        params["cursor"] = page[name]


@pytest.mark.parametrize("order", ["newest", "oldest", "shuffled"])
@pytest.mark.parametrize(
    ("cursor", "name"), [("body_cursor", "cursor"), ("body_next_cursor", "nextCursor")]
)
def test_body_cursors(open_sandbox: Any, cursor: str, name: str, order: str) -> None:
    sandbox, client = open_sandbox(cursor=cursor, order=order)
    expected = {"newest": "edcba", "oldest": "abcde", "shuffled": "daebc"}[order]
    assert follow(client, name, 2) == [expected[:2], expected[2:4], expected[4:]]
    first = client.page(limit=2)
    token = first[name]
    assert "+" in token
    assert "/" in token
    # An opaque token of this query, and nothing else.
    assert client.refused(limit=2, cursor=expected[1]) == "cursor is not valid"
    assert client.refused(limit=2, cursor=token[:-1]) == "cursor is not valid"
    assert client.refused(cursor=token, endEpoch=T1 + 1) == "cursor belongs to another query"
    # A keyset, never an offset: it holds its place while rows before it and its own row go.
    sandbox.world.delete(expected[0])
    sandbox.world.delete(expected[1])
    assert client.ids(limit=2, cursor=token) == expected[2:4]


def test_body_cursor_stands_on_the_last_page_too(open_sandbox: Any) -> None:
    _, client = open_sandbox(cursor="body_cursor")
    page = client.page()
    assert page["hasMore"] is False
    assert client.page(cursor=page["cursor"]) == {
        "conversations": [],
        "hasMore": False,
        "cursor": None,
    }


def test_body_next_cursor_and_back(open_sandbox: Any) -> None:
    _, client = open_sandbox(cursor="body_next_cursor")
    first = client.page(limit=2)
    assert first.keys() == {"conversations", "hasMore", "nextCursor", "prevCursor"}
    assert first["prevCursor"] is None
    second = client.page(limit=2, cursor=first["nextCursor"])
    third = client.page(limit=2, cursor=second["nextCursor"])
    assert (third["hasMore"], third["nextCursor"]) == (False, None)
    back = client.page(limit=2, cursor=third["prevCursor"], direction="previous")
    assert back["conversations"] == second["conversations"]
    assert back == second
    again = client.page(limit=2, cursor=back["prevCursor"], direction="previous")
    assert again["conversations"] == first["conversations"]
    assert (again["hasMore"], again["prevCursor"]) == (False, None)
    assert again["nextCursor"] == first["nextCursor"]


def test_cursor_ignored_and_refused(open_sandbox: Any) -> None:
    _, client = open_sandbox(cursor="ignored")
    assert client.ids(limit=2, cursor="d") == client.ids(limit=2, cursor="nonsense") == "ed"
    assert client.page(limit=2, cursor="d")["hasMore"] is True
    _, client = open_sandbox(cursor="refused")
    assert client.ids(limit=2, cursor="") == "ed"
    assert client.refused(limit=2, cursor="d") == "cursor is not valid"


@pytest.mark.parametrize(
    ("has_more", "expected"),
    [
        ("exact", {2: True, 5: False, 6: False}),
        ("page_full", {2: True, 5: True, 6: False}),
        ("always", {2: True, 5: True, 6: True}),
    ],
)
def test_has_more(open_sandbox: Any, has_more: str, expected: dict[int, bool]) -> None:
    _, client = open_sandbox(has_more=has_more)
    assert {limit: client.page(limit=limit)["hasMore"] for limit in expected} == expected
    past_the_end = client.page(limit=5, cursor="a")
    assert past_the_end == {"conversations": [], "hasMore": has_more == "always"}


# --- limits and windows ---------------------------------------------------------------------------


def test_limit(open_sandbox: Any) -> None:
    many = [conversation(f"{n:03}", n) for n in range(120)]
    _, client = open_sandbox(many)
    assert len(client.page()["conversations"]) == 50
    assert len(client.page(limit=100)["conversations"]) == 100
    capped = client.page(limit=101)
    assert (len(capped["conversations"]), capped["hasMore"]) == (100, True)
    _, client = open_sandbox(many, max_limit=20, over_limit="refused")
    assert len(client.page()["conversations"]) == 20
    assert len(client.page(limit=20)["conversations"]) == 20
    assert client.refused(limit=21) == "limit must not be greater than 20"


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "ten", "٣", "+5", "5 ", "1e2"])
def test_limits_that_are_none(open_sandbox: Any, limit: str) -> None:
    assert "limit" in open_sandbox()[1].refused(limit=limit)


def test_widest_window(open_sandbox: Any) -> None:
    _, client = open_sandbox()
    wide = {"startEpoch": T0, "endEpoch": T0 + 90 * DAY}
    assert client.ids(**wide) == "edcba"
    wide["endEpoch"] += 1
    assert client.refused(**wide) == "The time range must not be wider than 90 days"
    assert open_sandbox(max_window_days=None)[1].ids(startEpoch=0) == "edcba"
    assert "wider than 1 days" in open_sandbox(max_window_days=1)[1].refused(endEpoch=T1 + 1)
    assert client.refused(startEpoch=T1) == "startEpoch must be before endEpoch"
    assert client.refused(startEpoch=T1 + 1) == "startEpoch must be before endEpoch"


def test_default_window_is_by_the_clock(open_sandbox: Any) -> None:
    rows = [
        conversation(n, t) for n, t in (("a", -1), ("b", 0), ("c", 7 * DAY), ("d", 7 * DAY + 1))
    ]
    _, client = open_sandbox(rows, clock=lambda: T0 + 7 * DAY, order="oldest")

    def found(**params: Any) -> str:
        return "".join(c["id"] for c in client.raw(**params).json()["conversations"])

    assert found() == "bc"
    assert found(startEpoch=T0 - 1) == "abc"
    assert found(endEpoch=T0 + 7 * DAY + 1) == "bcd"
    assert client.raw(startEpoch=T0 - 83 * DAY).status_code == 200
    assert client.raw(startEpoch=T0 - 83 * DAY - 1).status_code == 400  # too wide up to now
    assert client.raw(endEpoch=T0).status_code == 400  # before its own default start
    _, client = open_sandbox(
        rows, clock=lambda: T0 + 7 * DAY, default_window_days=0.5, order="oldest"
    )
    assert found() == "c"


@pytest.mark.parametrize("epoch", ["-1", "1.7e12", "2025-02-20", "1740000000000.0", "x", "True"])
@pytest.mark.parametrize("name", ["startEpoch", "endEpoch"])
def test_epochs_that_are_none(open_sandbox: Any, name: str, epoch: str) -> None:
    assert open_sandbox()[1].refused(**{name: epoch}) == f"{name} must be a non-negative integer"


# --- filters --------------------------------------------------------------------------------------


def test_filters(open_sandbox: Any) -> None:
    asked = [{**documented_example()["botRequests"][0], "question": "Wo ist das GRÖSSTE Paket?"}]
    rows = [
        conversation("a", 1, source="zendesk", externalId="77", categories=["billing", "vip"]),
        conversation("b", 2, feedbackType="thumbs_up", escalation=True, userId="u1"),
        conversation("c", 3, feedbackType="thumbs_down", hasLinks=False, botRequests=asked),
    ]
    _, client = open_sandbox(rows, order="oldest")
    expected = {
        ("source", "all"): "abc",
        ("source", "zendesk"): "a",
        ("source", "widget"): "bc",
        ("source", "slack"): "",
        ("category", "billing"): "a",
        ("category", "vip"): "a",
        ("category", "bill"): "",
        ("category", "fini-other"): "bc",
        ("feedbackType", "thumbs_up"): "b",
        ("feedbackType", "thumbs_down"): "c",
        ("feedbackType", "no_feedback"): "a",
        ("escalation", "true"): "b",
        ("escalation", "false"): "ac",
        ("hasLinks", "true"): "ab",
        ("hasLinks", "false"): "c",
        ("userId", "u1"): "b",
        ("userId", "u"): "",
        ("ticketId", "77"): "a",
        ("ticketId", "7"): "",
        ("question", "hello"): "ab",
        ("question", "größte paket"): "c",
        ("question", "how can I help"): "",
    }
    assert {query: client.ids(**dict([query])) for query in expected} == expected
    assert client.ids(hasLinks="true", feedbackType="no_feedback", source="zendesk") == "a"
    assert client.ids(hasLinks="false", source="zendesk") == ""
    # A cursor walks the filtered result.
    assert client.ids(source="widget", limit=1, cursor="b") == "c"
    assert client.refused(source="widget", limit=1, cursor="a") == "cursor is not valid"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", "email"),
        ("source", "Zendesk"),
        ("feedbackType", "none"),
        ("feedbackType", "null"),
        ("escalation", "True"),
        ("escalation", "1"),
        ("hasLinks", "False"),
        ("hasLinks", "no"),
        ("direction", "forward"),
        ("direction", "Next"),
        ("direction", "previous"),  # previous to what?
        ("page", "2"),
        ("start_epoch", "1"),
        ("since", "1"),
        *((name, "") for name in ("startEpoch", "endEpoch", "limit", "source", "category")),
        *((name, "") for name in ("feedbackType", "escalation", "hasLinks", "userId")),
        *((name, "") for name in ("ticketId", "question")),
    ],
)
def test_refused_parameters(open_sandbox: Any, name: str, value: str) -> None:
    assert name in open_sandbox()[1].refused(**{name: value})


# --- what a conversation looks like ---------------------------------------------------------------


def turns(*offsets: int) -> list[dict[str, Any]]:
    """Make bot requests at those milliseconds."""
    example = documented_example()["botRequests"][0]
    return [{**example, "createdAt": T0 + n, "question": f"q{n}"} for n in offsets]


@pytest.mark.parametrize(
    ("order", "expected"),
    [("oldest", [1, 2, 3, 4]), ("newest", [4, 3, 2, 1]), ("shuffled", [4, 1, 2, 3])],
)
def test_bot_request_order(open_sandbox: Any, order: str, expected: list[int]) -> None:
    rows = [conversation("a", 1, botRequests=turns(3, 1, 4, 2))]
    sandbox, client = open_sandbox(rows, bot_request_order=order)
    served = client.page()["conversations"]
    assert [t["createdAt"] - T0 for t in served[0]["botRequests"]] == expected
    assert sandbox.truth() == served
    assert sandbox.world.conversations == rows


def test_bot_request_ids_and_user_ids(open_sandbox: Any) -> None:
    rows = [conversation("a", 1, botRequests=turns(1, 2), userId="u"), conversation("b", 0)]
    sandbox, client = open_sandbox(rows)
    plain = client.page()["conversations"]
    assert plain == rows
    assert "id" not in plain[0]["botRequests"][0]
    sandbox.switches = Switches(bot_request_ids=True, user_ids=False)
    served = client.page()["conversations"]
    ids = [t["id"] for c in served for t in c["botRequests"]]
    assert len(set(ids)) == 3
    assert all(len(i) == 36 for i in ids)
    assert "userId" not in served[0]
    assert sandbox.truth() == served
    # The same ones in another order, and after another turn.
    sandbox.switches = Switches(bot_request_ids=True, bot_request_order="newest")
    sandbox.world.upsert({**rows[0], "botRequests": turns(1, 2, 3)})
    assert [t["id"] for t in client.page()["conversations"][0]["botRequests"]][1:] == ids[1::-1]


# --- the world ------------------------------------------------------------------------------------


def test_world_changes_show_at_once_and_dicts_are_copies(open_sandbox: Any) -> None:
    sandbox, client = open_sandbox()
    assert client.ids() == "edcba"
    row = sandbox.world.get("a")
    row["updatedAt"] = T0 + 999
    sandbox.world.conversations[0]["updatedAt"] = 0
    assert client.ids() == "edcba"
    sandbox.world.upsert(row)
    row["updatedAt"] = 0
    assert client.ids() == "aedcb"
    assert client.page(limit=1)["conversations"][0]["updatedAt"] == T0 + 999
    sandbox.world.upsert(conversation("f", 998))
    sandbox.world.delete("b")
    assert client.ids() == "afedc"
    assert len(sandbox.world) == 5
    with pytest.raises(KeyError):
        sandbox.world.delete("b")
    for bad in ({"createdAt": 1}, {"id": ""}, {"id": "x"}, {"id": "x", "createdAt": "1"}):
        with pytest.raises(ValueError, match="needs"):
            sandbox.world.upsert(bad)


def test_misfits_are_served_as_they_are(open_sandbox: Any) -> None:
    odd = conversation(
        "a", 1, createdAt="yesterday", botRequests=[None, "x"], categories="one", new=[1]
    )
    assert open_sandbox([odd])[1].page()["conversations"] == [odd]
    assert open_sandbox([odd], filter_field="createdAt")[1].ids() == "a"
    assert open_sandbox([odd])[1].ids(question="x") == ""


def test_on_request_changes_the_world_before_the_answer(open_sandbox: Any) -> None:
    sandbox, client = open_sandbox()
    seen = []

    def change(number: int, request: Any) -> None:
        seen.append((number, request.params.get("cursor"), request.status))
        if number == 2:
            sandbox.world.delete("c")

    sandbox.on_request = change
    assert client.ids(limit=2) == "ed"
    assert client.ids(limit=2, cursor="d") == "ba"
    assert seen == [(1, None, None), (2, "d", None)]


# --- who may ask what -----------------------------------------------------------------------------


def ask(sandbox: Sandbox, wire: str) -> tuple[int, Any]:
    """Send a request as it stands, and return the status and the JSON."""
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=5) as connection:
        connection.sendall(wire.replace("\n", "\r\n").encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        status, text = response.status, response.read()
        response.close()
    return status, json.loads(text)


GOOD = (
    f"GET {PATH}?startEpoch={T0}&endEpoch={T1} HTTP/1.1\n"
    f"Host: x\nAuthorization: Bearer {API_KEY}\n\n"
)


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ("", "", 200),
        (PATH, "/", 404),
        (PATH, PATH + "/", 404),
        (PATH, "/v2/documents/public", 404),
        ("GET", "POST", 405),
        ("GET", "DELETE", 405),
        ("Authorization", "X-Authorization", 401),
        ("Bearer ", "", 401),
        ("Bearer ", "bearer ", 401),
        ("Bearer ", "Basic ", 401),
        (API_KEY, API_KEY[:-1], 401),
        (API_KEY, API_KEY + "x", 401),
        (API_KEY, WRITE_ONLY_KEY, 403),
        ("\n\n", f"\nAuthorization: Bearer {API_KEY}\n\n", 401),
        ("HTTP/1.1", "HTTP/1.0", 400),
        ("Host: x\n", "", 400),
        ("\n\n", "\nContent-Length: 2\n\n{}", 400),
        ("\n\n", "\nTransfer-Encoding: chunked\n\n0\n\n", 400),
        ("startEpoch=", "startEpoch=1&startEpoch=", 400),
        ("&endEpoch", "&limit&endEpoch", 400),
        ("&endEpoch", "&&endEpoch", 400),
        ("&endEpoch", "&question=größe&endEpoch", 400),
        ("&endEpoch", "&question=%zz&endEpoch", 400),
        ("&endEpoch", "&question=%ff&endEpoch", 400),
        ("&endEpoch", "&question=a%20b+c&endEpoch", 200),
    ],
)
def test_http(open_sandbox: Any, old: str, new: str, status: int) -> None:
    sandbox, _ = open_sandbox()
    got, body = ask(sandbox, GOOD.replace(old, new, 1) if old else GOOD)
    assert got == status, body
    assert sandbox.requests[0].status == status
    if status != 200:
        assert body["statusCode"] == status
        assert body["error"] == http.HTTPStatus(status).phrase
        assert sandbox.requests[0].ids == ()
    if status == 403:
        assert body == {
            "statusCode": 403,
            "message": "API key does not have the required scope for this operation",
            "error": "Forbidden",
        }


def test_requests_are_recorded_and_connections_kept(open_sandbox: Any) -> None:
    sandbox, client = open_sandbox()
    before = time.monotonic()
    assert client.ids(limit=2, question="Hello") == "ed"
    client.refused(limit=0)
    one, two = sandbox.requests
    assert (one.path, one.status, one.ids, one.fault) == (PATH, 200, ("e", "d"), None)
    assert one.params == {
        "startEpoch": str(T0),
        "endEpoch": str(T1),
        "limit": "2",
        "question": "Hello",
    }
    assert one.headers["authorization"] == f"Bearer {API_KEY}"
    assert one.headers["user-agent"].startswith("python-requests/")
    assert before <= one.at <= two.at <= time.monotonic()
    assert (two.status, two.ids) == (400, ())
    # The acceptor, and one thread for the one connection.
    assert sorted(t.name for t in threading.enumerate() if t.name.startswith("sandbox")) == [
        "sandbox",
        "sandbox connection",
    ]
    sandbox.reset()
    assert sandbox.requests == []


def test_pipelined_and_slow_requests(open_sandbox: Any) -> None:
    sandbox, _ = open_sandbox()
    wire = GOOD.replace("\n", "\r\n").encode()
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=5) as connection:
        for piece in (wire[:7], wire[7:-1], wire[-1:] + wire):
            connection.sendall(piece)
        received = b""
        while received.count(b'"hasMore":false}') < 2:
            received += connection.recv(65536)
    assert [r.status for r in sandbox.requests] == [200, 200]


def test_date_header(open_sandbox: Any) -> None:
    _, client = open_sandbox(clock=lambda: T0 + 7)
    assert client.raw(**WINDOW).headers["Date"] == "Wed, 19 Feb 2025 21:20:00 GMT"
    assert "Date" not in open_sandbox(date_header=False)[1].raw(**WINDOW).headers


def test_latency(open_sandbox: Any) -> None:
    _, client = open_sandbox(latency=0.08)
    before = time.monotonic()
    client.page()
    assert 0.08 <= time.monotonic() - before < 0.5


# --- throttle -------------------------------------------------------------------------------------


def test_throttle(open_sandbox: Any) -> None:
    sandbox, client = open_sandbox(throttle=3, throttle_window=0.4, retry_after=None)
    assert [client.raw(**WINDOW).status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    assert sandbox.violations == 2
    refused = client.raw(**WINDOW)
    assert refused.json() == {
        "statusCode": 429,
        "message": "ThrottlerException: Too Many Requests",
        "error": "Too Many Requests",
    }
    assert "Retry-After" not in refused.headers
    time.sleep(0.41)
    assert client.raw(**WINDOW).status_code == 200
    assert sandbox.violations == 3
    assert [r.status for r in sandbox.requests] == [200, 200, 200, 429, 429, 429, 200]
    # What the throttle has seen outlives a reset.
    sandbox.reset()
    assert [client.raw(**WINDOW).status_code for _ in range(3)] == [200, 200, 429]
    assert sandbox.violations == 1


def test_throttle_is_sliding(open_sandbox: Any) -> None:
    _, client = open_sandbox(throttle=2, throttle_window=0.5, retry_after=None)
    statuses = [client.raw(**WINDOW).status_code]
    time.sleep(0.3)
    statuses.append(client.raw(**WINDOW).status_code)
    time.sleep(0.25)  # the first has left the window, the second has not
    statuses += [client.raw(**WINDOW).status_code for _ in range(2)]
    assert statuses == [200, 200, 200, 429]


def test_throttle_says_when_to_come_back(open_sandbox: Any) -> None:
    sandbox, client = open_sandbox(throttle=1, throttle_window=0.2, clock=lambda: T0 + 250)
    client.page()
    assert client.raw(**WINDOW).headers["Retry-After"] == "1"
    assert sandbox.violations == 1
    time.sleep(0.25)
    # Free again, but the promised second is not over.
    assert client.raw(**WINDOW).status_code == 200
    assert sandbox.violations == 2
    sandbox.switches = Switches(throttle=1, retry_after="date")
    assert client.raw(**WINDOW).headers["Retry-After"] == "Wed, 19 Feb 2025 21:21:01 GMT"


def test_fault_promises_count_too(open_sandbox: Any) -> None:
    sandbox, client = open_sandbox()
    sandbox.faults = [Fault("429", at=1, retry_after=0.1)]
    assert client.raw(**WINDOW).headers["Retry-After"] == "0.1"
    time.sleep(0.12)
    client.page()
    assert sandbox.violations == 0
    sandbox.faults = [Fault("503", at=3, retry_after=1)]
    client.raw(**WINDOW)
    client.page()
    assert sandbox.violations == 1


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "content_type", "body"),
    [
        (Fault("429", at=1), 429, "json", {"error": "Too Many Requests"}),
        (Fault("500", at=1), 500, "json", {"error": "Internal Server Error"}),
        (Fault("503", at=1), 503, "json", {"error": "Service Unavailable"}),
        (Fault("502_html", at=1), 502, "html", b"502 Bad Gateway"),
        (Fault("html_200", at=1), 200, "html", b"Sign in"),
        (Fault("empty_200", at=1), 200, "json", b""),
        (Fault("wrong_shape", at=1, body=b"[1,2]"), 200, "json", b"[1,2]"),
        (Fault("wrong_shape", at=1, body=b"{}", status=404), 404, "json", b"{}"),
        (Fault("redirect", at=1, location="http://127.0.0.1:9/x"), 302, "json", b""),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_faults_that_answer(
    open_sandbox: Any, fault: Fault, status: int, content_type: str, body: Any
) -> None:
    sandbox, client = open_sandbox()
    sandbox.faults = [fault]
    response = client.raw(**WINDOW)
    assert response.status_code == status
    assert content_type in response.headers["Content-Type"]
    assert "Retry-After" not in response.headers
    assert response.headers.get("Location") == fault.location
    if isinstance(body, dict):
        assert response.json().items() >= {"statusCode": status, **body}.items()
    else:
        assert body in response.content
        assert body or not response.content
    assert client.ids() == "edcba"
    assert [(r.fault, r.status) for r in sandbox.requests] == [(fault.kind, status), (None, 200)]
    assert [r.ids for r in sandbox.requests] == [(), tuple("edcba")]


def test_retry_after_forms(open_sandbox: Any) -> None:
    sandbox, client = open_sandbox(clock=lambda: T0 + 250)
    forms: list[float | str] = [7, 0.25, "date:2", "soon", "-1"]
    sandbox.faults = [Fault("429", at=n, retry_after=f) for n, f in enumerate(forms, 1)]
    sent = [client.raw(**WINDOW).headers["Retry-After"] for _ in forms]
    assert sent == ["7", "0.25", "Wed, 19 Feb 2025 21:20:03 GMT", "soon", "-1"]
    assert parsedate_to_datetime(sent[2]).timestamp() * 1000 == T0 + 3000


def test_bad_json(open_sandbox: Any) -> None:
    sandbox, client = open_sandbox()
    sandbox.faults = [Fault("bad_json", at=1)]
    response = client.raw(**WINDOW)
    assert response.status_code == 200
    assert int(response.headers["Content-Length"]) == len(response.content) > 500
    with pytest.raises(requests.exceptions.JSONDecodeError):
        response.json()
    assert client.ids() == "edcba"


@pytest.mark.parametrize("kind", ["reset", "truncated", "truncated_chunked"])
def test_faults_that_break_off(open_sandbox: Any, kind: Any) -> None:
    sandbox, _ = open_sandbox()
    sandbox.faults = [Fault(kind, at=1)]
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=5)
    query = urlencode(WINDOW)
    connection.request("GET", f"{PATH}?{query}", headers={"Authorization": f"Bearer {API_KEY}"})
    if kind == "reset":
        with pytest.raises(ConnectionResetError) as reset:
            connection.getresponse()
        # Not its subclass RemoteDisconnected, which is a mere close.
        assert reset.type is ConnectionResetError
    else:
        response = connection.getresponse()
        with pytest.raises(http.client.IncompleteRead) as caught:
            response.read()
        assert caught.value.partial.startswith(b'{"conversations":[{"id":"e"')
        response.close()
    connection.close()
    assert sandbox.requests[0].fault == kind
    assert sandbox.requests[0].status == (None if kind == "reset" else 200)
    assert sandbox.requests[0].ids == ()


def test_stall_holds_until_the_client_gives_up_and_never_the_stop(open_sandbox: Any) -> None:
    sandbox, client = open_sandbox()
    sandbox.faults = [Fault("stall", at=(1, 3))]
    with pytest.raises(requests.exceptions.ReadTimeout):
        client.session.get(
            f"{sandbox.url}{PATH}", headers={"Authorization": f"Bearer {API_KEY}"}, timeout=0.1
        )
    assert client.ids() == "edcba"
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=5) as connection:
        connection.sendall(GOOD.replace("\n", "\r\n").encode())
        while len(sandbox.requests) < 3:
            time.sleep(0.001)
        before = time.monotonic()
        sandbox.stop()
        assert time.monotonic() - before < 0.2
        assert connection.recv(1) == b""
    assert [(r.fault, r.status) for r in sandbox.requests] == [
        ("stall", None),
        (None, 200),
        ("stall", None),
    ]


def hit(sandbox: Sandbox, client: Client, count: int) -> list[int]:
    """Ask ``count`` times, and return the numbers of the requests that met a fault."""
    start = len(sandbox.requests)
    for _ in range(count):
        client.raw(**WINDOW)
    return [n for n, r in enumerate(sandbox.requests, 1) if r.fault and n > start]


def test_which_requests_a_fault_hits(open_sandbox: Any) -> None:
    sandbox, client = open_sandbox([])
    for fault, expected in {
        Fault("500"): [1, 2, 3, 4, 5, 6, 7, 8],
        Fault("500", at=3): [3],
        Fault("500", at=(2, 5, 99)): [2, 5],
        Fault("500", every=3): [3, 6],
        Fault("500", every=3, at=1): [1, 3, 6],
        Fault("500", every=2, times=2): [2, 4],
        Fault("500", times=1): [1],
        Fault("500", rate=0.0): [],
        Fault("500", rate=0.5, seed=1): [2, 3],
    }.items():
        sandbox.reset()
        sandbox.faults = [fault]
        assert hit(sandbox, client, 8) == expected, fault
    # A reset starts the counting anew; the first fault of several wins.
    sandbox.faults = [Fault("500", times=1), Fault("503", at=(1, 2))]
    sandbox.reset()
    assert hit(sandbox, client, 3) == [1, 2]
    sandbox.reset()
    assert hit(sandbox, client, 3) == [1, 2]
    assert [r.fault for r in sandbox.requests] == ["500", "503", None]


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "504"},
        {"kind": "500", "at": 0},
        {"kind": "500", "every": 0},
        {"kind": "500", "rate": 1.1},
        {"kind": "500", "times": 0},
        {"kind": "500", "retry_after": 1},
        {"kind": "500", "body": b""},
        {"kind": "500", "status": 500},
        {"kind": "500", "location": "x"},
        {"kind": "wrong_shape"},
        {"kind": "redirect"},
    ],
)
def test_faults_that_make_no_sense(wrong: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Fault(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cursor": "id"},
        {"order": None},
        {"order_field": "created_at"},
        {"start_inclusive": 1},
        {"max_limit": 0},
        {"max_window_days": 0},
        {"throttle": 0},
        {"retry_after": "never"},
        {"latency": -1},
    ],
)
def test_switches_that_do_not_exist(wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Switches(**wrong)


# --- starting and stopping ------------------------------------------------------------------------


def test_nothing_is_left(open_sandbox: Any) -> None:
    sandbox, client = open_sandbox()
    client.page()
    before = time.monotonic()
    sandbox.stop()
    assert time.monotonic() - before < 0.2
    assert not [t for t in threading.enumerate() if t.name.startswith("sandbox")]
    with pytest.raises(requests.exceptions.ConnectionError):
        client.raw()
    # The same one comes back on the same port.
    port = sandbox.port
    sandbox.start()
    assert sandbox.port == port
    assert client.ids() == "edcba"


def test_a_hundred_sandboxes() -> None:
    descriptors = Path("/proc/self/fd")  # on Linux; elsewhere the count stays 0
    files = len(list(descriptors.glob("*")))
    before = time.monotonic()
    for _ in range(100):
        with Sandbox() as sandbox:
            assert sandbox.api_key == API_KEY
    assert time.monotonic() - before < 2
    assert len(list(descriptors.glob("*"))) <= files


def test_stop_from_on_request(open_sandbox: Any) -> None:
    sandbox, client = open_sandbox()
    sandbox.on_request = lambda _number, _request: sandbox.stop()
    with pytest.raises(requests.exceptions.ConnectionError):
        client.raw(**WINDOW)


# --- the data -------------------------------------------------------------------------------------


def digest(rows: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]


def test_data_is_the_same_everywhere() -> None:
    assert digest(make_conversations(50)) == "2ee98b44260d"
    assert digest(make_conversations(50, seed=1)) == "39550fdccec3"
    assert digest(make_conversations(50, shape="growing")) == "4f8f0ef25dd5"
    assert digest(make_conversations(50, shape="dense")) == "2fb07fcf6600"


def test_data_looks_like_support_chats() -> None:
    start, end = T0, T0 + 180 * DAY
    rows = make_conversations(4000, start=start, end=end)
    requests_ = [t for c in rows for t in c["botRequests"]]
    assert len({c["id"] for c in rows}) == 4000
    assert all(start <= c["createdAt"] <= c["updatedAt"] < end for c in rows)
    assert all(c["createdAt"] <= t["createdAt"] < end for c in rows for t in c["botRequests"])
    assert [c["createdAt"] for c in rows] == sorted(c["createdAt"] for c in rows)
    assert {c["source"] for c in rows} == {
        "zendesk",
        "slack",
        "discord",
        "widget",
        "intercom",
        "ui",
        "api",
    }
    assert documented_example().keys() | {"userId"} == rows[0].keys()
    assert {frozenset(t) for t in requests_} == {frozenset(documented_example()["botRequests"][0])}
    assert 2.7 < len(requests_) / 4000 < 2.9
    assert {len(c["botRequests"]) for c in rows} == set(range(1, 9))
    assert 3000 < len(json.dumps(rows, ensure_ascii=False).encode()) / 4000 < 4000
    late = [c for c in rows if c["updatedAt"] - c["createdAt"] >= DAY]
    assert 0.06 < len(late) / 4000 < 0.1
    assert max(c["updatedAt"] - c["createdAt"] for c in rows) <= 20 * DAY
    younger = [c["botRequests"][-1]["createdAt"] - c["updatedAt"] for c in rows]
    assert 0 < max(younger) <= 100
    assert all(
        (c["externalId"] is not None) == (c["source"] in {"zendesk", "intercom"}) for c in rows
    )
    for name in ("channel", "url", "userId", "feedbackType"):
        assert 0 < sum(c[name] is None for c in rows) < 4000
    rates = {
        s: sum(c["escalation"] for c in rows if c["source"] == s) for s in ("intercom", "slack")
    }
    assert rates["intercom"] > 3 * rates["slack"]
    used = [source for t in requests_ for source in t["basedOn"]]
    assert {type(source["id"]) for source in used} == {str, list}
    assert {key for source in used for key in source} == {
        "id",
        "title",
        "sourceId",
        "source_id",
        "sourceType",
        "source_type",
        "score",
        "question",
        "answer",
        "entry",
    }
    assert any(not t["basedOn"] for t in requests_)
    assert any(2000 < len(t["answer"]) < 4500 for t in requests_)
    text = json.dumps(rows, ensure_ascii=False)
    assert all(piece in text for piece in ("😡", "أين", "שלום", "パスワード", "Rechnung"))


def test_marker_is_in_every_text() -> None:
    rows = make_conversations(300, marker="M4RK")
    for turn in (t for c in [*rows, edited(rows[0], T0, marker="M4RK")] for t in c["botRequests"]):
        for item in (turn, *turn["basedOn"]):
            for name in ("question", "answer", "reasoning", "entry"):
                assert item.get(name) is None or "M4RK" in item[name]
    assert "M4RK" not in json.dumps(make_conversations(300))


def test_shapes() -> None:
    def share(shape: Any, first: float, last: float) -> float:
        rows = make_conversations(2000, start=0, end=1000 * DAY, shape=shape)
        assert len(rows) == 2000
        found: int = sum(first * 1000 * DAY <= c["createdAt"] < last * 1000 * DAY for c in rows)
        return found / 2000

    assert share("even", 0, 0.5) == 0.5
    assert share("growing", 0, 0.5) == pytest.approx(0.25, abs=0.01)
    assert share("dense", 2 / 3, 2 / 3 + 1 / 24_000) == pytest.approx(0.6, abs=0.01)
    dense = [c["createdAt"] for c in make_conversations(2000, shape="dense")]
    ties = [dense.count(moment) for moment in set(dense)]
    assert 1 < max(ties) < 15
    for wrong in ({"end": 0}, {"shape": "round"}):
        with pytest.raises(ValueError):  # noqa: PT011
            make_conversations(1, start=0, **{"end": 9, **wrong})  # type: ignore[arg-type]


def test_edited() -> None:
    before = make_conversations(1)[0]
    kept = json.dumps(before)
    kinds = set()
    for seed in range(8):
        after = edited(before, T1, seed=seed)
        assert after["updatedAt"] == T1
        kinds.add((after["feedbackType"], len(after["botRequests"]) - len(before["botRequests"])))
    assert kinds == {("thumbs_down", 0), (before["feedbackType"], 1)}
    assert json.dumps(before) == kept


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_command_line(tmp_path: Path, ending: signal.Signals) -> None:
    ready = tmp_path / "ready.json"
    command = [
        *(sys.executable, "-W", "error", "-m", "tests.sandbox", "--conversations", "40"),
        *("--start", "2025-02-01", "--end", "2025-03-01", "--ready-file", str(ready)),
        *(
            "--max-limit",
            "30",
            "--no-end-inclusive",
            "--order-field",
            "createdAt",
            "--latency",
            "0",
        ),
        *("--max-window-days", "none", "--fault", "429:at=2/3,retry_after=0", "--churn", "4"),
        *("--fault", 'wrong_shape:at=5,body={"a":[1,2]}'),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        facts = json.loads(ready.read_text())
        assert line == (
            f"{facts['url']} api_key={API_KEY} conversations=40 "
            f"bot_requests={facts['bot_requests']}\n"
        )
        rows = make_conversations(40, start=1738368000000, end=1740787200000)
        assert facts["bot_requests"] == sum(len(c["botRequests"]) for c in rows)
        answers = [
            requests.get(
                facts["url"] + PATH,
                params={"startEpoch": 0},
                headers={"Authorization": f"Bearer {facts['api_key']}"},
                timeout=5,
            )
            for _ in range(5)
        ]
        assert [a.status_code for a in answers] == [200, 429, 429, 200, 200]
        assert answers[1].headers["Retry-After"] == "0"
        newest = sorted(rows, key=lambda c: (c["createdAt"], c["id"]), reverse=True)
        assert answers[0].json()["conversations"] == newest[:30]
        assert answers[4].json() == {"a": [1, 2]}
        process.send_signal(ending)
        out, err = process.communicate(timeout=5)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "--no-start-inclusive"),
        (["--cursor", "id"], 2, "invalid choice"),
        (["--fault", "504"], 2, "unknown kind '504'"),
        (["--fault", "500:when=3"], 2, "unknown field 'when'"),
        (["--curs", "last_id"], 2, "unrecognized arguments"),
    ],
)
def test_command_line_says_what_is_wrong(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == code
    assert said in "".join(capsys.readouterr())
