"""One reading of an export: what has been seen, and what follows from it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from tap_fini.client import FiniError
from tap_fini.records import MAX_ID, UnusableIdError
from tap_fini.windows import to_text

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable

    from tap_fini.pagination import Page
    from tap_fini.progress import Progress
    from tap_fini.records import FamilyMaker, Shape
    from tap_fini.typed import TypedDecoder
    from tap_fini.windows import Window

CLOCK_PRECISION = 2_000
"""Milliseconds of difference between two clocks that the Date header, in seconds, can show."""

CLOCK_TOLERANCE = 60_000
"""Milliseconds by which Fini's clock and this machine's may differ without a word."""

Family: TypeAlias = tuple[Any, list[Any]]
"""A record's row, and its children: typed rows with a typed row, else still raw."""


def decoded(page: Page, logger: logging.Logger) -> list[dict[str, Any]]:
    """Decode a page's records.

    Args:
        page: The page.
        logger: Where to say what had to be replaced for that.

    Raises:
        FiniError: If they cannot be decoded.
    """
    try:
        records, replaced = page.records()
    except msgspec.DecodeError:
        message = (
            f"A record on the page that starts with {page.ids[:1]!a} is broken: report it to "
            "Fini, or read around it with 'start_date' and 'end_date'."
        )
        raise FiniError(message) from None
    if replaced:
        logger.warning(
            "Replaced %d characters that databases refuse (NUL, halves of surrogate pairs, "
            "broken UTF-8) by U+FFFD, or values nested too deeply by texts of their JSON",
            replaced,
        )
    return records


@dataclass(frozen=True, slots=True)
class PageDecoder:
    """Decodes pages to rows: quickly where they hold no surprise, else with care."""

    shape: Shape
    """The names of the fields that matter."""

    maker: FamilyMaker
    """Makes rows of whatever a page holds."""

    typed: TypedDecoder | None
    """Tried first; ``None`` if the SDK has to see the rows, for it takes dicts only."""

    logger: logging.Logger
    """Where to say what had to be replaced."""

    def families(self, window: Window, page: Page) -> Iterable[Family]:
        """Yield the rows of a page.

        Raises:
            FiniError: If a record cannot be loaded by any target.
        """
        if self.typed and not page.replaced:
            families = self.typed.decode(bytes(page.content))
            if families is not None:
                yield from families
                return
        for raw in decoded(page, self.logger):
            try:
                row, children = self.maker.parent_row(raw, window.start)
            except UnusableIdError:
                message = (
                    f"Fini returned a record without a usable '{self.shape.id}' (a whole number, "
                    f"or a text of up to {MAX_ID} characters) in the window {window}: no target "
                    "could load it; report it to Fini, or read around it with 'start_date' and "
                    "'end_date'."
                )
                raise FiniError(message) from None
            yield row, children


class Run:
    """Turns pages into rows, each conversation once, and knows how far the bookmark may go."""

    def __init__(
        self,
        shape: Shape,
        decoder: PageDecoder,
        progress: Progress,
        logger: logging.Logger,
        *,
        extend: Callable[[int], None] | None,
    ) -> None:
        """Have seen nothing so far.

        Args:
            shape: The names of the fields that matter here.
            decoder: Makes rows of pages.
            progress: Counts them.
            logger: Where to say what the records prove.
            extend: Reads on to a later instant; ``None`` if the end was asked for.
        """
        self._shape = shape
        self._decoder = decoder
        self._progress = progress
        self._logger = logger
        self._extend = extend
        self._latest = ""
        self._seen: dict[str, str] = {}
        self._seen_before: dict[str, str] = {}
        self._served_at: int | None = None
        self.selects_by_change: bool | None = None
        """Whether Fini selects by the time of the last change; ``None`` while nobody knows."""

    def families(self, window: Window, page: Page) -> list[Family]:
        """Return a page's rows, each with its children.

        Left out are those that this window or the one before it has brought already:
        neighbouring queries overlap, and a split window is read twice. A newer version of
        a record is not the same record.

        Raises:
            FiniError: If a record cannot be loaded by any target.
        """
        if self._served_at is None and page.served_at is not None:
            self._served_at = page.served_at
            self._compare_clocks(page.served_at)
        self._progress.pages += 1
        shape, families = self._shape, []
        for row, children in self._decoder.families(window, page):
            key, updated = row[shape.id], row[shape.replication_key]
            known = self._seen.get(key) or self._seen_before.get(key, "")
            if known >= updated:
                self._progress.duplicates += 1
                continue
            self._seen[key] = updated
            self._latest = max(self._latest, updated)
            if self.selects_by_change is None:
                self._look_for_proof(window, row)
            self._progress.parent_count += 1
            families.append((row, children))
        return families

    def finish(self, window: Window) -> str | None:
        """Close a window.

        Returns:
            How far the bookmark may go, as the records write their times: the latest
            change seen, but not past the window, for later windows may hold earlier
            changes, nor past what Fini's clock showed when the run began, for later changes
            may have been missed. ``None`` if nothing has been seen.
        """
        self._seen_before, self._seen = self._seen, {}
        self._progress.finish_window(window)
        cap = window.end if self._served_at is None else min(window.end, self._served_at)
        return min(self._latest, to_text(cap)) or None

    def _compare_clocks(self, served_at: int) -> None:
        if self._extend is None:
            return
        behind = served_at - int(time.time() * 1000)
        if abs(behind) > CLOCK_TOLERANCE:
            self._logger.warning(
                "This machine's clock is %d s %s Fini's; the run goes by Fini's",
                abs(behind) // 1000,
                "behind" if behind > 0 else "ahead of",
            )
        if served_at - self._progress.plan.end > CLOCK_PRECISION:
            self._extend(served_at)

    def _look_for_proof(self, window: Window, row: Any) -> None:
        """Say, once a record proves it, by which time Fini selects."""
        start, end = window.query
        created = row[self._shape.created]
        by_events = self._shape.updated is None
        if created is not None and created < to_text(start):
            self.selects_by_change = True
            self._logger.info(
                "Fini selects by the time of the latest event: every new event is found, and "
                "'lookback_days' may be lowered if changes of old events do not matter"
                if by_events
                else "Fini selects by the time of the last change: every change is found, and "
                "'lookback_days' may be lowered"
            )
        elif row[self._shape.replication_key] > to_text(end):
            self.selects_by_change = False
            self._logger.info(
                "Fini selects by the time of creation: a change is found if it comes within "
                "'lookback_days' after creation; to get later ones, raise that setting"
            )
