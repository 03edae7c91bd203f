"""What the scenarios share: options, a folder, and every run that was made."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from tests.benchmarks import measure
from tests.benchmarks.contestants import TAP
from tests.benchmarks.history import DAY
from tests.benchmarks.measure import Run, check, serve, write_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.benchmarks.contestants import Contestant
    from tests.benchmarks.history import Stretch
    from tests.benchmarks.measure import Server

PAGE_SIZE = 50


@dataclass(slots=True)
class Bench:
    """The state of a benchmark run.

    Attributes:
        sizes: the lengths of the histories to read, conversations.
        repeat: how often each timed comparison is made.
        extras: whether dlt and Airbyte's CDK take part.
        runs: every run, by the comparison it belongs to.
        points: what the plots show: for each, a line of (x, y).
    """

    folder: Path
    sizes: Sequence[int]
    repeat: int
    extras: bool
    runs: dict[str, list[Run]] = field(default_factory=dict)
    points: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)

    @contextmanager
    def serve(self, stretches: Sequence[Stretch], **more: int) -> Iterator[Site]:
        """Serve a history to contestants for the duration of the ``with`` block."""
        with serve(stretches, **more) as server:
            yield Site(self, server, stretches[0].start, stretches[-1].end + DAY)


@dataclass(slots=True)
class Site:
    """A server, and the span of the history that it serves."""

    bench: Bench
    server: Server
    start: int
    end: int

    def run(
        self,
        comparison: str,
        contestant: Contestant = TAP,
        *,
        settings: dict[str, Any] | None = None,
        state: bytes | None = None,
        span: tuple[int, int] | None = None,
        conditions: dict[str, float] | None = None,
        piped: bool = False,
        whole: bool = True,
        name: str = "",
    ) -> Run:
        """Run a contestant on the history, and check what it wrote.

        Args:
            comparison: what the run belongs to in the report; without it, the run is not listed.
            contestant: who.
            settings: told to the contestant besides its own.
            state: where it goes on (the tap only).
            span: epoch milliseconds, if not the history's own.
            conditions: the server's latency and throttle.
            piped: count the rows as they come, instead of keeping them in a file.
            whole: the output has to hold the whole history.
            name: the contestant's name in the report.

        Raises:
            WrongRowsError: the rows are not those of the history.
        """
        folder = self.bench.folder / contestant.name.split()[0]
        command = self.command(contestant, folder, settings=settings, span=span)
        if state is not None:
            (folder / "state.json").write_bytes(state)
            command += ["--state", str(folder / "state.json")]
        self.server.control(**(conditions or {"latency": 0}))
        label = name or contestant.name
        run = measure.run(label, command, folder, keep=None if piped else folder / "out")
        if not piped:
            run.messages = contestant.read(folder)
        counts = self.server.control()
        run.requests, run.refused = counts["requests"], counts["refused"]
        self._clean(folder)
        if whole:
            check(label, run.messages, self.server.truth)
        if comparison:
            self.bench.runs.setdefault(comparison, []).append(run)
        tell(comparison or "start and stop", run)
        return run

    def command(
        self,
        contestant: Contestant,
        folder: Path,
        *,
        settings: dict[str, Any] | None = None,
        span: tuple[int, int] | None = None,
    ) -> list[str]:
        """Return what starts a contestant on the history, its settings written to a folder."""
        folder.mkdir(exist_ok=True)
        start, end = span or (self.start, self.end)
        config = {
            "api_key": "benchmark",
            "api_url": self.server.url,
            "start_date": instant(start),
            "end_date": instant(end),
            "page_size": PAGE_SIZE,
            **contestant.settings,
            **(settings or {}),
        }
        return contestant.command(write_config(folder / "config.json", config), folder)

    def _clean(self, folder: Path) -> None:
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()

    def empty_run(self, contestant: Contestant) -> Run:
        """Run a contestant on a day before the history: what it costs to start and stop."""
        span = (self.start - 2 * DAY, self.start - DAY)
        run = self.run("", contestant, span=span, whole=False)
        check(contestant.name, run.messages, measure.Truth(0, 0))
        return run


def instant(epoch: int) -> str:
    """Write epoch milliseconds (whole seconds) as a setting."""
    moment = datetime.fromtimestamp(epoch // 1000, tz=timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def tell(comparison: str, run: Run) -> None:
    """Tell what a run cost."""
    say(
        f"  {comparison} · {run.contestant}: {run.seconds:.2f} s, {run.cpu:.2f} s CPU, "
        f"{run.peak:.0f} MB, {run.requests} requests"
    )


def say(text: str) -> None:
    """Tell how far the benchmark is."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()
