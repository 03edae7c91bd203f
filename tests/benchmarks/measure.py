"""One run of one contestant: what it cost, and whether what it wrote is the truth."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlencode
from urllib.request import urlopen

import msgspec

from tests.benchmarks.history import place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tests.benchmarks.history import Stretch

ROOT = Path(__file__).parents[2]
PATIENCE = 1800
"""Seconds after which a run is ended and the benchmark fails."""

_WINDOW_LINE = re.compile(rb": (\d+) \w+, \d+ \w+, \d+ pages; ")
_PARENTS = {"conversations", "interactions"}
_END_LINE = re.compile(
    rb" (\d+) windows, (\d+) requests, (\d+) retries, .* (\d+) splits, (\d+) dup"
)


@dataclass(frozen=True, slots=True)
class Truth:
    """What a history holds."""

    conversations: int
    bot_requests: int


@dataclass(slots=True)
class Messages:
    """What a contestant wrote.

    Attributes:
        counts: what it called for that, if it was counted.
    """

    conversations: int = 0
    bot_requests: int = 0
    distinct: int = 0
    schemas: int = 0
    states: int = 0
    size: int = 0
    last_state: bytes = b""
    counts: dict[str, int] = field(default_factory=dict)

    def last_state_value(self) -> bytes:
        """Return what ``--state`` takes.

        Raises:
            msgspec.DecodeError: There was no STATE.
        """
        message: dict[str, Any] = msgspec.json.decode(self.last_state)
        return msgspec.json.encode(message["value"])


@dataclass(slots=True)
class Run:
    """One run.

    Attributes:
        seconds: from the start of the process to its end.
        cpu: seconds, user and system, of all its processes.
        peak: the largest resident memory of one of its processes, in MB (10^6 bytes).
    """

    contestant: str
    seconds: float
    cpu: float
    peak: float
    messages: Messages = field(default_factory=Messages)
    requests: int = 0
    refused: int = 0
    log_lines: int = 0
    log_bytes: int = 0
    windows: int = 0
    empty_windows: int = 0


class _Record(msgspec.Struct):
    id: Any = None


class _Line(msgspec.Struct):
    type: str
    stream: str = ""
    record: _Record | None = None


_LINE = msgspec.json.Decoder(_Line)
_BLOCK = 16_384


class Places:
    """A set of conversations, small: a process starts with its parent's peak memory as its own."""

    def __init__(self) -> None:
        """Begin with none."""
        self.count = 0
        self._seen: dict[int, bytearray] = {}

    def add(self, conversation_id: str) -> None:
        """Add a conversation, if it is not there."""
        block, place = divmod(place_of(conversation_id), _BLOCK)
        seen = self._seen.get(block)
        if seen is None:
            seen = self._seen[block] = bytearray(_BLOCK)
        self.count += not seen[place]
        seen[place] = 1


def read_messages(lines: Iterable[bytes]) -> Messages:
    """Count Singer messages, and the different conversations in them."""
    found = Messages()
    seen = Places()
    for text in lines:
        found.size += len(text)
        line = _LINE.decode(text)
        if line.type == "RECORD" and line.stream in _PARENTS:
            assert line.record is not None
            found.conversations += 1
            seen.add(line.record.id)
        elif line.type == "RECORD":
            found.bot_requests += 1
        elif line.type == "SCHEMA":
            found.schemas += 1
        elif line.type == "STATE":
            found.states += 1
            found.last_state = text
    found.distinct = seen.count
    return found


class WrongRowsError(Exception):
    """A contestant did not write what there is, so its time counts for nothing."""


def check(contestant: str, found: Messages, truth: Truth) -> None:
    """Compare what was written with what there is.

    Raises:
        WrongRowsError: they differ.
    """
    rows = (found.conversations, found.distinct, found.bot_requests)
    if rows != (truth.conversations, truth.conversations, truth.bot_requests):
        message = f"{contestant} wrote {rows[0]} conversations ({rows[1]} of them different) and "
        message += (
            f"{rows[2]} bot requests; there are {truth.conversations} and {truth.bot_requests}"
        )
        raise WrongRowsError(message)


class Server:
    """The benchmarks' server, in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until a server's process says where it listens."""
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        self.url: str = ready["url"]
        self.truth = Truth(ready["conversations"], ready["bot_requests"])

    def control(self, **conditions: float) -> dict[str, Any]:
        """Return the counts so far; given conditions, begin a new count under those."""
        query = urlencode(conditions)
        with urlopen(f"{self.url}/control?{query}", timeout=30) as response:  # noqa: S310
            counts: dict[str, Any] = json.load(response)
        return counts


@contextmanager
def serve(stretches: Sequence[Stretch], **more: int) -> Iterator[Server]:
    """Run a server for the duration of the ``with`` block."""
    spec = {"stretches": [[s.start, s.end, s.count] for s in stretches], **more}
    command = [sys.executable, "-m", "tests.benchmarks.server", json.dumps(spec)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield Server(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def run(contestant: str, command: Sequence[str], folder: Path, *, keep: Path | None = None) -> Run:
    """Run a command that writes Singer messages to its standard output.

    Args:
        contestant: its name in the report.
        command: the program and its arguments.
        folder: for its log.
        keep: where to write its output. Without it the messages are counted while they come,
            by this process: right for memory, wrong for time.

    Returns:
        The run, its messages counted unless they were kept.
    """
    log = folder / "log"
    began = time.perf_counter()
    with log.open("wb") as errors:
        process = start(command, folder, errors, keep)
        messages = Messages()
        with ended_in_time(process):
            if keep is None:
                assert process.stdout is not None
                messages = read_messages(process.stdout)
            seconds, cpu, peak = finish(contestant, process, began, log)
    if keep is not None and keep.is_file():
        with keep.open("rb") as lines:
            messages = read_messages(lines)
    result = Run(contestant, seconds, cpu, peak, messages)
    read_log(result, log)
    return result


def start(
    command: Sequence[str], folder: Path, errors: IO[bytes], out: Path | IO[bytes] | None
) -> subprocess.Popen[bytes]:
    """Start a contestant, its output into a file or, without one, into a pipe."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TAP_", "LOGLEVEL"))}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(folder), "DO_NOT_TRACK": "1"}
    if isinstance(out, Path):
        with out.open("wb") as output:
            return subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=errors
            )
    where = subprocess.PIPE if out is None else out
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=where, stderr=errors)


@contextmanager
def ended_in_time(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill a process that hangs, or that is still there when the block is left."""
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()
        if process.returncode is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def finish(
    contestant: str, process: subprocess.Popen[bytes], began: float, log: Path
) -> tuple[float, float, float]:
    """Wait for a process; return its seconds, CPU seconds and peak memory.

    Raises:
        RuntimeError: it failed.
    """
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        message = f"{contestant} ended with status {process.returncode}:\n{said}"
        raise RuntimeError(message)
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6


def read_log(result: Run, log: Path) -> None:
    """Count a log's lines, and take from it what tap-fini says of its windows."""
    with log.open("rb") as lines:
        for line in lines:
            result.log_lines += 1
            result.log_bytes += len(line)
            if window := _WINDOW_LINE.search(line):
                result.empty_windows += window[1] == b"0"
            elif end := _END_LINE.search(line):
                result.windows = int(end[1])


def median(runs: Sequence[Run], figure: str) -> float:
    """Return the median of a figure of several runs."""
    return float(statistics.median(getattr(run, figure) for run in runs))


def write_config(path: Path, config: Mapping[str, Any]) -> Path:
    """Write a contestant's settings."""
    path.write_text(json.dumps(config), encoding="utf-8")
    return path
