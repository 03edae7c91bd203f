"""A world that changes, syncs that are cut anywhere, and a target that ends up equal to it.

The world is a sandbox whose conversations are created, answered and edited while time
passes. A sync runs to its end, or is cut at any request or any line, with any fault, while
the world may change under it. The target upserts by key and keeps a state only once it has
stored everything that came before, as Meltano does. Whatever has happened: after one
undisturbed sync the target equals the world.

``TAP_FINI_EXAMPLES`` sets how many histories are tried, half of them of either export.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import os
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import time_machine
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tap_fini import client
from tap_fini.client import FiniError
from tap_fini.tap import TapFini
from tests.expected import latest_event, time_text
from tests.exports import CHAT_HISTORY, INTERACTIONS, Export
from tests.sandbox import Fault, Sandbox, Switches
from tests.support import DAY, captured_log

if TYPE_CHECKING:
    from tests.sandbox import World

EXAMPLES = int(os.environ.get("TAP_FINI_EXAMPLES", "300"))
START = 1_740_787_200_000  # 2025-03-01
SECOND = 1000
HOUR = 3_600_000

SWITCHES = st.builds(
    Switches,
    cursor=st.sampled_from(
        ["last_id", "next_id", "body_cursor", "body_next_cursor", "ignored", "refused"]
    ),
    unknown_cursor=st.sampled_from(["empty", "refused", "first"]),
    order=st.sampled_from(["newest", "oldest", "shuffled"]),
    order_field=st.sampled_from([None, "createdAt", "updatedAt"]),
    filter_field=st.sampled_from(["createdAt", "updatedAt"]),
    start_inclusive=st.booleans(),
    end_inclusive=st.booleans(),
    has_more=st.sampled_from(["exact", "page_full"]),
    interactions_key=st.sampled_from(["interactions", "conversations"]),
    bot_request_order=st.sampled_from(["oldest", "newest", "shuffled"]),
)
FAULTS = st.sampled_from(
    ["429", "500", "502_html", "503", "reset", "truncated", "truncated_chunked", "bad_json"]
)
SELECTIONS = st.sampled_from([slice(0, 2), slice(0, 1), slice(1, 2)])
SKEWS = st.sampled_from([0, 0, -2 * HOUR, -10 * 60 * SECOND, 10 * 60 * SECOND, 2 * HOUR])
LOOKBACK = 7
CHANGES = st.sampled_from(["create", "answer", "edit"])
# A page of one row is always full, so where hasMore only says that, each window is cut down
# to milliseconds: the same again and again, for hundreds of requests.
PAGE_SIZES = st.sampled_from([2, 3, 4, 5, 3, 2, 4, 5, 2, 3, 4, 5, 2, 3, 4, 1])


class CutError(BaseException):
    """The run ended here, as by a kill."""


class Target:
    """Upserts by key; keeps a state that came after records it has stored."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self.rows: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
        self.state: dict[str, Any] | None = None

    def take(self, line: bytes) -> None:
        message = json.loads(line)
        if message["type"] == "STATE":
            self.state = message["value"]
        elif message["type"] == "RECORD":
            row = message["record"]
            which = self._export.streams.index(message["stream"])
            first, second = self._export.child_keys
            self.rows[which][(row[first], row[second]) if which else row["id"]] = row

    def present(self) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """Return the rows without the stale ones, as a user would select them."""
        parents, children = self.rows
        parent_time, child_time = self._export.replication_keys
        return dict(parents), {
            key: row
            for key, row in children.items()
            if row[child_time] == parents.get(key[0], {}).get(parent_time)
        }


class _Stdout(io.RawIOBase):
    """Hands whole lines to a target, and ends the run at one of them."""

    def __init__(self, target: Target, lines: int | None) -> None:
        self._target, self._left, self._rest = target, lines, b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        *whole, self._rest = (self._rest + bytes(data)).split(b"\n")
        for line in whole:
            if self._left is not None:
                if self._left == 0:
                    raise CutError
                self._left -= 1
            self._target.take(line)
        return len(data)


class Histories(RuleBasedStateMachine):
    """Everything that may happen to a workspace and to the syncs that read it."""

    export: ClassVar[Export]

    @initialize(switches=SWITCHES, seeds=st.integers(0, 12), last_skew=SKEWS)
    def begin(self, switches: Switches, seeds: int, last_skew: int) -> None:
        self.last_skew = last_skew
        self.now = START
        self.made = 0
        self.field = switches.filter_field
        self.changed_late: set[str] = set()
        """What changed later than the lookback finds, where Fini selects by a time that the
        change does not move. Of these no more is promised than that they are there."""

        self.sandbox = Sandbox((), switches, clock=lambda: self.now)
        self.sandbox.start()
        self.target = Target(self.export)
        for _ in range(seeds):
            self.change("create", 0)
            self.now += 7 * HOUR

    def teardown(self) -> None:
        if not hasattr(self, "sandbox"):
            return
        try:
            self.check()
        finally:
            self.sandbox.stop()

    # The world

    @property
    def world(self) -> World:
        return self.export.world(self.sandbox)

    def change(self, kind: str, number: int) -> None:
        """Change the world as Fini would, at the present moment."""
        # Never two in what is asked for to read one millisecond, and seldom close together.
        self.now += (3, SECOND, 20 * SECOND, HOUR // 4)[number % 4]
        known = self.world.conversations
        if kind == "create" or not known:
            self.made += 1
            record = self.created(f"c{self.made * 7919 % 1000:03d}-{self.made}")
        else:
            record = known[number % len(known)]
            if self.selected_by(record, kind) <= self.now - LOOKBACK * DAY + HOUR:
                self.changed_late.add(record["id"])
            self.alter(record, kind, number)
        self.world.upsert(record)

    def created(self, key: str) -> dict[str, Any]:
        """Return a new record."""
        raise NotImplementedError

    def selected_by(self, record: dict[str, Any], kind: str) -> int:
        """Return the time by which Fini will select a record after a change of this kind."""
        raise NotImplementedError

    def alter(self, record: dict[str, Any], kind: str, number: int) -> None:
        """Change a record, in place."""
        raise NotImplementedError

    @rule(kind=CHANGES, number=st.integers(0, 50), times=st.integers(1, 6))
    def something_happens(self, kind: str, number: int, times: int) -> None:
        for n in range(times):
            self.change(kind, number + n)

    @rule(milliseconds=st.sampled_from([1, 40, SECOND, HOUR, 5 * HOUR, DAY, 3 * DAY]))
    def time_passes(self, milliseconds: int) -> None:
        self.now += milliseconds

    # Syncs

    @rule(
        streams=SELECTIONS,
        skew=SKEWS,
        workers=st.sampled_from([1, 1, 3]),
        page_size=PAGE_SIZES,
        request=st.none() | st.integers(1, 25),
        lines=st.none() | st.integers(0, 40),
        fault=st.none() | st.tuples(FAULTS, st.integers(0, 9)),
        changes=st.dictionaries(
            st.integers(1, 12), st.tuples(CHANGES, st.integers(0, 20)), max_size=4
        ),
    )
    def disturbed_sync(  # noqa: PLR0917
        self,
        streams: slice,
        skew: int,
        workers: int,
        page_size: int,
        request: int | None,
        lines: int | None,
        fault: tuple[str, int] | None,
        changes: dict[int, tuple[str, int]],
    ) -> None:
        self.sandbox.reset()
        if fault is not None:
            kind, seed = fault
            self.sandbox.faults.append(Fault(kind, rate=0.25, seed=seed))  # type: ignore[arg-type]
        if request is not None:
            self.sandbox.faults.append(Fault("wrong_shape", body=b"{}", status=403, at=request))
        begin = self.now

        def meanwhile(number: int, _: object) -> None:
            self.now += 17
            if number in changes:
                self.change(*changes[number])

        self.sandbox.on_request = meanwhile
        self._sync(streams, begin + skew, lines, workers=workers, page_size=page_size)
        self.sandbox.on_request = None
        self.sandbox.faults.clear()

    def check(self) -> None:
        """The promise: after one undisturbed sync the target equals the world."""
        self.sandbox.reset()
        self.now += 3 * SECOND  # Fini's clock shows seconds
        assert self._sync(slice(0, 2), self.now + self.last_skew, None, workers=2, page_size=3)
        rows, truth = self.target.present(), self.export.truth(self.sandbox)
        assert rows[0].keys() == truth[0].keys()
        for key in self.changed_late:
            assert rows[0].pop(key).keys() == truth[0].pop(key).keys()
            for table in (rows[1], truth[1]):
                for place in [place for place in table if place[0] == key]:
                    del table[place]
        assert rows == truth
        for stream in self.target.state["bookmarks"].values():  # type: ignore[index]
            assert stream.get("replication_key_value", "") <= time_text(self.now)

    def _sync(
        self,
        streams: slice,
        clock: int,
        lines: int | None,
        **options: int,
    ) -> bool:
        """Run the tap; tell whether it came to its end."""
        config = {
            "api_key": self.sandbox.api_key,
            "api_url": self.sandbox.url,
            "start_date": time_text(START - DAY),
            "lookback_days": LOOKBACK,
            "window_days": 4,
            "page_size": options["page_size"],
            "max_concurrent_requests": options["workers"],
            "max_requests_per_minute": 0,
            "request_timeout": 5,
        }
        catalog = self.export.catalog(self.export.streams[streams])
        stdout = io.TextIOWrapper(io.BufferedWriter(_Stdout(self.target, lines)))
        with contextlib.redirect_stdout(stdout), captured_log(logging.CRITICAL):
            with time_machine.travel(
                datetime.fromtimestamp(clock / 1000, timezone.utc), tick=False
            ):
                tap = TapFini(
                    config=config, catalog=catalog, state=copy.deepcopy(self.target.state)
                )
            try:
                tap.sync_all()
            except (CutError, FiniError):
                return False
            finally:
                with contextlib.suppress(CutError):
                    stdout.detach().detach()
        return True


class ChatHistories(Histories):
    """Conversations, of which each change moves ``updatedAt``."""

    export = CHAT_HISTORY

    def request(self) -> dict[str, Any]:
        return {"question": f"Q{self.now}?", "answer": "A", "createdAt": self.now, "basedOn": []}

    def created(self, key: str) -> dict[str, Any]:
        return {
            "id": key,
            "source": "widget",
            "createdAt": self.now,
            "updatedAt": self.now,
            "botRequests": [self.request()],
            "escalation": False,
        }

    def selected_by(self, record: dict[str, Any], kind: str) -> int:  # noqa: ARG002
        created: int = record["createdAt"]
        return created if self.field == "createdAt" else self.now

    def alter(self, record: dict[str, Any], kind: str, number: int) -> None:
        if kind == "answer":
            record["botRequests"].append(self.request())
        elif len(record["botRequests"]) > 1 and number % 2:
            record["botRequests"].pop(0)
        else:
            record["escalation"] = not record["escalation"]
            record["feedbackType"] = ["thumbs_up", "thumbs_down", None][number % 3]
        record["updatedAt"] = self.now


class InteractionHistories(Histories):
    """Interactions, of which reviews change old events without moving any time."""

    export = INTERACTIONS

    def event(self) -> dict[str, Any]:
        return {"id": f"e{self.now}", "createdAt": self.now, "role": "user", "message": "Q?"}

    def created(self, key: str) -> dict[str, Any]:
        events = [self.event()] if self.made % 3 else []
        return {"id": key, "source": "widget", "createdAt": self.now, "events": events}

    def selected_by(self, record: dict[str, Any], kind: str) -> int:
        created: int = record["createdAt"]
        if self.field == "createdAt":
            return created
        return self.now if kind == "answer" else latest_event(record)

    def alter(self, record: dict[str, Any], kind: str, number: int) -> None:
        if kind == "answer" or not record["events"]:
            record["events"].append(self.event())
        else:
            event = record["events"][number % len(record["events"])]
            event |= {"csatRating": number % 6, "feedback": f"F{self.now}"}
            record["resolved"] = bool(number % 2)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once: what is tested is what comes out, not the patience."""
    monkeypatch.setattr(client, "_WAITS", (0.001,) * 30)


@pytest.mark.long
@pytest.mark.usefixtures("_short_waits")
@pytest.mark.parametrize(
    "histories", [ChatHistories, InteractionHistories], ids=lambda h: str(h.export)
)
def test_the_target_equals_the_world(histories: type[Histories]) -> None:
    histories.TestCase.settings = settings(
        max_examples=-(-EXAMPLES // 2),
        stateful_step_count=8,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    histories.TestCase("runTest").runTest()
