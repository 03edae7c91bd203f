"""State: what a second run reads, and what can never be lost between two."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest

from tap_fini.client import FiniError
from tests.expected import loaded, tables, time_text
from tests.sandbox import Fault, Sandbox, Switches, make_conversations
from tests.support import DAY, Output, config_for, discover, run_tap, select

START = 1_735_689_600_000  # 2025-01-01
STREAMS = ("conversations", "bot_requests")
SELECTIONS = (STREAMS, STREAMS[:1], STREAMS[1:])


def bookmarks(state: dict[str, Any]) -> dict[str, str | None]:
    return {
        name: stream.get("replication_key_value") for name, stream in state["bookmarks"].items()
    }


def catalog_of(streams: tuple[str, ...]) -> dict[str, Any]:
    return select(discover(), **{name: name in streams for name in STREAMS})


def upsert(target: dict[str, dict[Any, Any]], output: Output) -> None:
    for name, rows in zip(
        STREAMS,
        loaded(output.records("conversations"), output.records("bot_requests")),
        strict=True,
    ):
        target.setdefault(name, {}).update(rows)


def present(target: dict[str, dict[Any, Any]]) -> dict[str, dict[Any, Any]]:
    """Leave out bot requests that are no longer part of their conversation, as users can."""
    parents = target["conversations"]
    return {
        "conversations": parents,
        "bot_requests": {
            key: row
            for key, row in target["bot_requests"].items()
            if not parents
            or row["conversationUpdatedAt"] == parents[row["conversationId"]]["updatedAt"]
        },
    }


def test_the_bookmark_is_the_latest_change() -> None:
    conversations = make_conversations(50, seed=1)
    latest = time_text(max(c["updatedAt"] for c in conversations))
    with Sandbox(conversations) as sandbox:
        output = run_tap(config_for(sandbox))
    assert output.state == {
        "bookmarks": {
            "conversations": {"replication_key": "updatedAt", "replication_key_value": latest},
            "bot_requests": {
                "replication_key": "conversationUpdatedAt",
                "replication_key_value": latest,
            },
        }
    }


def test_every_state_lies_within_its_window() -> None:
    """Filtered by creation, an old window holds a change of today: no bookmark follows it."""
    conversations = make_conversations(60, seed=1)
    for conversation in conversations[:20]:
        conversation["updatedAt"] = START + 170 * DAY
    with Sandbox(conversations, Switches(filter_field="createdAt")) as sandbox:
        output = run_tap(config_for(sandbox, window_days=10, max_concurrent_requests=3))
    written = 0
    ends = [START + n * 10 * DAY for n in range(1, 22)]
    for message in output.messages:
        if message["type"] == "RECORD" and message["stream"] == "conversations":
            written += 1
        if message["type"] == "STATE" and (value := bookmarks(message["value"])["conversations"]):
            end = min(end for end in ends if time_text(end) >= value)
            assert written == sum(c["createdAt"] < end for c in conversations)


def test_a_second_run_reads_its_lookback_and_nothing_else() -> None:
    conversations = make_conversations(400, seed=1)
    with Sandbox(conversations) as sandbox:
        first = run_tap(config_for(sandbox))
        sandbox.reset()
        second = run_tap(config_for(sandbox, lookback_days=3), state=first.state)
        latest = max(c["updatedAt"] for c in conversations)
        asked = sorted(
            (int(r.params["startEpoch"]), r.params["endEpoch"]) for r in sandbox.requests
        )
        assert asked[0][0] == latest - 3 * DAY - 1
        assert {row["id"] for row in second.records("conversations")} == {
            c["id"] for c in conversations if c["updatedAt"] >= latest - 3 * DAY
        }
        assert second.state == first.state
        sandbox.reset()
        third = run_tap(config_for(sandbox, lookback_days=0), state=second.state)
        assert len(third.records("conversations")) == 1, "the one at the bookmark itself"
        assert len(sandbox.requests) == 1


def test_the_lookback_never_goes_below_the_start_date() -> None:
    with Sandbox(make_conversations(100, seed=1)) as sandbox:
        first = run_tap(config_for(sandbox))
        sandbox.reset()
        run_tap(config_for(sandbox, lookback_days=1000, start_date="2025-03-01"), state=first.state)
        assert min(int(r.params["startEpoch"]) for r in sandbox.requests) == START + 59 * DAY - 1


def test_the_bookmark_never_goes_back() -> None:
    state = {
        "bookmarks": {
            "conversations": {
                "replication_key": "updatedAt",
                "replication_key_value": "2025-07-10T00:00:00Z",
            },
            "bot_requests": {
                "replication_key": "conversationUpdatedAt",
                "replication_key_value": "2025-07-10T00:00:00.000Z",
            },
        }
    }
    with Sandbox(make_conversations(100, seed=1)) as sandbox:
        output = run_tap(config_for(sandbox, lookback_days=60), state=copy.deepcopy(state))
    assert len(output.records("conversations")) > 10
    assert set(bookmarks(output.state).values()) == {"2025-07-10T00:00:00.000Z"}


@pytest.mark.parametrize("streams", SELECTIONS)
@pytest.mark.parametrize("field", ["createdAt", "updatedAt"])
def test_two_runs_with_changes_between_equal_one_full_read(
    field: str, streams: tuple[str, ...]
) -> None:
    """With creation as the filter, changes are found for as long as the lookback."""
    conversations = make_conversations(300, seed=7, end=START + 120 * DAY)
    switches = Switches(filter_field=field)  # type: ignore[arg-type]
    target: dict[str, dict[Any, Any]] = {}
    with Sandbox(conversations, switches) as sandbox:
        catalog = catalog_of(streams)
        config = config_for(sandbox, lookback_days=7 if field == "updatedAt" else 200)
        first = run_tap(config, catalog=catalog)
        upsert(target, first)
        for number, conversation in enumerate(sandbox.world.conversations[::5]):
            conversation["updatedAt"] = START + 125 * DAY + number
            conversation["feedbackType"] = "thumbs_down"
            conversation["botRequests"].append(
                conversation["botRequests"][0]
                | {"createdAt": START + 125 * DAY + number, "question": f"Again {number}?"}
            )
            sandbox.world.upsert(conversation)
        for conversation in make_conversations(
            50, seed=8, start=START + 120 * DAY, end=START + 130 * DAY
        ):
            sandbox.world.upsert(conversation)
        upsert(target, run_tap(config, state=first.state, catalog=catalog))
        parents, children = tables(sandbox.truth())
    expected = {"conversations": parents, "bot_requests": children}
    for name in STREAMS:
        if name not in streams:
            expected[name] = {}
    assert present(target) == expected


def test_a_stream_selected_later_starts_from_the_start() -> None:
    with Sandbox(make_conversations(200, seed=1)) as sandbox:
        config = config_for(sandbox)
        first = run_tap(config, catalog=catalog_of(STREAMS[:1]))
        assert set(first.state["bookmarks"]) == {"conversations"}
        second = run_tap(config, state=first.state, catalog=catalog_of(STREAMS))
        parents, children = tables(sandbox.truth())
        assert loaded(second.records("conversations"), second.records("bot_requests")) == (
            parents,
            children,
        )
        assert len(set(bookmarks(second.state).values())) == 1


def test_a_deselected_stream_keeps_its_bookmark() -> None:
    with Sandbox(make_conversations(200, seed=1)) as sandbox:
        config = config_for(sandbox)
        first = run_tap(config)
        newer = make_conversations(5, seed=9, start=START + 190 * DAY, end=START + 195 * DAY)
        for conversation in newer:
            sandbox.world.upsert(conversation)
        second = run_tap(config, state=first.state, catalog=catalog_of(STREAMS[1:]))
    latest = time_text(max(c["updatedAt"] for c in newer))
    assert bookmarks(second.state) == {
        "conversations": bookmarks(first.state)["conversations"],
        "bot_requests": latest,
    }


@pytest.mark.parametrize("workers", [1, 4])
def test_a_failure_keeps_what_was_finished(workers: int) -> None:
    conversations = make_conversations(300, seed=1)
    with Sandbox(conversations) as sandbox:
        config = config_for(sandbox, window_days=10, page_size=10, max_concurrent_requests=workers)
        sandbox.on_request = lambda _, request: (
            sandbox.faults.append(Fault("wrong_shape", body=b'{"message": "no"}', status=403))
            if int(request.params["startEpoch"]) > START + 90 * DAY and not sandbox.faults
            else None
        )
        first = run_tap(config, fails=FiniError)
        sandbox.faults.clear()
        sandbox.on_request = None
        sandbox.reset()
        value = bookmarks(first.state)["conversations"]
        assert value is not None
        assert value <= time_text(START + 100 * DAY)
        done = [c for c in conversations if time_text(c["updatedAt"]) <= value]
        written = {row["id"] for row in first.records("conversations")}
        assert {c["id"] for c in done} <= written
        second = run_tap(config | {"lookback_days": 0}, state=first.state)
        target: dict[str, dict[Any, Any]] = {}
        upsert(target, first)
        upsert(target, second)
        parents, children = tables(sandbox.truth())
        assert target == {"conversations": parents, "bot_requests": children}
        start = min(int(r.params["startEpoch"]) for r in sandbox.requests)
        assert time_text(start + 1) == value, "what was finished is not read again"


@pytest.mark.parametrize("minutes", [-120, -2, 0, 2, 120])
def test_a_clock_that_is_off(minutes: int) -> None:
    """Everything is read, and the bookmark does not run ahead of Fini's clock."""
    now = int(time.time() * 1000) + minutes * 60_000
    conversations = make_conversations(40, seed=1, start=now - 30 * DAY, end=now - 1000)
    conversations[0] |= {"createdAt": now - 1500, "updatedAt": now - 1500}
    with Sandbox(conversations, clock=lambda: now) as sandbox:
        config = config_for(sandbox, start_date=time_text(now - 40 * DAY))
        del config["end_date"]
        output = run_tap(config)
        parents, children = tables(sandbox.truth())
        assert loaded(output.records("conversations"), output.records("bot_requests")) == (
            parents,
            children,
        )
    value = bookmarks(output.state)["conversations"]
    assert value is not None
    assert value <= time_text(now)
    assert ("clock is" in output.text) == (minutes != 0)


def test_filters_are_remembered() -> None:
    with Sandbox(make_conversations(100, seed=1)) as sandbox:
        first = run_tap(config_for(sandbox, source="zendesk", question="how"))
        stored = first.state["bookmarks"]["conversations"]["filters"]
        assert set(stored) == {"source", "question"}
        assert "how" not in str(first.state)
        same = run_tap(config_for(sandbox, source="zendesk", question="how"), state=first.state)
        assert "filters have changed" not in same.text
        changed = run_tap(config_for(sandbox, source="slack"), state=first.state)
        assert (
            "WARNING tap-fini.conversations: The filters have changed since the state of "
            "'conversations' was made (question, source): what only the new ones let through is "
            "missing before the bookmark; run once without the state (meltano run "
            "--full-refresh) to get it"
        ) in changed.log
        without = run_tap(config_for(sandbox), state=first.state)
        assert "filters have changed" in without.text


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("updatedAt", "Fini selects by the time of the last change"),
        ("createdAt", "Fini selects by the time of creation"),
    ],
)
def test_the_log_says_by_which_time_fini_selects(field: str, words: str) -> None:
    switches = Switches(filter_field=field)  # type: ignore[arg-type]
    with Sandbox(make_conversations(300, seed=1), switches) as sandbox:
        output = run_tap(config_for(sandbox))
    assert output.text.count("Fini selects by") == 1
    assert words in output.text


def test_a_clock_behind_the_bookmark() -> None:
    """Without a lookback there seems to be nothing to read, until Fini's clock is known."""
    now = int(time.time() * 1000) + 3 * 3_600_000
    conversations = make_conversations(20, seed=1, start=now - 20 * DAY, end=now - 2000)
    bookmark = time_text(now - 3_600_000)
    state = {
        "bookmarks": {
            "conversations": {"replication_key": "updatedAt", "replication_key_value": bookmark},
            "bot_requests": {
                "replication_key": "conversationUpdatedAt",
                "replication_key_value": bookmark,
            },
        }
    }
    conversations[0] |= {"createdAt": now - 5000, "updatedAt": now - 5000}
    with Sandbox(conversations, clock=lambda: now) as sandbox:
        config = config_for(sandbox, lookback_days=0)
        del config["end_date"]
        output = run_tap(config, state=state)
    expected = {c["id"] for c in conversations if time_text(c["updatedAt"]) >= bookmark}
    assert {row["id"] for row in output.records("conversations")} == expected
    assert conversations[0]["id"] in expected
    assert f"This run would start at {bookmark}, which is yet to come" in output.text


def test_a_start_date_in_the_future_is_told() -> None:
    with Sandbox(make_conversations(20, seed=1)) as sandbox:
        config = config_for(sandbox, start_date="2300-01-01")
        del config["end_date"]
        output = run_tap(config)
        assert len(sandbox.requests) == 1
    assert output.records("conversations") == []
    assert "This run would start at 2300-01-01T00:00:00.000Z, which is yet to come" in output.text
