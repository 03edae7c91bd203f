"""A long history of one or more workspaces, read in slices side by side: a Dagster job.

docs/scale-out.md says when this is worth it, and how to run it. Each slice is a
``meltano run`` with a state of its own, so that a slice that fails is tried again alone,
and goes on from where it was.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from dagster import In, Nothing, OpDefinition, Out, RetryPolicy, job, multiprocess_executor, op

EXTRACTORS = os.environ.get("FINI_EXTRACTORS", "tap-fini").split(",")
"""One for each workspace, each with a key of its own."""

# Several processes write at a time, which a DuckDB file does not allow.
LOADER = os.environ.get("FINI_LOADER", "target-postgres")
START = datetime.fromisoformat(os.environ.get("FINI_BACKFILL_START", "2022-01-01"))
END = datetime.fromisoformat(os.environ.get("FINI_BACKFILL_END", "2025-01-01"))
SLICES = int(os.environ.get("FINI_SLICES", "4"))
"""Slices of a workspace, all of them read at a time."""

REQUESTS_PER_MINUTE = int(os.environ.get("FINI_REQUESTS_PER_MINUTE", "100"))
"""What Fini allows a key."""

PREPARING = 2
"""Requests a minute that are left to the run that makes the tables."""

SHARE = (REQUESTS_PER_MINUTE - PREPARING) // SLICES
"""Requests a minute of each slice."""

if SHARE < 1:
    # To the tap, 0 means no limit.
    msg = f"{REQUESTS_PER_MINUTE} requests a minute are too few for {SLICES} slices"
    raise ValueError(msg)

# A retry starts with a fresh share: by then the requests before it no longer count.
RETRIES = RetryPolicy(max_retries=3, delay=60)


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of the history.

    Attributes:
        number: its place, from 1.
        start: where it begins.
        end: where it ends, which is where the next one begins.
    """

    number: int
    start: datetime
    end: datetime

    @property
    def suffix(self) -> str:
        """What tells its state from the others'."""
        return f"{self.start:%Y%m%dT%H%M%S}-{self.end:%Y%m%dT%H%M%S}"


def cut(start: datetime, end: datetime, number: int) -> list[Slice]:
    """Cut a span into slices of the same length, to the second."""
    step = (end - start) / number
    edges = [start + timedelta(seconds=round((step * n).total_seconds())) for n in range(number)]
    return [
        Slice(place, *pair)
        for place, pair in enumerate(zip(edges, [*edges[1:], end], strict=True), start=1)
    ]


def run(extractor: str, suffix: str, start: datetime, end: datetime, share: int) -> None:
    """Run the extractor and the loader over a span.

    Raises:
        subprocess.CalledProcessError: Meltano failed; its log says why.
    """
    prefix = extractor.upper().replace("-", "_")
    settings = {
        f"{prefix}_START_DATE": start.replace(tzinfo=timezone.utc).isoformat(),
        f"{prefix}_END_DATE": end.replace(tzinfo=timezone.utc).isoformat(),
        f"{prefix}_MAX_REQUESTS_PER_MINUTE": str(share),
    }
    # Runs of one extractor in one project share a folder, and would read each other's state and
    # catalog there: so each has a folder of its own, with the same plugins and the same states.
    shared = Path(".meltano").resolve()
    own = shared / "slices" / f"{extractor}-{suffix}"
    own.mkdir(parents=True, exist_ok=True)
    for plugins in ("extractors", "loaders"):
        if not (own / plugins).is_symlink():
            (own / plugins).symlink_to(shared / plugins)
    settings["MELTANO_SYS_DIR_ROOT"] = str(own)
    states = os.environ.get("MELTANO_DATABASE_URI", f"sqlite:///{shared / 'meltano.db'}")
    settings["MELTANO_DATABASE_URI"] = states
    meltano("run", f"--state-id-suffix={suffix}", extractor, LOADER, **settings)


def meltano(*arguments: str, **settings: str) -> None:
    """Run Meltano in this project.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    subprocess.run(["meltano", *arguments], env={**os.environ, **settings}, check=True)  # noqa: S603, S607


@op(out=Out(Nothing))
def prepare() -> None:
    """Install what is needed and make the tables, which two slices must not do at a time."""
    meltano("install", *EXTRACTORS, LOADER)
    run(EXTRACTORS[0], "prepare", START, START + timedelta(milliseconds=1), PREPARING)


def reader(extractor: str, part: Slice) -> OpDefinition:
    """Make the step that reads a slice."""

    @op(
        name=f"{extractor.replace('-', '_')}_slice_{part.number}",
        ins={"prepared": In(Nothing)},
        out=Out(Nothing),
        retry_policy=RETRIES,
    )
    def read() -> None:
        run(extractor, part.suffix, part.start, part.end, SHARE)

    return read


def hand_over(extractor: str, last: Slice) -> OpDefinition:
    """Make the step after which the daily run goes on from the end of the last slice."""

    @op(name=f"{extractor.replace('-', '_')}_hand_over", ins={"read": In(Nothing)})
    def copy_state() -> None:
        environment = os.environ.get("MELTANO_ENVIRONMENT", "dev")
        daily = f"{environment}:{extractor}-to-{LOADER}"
        meltano("state", "copy", "--force", f"{daily}:{last.suffix}", daily)

    return copy_state


@job(
    executor_def=multiprocess_executor.configured(
        {
            "max_concurrent": len(EXTRACTORS) * SLICES,
            # A step starts without importing Dagster anew.
            "start_method": {"forkserver": {"preload_modules": ["dagster"]}},
        }
    ),
)
def backfill() -> None:
    """Read every slice of every workspace, then hand over to the daily runs."""
    prepared = prepare()
    parts = cut(START, END, SLICES)
    for extractor in EXTRACTORS:
        read = [reader(extractor, part)(prepared) for part in parts]
        hand_over(extractor, parts[-1])(read)
