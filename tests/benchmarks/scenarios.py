"""What is measured: each scenario makes its runs and returns its figures by name."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

from tap_fini.windows import FEWEST_PAGES
from tests.benchmarks import measure
from tests.benchmarks.bench import PAGE_SIZE, Bench, say, tell
from tests.benchmarks.contestants import (
    COUNTED,
    FLOOR,
    PLAIN,
    TAP,
    TAP_NEWER,
    dlt_to_duckdb,
    extras,
    read_duckdb,
    tap_command,
)
from tests.benchmarks.history import DAY, Stretch, even
from tests.benchmarks.measure import ROOT, Run, check, write_config
from tests.targets import venv

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.benchmarks.bench import Site

Figures: TypeAlias = dict[str, float]

START = 1_704_067_200_000
"""2024-01-01, where most histories begin."""

STREAMS = 2
MINUTE = 60_000


def records(bench: Bench) -> Figures:
    """Everybody reads the same even year, side by side, from a server without latency."""
    figures: Figures = {}
    for size in bench.sizes:
        contestants = [TAP, FLOOR, PLAIN, *(extras() if bench.extras else [])]
        contestants = [c for c in contestants if c.largest >= size and size <= PLAIN.largest]
        if not contestants:
            continue
        comparison = f"{size:,} conversations to a file"
        full: dict[str, list[Run]] = {c.name: [] for c in contestants}
        empty: dict[str, list[Run]] = {c.name: [] for c in contestants}
        with bench.serve(even(size)) as site:
            for turn in range(bench.repeat):
                for place in range(len(contestants)):
                    contestant = contestants[(place + turn) % len(contestants)]
                    empty[contestant.name].append(site.empty_run(contestant))
                    full[contestant.name].append(site.run(comparison, contestant))
        figures |= _compared(f"{size}", full, empty)
        figures |= _counted(f"{size}", full[TAP.name], pages=-(-size // PAGE_SIZE))
        for name, runs in full.items():
            cost = measure.median(runs, "cpu") / size * 1e6
            bench.points.setdefault("CPU per conversation, µs", {}).setdefault(name, []).append(
                (size, cost)
            )
    return figures


def newer(bench: Bench) -> Figures:
    """The tap reads the newer export: the same even year, told in interactions."""
    figures: Figures = {}
    for size in bench.sizes:
        if size > PLAIN.largest:
            continue
        comparison = f"{size:,} interactions to a file"
        with bench.serve(even(size), newer=1) as site:
            runs = [site.run(comparison, TAP_NEWER) for _ in range(bench.repeat)]
        figures |= _counted(f"{size}", runs, pages=-(-size // PAGE_SIZE))
    return figures


def _compared(prefix: str, full: dict[str, list[Run]], empty: dict[str, list[Run]]) -> Figures:
    """Compare costs round by round, so that a noisy neighbour hits both sides of a ratio."""
    figures: Figures = {}
    names = {
        PLAIN.name: "plain",
        FLOOR.name: "floor",
        "dlt (files)": "dlt",
        "Airbyte CDK": "airbyte",
    }
    for name, runs in full.items():
        if name == TAP.name:
            continue
        pairs = list(zip(full[TAP.name], empty[TAP.name], runs, empty[name], strict=True))
        short = f"{prefix}.{names[name]}"
        figures[f"{short}.wall"] = median(
            ours.seconds / theirs.seconds for ours, _, theirs, _ in pairs
        )
        figures[f"{short}.work"] = median(
            (ours.cpu - idle.cpu) / (theirs.cpu - rest.cpu) for ours, idle, theirs, rest in pairs
        )
        figures[f"{short}.time"] = median(
            (ours.seconds - idle.seconds) / (theirs.seconds - rest.seconds)
            for ours, idle, theirs, rest in pairs
        )
    return figures


def _counted(prefix: str, runs: list[Run], pages: int) -> Figures:
    """Count what the tap said and asked; the worst run counts."""
    return {
        f"{prefix}.schemas": max(run.messages.schemas for run in runs) / STREAMS,
        f"{prefix}.states": max(run.messages.states - run.windows for run in runs),
        f"{prefix}.log lines": max(run.log_lines - 5 * run.windows for run in runs),
        f"{prefix}.peak": max(run.peak for run in runs),
        f"{prefix}.requests": max((run.requests - run.empty_windows) / pages for run in runs),
    }


def calls(bench: Bench) -> Figures:
    """What the tap calls for its rows: counted, so it does not depend on the machine's speed."""
    comparison, size = "under a profiler that counts", 2_000
    with bench.serve(even(2 * size, days=60)) as site:
        whole = site.run(comparison, COUNTED)
        half = (site.start, site.start + 30 * DAY)
        part = site.run(comparison, COUNTED, span=half, whole=False)
        mapped = site.run(
            comparison,
            COUNTED,
            settings={"stream_maps": {"bot_requests": {"reasoning": None}}},
            name=f"{COUNTED.name}, a column left out by a stream map",
        )
    made, before = whole.messages, part.messages
    more = made.conversations - before.conversations
    return {
        "conversation": (made.counts["calls"] - before.counts["calls"]) / more,
        "writes": 1000 * made.counts["writes"] / (made.conversations + made.bot_requests),
        "mapped.syncs": mapped.messages.counts["syncs"] / (2 * size / PAGE_SIZE),
        "mapped.schemas": mapped.messages.schemas / STREAMS,
    }


def requests(bench: Bench) -> Figures:
    """Histories with gaps, a second run, and a workspace that fits one page."""
    ragged = [
        Stretch(START - 730 * DAY, START, 0),
        Stretch(START, START + 90 * DAY, 5_000),
        Stretch(START + 270 * DAY, START + 271 * DAY, 5_000),
        Stretch(START + 330 * DAY, START + 510 * DAY, 10_000),
    ]
    gaps = (730, 180, 60)
    figures: Figures = {}
    with bench.serve(ragged) as site:
        run = site.run("a history with gaps")
        figures |= _counted("gaps", [run], site.server.truth.conversations // PAGE_SIZE)
        figures["gaps.empty windows"] = run.empty_windows - sum(-(-days // 30) for days in gaps)
    days, lookback = 365, 7
    with bench.serve(even(20_000, days=days)) as site:
        first = site.run("the first of two runs")
        again = site.run(
            "a second run, nothing new",
            state=first.messages.last_state_value(),
            whole=False,
        )
        pages = -(-20_000 * lookback // days // PAGE_SIZE)
        figures["again.requests"] = again.requests / pages
        figures["again.states"] = again.messages.states - again.windows
    with bench.serve(even(PAGE_SIZE, days=10)) as site:
        figures["one page.requests"] = site.run("a workspace that fits one page").requests
    return figures


def throttle(bench: Bench) -> Figures:
    """A server that counts: as strict as the tap believes, and stricter."""
    figures: Figures = {}
    rate, per, pages = 100, 60, 130
    with bench.serve(even(pages * PAGE_SIZE, days=25)) as site:
        run = site.run(
            f"{rate} requests in {per} s",
            settings={"max_requests_per_minute": rate},
            conditions={"throttle": rate, "per": per},
        )
        ideal = (pages - 1) // rate * per
        figures["ideal"] = run.seconds / ideal
        figures["violations"] = run.refused
        strict, per, workers = 40, 8, 4
        run = site.run(
            f"{strict} requests in {per} s, the tap believes more",
            settings={"max_concurrent_requests": workers},
            conditions={"throttle": strict, "per": per},
        )
        periods = (pages - 1) // strict
        # Retry-After comes in whole seconds, rounded up.
        figures["stricter.ideal"] = run.seconds / (periods * (per + 1))
        figures["stricter.refused"] = run.refused / (workers * periods)
    return figures


def latency(bench: Bench) -> Figures:
    """200 ms a response: what more workers bring, on an even and on a dense history."""
    figures: Figures = {}
    size, wait = 20_000, 0.2
    dense = [
        Stretch(START, START + 120 * DAY, 0),
        Stretch(START + 120 * DAY, START + 150 * DAY, size),
        Stretch(START + 365 * DAY, START + 365 * DAY, 0),
    ]
    plot = bench.points.setdefault("times as fast as one worker, at 200 ms a response", {})
    plot["ideal"] = [(n, n) for n in (1, 2, 4, 8)]
    for shape, stretches in (("even", even(size)), ("dense", dense)):
        with bench.serve(stretches) as site:
            idle = site.empty_run(TAP)
            runs = {
                workers: site.run(
                    f"200 ms a response, {shape} history",
                    settings={"max_concurrent_requests": workers},
                    conditions={"latency": wait},
                    name=f"tap-fini, {workers} workers",
                )
                for workers in (1, 2, 4, 8)
            }
        for workers, run in runs.items():
            figures[f"{shape}.{workers}"] = runs[1].seconds / run.seconds
            last = FEWEST_PAGES * wait * (workers - 1) / workers
            floor = max(run.requests * wait / workers + last, runs[1].cpu - idle.cpu)
            ratio = run.seconds / (idle.seconds + floor)
            figures[f"{shape}.{workers}.formula"] = max(ratio, 1 / ratio)
        plot[f"{shape} history"] = [(n, figures[f"{shape}.{n}"]) for n in runs]
    return figures


def duckdb(bench: Bench) -> Figures:
    """Into target-duckdb through a pipe, beside what that target needs for a file."""
    target = venv("target-duckdb")
    size = 20_000
    comparison = f"{size:,} conversations into DuckDB"
    folder = bench.folder / "duckdb"
    database, lines = folder / "database", folder / "lines"
    load = [str(target.scripts / "target-duckdb"), "--config", str(folder / "target.json")]
    ratios = []
    with bench.serve(even(size)) as site:
        for turn in range(4 + bench.repeat):  # short runs: few of them say little
            command = site.command(TAP, folder)
            write_config(
                folder / "target.json",
                {"filepath": str(database), "default_target_schema": "fini"},
            )
            measure.run(TAP.name, command, folder, keep=lines)
            seconds = {}
            sources: list[tuple[str, list[str] | Path]] = [
                ("tap-fini | target-duckdb", command),
                ("a file | target-duckdb", lines),
            ]
            for name, source in sources if turn % 2 else reversed(sources):
                run = _loaded(name, load, source, folder)
                run.messages = read_duckdb(
                    target.scripts / "python", database, "fini.conversations", "fini.bot_requests"
                )
                check(name, run.messages, site.server.truth)
                bench.runs.setdefault(comparison, []).append(run)
                tell(comparison, run)
                seconds[name] = run.seconds
                database.unlink()
            ratios.append(seconds[sources[0][0]] / seconds[sources[1][0]])
            if bench.extras and turn < bench.repeat:
                site.run(comparison, dlt_to_duckdb())
    return {"target": median(ratios)}


def _loaded(name: str, target: list[str], source: list[str] | Path, folder: Path) -> Run:
    """Load a file, or what a command writes, with a target; the seconds are the target's."""
    # A file comes through a pipe too, so that the target reads both in the same way.
    command = source if isinstance(source, list) else ["cat", str(source)]
    logs = [folder / "source log", folder / "target log"]
    began = time.perf_counter()
    with (
        logs[0].open("wb") as said,
        logs[1].open("wb") as log,
        (folder / "state").open("wb") as out,
    ):
        reading = measure.start(command, folder, said, None)
        loading = subprocess.Popen(target, stdin=reading.stdout, stdout=out, stderr=log)
        with measure.ended_in_time(loading), measure.ended_in_time(reading):
            assert reading.stdout is not None
            reading.stdout.close()
            costs = [
                measure.finish(name, process, began, path)
                for process, path in zip((reading, loading), logs, strict=True)
            ]
    seconds = costs[1][0]
    return Run(name, seconds, costs[0][1] + costs[1][1], max(costs[0][2], costs[1][2]))


def memory(bench: Bench) -> Figures:
    """Peaks: long histories, a huge conversation, a window that cannot be narrowed."""
    figures: Figures = {}
    plot = bench.points.setdefault("peak memory of tap-fini, MB", {}).setdefault("tap-fini", [])
    for size in sorted({*bench.sizes}):
        if size >= 20_000:
            with bench.serve(even(size)) as site:
                run = site.run(f"{size:,} conversations through a pipe", piped=True)
            figures[f"{size}.peak"] = run.peak
            figures[f"{size}.cpu"] = run.cpu / size * 1e6
            plot.append((size, run.peak))
    if {"100000.peak", "1000000.peak"} <= figures.keys():
        figures["growth"] = figures["1000000.peak"] / figures["100000.peak"]
        figures["cost growth"] = figures["1000000.cpu"] / figures["100000.cpu"]
    with bench.serve(even(2_000), huge=10_000) as site:
        figures["huge"] = _peak(site, "one conversation with 10,000 bot requests")
    burst = [
        Stretch(START, START + 5 * DAY, 0),
        Stretch(START + 5 * DAY, START + 5 * DAY + 10 * MINUTE, 100_000),
        Stretch(START + 10 * DAY, START + 10 * DAY, 0),
    ]
    with bench.serve(burst) as site:
        figures["burst"] = _peak(site, "100,000 conversations within 10 minutes")
    return figures


def _peak(site: Site, comparison: str) -> float:
    return site.run(comparison, piped=True).peak


def startup(bench: Bench) -> Figures:
    """The commands that ask Fini nothing, beside what importing the SDK takes."""
    tap = tap_command(bench.folder, bench.folder)[:-2]
    commands = {
        "import": [sys.executable, "-c", "import singer_sdk"],
        **{name: [*tap, f"--{name}"] for name in ("version", "about", "discover")},
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(5 + 5 * bench.repeat):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment, timeout=60)
            seconds[name].append(time.perf_counter() - began)
    for name, times in seconds.items():
        say(f"  start-up · {name}: {median(times):.3f} s")
    return {
        name: median(a / b for a, b in zip(times, seconds["import"], strict=True))
        for name, times in seconds.items()
    }


SCENARIOS: dict[str, Callable[[Bench], Figures]] = {
    scenario.__name__: scenario
    for scenario in (startup, records, newer, calls, requests, throttle, latency, duckdb, memory)
}
