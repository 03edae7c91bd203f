"""Signals and broken pipes: whole lines out, one sentence, the right status, at once."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any

import pytest

from tests.sandbox import API_KEY, Fault, Sandbox, Switches, make_conversations
from tests.support import MARKER, config_for, without_end_of_life

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

QUICKLY = 10.0
"""Seconds from a signal to the end of the process."""

CONVERSATIONS = make_conversations(2000, marker=MARKER)

STOPPED = "Stopped by {}. The next run goes on from the last STATE."
TARGET_GONE = (
    "The target has gone away: see its messages for why. The next run goes on from the last STATE "
    "that it took in."
)


class Running:
    """The tap at work, with its stdout in a pipe that the test reads."""

    def __init__(self, process: subprocess.Popen[bytes], errors: Path) -> None:
        self.process = process
        assert process.stdout is not None
        self.stdout: IO[bytes] = process.stdout
        self._errors = errors
        self.lines: list[bytes] = []
        self._asked = 0.0

    def read_until(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Read lines up to the first that is wanted."""
        for line in self.stdout:
            self.lines.append(line)
            if wanted(json.loads(line)):
                return
        raise AssertionError(self.stderr)

    def send(self, signum: int) -> None:
        self._asked = time.monotonic()
        self.process.send_signal(signum)

    def close(self) -> None:
        """Go away, as a target that dies."""
        self._asked = time.monotonic()
        self.stdout.close()

    def ended(self, status: int, sentence: str) -> None:
        """Check how the process ends, and all that it wrote."""
        if not self.stdout.closed:
            self.lines += self.stdout.read().splitlines(keepends=True)
        assert self.process.wait(timeout=10) == status, self.stderr
        assert time.monotonic() - self._asked < QUICKLY
        for line in self.lines:
            assert line.endswith(b"\n"), line[-80:]
            assert json.loads(line)["type"] in {"SCHEMA", "RECORD", "STATE"}
        said = self.stderr
        assert [line.split(" | ", 3)[3] for line in said.splitlines() if "| ERROR" in line] == [
            sentence
        ]
        assert [line for line in said.splitlines() if line.count(" | ") < 3] == []
        assert "Traceback" not in said
        assert "Exception ignored" not in said

    @property
    def stderr(self) -> str:
        text = self._errors.read_text(encoding="utf-8")
        assert API_KEY not in text
        assert MARKER not in text
        return without_end_of_life(text)


@contextlib.contextmanager
def tap(
    folder: Path, sandbox: Sandbox, *, unbuffered: bool = False, **settings: Any
) -> Iterator[Running]:
    """Start the tap on 100 windows of two days."""
    config = {**config_for(sandbox), "window_days": 2, "page_size": 100, **settings}
    (folder / "config.json").write_text(json.dumps(config))
    env = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    if unbuffered:
        env["PYTHONUNBUFFERED"] = "1"
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tap_fini", "--config", "config.json"],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    try:
        yield Running(process, folder / "stderr")
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(CONVERSATIONS, Switches(latency=0.05)) as running:
        yield running


def is_state(message: dict[str, Any]) -> bool:
    return bool(message["type"] == "STATE")


def wait_for(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_a_signal_in_the_middle_of_a_run(
    tmp_path: Path, sandbox: Sandbox, signum: signal.Signals, status: int
) -> None:
    with tap(tmp_path, sandbox) as running:
        running.read_until(is_state)
        running.send(signum)
        running.ended(status, STOPPED.format(signum.name))
    assert 0 < sum(json.loads(line)["type"] == "STATE" for line in running.lines) < 100


@pytest.mark.parametrize("unbuffered", [False, True], ids=["buffered", "unbuffered"])
def test_a_signal_in_the_middle_of_a_write_does_not_cut_it(
    tmp_path: Path, sandbox: Sandbox, *, unbuffered: bool
) -> None:
    sandbox.switches = Switches()
    with tap(tmp_path, sandbox, window_days=90, unbuffered=unbuffered) as running:
        wait_until_stuck(running)
        running.send(signal.SIGTERM)
        time.sleep(0.2)
        assert running.process.poll() is None  # it waits for its reader
        running.ended(143, STOPPED.format("SIGTERM"))
    assert len(b"".join(running.lines)) > 60_000


def wait_until_stuck(running: Running) -> None:
    """Wait until the pipe is full and the tap can write no more."""
    wait_for(lambda: pending(running.stdout.fileno()) > 60_000)
    before = -1
    while pending(running.stdout.fileno()) != before:
        before = pending(running.stdout.fileno())
        time.sleep(0.2)


def pending(descriptor: int) -> int:
    """Return how many bytes wait in a pipe."""
    import fcntl  # noqa: PLC0415 - there is none on Windows
    import termios  # noqa: PLC0415

    answer = fcntl.ioctl(descriptor, termios.FIONREAD, b"\0\0\0\0")
    return int.from_bytes(answer, sys.byteorder)


@pytest.mark.parametrize("unbuffered", [False, True], ids=["buffered", "unbuffered"])
def test_a_second_signal_does_not_wait_for_a_target_that_hangs(
    tmp_path: Path, sandbox: Sandbox, *, unbuffered: bool
) -> None:
    sandbox.switches = Switches()
    with tap(tmp_path, sandbox, window_days=90, unbuffered=unbuffered) as running:
        wait_until_stuck(running)
        # Now less than a page is left of the write. Python keeps so little in a buffer of its
        # own once the first signal comes, and would write that at its end, in vain, for ever.
        os.read(running.stdout.fileno(), 4096)
        wait_until_stuck(running)
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        running.send(signal.SIGTERM)
        assert running.process.wait(timeout=QUICKLY) == 143
        assert STOPPED.format("SIGTERM") in running.stderr
        assert "Traceback" not in running.stderr


def test_a_signal_while_fini_keeps_silent(tmp_path: Path, sandbox: Sandbox) -> None:
    sandbox.faults = [Fault("stall")]
    with tap(tmp_path, sandbox, request_timeout=3600) as running:
        wait_for(lambda: len(sandbox.requests) == 4)
        running.send(signal.SIGTERM)
        running.ended(143, STOPPED.format("SIGTERM"))


def test_a_signal_between_two_tries(tmp_path: Path, sandbox: Sandbox) -> None:
    sandbox.faults = [Fault("503", retry_after=300)]
    with tap(tmp_path, sandbox) as running:
        wait_for(lambda: len(sandbox.requests) == 4)
        running.send(signal.SIGINT)
        running.ended(130, STOPPED.format("SIGINT"))
    assert len(sandbox.requests) == 4


def test_a_signal_while_the_throttle_holds(tmp_path: Path, sandbox: Sandbox) -> None:
    with tap(tmp_path, sandbox, max_requests_per_minute=3) as running:
        running.read_until(is_state)
        wait_for(lambda: len(sandbox.requests) == 3)
        running.send(signal.SIGTERM)
        running.ended(143, STOPPED.format("SIGTERM"))
    assert len(sandbox.requests) == 3


class _KillsAtItsEnd:
    """Signals its own process when Python, at its very end, clears away what is left."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    "late",
    [
        "atexit.register(os.kill, os.getpid(), signal.SIGTERM)",
        "kept = _KillsAtItsEnd()",
    ],
    ids=["at exit", "while Python ends"],
)
def test_a_signal_after_the_end_does_not_spoil_a_finished_run(
    tmp_path: Path, sandbox: Sandbox, late: str
) -> None:
    sandbox.switches = Switches()
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**config_for(sandbox), "window_days": 90}))
    program = (
        "import atexit, os, signal",
        inspect.getsource(_KillsAtItsEnd),
        late,
        "from tap_fini.tap import TapFini",
        "TapFini.cli()",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(program), "--config", config],
        capture_output=True,
        check=False,
    )
    said = without_end_of_life(done.stderr.decode())
    assert done.returncode == 0, said
    assert "Traceback" not in said
    assert "ERROR" not in said
    assert done.stdout.count(b'"stream":"conversations","record"') == len(CONVERSATIONS)


@pytest.mark.parametrize("unbuffered", [False, True], ids=["buffered", "unbuffered"])
def test_a_target_that_goes_away(tmp_path: Path, sandbox: Sandbox, *, unbuffered: bool) -> None:
    with tap(tmp_path, sandbox, unbuffered=unbuffered) as running:
        running.read_until(is_state)
        running.close()
        running.ended(1, TARGET_GONE)
    assert len(sandbox.requests) < 100


def test_a_target_that_goes_away_while_the_tap_writes(tmp_path: Path, sandbox: Sandbox) -> None:
    sandbox.switches = Switches()
    with tap(tmp_path, sandbox, window_days=90) as running:
        wait_until_stuck(running)
        threading.Timer(0.1, running.close).start()
        assert running.process.wait(timeout=QUICKLY) == 1
        running.ended(1, TARGET_GONE)
