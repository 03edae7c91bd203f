"""Whatever the undocumented parts of the API mean, what comes out is exactly what is there."""

from __future__ import annotations

import itertools

import pytest

from tap_fini.client import FiniError
from tests.exports import CHAT_HISTORY, EXPORTS, INTERACTIONS, Export
from tests.sandbox import Sandbox, Switches, make_conversations, make_interactions
from tests.support import DAY, config_for

CURSORS = ("last_id", "body_cursor", "body_next_cursor", "ignored", "refused")
ANY_CURSOR = (*CURSORS, "next_id")
ORDERS = ("newest", "oldest", "shuffled")
FIELDS = ("createdAt", "updatedAt")
ENDS = tuple(itertools.product((True, False), repeat=2))
HAS_MORE = ("exact", "page_full")
BOTH = pytest.mark.parametrize("export", EXPORTS, ids=str)

START = 1_735_689_600_000  # 2025-01-01


def assert_complete(sandbox: Sandbox, export: Export = CHAT_HISTORY, **settings: object) -> None:
    """Run the tap, and compare every field of every row with the sandbox's data."""
    output = export.run(config_for(sandbox, **settings))
    truth = export.truth(sandbox)
    assert export.loaded(output) == truth
    for stream, rows in zip(export.streams, truth, strict=True):
        assert len(output.records(stream)) == len(rows), "a record came twice"


@pytest.mark.parametrize("order_field", [None, *FIELDS])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("cursor", CURSORS)
def test_every_meaning_of_the_api(cursor: str, order: str, order_field: str | None) -> None:
    conversations = make_conversations(64, seed=3)
    for field, ends, has_more in itertools.product(FIELDS, ENDS, HAS_MORE):
        switches = Switches(
            cursor=cursor,  # type: ignore[arg-type]
            order=order,  # type: ignore[arg-type]
            order_field=order_field,  # type: ignore[arg-type]
            filter_field=field,  # type: ignore[arg-type]
            start_inclusive=ends[0],
            end_inclusive=ends[1],
            has_more=has_more,  # type: ignore[arg-type]
        )
        with Sandbox(conversations, switches) as sandbox:
            assert_complete(sandbox, page_size=6, window_days=60)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("cursor", ANY_CURSOR)
def test_every_meaning_of_the_newer_api(cursor: str, order: str) -> None:
    """The engine is the same, so each value meets each of these, and not all the others too."""
    interactions = make_interactions(40, seed=3)
    keys = ("interactions", "conversations")
    others = itertools.islice(
        itertools.cycle(itertools.product(ENDS, HAS_MORE, keys)), 5 * ORDERS.index(order), None
    )
    for field, order_field in itertools.product(FIELDS, (None, *FIELDS)):
        for ends, has_more, key in itertools.islice(others, 2):
            switches = Switches(
                cursor=cursor,  # type: ignore[arg-type]
                order=order,  # type: ignore[arg-type]
                order_field=order_field,  # type: ignore[arg-type]
                filter_field=field,  # type: ignore[arg-type]
                start_inclusive=ends[0],
                end_inclusive=ends[1],
                has_more=has_more,  # type: ignore[arg-type]
                interactions_key=key,  # type: ignore[arg-type]
            )
            with Sandbox(switches=switches, interactions=interactions) as sandbox:
                assert_complete(sandbox, INTERACTIONS, page_size=6, window_days=60)


@BOTH
@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("field", FIELDS)
def test_conversations_on_the_edges_of_windows(
    field: str, ends: tuple[bool, bool], export: Export
) -> None:
    """One at each edge, one a millisecond before, one after: of each window of a day."""
    conversations = make_conversations(30, seed=1)
    for number, conversation in enumerate(conversations):
        instant = START + (number // 3) * DAY + (number % 3) - 1
        conversation["createdAt"] = conversation["updatedAt"] = max(instant, START)
    switches = Switches(
        filter_field=field,  # type: ignore[arg-type]
        start_inclusive=ends[0],
        end_inclusive=ends[1],
    )
    with export.sandbox(conversations, switches) as sandbox:
        assert_complete(sandbox, export, window_days=1, end_date="2025-01-15")


@BOTH
@pytest.mark.parametrize("cursor", CURSORS)
def test_a_window_of_exactly_one_and_two_pages(cursor: str, export: Export) -> None:
    for count in (10, 20):
        for has_more in HAS_MORE:
            switches = Switches(cursor=cursor, has_more=has_more)  # type: ignore[arg-type]
            with export.sandbox(make_conversations(count, seed=2), switches) as sandbox:
                assert_complete(sandbox, export, page_size=10, window_days=90)


@BOTH
@pytest.mark.parametrize("over_limit", ["capped", "refused"])
def test_a_smaller_page_than_asked_for(over_limit: str, export: Export) -> None:
    switches = Switches(max_limit=50, over_limit=over_limit)  # type: ignore[arg-type]
    with export.sandbox(make_conversations(120, seed=2), switches) as sandbox:
        if over_limit == "capped":
            assert_complete(sandbox, export, page_size=100)
        else:
            output = export.run(config_for(sandbox, page_size=100), fails=FiniError)
            assert str(output.error).startswith(
                "Fini refused the request (400): check the filters and dates in the settings. "
                "Fini says: "
            )


@BOTH
@pytest.mark.parametrize("order", ["oldest", "newest", "shuffled"])
def test_bot_requests_in_any_order(order: str, export: Export) -> None:
    switches = Switches(bot_request_order=order)  # type: ignore[arg-type]
    with export.sandbox(make_conversations(40, seed=5), switches) as sandbox:
        assert_complete(sandbox, export)


def test_ids_where_the_api_gives_them() -> None:
    switches = Switches(bot_request_ids=True, user_ids=False)
    with Sandbox(make_conversations(40, seed=5), switches) as sandbox:
        assert_complete(sandbox)


@BOTH
def test_a_server_without_a_clock(export: Export) -> None:
    switches = Switches(date_header=False)
    with export.sandbox(make_conversations(40, seed=5), switches) as sandbox:
        assert_complete(sandbox, export)


@BOTH
@pytest.mark.parametrize("cursor", ["ignored", "refused"])
def test_too_many_in_one_millisecond_is_an_error(cursor: str, export: Export) -> None:
    conversations = make_conversations(30, seed=1)
    instant = START + 5 * DAY + 17
    for conversation in conversations[:12]:
        conversation["createdAt"] = conversation["updatedAt"] = instant
    switches = Switches(cursor=cursor)  # type: ignore[arg-type]
    with export.sandbox(conversations, switches) as sandbox:
        output = export.run(config_for(sandbox, page_size=10), fails=FiniError)
    assert str(output.error) == (
        "In the three milliseconds around 2025-01-06T00:00:00.016Z there are more "
        f"{export.streams[0]} than fit one page of 10, and Fini's paging cannot be trusted to "
        "bring the others: set 'page_size' to another number, up to 100, or ask Fini how its "
        "cursor works. Nothing was skipped; the state ends before that moment."
    )
    bookmark = output.state["bookmarks"][export.streams[0]].get("replication_key_value", "")
    assert bookmark < "2025-01-06T00:00:00.017Z"


@BOTH
@pytest.mark.parametrize(("cursor", "page_size"), [("last_id", 12), ("ignored", 13)])
def test_a_millisecond_that_fills_its_page_exactly(
    cursor: str, page_size: int, export: Export
) -> None:
    """Where hasMore only says that the page was full, it promises more than there is."""
    conversations = make_conversations(30, seed=1)
    for conversation in conversations[:12]:
        conversation["createdAt"] = conversation["updatedAt"] = START + DAY
    switches = Switches(cursor=cursor, has_more="page_full")  # type: ignore[arg-type]
    with export.sandbox(conversations, switches) as sandbox:
        assert_complete(sandbox, export, page_size=page_size)


@BOTH
def test_pages_of_one(export: Export) -> None:
    conversations = make_conversations(8, seed=1)
    cursors = CURSORS if export is CHAT_HISTORY else ("next_id",)
    for cursor, has_more in itertools.product(cursors, HAS_MORE):
        switches = Switches(cursor=cursor, has_more=has_more)  # type: ignore[arg-type]
        with export.sandbox(conversations, switches) as sandbox:
            assert_complete(sandbox, export, page_size=1)


@BOTH
def test_many_in_one_millisecond_with_a_good_cursor(export: Export) -> None:
    conversations = make_conversations(30, seed=1)
    for conversation in conversations:
        conversation["createdAt"] = conversation["updatedAt"] = START + DAY
    with export.sandbox(conversations) as sandbox:
        assert_complete(sandbox, export, page_size=4)


@BOTH
@pytest.mark.parametrize("count", [0, 1, 30])
@pytest.mark.parametrize("cursor", CURSORS)
def test_a_server_that_always_promises_more(cursor: str, count: int, export: Export) -> None:
    """It ends in an error after a bounded number of requests, or, empty, at once."""
    switches = Switches(cursor=cursor, has_more="always")  # type: ignore[arg-type]
    with export.sandbox(make_conversations(count, seed=1), switches) as sandbox:
        config = config_for(sandbox, page_size=10, window_days=90, max_concurrent_requests=1)
        if count == 0:
            output = export.run(config)
            assert len(sandbox.requests) == 3
            assert output.records(export.streams[0]) == []
        else:
            output = export.run(config, fails=FiniError)
            assert str(output.error).startswith("In the three milliseconds around 2025-")
            assert len(sandbox.requests) < 150


@BOTH
def test_the_last_id_is_unknown_to_a_server_that_answers_with_nothing(export: Export) -> None:
    """The cursor's conversation leaves the window while it is read: an empty page follows."""
    conversations = make_conversations(60, seed=4)
    by_id = {conversation["id"]: conversation for conversation in conversations}
    for field in FIELDS:
        switches = Switches(unknown_cursor="empty", filter_field=field)  # type: ignore[arg-type]
        with export.sandbox(conversations, switches) as sandbox:

            def remove_cursor(number: int, request: object) -> None:
                cursor = request.params.get("cursor")  # type: ignore[attr-defined]
                if number in {2, 5} and cursor:
                    moment = START + 195 * DAY + number
                    moved = {"createdAt": moment, "updatedAt": moment}
                    export.put(sandbox, by_id[cursor] | moved)

            sandbox.on_request = remove_cursor
            output = export.run(config_for(sandbox, page_size=10, max_concurrent_requests=1))
            ids = {row["id"] for row in output.records(export.streams[0])}
            assert ids == {c["id"] for c in conversations}


@BOTH
def test_a_conversation_that_jumps_to_a_page_already_read(export: Export) -> None:
    """Selected by creation, listed by change: an edit moves it from the last page to the first."""
    conversations = make_conversations(40, seed=6, end=START + 25 * DAY)
    switches = Switches(filter_field="createdAt", order_field="updatedAt")
    with export.sandbox(conversations, switches) as sandbox:
        last = min(conversations, key=lambda conversation: conversation["updatedAt"])

        def jump(number: int, _: object) -> None:
            if number == 3:
                export.put(sandbox, last | {"updatedAt": START + 200 * DAY})

        sandbox.on_request = jump
        config = config_for(sandbox, page_size=10, window_days=90, max_concurrent_requests=1)
        output = export.run(config)
    ids = {row["id"] for row in output.records(export.streams[0])}
    assert ids == {conversation["id"] for conversation in conversations}
