"""State: what a second run reads, and what can never be lost between two."""

from __future__ import annotations

import copy
import re
import time
from typing import Any

import pytest

from tap_fini.client import FiniError
from tests.expected import time_text
from tests.exports import CHAT_HISTORY, EXPORTS, INTERACTIONS, Export
from tests.sandbox import Fault, Switches, make_conversations
from tests.support import DAY, Output, config_for

START = 1_735_689_600_000  # 2025-01-01
BOTH = pytest.mark.parametrize("export", EXPORTS, ids=str)
SELECTIONS = (slice(0, 2), slice(0, 1), slice(1, 2))
"""Of an export's two streams: both, the first, the second."""


def bookmarks(state: dict[str, Any]) -> dict[str, str | None]:
    return {
        name: stream.get("replication_key_value") for name, stream in state["bookmarks"].items()
    }


class Target:
    """What a target that upserts by key holds of an export."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self.parents: dict[Any, Any] = {}
        self.children: dict[Any, Any] = {}

    def upsert(self, output: Output) -> None:
        parents, children = self._export.loaded(output)
        self.parents.update(parents)
        self.children.update(children)

    def present(self) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """Leave out children that are no longer part of their parent, as users can."""
        key, _ = self._export.child_keys
        parent_time, child_time = self._export.replication_keys
        return self.parents, {
            place: row
            for place, row in self.children.items()
            if not self.parents or row[child_time] == self.parents[row[key]][parent_time]
        }


@BOTH
def test_the_bookmark_is_the_latest_change(export: Export) -> None:
    conversations = make_conversations(50, seed=1)
    latest = time_text(max(c["updatedAt"] for c in conversations))
    with export.sandbox(conversations) as sandbox:
        output = export.run(config_for(sandbox))
    assert output.state == export.state(latest)


@BOTH
def test_every_state_lies_within_its_window(export: Export) -> None:
    """Filtered by creation, an old window holds a change of today: no bookmark follows it."""
    conversations = make_conversations(60, seed=1)
    for conversation in conversations[:20]:
        conversation["updatedAt"] = START + 170 * DAY
    with export.sandbox(conversations, Switches(filter_field="createdAt")) as sandbox:
        output = export.run(config_for(sandbox, window_days=10, max_concurrent_requests=3))
    written = 0
    ends = [START + n * 10 * DAY for n in range(1, 22)]
    for message in output.messages:
        if message["type"] == "RECORD" and message["stream"] == export.streams[0]:
            written += 1
        if message["type"] == "STATE" and (value := bookmarks(message["value"])[export.streams[0]]):
            end = min(end for end in ends if time_text(end) >= value)
            assert written == sum(c["createdAt"] < end for c in conversations)


@BOTH
def test_a_second_run_reads_its_lookback_and_nothing_else(export: Export) -> None:
    conversations = make_conversations(400, seed=1)
    with export.sandbox(conversations) as sandbox:
        first = export.run(config_for(sandbox))
        sandbox.reset()
        second = export.run(config_for(sandbox, lookback_days=3), state=first.state)
        latest = max(c["updatedAt"] for c in conversations)
        asked = min(int(r.params[export.start_param]) for r in sandbox.requests)
        assert asked == latest - 3 * DAY - 1
        assert {row["id"] for row in second.records(export.streams[0])} == {
            c["id"] for c in conversations if c["updatedAt"] >= latest - 3 * DAY
        }
        assert second.state == first.state
        sandbox.reset()
        third = export.run(config_for(sandbox, lookback_days=0), state=second.state)
        assert len(third.records(export.streams[0])) == 1, "the one at the bookmark itself"
        assert len(sandbox.requests) == 1


@BOTH
def test_the_lookback_never_goes_below_the_start_date(export: Export) -> None:
    with export.sandbox(make_conversations(100, seed=1)) as sandbox:
        first = export.run(config_for(sandbox))
        sandbox.reset()
        export.run(
            config_for(sandbox, lookback_days=1000, start_date="2025-03-01"), state=first.state
        )
        asked = min(int(r.params[export.start_param]) for r in sandbox.requests)
        assert asked == START + 59 * DAY - 1


@BOTH
def test_the_bookmark_never_goes_back(export: Export) -> None:
    state = export.state("2025-07-10T00:00:00.000Z")
    state["bookmarks"][export.streams[0]]["replication_key_value"] = "2025-07-10T00:00:00Z"
    with export.sandbox(make_conversations(100, seed=1)) as sandbox:
        output = export.run(config_for(sandbox, lookback_days=60), state=copy.deepcopy(state))
    assert len(output.records(export.streams[0])) > 10
    assert set(bookmarks(output.state).values()) == {"2025-07-10T00:00:00.000Z"}


@BOTH
@pytest.mark.parametrize("chosen", SELECTIONS)
@pytest.mark.parametrize("field", ["createdAt", "updatedAt"])
def test_two_runs_with_changes_between_equal_one_full_read(
    field: str, chosen: slice, export: Export
) -> None:
    """With creation as the filter, changes are found for as long as the lookback."""
    conversations = make_conversations(300, seed=7, end=START + 120 * DAY)
    switches = Switches(filter_field=field)  # type: ignore[arg-type]
    target = Target(export)
    with export.sandbox(conversations, switches) as sandbox:
        catalog = export.catalog(export.streams[chosen])
        config = config_for(sandbox, lookback_days=7 if field == "updatedAt" else 200)
        first = export.run(config, catalog=catalog)
        target.upsert(first)
        for number, conversation in enumerate(copy.deepcopy(conversations[::5])):
            conversation["updatedAt"] = START + 125 * DAY + number
            conversation["feedbackType"] = "thumbs_down"
            conversation["botRequests"].append(
                conversation["botRequests"][0]
                | {"createdAt": START + 125 * DAY + number, "question": f"Again {number}?"}
            )
            export.put(sandbox, conversation)
        for conversation in make_conversations(
            50, seed=8, start=START + 120 * DAY, end=START + 130 * DAY
        ):
            export.put(sandbox, conversation)
        target.upsert(export.run(config, state=first.state, catalog=catalog))
        truth = export.truth(sandbox)
    assert target.present() == tuple(
        rows if stream in export.streams[chosen] else {}
        for stream, rows in zip(export.streams, truth, strict=True)
    )


@BOTH
def test_a_stream_selected_later_starts_from_the_start(export: Export) -> None:
    with export.sandbox(make_conversations(200, seed=1)) as sandbox:
        config = config_for(sandbox)
        first = export.run(config, catalog=export.catalog(export.streams[:1]))
        assert set(first.state["bookmarks"]) == {export.streams[0]}
        second = export.run(config, state=first.state)
        assert export.loaded(second) == export.truth(sandbox)
        assert len(set(bookmarks(second.state).values())) == 1


@BOTH
def test_a_deselected_stream_keeps_its_bookmark(export: Export) -> None:
    with export.sandbox(make_conversations(200, seed=1)) as sandbox:
        config = config_for(sandbox)
        first = export.run(config)
        newer = make_conversations(5, seed=9, start=START + 190 * DAY, end=START + 195 * DAY)
        for conversation in newer:
            export.put(sandbox, conversation)
        second = export.run(config, state=first.state, catalog=export.catalog(export.streams[1:]))
    latest = time_text(max(c["updatedAt"] for c in newer))
    assert bookmarks(second.state) == {
        export.streams[0]: bookmarks(first.state)[export.streams[0]],
        export.streams[1]: latest,
    }


@BOTH
@pytest.mark.parametrize("workers", [1, 4])
def test_a_failure_keeps_what_was_finished(workers: int, export: Export) -> None:
    conversations = make_conversations(300, seed=1)
    with export.sandbox(conversations) as sandbox:
        config = config_for(sandbox, window_days=10, page_size=10, max_concurrent_requests=workers)
        sandbox.on_request = lambda _, request: (
            sandbox.faults.append(Fault("wrong_shape", body=b'{"message": "no"}', status=403))
            if int(request.params[export.start_param]) > START + 90 * DAY and not sandbox.faults
            else None
        )
        first = export.run(config, fails=FiniError)
        sandbox.faults.clear()
        sandbox.on_request = None
        sandbox.reset()
        value = bookmarks(first.state)[export.streams[0]]
        assert value is not None
        assert value <= time_text(START + 100 * DAY)
        done = [c for c in conversations if time_text(c["updatedAt"]) <= value]
        written = {row["id"] for row in first.records(export.streams[0])}
        assert {c["id"] for c in done} <= written
        second = export.run(config | {"lookback_days": 0}, state=first.state)
        target = Target(export)
        target.upsert(first)
        target.upsert(second)
        assert (target.parents, target.children) == export.truth(sandbox)
        start = min(int(r.params[export.start_param]) for r in sandbox.requests)
        assert time_text(start + 1) == value, "what was finished is not read again"


@BOTH
@pytest.mark.parametrize("minutes", [-120, -2, 0, 2, 120])
def test_a_clock_that_is_off(minutes: int, export: Export) -> None:
    """Everything is read, and the bookmark does not run ahead of Fini's clock."""
    now = int(time.time() * 1000) + minutes * 60_000
    conversations = make_conversations(40, seed=1, start=now - 30 * DAY, end=now - 1000)
    conversations[0] |= {"createdAt": now - 1500, "updatedAt": now - 1500}
    with export.sandbox(conversations, clock=lambda: now) as sandbox:
        config = config_for(sandbox, start_date=time_text(now - 40 * DAY))
        del config["end_date"]
        output = export.run(config)
        assert export.loaded(output) == export.truth(sandbox)
    value = bookmarks(output.state)[export.streams[0]]
    assert value is not None
    assert value <= time_text(now)
    assert ("clock is" in output.text) == (minutes != 0)


@pytest.mark.parametrize(
    ("export", "filters", "other"),
    [
        (CHAT_HISTORY, {"source": "zendesk", "question": "how"}, {"source": "slack"}),
        (INTERACTIONS, {"source": "zendesk, front", "channel": "email"}, {"source": "front,slack"}),
    ],
    ids=str,
)
def test_filters_are_remembered(
    export: Export, filters: dict[str, str], other: dict[str, str]
) -> None:
    with export.sandbox(make_conversations(100, seed=1)) as sandbox:
        first = export.run(config_for(sandbox, **filters))
        stored = first.state["bookmarks"][export.streams[0]]["filters"]
        assert set(stored) == set(filters)
        assert not [value for value in filters.values() if value in str(first.state)]
        same = export.run(config_for(sandbox, **filters), state=first.state)
        assert "filters have changed" not in same.text
        changed = export.run(config_for(sandbox, **other), state=first.state)
        name = export.streams[0]
        assert (
            f"WARNING tap-fini.{name}: The filters have changed since the state of '{name}' was "
            f"made ({', '.join(sorted(filters))}): what only the new ones let through is missing "
            "before the bookmark; run once without the state (meltano run --full-refresh) to get it"
        ) in changed.log
        without = export.run(config_for(sandbox), state=first.state)
        assert "filters have changed" in without.text


def test_the_order_of_a_filters_values_means_nothing() -> None:
    with INTERACTIONS.sandbox(make_conversations(30, seed=1)) as sandbox:
        first = INTERACTIONS.run(config_for(sandbox, source="zendesk,front"))
        second = INTERACTIONS.run(config_for(sandbox, source=" front, zendesk,"), state=first.state)
        assert {request.params["source"] for request in sandbox.requests} == {"front,zendesk"}
    assert "filters have changed" not in second.text


@BOTH
@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("updatedAt", ("by the time of the last change", "by the time of the latest event")),
        ("createdAt", ("by the time of creation", "by the time of creation")),
    ],
)
def test_the_log_says_by_which_time_fini_selects(
    field: str, words: tuple[str, str], export: Export
) -> None:
    switches = Switches(filter_field=field)  # type: ignore[arg-type]
    with export.sandbox(make_conversations(300, seed=1), switches) as sandbox:
        output = export.run(config_for(sandbox))
    assert output.text.count("Fini selects by") == 1
    assert f"Fini selects {words[EXPORTS.index(export)]}" in output.text


@BOTH
def test_a_clock_behind_the_bookmark(export: Export) -> None:
    """Without a lookback there seems to be nothing to read, until Fini's clock is known."""
    now = int(time.time() * 1000) + 3 * 3_600_000
    conversations = make_conversations(20, seed=1, start=now - 20 * DAY, end=now - 2000)
    bookmark = time_text(now - 3_600_000)
    state = export.state(bookmark)
    conversations[0] |= {"createdAt": now - 5000, "updatedAt": now - 5000}
    with export.sandbox(conversations, clock=lambda: now) as sandbox:
        config = config_for(sandbox, lookback_days=0)
        del config["end_date"]
        output = export.run(config, state=state)
    expected = {c["id"] for c in conversations if time_text(c["updatedAt"]) >= bookmark}
    assert {row["id"] for row in output.records(export.streams[0])} == expected
    assert conversations[0]["id"] in expected
    assert f"This run would start at {bookmark}, which is yet to come" in output.text


@BOTH
def test_a_start_date_in_the_future_is_told(export: Export) -> None:
    with export.sandbox(make_conversations(20, seed=1)) as sandbox:
        config = config_for(sandbox, start_date="2300-01-01")
        del config["end_date"]
        output = export.run(config)
        assert len(sandbox.requests) == 1
    assert output.records(export.streams[0]) == []
    assert "This run would start at 2300-01-01T00:00:00.000Z, which is yet to come" in output.text


def test_each_export_has_windows_and_bookmarks_of_its_own() -> None:
    """And one that is not selected is not asked for anything."""
    older = make_conversations(60, seed=1, end=START + 60 * DAY)
    with CHAT_HISTORY.sandbox(older) as sandbox:
        for conversation in make_conversations(60, seed=2, end=START + 90 * DAY):
            INTERACTIONS.put(sandbox, conversation)
        config = config_for(sandbox)
        first = CHAT_HISTORY.run(config)
        assert {request.path for request in sandbox.requests} == {"/v2/bots/requests/public"}
        sandbox.reset()
        everything = INTERACTIONS.catalog([*CHAT_HISTORY.streams, *INTERACTIONS.streams])
        second = INTERACTIONS.run(config, state=first.state, catalog=everything)
        starts: dict[str, int] = {}
        for request in sandbox.requests:  # in any order, for four workers send them
            start = int(request.params.get("startEpoch") or request.params["since"])
            starts[request.path] = min(start, starts.get(request.path, start))
        paths = [request.path for request in sandbox.requests]
        asked = [paths.count(path) for path in dict.fromkeys(paths)]
        assert INTERACTIONS.loaded(second) == INTERACTIONS.truth(sandbox)
        sandbox.reset()
        third = INTERACTIONS.run(config, state=second.state)
        assert {request.path for request in sandbox.requests} == {"/v2/hc-interactions/public"}
    latest = {
        export.name: max(row[export.replication_keys[0]] for row in rows.values())
        for export, (rows, _) in (
            (CHAT_HISTORY, CHAT_HISTORY.loaded(first)),
            (INTERACTIONS, INTERACTIONS.loaded(second)),
        )
    }
    assert starts["/v2/hc-interactions/public"] == START - 1
    assert starts["/v2/bots/requests/public"] > START + 45 * DAY
    assert second.state["bookmarks"] == {
        **CHAT_HISTORY.state(latest["chat history"])["bookmarks"],
        **INTERACTIONS.state(latest["interactions"])["bookmarks"],
    }
    assert third.state == second.state
    summaries = [line for line in second.log if ": Read " in line]
    assert [int(re.findall(r"(\d+) requests", line)[0]) for line in summaries] == asked
