"""Faults at any request: they cost time, and never change what comes out."""

from __future__ import annotations

import itertools
import json
import threading
import time
from dataclasses import replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import pytest
from requests.adapters import HTTPAdapter

from tap_fini import client
from tap_fini.client import FiniError
from tests.expected import time_text
from tests.exports import CHAT_HISTORY, INTERACTIONS, Export
from tests.sandbox import Fault, Sandbox, Switches, make_conversations
from tests.support import MARKER, Output, config_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import requests

    from tests.sandbox import Request

CONVERSATIONS = make_conversations(120, seed=11, marker=MARKER)
SETTINGS = {"window_days": 20, "page_size": 5, "request_timeout": 1}
SWITCHES = Switches(filter_field="createdAt")
"""With this field the number of requests does not depend on which worker is first."""

WORKERS = (1, 4)
EXPORTS_AND_WORKERS = pytest.mark.parametrize(
    ("export", "workers"),
    [(CHAT_HISTORY, 1), (CHAT_HISTORY, 4), (INTERACTIONS, 4)],
    indirect=["export"],
    ids=str,
    scope="module",
)
"""Whether Fini or the network fails does not depend on the export, so one round of it will do."""

PLACES = ("first", "middle", "last")
REAL_WAITS = client._WAITS

PASSING: tuple[Any, ...] = (
    "429",
    "500",
    "502_html",
    "503",
    "reset",
    "stall",
    "truncated",
    "truncated_chunked",
    "bad_json",
    "html_200",
    "empty_200",
)
"""What may be gone at the next try."""

QUICK = tuple(kind for kind in PASSING if kind != "stall")
"""All of them but the one that lasts until the tap has had enough."""

FATAL = {
    "a key that is no longer known": Fault("wrong_shape", status=401, body=b"{}"),
    "a key that may no longer read": Fault("wrong_shape", status=403, body=b"{}"),
    "no such page": Fault("wrong_shape", status=404, body=b"{}"),
    "another shape": Fault("wrong_shape", body=b'{"data": []}'),
    "a bare array": Fault("wrong_shape", body=b"[]"),
    "a redirect": Fault("redirect", location="http://127.0.0.1:9/"),
}
"""What no patience mends: it ends the run."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries that wait for a hundredth of a second instead of minutes."""
    monkeypatch.setattr(client, "_WAITS", (0.01,) * len(REAL_WAITS))


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """See that the workers of a run are gone soon after it; those of other tests do not count."""
    before = set(threading.enumerate())
    yield
    workers = [t for t in threading.enumerate() if t.name.startswith("window-reader")]
    for thread in workers:
        if thread not in before:
            thread.join(5)
            assert not thread.is_alive()


def run(
    sandbox: Sandbox,
    workers: int,
    *,
    export: Export = CHAT_HISTORY,
    state: dict[str, Any] | None = None,
    fails: type[BaseException] | None = None,
    **settings: object,
) -> Output:
    config = config_for(sandbox, **SETTINGS, max_concurrent_requests=workers) | settings
    output = export.run(config, state=state, fails=fails)
    for secret in (MARKER, sandbox.api_key):
        assert secret not in output.text
        assert secret not in str(output.error)
        assert secret not in json.dumps(output.states)
    for message in output.messages:
        message.pop("time_extracted", None)
    return output


@pytest.fixture(scope="module")
def export(request: pytest.FixtureRequest) -> Export:
    """The export that is read."""
    chosen: Export = getattr(request, "param", CHAT_HISTORY)
    return chosen


@pytest.fixture(scope="module")
def undisturbed(export: Export) -> Output:
    """What comes out, whatever goes wrong on the way."""
    with export.sandbox(CONVERSATIONS, SWITCHES) as sandbox:
        output = run(sandbox, 4, export=export)
        assert count_of(sandbox) >= 30
        assert rows(export, output) == export.truth(sandbox)
    return output


def rows(export: Export, *outputs: Output) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Return what an upserting target holds after these runs."""
    return export.loaded(Output([message for output in outputs for message in output.messages]))


def count_of(sandbox: Sandbox) -> int:
    return len(sandbox.requests)


@pytest.fixture(scope="module")
def places(undisturbed: Output, export: Export) -> dict[str, int]:
    """The numbers of a backfill's first, middle and last request, and of its cursors."""
    with export.sandbox(CONVERSATIONS, SWITCHES) as sandbox:
        assert run(sandbox, 1, export=export).messages == undisturbed.messages
        total = count_of(sandbox)
        cursors = sum("cursor" in request.params for request in sandbox.requests)
    return {"first": 1, "middle": total // 2, "last": total, "cursors": cursors}


def hits(sandbox: Sandbox) -> int:
    return sum(request.fault is not None for request in sandbox.requests)


# --- alone ----------------------------------------------------------------------------------------


@EXPORTS_AND_WORKERS
@pytest.mark.parametrize("kind", PASSING)
def test_each_fault_at_the_first_a_middle_and_the_last_request(
    undisturbed: Output, places: dict[str, int], kind: Any, workers: int, export: Export
) -> None:
    for number in (places[place] for place in PLACES):
        with export.sandbox(CONVERSATIONS, SWITCHES) as sandbox:
            sandbox.faults = [Fault(kind, at=number)]
            output = run(sandbox, workers, export=export)
            assert [r.fault for r in sandbox.requests].index(kind) == number - 1
            assert hits(sandbox) == 1
            assert count_of(sandbox) == places["last"] + 1
        assert output.messages == undisturbed.messages


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", QUICK)
def test_each_fault_for_as_long_as_patience_lasts(
    undisturbed: Output, places: dict[str, int], kind: Any, place: str
) -> None:
    number, tries = places[place], len(REAL_WAITS)
    with Sandbox(CONVERSATIONS, SWITCHES) as sandbox:
        sandbox.faults = [Fault(kind, at=tuple(range(number, number + tries)))]
        output = run(sandbox, 1)
        assert hits(sandbox) == tries
    assert output.messages == undisturbed.messages


@EXPORTS_AND_WORKERS
@pytest.mark.parametrize("place", PLACES)
def test_a_refused_cursor_changes_nothing(
    undisturbed: Output, places: dict[str, int], place: str, workers: int, export: Export
) -> None:
    """It is not tried again: the window is read in halves."""
    nth = {"first": 1, "middle": places["cursors"] // 2, "last": places["cursors"]}
    with export.sandbox(CONVERSATIONS, SWITCHES) as sandbox:

        def refuse(number: int, request: Request) -> None:
            cursors = sum("cursor" in before.params for before in sandbox.requests)
            if "cursor" in request.params and not sandbox.faults and cursors >= nth[place]:
                sandbox.faults = [Fault("wrong_shape", status=400, body=b"{}", at=number)]

        sandbox.on_request = refuse
        output = run(sandbox, workers, export=export)
        assert hits(sandbox) == 1
    assert ", 1 splits, " in output.text
    assert rows(export, output) == rows(export, undisturbed)
    for kind in ("RECORD", "STATE", "SCHEMA"):
        assert len(output.of_type(kind)) == len(undisturbed.of_type(kind))
    assert output.states == undisturbed.states


# --- in storms ------------------------------------------------------------------------------------


def storm(kinds: Sequence[Any], seed: int, share: float = 1 / 3) -> list[Fault]:
    """Return faults that together hit a share of all requests."""
    rate = 1 - (1 - share) ** (1 / len(kinds))
    return [Fault(kind, rate=rate, seed=1000 * seed + n) for n, kind in enumerate(kinds)]


@EXPORTS_AND_WORKERS
@pytest.mark.parametrize("seed", range(6))
def test_a_third_of_all_requests_failing_in_every_way(
    undisturbed: Output, seed: int, workers: int, export: Export
) -> None:
    with export.sandbox(CONVERSATIONS, SWITCHES) as sandbox:
        sandbox.faults = [*storm(QUICK, seed), Fault("stall", at=20 + seed)]
        output = run(sandbox, workers, export=export)
        assert 0.2 < hits(sandbox) / count_of(sandbox) < 0.5
        assert len({request.fault for request in sandbox.requests}) >= 5
    assert output.messages == undisturbed.messages


@pytest.mark.parametrize("kind", QUICK)
def test_a_third_of_all_requests_failing_in_one_way(undisturbed: Output, kind: Any) -> None:
    with Sandbox(CONVERSATIONS, SWITCHES) as sandbox:
        sandbox.faults = storm([kind], seed=9)
        output = run(sandbox, 4)
        assert 0.2 < hits(sandbox) / count_of(sandbox) < 0.5
    assert output.messages == undisturbed.messages


@pytest.mark.parametrize("field", ["createdAt", "updatedAt"])
@pytest.mark.parametrize(
    "cursor", ["last_id", "body_cursor", "body_next_cursor", "ignored", "refused"]
)
def test_a_storm_under_every_meaning_of_the_cursor(cursor: Any, field: Any) -> None:
    """With several workers, where windows end depends on which of them is done first."""
    orders: tuple[Literal["newest", "shuffled"], ...] = ("newest", "shuffled")
    for order, workers in itertools.product(orders, (1, 4)):
        switches = Switches(cursor=cursor, filter_field=field, order=order)
        with Sandbox(CONVERSATIONS, switches) as sandbox:
            calm = run(sandbox, workers)
            sandbox.reset()
            sandbox.faults = storm(QUICK, seed=3)
            output = run(sandbox, workers)
            assert hits(sandbox) > 10
            assert rows(CHAT_HISTORY, calm) == CHAT_HISTORY.truth(sandbox)
        assert output.state == calm.state
        if workers == 1:
            assert output.messages == calm.messages
        for stream in ("conversations", "bot_requests"):
            assert in_order(output.records(stream)) == in_order(calm.records(stream))


def in_order(records: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(record, sort_keys=True) for record in records)


# --- the end of a run -----------------------------------------------------------------------------


def assert_finished_windows_are_kept(
    output: Output, requests: list[Request], export: Export
) -> None:
    """See that the state holds every window before the first that was not read."""
    answered: dict[int, bool] = {}
    for request in requests:
        answered[int(request.params[export.start_param]) + 1] = (
            request.status == 200 and request.fault is None
        )
    failed = min(start for start, is_well in answered.items() if not is_well)
    done = [c for c in CONVERSATIONS if c["createdAt"] < failed]
    latest = max((c["updatedAt"] for c in done), default=None)
    expected = None if latest is None else time_text(min(latest, failed))
    for stream in export.streams:
        state = output.state["bookmarks"].get(stream, {}) if output.states else {}
        assert state.get("replication_key_value") == expected
    assert {c["id"] for c in done} <= {row["id"] for row in output.records(export.streams[0])}


def assert_resumed(
    sandbox: Sandbox,
    first: Output,
    undisturbed: Output,
    workers: int,
    export: Export = CHAT_HISTORY,
) -> None:
    """Run again from the state: all is there, and nothing finished was read again."""
    sandbox.faults, sandbox.on_request = [], None
    sandbox.reset()
    state = first.state if first.states else None
    second = run(sandbox, workers, export=export, state=state, lookback_days=0)
    assert rows(export, first, second) == rows(export, undisturbed)
    assert second.state == undisturbed.state
    bookmark = (state or {}).get("bookmarks", {}).get(export.streams[0], {})
    start = min(int(request.params[export.start_param]) + 1 for request in sandbox.requests)
    assert time_text(start) == bookmark.get("replication_key_value", "2025-01-01T00:00:00.000Z")


@EXPORTS_AND_WORKERS
@pytest.mark.parametrize("name", FATAL)
def test_what_no_patience_mends_keeps_what_was_finished(
    undisturbed: Output, places: dict[str, int], name: str, workers: int, export: Export
) -> None:
    fault = FATAL[name]
    for number in (places[place] for place in PLACES):
        with export.sandbox(CONVERSATIONS, SWITCHES) as sandbox:

            def begin(n: int, _: Request, *, sandbox: Sandbox = sandbox, at: int = number) -> None:
                if n >= at:
                    sandbox.faults = [fault]

            sandbox.on_request = begin
            first = run(sandbox, workers, export=export, fails=FiniError)
            assert 1 <= hits(sandbox) <= workers
            assert_finished_windows_are_kept(first, sandbox.requests, export)
            assert_resumed(sandbox, first, undisturbed, workers, export)


@EXPORTS_AND_WORKERS
@pytest.mark.parametrize("place", PLACES)
def test_an_outage_longer_than_patience(
    undisturbed: Output, places: dict[str, int], place: str, workers: int, export: Export
) -> None:
    for kind in ("429", "reset"):
        with export.sandbox(CONVERSATIONS, SWITCHES) as sandbox:

            def begin(n: int, _: Request, *, sandbox: Sandbox = sandbox, kind: Any = kind) -> None:
                if n >= places[place]:
                    sandbox.faults = [Fault(kind)]

            sandbox.on_request = begin
            first = run(sandbox, workers, export=export, fails=FiniError)
            assert str(first.error).startswith(
                f"Fini at {sandbox.url} gave no proper answer for 12 tries over more than 5 "
                "minutes (the last one: "
            )
            assert str(first.error).endswith(
                "). Finished windows are saved: run the tap again when Fini is back."
            )
            assert_finished_windows_are_kept(first, sandbox.requests, export)
            assert_resumed(sandbox, first, undisturbed, workers, export)


# --- five minutes ---------------------------------------------------------------------------------


class Clock:
    """Time that passes when somebody waits, and as long as the longest of those who do."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        wake = self.now + seconds
        with self._lock:
            self.now = max(self.now, wake)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time by which the tap waits and tries again, with the waits that users have."""
    clock = Clock()

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            if not self.is_set():
                clock.sleep(timeout)
            return self.is_set()

    monkeypatch.setattr(client, "_WAITS", REAL_WAITS)
    monkeypatch.setattr("backoff._sync.time", clock)
    fake_time = SimpleNamespace(monotonic=clock.monotonic, time=time.time)
    monkeypatch.setattr(client, "time", fake_time)
    fake_threading = SimpleNamespace(Event=Event, Lock=threading.Lock)
    monkeypatch.setattr(client, "threading", fake_threading)
    return clock


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("place", PLACES)
def test_five_minutes_without_fini(
    undisturbed: Output, places: dict[str, int], clock: Clock, place: str, workers: int
) -> None:
    outages = [
        *([Fault(kind)] for kind in (QUICK if place == "middle" else ("429", "reset"))),
        [Fault("429", retry_after=30)],
        [Fault("503", retry_after="date:45")],
        storm(QUICK, seed=1, share=1 - 1e-9),
    ]
    for faults in outages:
        with Sandbox(CONVERSATIONS, SWITCHES) as sandbox:
            began: list[float] = []

            def go_down(
                n: int,
                _: Request,
                *,
                sandbox: Sandbox = sandbox,
                began: list[float] = began,
                faults: list[Fault] = faults,
            ) -> None:
                if not began and n >= places[place]:
                    began.append(clock.now)
                sandbox.faults = faults if began and clock.now < began[0] + 300 else []

            sandbox.on_request = go_down
            # The fake clock leaps past this timeout while a body arrives.
            output = run(sandbox, workers, request_timeout=3600)
            assert clock.now - began[0] > 299.9  # a sum of floats
            assert hits(sandbox) >= 6
        assert output.messages == undisturbed.messages


def test_no_more_than_patience_is_waited_for(clock: Clock) -> None:
    with Sandbox(CONVERSATIONS, SWITCHES) as sandbox:
        sandbox.faults = [Fault("503")]
        began = clock.now
        run(sandbox, 1, fails=FiniError, request_timeout=3600)
        assert 300 < clock.now - began < 600
        assert count_of(sandbox) == len(REAL_WAITS) + 1


# --- Retry-After ----------------------------------------------------------------------------------


class Exchanges:
    """Every request of the tap: when it started, and until when its answer asks for silence."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, unasked: float = 0) -> None:
        """Watch; after a 429 without Retry-After, ``unasked`` seconds of silence are due."""
        self.starts: list[float] = []
        self.silences: list[tuple[float, float]] = []
        send = HTTPAdapter.send

        def watched(adapter: HTTPAdapter, *args: Any, **kwargs: Any) -> requests.Response:
            self.starts.append(time.time())
            response = send(adapter, *args, **kwargs)
            if text := response.headers.get("Retry-After"):
                now = time.time()
                until = (
                    now + float(text)
                    if text.isdecimal()
                    else parsedate_to_datetime(text).timestamp()
                )
                self.silences.append((now, until))
            elif response.status_code == 429:
                self.silences.append((time.time(), time.time() + unasked))
            return response

        monkeypatch.setattr(HTTPAdapter, "send", watched)

    def assert_polite(self, workers: int) -> None:
        """See that nobody started a request while silence was asked for.

        A worker may be past the gate when another one gets the answer, so each of the others
        may start one more request within the moment that it takes to shut it (generous, for
        this machine may be busy).
        """
        assert self.silences
        for received, until in self.silences:
            early = [start - received for start in self.starts if received < start < until]
            assert len(early) < workers, early
            assert all(seconds < 0.5 for seconds in early), early
            assert max(self.starts) >= until


@pytest.mark.parametrize("date_header", [True, False], ids=["Date", "no Date"])
@pytest.mark.parametrize("retry_after", [1, "date:0.5"])
@pytest.mark.parametrize("kind", ["429", "503"])
def test_nobody_asks_again_before_retry_after(
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Output,
    kind: Any,
    retry_after: float | str,
    date_header: Any,
) -> None:
    exchanges = Exchanges(monkeypatch)
    switches = replace(SWITCHES, date_header=date_header, latency=0.03)
    with Sandbox(CONVERSATIONS, switches) as sandbox:
        sandbox.faults = [Fault(kind, at=(5, 14, 15), retry_after=retry_after)]
        output = run(sandbox, 4)
        assert hits(sandbox) == 3
    exchanges.assert_polite(4)
    assert output.messages == undisturbed.messages


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_nobody_asks_again_before_a_busy_throttle_allows(
    monkeypatch: pytest.MonkeyPatch, undisturbed: Output, form: Any
) -> None:
    exchanges = Exchanges(monkeypatch)
    switches = replace(SWITCHES, throttle=15, throttle_window=1, retry_after=form, latency=0.03)
    with Sandbox(CONVERSATIONS, switches) as sandbox:
        output = run(sandbox, 4)
        assert any(request.status == 429 for request in sandbox.requests)
    exchanges.assert_polite(4)
    assert output.messages == undisturbed.messages


def test_after_a_429_without_retry_after_nobody_asks_for_a_while(
    monkeypatch: pytest.MonkeyPatch, undisturbed: Output
) -> None:
    monkeypatch.setattr(client, "_WAITS", (1.0,) * len(REAL_WAITS))
    exchanges = Exchanges(monkeypatch, unasked=0.75)
    with Sandbox(CONVERSATIONS, replace(SWITCHES, latency=0.03)) as sandbox:
        sandbox.faults = [Fault("429", at=9)]
        output = run(sandbox, 4)
    exchanges.assert_polite(4)
    assert output.messages == undisturbed.messages


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("retry_after", [3600, "date:3600"])
def test_a_retry_after_beyond_patience_ends_the_run_at_once(
    monkeypatch: pytest.MonkeyPatch, undisturbed: Output, retry_after: float | str, workers: int
) -> None:
    """It says when to run again, and nobody asks before: not in an hour, not in five minutes."""
    exchanges = Exchanges(monkeypatch)
    with Sandbox(CONVERSATIONS, replace(SWITCHES, latency=0.03)) as sandbox:
        sandbox.faults = [Fault("429", at=12, retry_after=retry_after)]
        began = time.time()
        first = run(sandbox, workers, fails=FiniError)
        assert time.time() - began < 20
        (silence,) = exchanges.silences
        assert sum(start > silence[0] for start in exchanges.starts) < workers
        words, _, rest = str(first.error).partition(" before ")
        assert words == "Fini asks not to be called"
        moment, _, rest = rest.partition(" ")
        assert abs(datetime.strptime(moment, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp() - silence[1]) < 3
        assert rest == (
            "(429 Too Many Requests Fini says: 'ThrottlerException: Too Many Requests'). Finished "
            "windows are saved: run the tap again after that."
        )
        assert_resumed(sandbox, first, undisturbed, workers)
