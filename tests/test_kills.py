"""Real kills: the tap piped into a target, both real processes, killed at random moments.

tests/test_signals.py has the moments that need aiming at. To reproduce the figures:

TAP_FINI_KILLS=200 pytest tests/test_kills.py -s
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from tests.expected import time_text
from tests.exports import EXPORTS
from tests.sandbox import Switches, make_conversations
from tests.support import DAY, MARKER, config_for
from tests.upsert_target import rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.exports import Export, Tables
    from tests.sandbox import Request, Sandbox

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

KILLS = int(os.environ.get("TAP_FINI_KILLS", "40"))
"""SIGKILLs and SIGTERMs of the tap together; of its target, and SIGINTs, an eighth more each."""

JOBS = 2
ROOT = Path(__file__).parent.parent
START = 1_735_689_600_000  # 2025-01-01
CONVERSATIONS = make_conversations(400, seed=31, marker=MARKER)
SETTINGS = {
    "window_days": 6,
    "page_size": 5,
    "max_concurrent_requests": 4,
    "request_timeout": 60,
}
SOON = 5.0
"""Seconds within which everything has to be over, on a busy machine."""

Victim = Literal["tap SIGKILL", "tap SIGTERM", "tap SIGINT", "target SIGKILL"]
SHARES: dict[Victim, int] = {
    "tap SIGKILL": -(-KILLS // 2),
    "tap SIGTERM": -(-KILLS // 2),
    "tap SIGINT": -(-KILLS // 8),
    "target SIGKILL": -(-KILLS // 8),
}
STATUS = {
    "tap SIGKILL": -signal.SIGKILL,
    "tap SIGTERM": 128 + signal.SIGTERM,
    "tap SIGINT": 128 + signal.SIGINT,
    "target SIGKILL": 1,
}
SENTENCE = {
    "tap SIGTERM": "Stopped by SIGTERM. The next run goes on from the last STATE.",
    "tap SIGINT": "Stopped by SIGINT. The next run goes on from the last STATE.",
    "target SIGKILL": (
        "The target has gone away: see its messages for why. The next run goes on from the last "
        "STATE that it took in."
    ),
}


@dataclass
class Pipeline:
    """The tap and its target, running, and what they leave in a folder."""

    folder: Path
    tap: subprocess.Popen[bytes]
    target: subprocess.Popen[bytes]

    @property
    def received(self) -> bytes:
        """Every byte of the tap's stdout that reached the target."""
        return (self.folder / "received").read_bytes()

    @property
    def states(self) -> list[dict[str, Any]]:
        """The states that the target has given out."""
        lines = (self.folder / "states").read_bytes().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    @property
    def log(self) -> list[str]:
        return (self.folder / "log").read_text(encoding="utf-8").splitlines()

    def wait(self) -> None:
        """Wait for both to end, and see that nothing of them is left."""
        self.tap.wait(60)
        self.target.wait(60)
        for process in (self.tap, self.target):
            with pytest.raises(ProcessLookupError):
                os.killpg(process.pid, 0)

    def end(self) -> None:
        for process in (self.tap, self.target):
            if process.poll() is None:
                process.kill()
                process.wait()


@contextmanager
def pipeline(
    folder: Path,
    config: dict[str, Any],
    catalog: dict[str, Any],
    state: dict[str, Any] | None = None,
    *,
    pause: float = 0,
) -> Iterator[Pipeline]:
    """Start the tap, its stdout the target's stdin, without anything in between."""
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "catalog.json").write_text(json.dumps(catalog))
    (folder / "state.json").write_text(json.dumps(state or {}))
    target_command: list[str | Path] = [
        *(sys.executable, ROOT / "tests" / "upsert_target.py"),
        *(folder / "rows", folder / "received", str(pause)),
    ]
    tap_command: list[str | Path] = [
        sys.executable,
        "-m",
        "tap_fini",
        "--config",
        folder / "config.json",
        "--catalog",
        folder / "catalog.json",
    ]
    if state is not None:
        tap_command += ["--state", folder / "state.json"]
    with (
        (folder / "states").open("wb") as states,
        (folder / "complaints").open("wb") as complaints,
        (folder / "log").open("wb") as log,
    ):
        target = subprocess.Popen(
            target_command,
            stdin=subprocess.PIPE,
            stdout=states,
            stderr=complaints,
            start_new_session=True,
        )
        assert target.stdin is not None
        with target.stdin as stdin:
            tap = subprocess.Popen(
                tap_command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=stdin,
                stderr=log,
                start_new_session=True,
            )
    running = Pipeline(folder, tap, target)
    try:
        yield running
    finally:
        running.end()


def stored(folder: Path, export: Export) -> Tables:
    found = rows(folder / "rows")
    parents, children = (found.get(stream, []) for stream in export.streams)
    return export.by_key(parents, children)


def bookmark(state: dict[str, Any] | None, export: Export) -> str:
    """Return the earlier one of the two streams' bookmarks, or the start."""
    streams = (state or {}).get("bookmarks", {})
    values = [
        streams.get(name, {}).get("replication_key_value") or time_text(START)
        for name in export.streams
    ]
    return min(values)


def milliseconds(text: str) -> int:
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z")
    return (moment - datetime.fromtimestamp(0, timezone.utc)) // timedelta(milliseconds=1)


def eventually(condition: Callable[[], object], seconds: float = SOON) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def assert_private(pipe: Pipeline, sandbox: Sandbox) -> None:
    log = "\n".join(pipe.log)
    states = json.dumps(pipe.states)
    for secret in (MARKER, sandbox.api_key):
        assert secret not in log
        assert secret not in states


class History:
    """A backfill that is killed again and again, until a run reaches its end."""

    def __init__(self, folder: Path, victim: Victim, seed: int) -> None:
        folder.mkdir()
        self.folder = folder
        self.victim = victim
        self.figures: Counter[str] = Counter()
        self.random = random.Random(f"{victim} {seed}")
        self.export = EXPORTS[seed % 2]
        self.lookback = 0 if seed % 3 else 3
        self.pause = self.random.choice([0, 0.02])
        self.window_days = self.random.choice([3, 6, 60])
        self.workers = self.random.choice([4, 4, 8])
        self.switches = Switches(
            latency=0.01,
            cursor=self.random.choice(["last_id", "body_cursor"]),
            filter_field=self.random.choice(["createdAt", "updatedAt"]),
            order=self.random.choice(["newest", "oldest"]),
        )
        self.state: dict[str, Any] | None = None
        self.kills = 0

    def run(self, kills: int) -> None:
        """Kill up to so many runs, then let one finish, and compare what was loaded."""
        with self.export.sandbox(CONVERSATIONS, self.switches) as sandbox:
            config = config_for(sandbox, **SETTINGS) | {
                "window_days": self.window_days,
                "max_concurrent_requests": self.workers,
                "lookback_days": self.lookback,
            }
            while self._run_once(sandbox, config, kill=self.kills < kills):
                pass
            assert stored(self.folder, self.export) == self.export.truth(sandbox)
        self.figures[f"histories of {self.export}"] += 1

    def _run_once(self, sandbox: Sandbox, config: dict[str, Any], *, kill: bool) -> bool:
        """Run the tap once; return whether it was killed."""
        sandbox.reset()
        number = self.random.randrange(40) if kill else -1
        delay = self.random.uniform(0, 1.5 if number == 0 else 0.06)
        moment = threading.Event()
        if number == 0:
            moment.set()
        sandbox.on_request = lambda n, _: moment.set() if n == number else None
        catalog = self.export.catalog()
        with pipeline(self.folder, config, catalog, self.state, pause=self.pause) as pipe:
            while pipe.tap.poll() is None and not moment.wait(0.02):
                pass
            if moment.is_set():
                time.sleep(delay)
                self._kill(pipe)
            killed_at = time.monotonic()
            pipe.wait()
            seconds = time.monotonic() - killed_at
        sandbox.on_request = None
        assert eventually(lambda: not sandbox._connections), "a connection is left open"
        assert_private(pipe, sandbox)
        was_killed = pipe.tap.returncode != 0 or pipe.target.returncode < 0
        if was_killed:
            assert moment.is_set(), pipe.log
            assert seconds < SOON
            self.kills += 1
            self._count(pipe, is_early=not sandbox.requests)
        self._check_lines(pipe)
        self._check_requests(sandbox.requests, whole=not was_killed)
        for state in pipe.states:
            is_forth = bookmark(state, self.export) >= bookmark(self.state, self.export)
            assert is_forth, "a bookmark went back"
            self.state = state
        return was_killed

    def _kill(self, pipe: Pipeline) -> None:
        who, name = self.victim.split()
        process = pipe.tap if who == "tap" else pipe.target
        with suppress(ProcessLookupError):
            process.send_signal(signal.Signals[name])

    def _count(self, pipe: Pipeline, *, is_early: bool) -> None:
        self.figures[self.victim] += 1
        status, sentence = pipe.tap.returncode, SENTENCE.get(self.victim)
        if is_early:
            # Python itself may not have been ready for it.
            self.figures[f"{self.victim}, before the first request"] += 1
            assert status != 0
            return
        if self.victim == "target SIGKILL" and status == 0:
            self.figures[f"{self.victim}, after the tap's end"] += 1
            return
        assert status == STATUS[self.victim], pipe.log
        if sentence is not None:
            assert [line for line in pipe.log if sentence in line] == pipe.log[-1:]
            assert not any("Traceback" in line for line in pipe.log)

    def _check_lines(self, pipe: Pipeline) -> None:
        """See that the tap wrote whole lines, as far as its target lived to see them."""
        *lines, rest = pipe.received.split(b"\n")
        for line in lines:
            assert json.loads(line)["type"] in {"SCHEMA", "RECORD", "STATE"}
        if self.victim == "target SIGKILL":
            return  # what arrived last is cut where the target died
        self.figures["lines"] += len(lines)
        if rest:
            # Nobody can see to it that the kernel copies the rest of a write: SIGKILL.
            assert self.victim == "tap SIGKILL"
            self.figures["cut last lines"] += 1
        assert pipe.target.returncode == (1 if rest else 0)

    def _check_requests(self, requests: list[Request], *, whole: bool) -> None:
        """See that nothing before the bookmark was asked for again, but for the lookback."""
        reached = bookmark(self.state, self.export)
        if reached > time_text(START):
            self.figures["resumed"] += 1
        resumed_at = max(START, milliseconds(reached) - self.lookback * DAY)
        starts = [int(request.params[self.export.start_param]) + 1 for request in requests]
        assert all(start >= resumed_at for start in starts)
        if whole:
            assert min(starts) == resumed_at


@pytest.fixture(scope="module")
def figures() -> Iterator[Counter[str]]:
    counter: Counter[str] = Counter()
    yield counter
    print("\n" + "\n".join(f"{number:8} {what}" for what, number in sorted(counter.items())))


@pytest.mark.long
@pytest.mark.parametrize("victim", SHARES)
def test_killed_at_any_moment_nothing_is_lost(
    tmp_path: Path, victim: Victim, figures: Counter[str]
) -> None:
    lock, left, seeds = threading.Lock(), SHARES[victim], iter(range(10_000))

    def work() -> None:
        nonlocal left
        while True:
            with lock:
                if left <= 0:
                    return
                seed, share = next(seeds), min(left, 6)
                left -= share
            history = History(tmp_path / str(seed), victim, seed)
            history.run(share)
            with lock:
                figures.update(history.figures)
                left += share - history.kills

    with ThreadPoolExecutor(JOBS) as pool:
        for future in [pool.submit(work) for _ in range(JOBS)]:
            future.result()
    assert figures[victim] == SHARES[victim]
