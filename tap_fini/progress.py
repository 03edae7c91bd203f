"""What a run tells its user: a start line, a line a window, an end line."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from singer_sdk import metrics

from tap_fini.windows import to_text

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tap_fini.client import Connection
    from tap_fini.windows import Plan, Window

_MINUTE = 60


class QuietCounter(metrics.Counter):
    """A counter that serves many short syncs and says its number once, at the end."""

    @override
    def exit(self) -> None:
        """Go on counting."""

    @override
    def with_context(self, value: Mapping[str, object] | None) -> None:
        """Stay one metric, whatever the context."""

    def report(self) -> None:
        """Log the metric."""
        metrics.log(self.logger, metrics.Point("counter", self.metric, self.value, self.tags))


class QuietTimer(metrics.Timer):
    """A timer for one of many short syncs, none of them worth a line."""

    @override
    def __exit__(self, *exc: object) -> None:
        """Log nothing."""


class SdkChatter(logging.Filter):
    """Keeps out of the log what the SDK says at each sync of a child stream.

    The children of one page are one sync, so a history has thousands. The line about an
    unhandled error goes too: errors end in one sentence of the tap's own.
    """

    _ONCE = ("Beginning sync of ",)
    _NEVER = ("An unhandled error occurred while syncing ",)

    def __init__(self) -> None:
        """Have heard nothing so far."""
        super().__init__()
        self._heard: set[str] = set()

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)
        if text.startswith(self._NEVER) or text in self._heard:
            return False
        if text.startswith(self._ONCE):
            self._heard.add(text)
        return True


def silence(logger: logging.Logger) -> None:
    """Spare a stream's log the SDK's chatter."""
    for known in [known for known in logger.filters if isinstance(known, SdkChatter)]:
        logger.removeFilter(known)
    logger.addFilter(SdkChatter())


class FieldWarnings:
    """Warns of a stream's odd fields: once of each."""

    def __init__(self, logger: logging.Logger, stream: str) -> None:
        """Have warned of nothing so far.

        Args:
            logger: Where to warn.
            stream: The stream's name.
        """
        self._logger = logger
        self._stream = stream
        self._told: set[tuple[str, str]] = set()

    def __call__(self, field: str, problem: str) -> None:
        """Warn of a field, unless that has been done."""
        if (field, problem) in self._told:
            return
        self._told.add((field, problem))
        self._logger.warning(
            "Field %a of '%s' %s; the record is complete all the same, see its 'extra'",
            field[:64],
            self._stream,
            problem,
        )


@dataclass(slots=True)
class Progress:
    """The counts of a run, and the lines made of them."""

    logger: logging.Logger
    plan: Plan
    parents: str
    """What the parent records are called, in the plural."""

    children: str
    parent_count: int = 0
    child_count: int = 0
    duplicates: int = 0
    windows: int = 0
    pages: int = 0
    _began: float = field(default_factory=time.monotonic)
    _before: tuple[int, int, int] = (0, 0, 0)

    def start(self, streams: Sequence[str], filters: Mapping[str, str]) -> None:
        """Say what is going to be read."""
        self.logger.info(
            "Reading %s from %s to %s in %d windows or more, filters: %s",
            " and ".join(streams),
            to_text(self.plan.start),
            to_text(self.plan.end),
            len(self.plan),
            ", ".join(filters) or "none",
        )

    def finish_window(self, window: Window) -> None:
        """Say what a window held, and how far the run has come."""
        self.windows += 1
        parents, children, pages = self._before
        self._before = self.parent_count, self.child_count, self.pages
        share = (window.end - self.plan.start) / max(1, self.plan.end - self.plan.start)
        elapsed = time.monotonic() - self._began
        self.logger.info(
            "%s: %d %s, %d %s, %d pages; %.0f %% done, about %s left",
            window,
            self.parent_count - parents,
            self.parents,
            self.child_count - children,
            self.children,
            self.pages - pages,
            100 * share,
            _duration(elapsed / share - elapsed),
        )

    def end(self, connection: Connection, splits: int) -> None:
        """Say what the whole run came to."""
        self.logger.info(
            "Read %d %s and %d %s in %s: %d windows, %d requests, %d retries, %.0f s waited for "
            "the throttle, %d splits, %d duplicates dropped",
            self.parent_count,
            self.parents,
            self.child_count,
            self.children,
            _duration(time.monotonic() - self._began),
            self.windows,
            connection.traffic.requests,
            connection.traffic.retries,
            connection.throttle.waited,
            splits,
            self.duplicates,
        )


def _duration(seconds: float) -> str:
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    minutes = seconds / _MINUTE
    return f"{minutes:.0f} min" if minutes < 2 * _MINUTE else f"{minutes / _MINUTE:.1f} h"
