"""Time arithmetic: instants, windows, and the plan of windows to read.

Nothing here knows HTTP or Singer. An instant is an integer: epoch milliseconds, UTC.
"""

from __future__ import annotations

import functools
import heapq
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

DAY = 86_400_000
"""Milliseconds in a day."""

MAX_SPAN = 90 * DAY
"""The widest span that one request may ask for (Fini's newer reference: wider is a 400)."""

PAGES_PER_WINDOW = 50
"""The size of window that a plan aims at: wide enough that its overhead (a STATE, a page
cut off at its edge) is small, narrow enough that several fit in memory."""

FEWEST_PAGES = 6
"""The size below which no window is cut so that each worker gets a share: each edge costs half
a page."""

_DEEPEST_CUT = 16
"""A guess at how much a window holds cuts it into this many parts at most."""

_NARROWEST = DAY // 96
"""A plan does not narrow its windows below a quarter of an hour for density's sake."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)
_EARLIEST_INSTANT = -62_135_596_800_000
_MINUTES = tuple(f"T{minute // 60:02d}:{minute % 60:02d}:" for minute in range(24 * 60))
_SECONDS = tuple(f"{second:02d}." for second in range(60))
_MILLISECONDS = tuple(f"{millisecond:03d}Z" for millisecond in range(1000))
_FIRST_INSTANT = 10**11
_LAST_INSTANT = 253_402_300_799_999
_FRACTION = re.compile(r"\.(\d{1,9})")


def to_text(instant: int) -> str:
    """Write an instant as RFC 3339 in UTC, always 24 characters wide.

    The fixed width makes the order of two texts the order of their instants, which is how
    bookmarks are compared.
    """
    # Each record has several times, and a history few days: all parts are looked up.
    second, millisecond = divmod(instant, 1000)
    day, second = divmod(second, 86_400)
    return (
        f"{_date(day)}{_MINUTES[second // 60]}{_SECONDS[second % 60]}{_MILLISECONDS[millisecond]}"
    )


@functools.lru_cache(maxsize=4096)
def _date(day: int) -> str:
    return (_EPOCH + timedelta(days=day)).date().isoformat()


def to_instant(value: object) -> int | None:
    """Read an instant from epoch milliseconds or from an ISO 8601 text.

    A text without a zone is UTC. Fractions of a millisecond are cut off.

    Returns:
        Epoch milliseconds; ``None`` for anything else, and for a number that cannot be
        epoch milliseconds of this age (before March 1973, as epoch *seconds* are, or after
        the year 9999).
    """
    if type(value) is int:  # nearly always
        return value if _FIRST_INSTANT <= value <= _LAST_INSTANT else None
    if isinstance(value, str):
        return _parse(value)
    if isinstance(value, float) and _FIRST_INSTANT <= value <= _LAST_INSTANT:  # NaN is not
        return int(value)
    return None


def _parse(text: str) -> int | None:
    # Python 3.10 reads neither "Z" nor fractions of other than 3 or 6 digits.
    text = _FRACTION.sub(lambda found: "." + found[1].ljust(6, "0")[:6], text.strip(), count=1)
    if text[-1:] in {"Z", "z"}:
        text = text[:-1] + "+00:00"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    # Near the ends of the calendar, the zone can carry a time out of what UTC can write.
    instant = (moment - _EPOCH) // _MILLISECOND
    return instant if _EARLIEST_INSTANT <= instant <= _LAST_INSTANT else None


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """The span of time from ``start`` (included) to ``end`` (excluded)."""

    start: int
    end: int

    @property
    def width(self) -> int:
        """The width in milliseconds."""
        return self.end - self.start

    @property
    def query(self) -> tuple[int, int]:
        """The two ends to ask for: each one millisecond past the window.

        Fini does not say whether its ends are inclusive. These find every instant of the
        window even when both are exclusive.
        """
        return max(0, self.start - 1), self.end

    def halves(self) -> tuple[Window, Window]:
        """The window cut at its middle.

        Raises:
            ValueError: If it is one millisecond wide.
        """
        if self.width <= 1:
            msg = "A window of one millisecond cannot be split"
            raise ValueError(msg)
        middle = self.start + self.width // 2
        return Window(self.start, middle), Window(middle, self.end)

    def __str__(self) -> str:
        """The window as it stands in log lines."""
        return f"{to_text(self.start)} to {to_text(self.end)}"


class Plan:
    """The windows of one run, oldest first, cut as they are taken.

    Their width follows the history: as wide as allowed where it is sparse, about
    :data:`PAGES_PER_WINDOW` pages where it is dense, and less towards the end, where
    workers would otherwise run out of windows while one still reads.
    """

    def __init__(self, start: int, end: int, *, max_width: int, workers: int = 1) -> None:
        """Plan the span from ``start`` (included) to ``end`` (excluded).

        Args:
            start: Epoch milliseconds.
            end: Epoch milliseconds. Not after ``start`` means an empty plan.
            max_width: The widest window, in milliseconds.
            workers: How many windows are read at once.
        """
        self.start = start
        self.end = max(start, end)
        # The query of a window is a millisecond wider than the window itself.
        self._max_width = max(1, min(max_width, MAX_SPAN - 1))
        self._workers = workers
        self._density = 0.0  # pages in a millisecond, as far as is known
        self._probe = (-MAX_SPAN, 0.0)  # the latest instant and the density of a dense first page
        self._burst = PAGES_PER_WINDOW  # pages to cut off the end of a burst
        self._frontier = start
        self._returned: list[Window] = []

    @property
    def next_start(self) -> int | None:
        """Where the next window to be taken starts; ``None`` when there is none."""
        if self._returned:
            return self._returned[0].start
        return self._frontier if self._frontier < self.end else None

    def take(self) -> Window:
        """Take the oldest window that nobody has taken yet.

        Raises:
            IndexError: If there is none; see :attr:`next_start`.
        """
        if self._returned:
            piece = heapq.heappop(self._returned)
            window = self._cut(piece, deepest=_DEEPEST_CUT)
            if window.end < piece.end:
                heapq.heappush(self._returned, Window(window.end, piece.end))
            return window
        if self._frontier >= self.end:
            msg = "All windows have been taken"
            raise IndexError(msg)
        window = self._cut(Window(self._frontier, self.end))
        self._frontier = window.end
        return window

    def narrow(self, window: Window, times: Sequence[Sequence[object]]) -> Window | None:
        """Give a part of a taken window back if its first page shows that it holds too much.

        How close together a page's rows lie is but a guess at how much the window holds, for
        the page may be part of a burst. So a window is halved first, and cut to size only
        when a page from another place confirms the guess.

        Args:
            window: The window.
            times: The page's times, one sequence of values for each time field. Only rows
                in order of a time that lies in the window tell how close together they are.

        Returns:
            The older part, which is kept; ``None`` if the window is best read as it is.
        """
        ends = [pair for values in times if (pair := _ends(window, values)) is not None]
        if not ends or window.width < 2 * _NARROWEST:
            return None
        first, last = max(ends, key=lambda pair: abs(pair[1] - pair[0]))
        density = 1 / (abs(last - first) + 1)
        if density * window.width <= PAGES_PER_WINDOW * 3 / 2:
            return None
        (place, known), self._probe = self._probe, (first, density)
        distance = abs(first - place)
        middle = window.start + window.width // 2
        if distance < window.width // 4 and first != last:
            # About the same page as before, so what lay between was of another kind. It is a
            # burst: it is cut off, with as many pages as belong into a window, or else with
            # twice as many as the last time.
            edge = first + self._burst * (last - first)
            edge = max(edge, middle) if last < first else min(edge, middle)
            self._burst *= 2
        else:
            self._burst = PAGES_PER_WINDOW
            edge = middle
            if distance < window.width * 5 // 4 and density / 2 < known < density * 2:
                # It is as dense elsewhere in the same stretch.
                self._density = density
                edge = self._cut(window, deepest=_DEEPEST_CUT).end
        if (first - middle) * (last - first) > 0:  # the half before the first row is empty
            edge = first + (last < first)
        heapq.heappush(self._returned, Window(edge, window.end))
        return Window(window.start, edge)

    def learn(self, window: Window, pages: int) -> None:
        """Set the width of the windows to come from what one window held."""
        # A single page says no more than that windows may be far wider.
        self._density = (pages if pages > 1 else 1 / PAGES_PER_WINDOW) / window.width

    def _cut(self, piece: Window, *, deepest: int | None = None) -> Window:
        width = self._width(piece.width)
        if deepest is not None:
            width = max(width, piece.width // deepest)
        return Window(piece.start, min(piece.end, piece.start + width))

    def _width(self, left: int) -> int:
        """Return the best width of a window at the start of so many milliseconds."""
        if not self._density:
            return self._max_width
        share = left * self._density / self._workers
        pages = min(PAGES_PER_WINDOW, max(FEWEST_PAGES, share))
        return max(
            min(_NARROWEST, self._max_width), min(int(pages / self._density), self._max_width)
        )

    def extend(self, end: int) -> None:
        """Move the plan's end to a later instant."""
        self.end = max(self.end, end)

    def __len__(self) -> int:
        """The number of windows still to take at the present width."""
        spans = [piece.width for piece in self._returned] + [self.end - self._frontier]
        return sum(-(-span // self._width(span)) for span in spans)


def _ends(window: Window, values: Sequence[object]) -> tuple[int, int] | None:
    """Return the first and the last of instants in order, ``None`` for others."""
    start, end = window.query
    instants = [value for value in values if type(value) is int and start <= value <= end]
    if len(instants) < len(values) or len(instants) < 2:  # noqa: PLR2004
        return None
    if instants not in (sorted(instants), sorted(instants, reverse=True)):
        return None
    return instants[0], instants[-1]
