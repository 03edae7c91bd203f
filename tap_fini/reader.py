"""Windows read side by side, handed out in order, each proven complete."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from tap_fini.pagination import Page, UntrustedPagingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tap_fini.windows import Plan, Window

AHEAD = 48 * 1024 * 1024
"""Bytes of pages of later windows that may wait in memory for their turn."""


class IncompleteError(Exception):
    """A window can be neither read to its end nor split any further."""

    def __init__(self, window: Window) -> None:
        """Keep the window, which is one millisecond wide."""
        super().__init__(str(window))
        self.window = window


class _StoppedError(Exception):
    """The run ended while a worker was at work."""


@dataclass(slots=True)
class _Slot:
    """A window in work, with those of its pages that have not been handed out."""

    window: Window
    pages: deque[Page] = field(default_factory=deque)
    page_count: int = 0
    in_vain: int = 0
    """Pages of readings that broke off: they come again, and count once for the density."""

    done: bool = False
    error: BaseException | None = None


class Fetch(Protocol):
    """Yields the pages of one window."""

    def __call__(self, window: Window, *, other_size: bool = False) -> Iterator[Page]:
        """Yield the pages, in a worker thread.

        Args:
            window: The window.
            other_size: Whether to ask for pages of another size than usual.

        Raises:
            UntrustedPagingError: If the pages cannot be shown to be complete.
        """


class WindowReader:
    """Reads the windows of a plan with a few worker threads.

    However many windows are being read, their pages come out in the order of time. A
    worker that is ahead of its turn waits when too much is in memory; the one whose turn it
    is always has room for a page.
    """

    def __init__(self, plan: Plan, fetch: Fetch, *, workers: int) -> None:
        """Prepare to read.

        Args:
            plan: The windows. Only this reader may use the plan from now on.
            fetch: Yields the pages of one window.
            workers: The number of threads.
        """
        self.splits = 0
        """Windows that had to be cut in two because their paging could not be trusted."""

        self._plan = plan
        self._fetch = fetch
        self._workers = workers
        self._change = threading.Condition()
        self._slots: dict[int, _Slot] = {}  # by the start of their windows
        self._turn = plan.start
        self._waiting_bytes = 0
        self._stopped = False

    def extend(self, end: int) -> None:
        """Read on to a later instant."""
        with self._change:
            self._plan.extend(end)
            self._change.notify_all()

    def read(self) -> Iterator[tuple[Window, Page | None]]:
        """Yield each window's pages, then the window with ``None``, in the order of time.

        Raises:
            IncompleteError: If a window cannot be proven complete.
            Exception: Whatever ``fetch`` raised, when its window's turn has come.
        """
        threads = [
            threading.Thread(target=self._work, name=f"window-reader-{n}", daemon=True)
            for n in range(self._workers)
        ]
        for thread in threads:
            thread.start()
        try:
            while self._turn < self._plan.end:
                yield from self._hand_out(self._slot_of_turn())
        finally:
            with self._change:
                self._stopped = True
                self._change.notify_all()

    def _slot_of_turn(self) -> _Slot:
        with self._change:
            self._change.wait_for(lambda: self._turn in self._slots)
            return self._slots[self._turn]

    def _hand_out(self, slot: _Slot) -> Iterator[tuple[Window, Page | None]]:
        while True:
            with self._change:
                self._change.wait_for(lambda: slot.pages or slot.done)
                if not slot.pages:
                    break
                page = slot.pages.popleft()
                was_full = self._waiting_bytes >= AHEAD
                self._waiting_bytes -= page.size
                if was_full or not slot.pages:  # else nobody waits for that
                    self._change.notify_all()
            yield slot.window, page
        if slot.error is not None:
            raise slot.error
        yield slot.window, None
        with self._change:
            del self._slots[slot.window.start]
            self._turn = slot.window.end
            self._change.notify_all()

    def _work(self) -> None:
        while (slot := self._take()) is not None:
            try:
                self._read_window(slot)
            except _StoppedError:
                return
            except BaseException as error:  # noqa: BLE001 - it is raised again in its turn
                slot.error = error
            with self._change:
                slot.done = True
                if slot.error is None:
                    self._plan.learn(slot.window, slot.page_count - slot.in_vain)
                self._change.notify_all()

    def _take(self) -> _Slot | None:
        """Take the oldest window that is free, once there is memory for it."""
        with self._change:
            while not self._stopped:
                start = self._plan.next_start
                failed = [at for at, slot in self._slots.items() if slot.error is not None]
                if start is not None and failed and start > min(failed):
                    start = None  # the run is going to end at the failure: this would be in vain
                if start is not None and (start == self._turn or self._waiting_bytes < AHEAD):
                    window = self._plan.take()
                    slot = self._slots[start] = _Slot(window)
                    self._change.notify_all()
                    return slot
                self._change.wait()
        return None

    def _read_window(self, slot: _Slot) -> None:
        todo = [slot.window]
        while todo:
            window = todo.pop()
            before = slot.page_count
            try:
                for page in self._fetch(window):
                    if not slot.page_count and self._narrow(slot, page):
                        todo = [slot.window]
                        break
                    self._put(slot, page)
            except UntrustedPagingError:
                slot.in_vain += slot.page_count - before
                if window.width == 1:
                    self._read_millisecond(slot, window)
                    continue
                with self._change:
                    self.splits += 1
                todo += reversed(window.halves())

    def _read_millisecond(self, slot: _Slot, window: Window) -> None:
        """Read what cannot be split, in pages of another size.

        Where ``hasMore`` only says that a page was full, a millisecond that fills its page
        exactly promises more than there is. With another size it does not.
        """
        try:
            for page in self._fetch(window, other_size=True):
                self._put(slot, page)
        except UntrustedPagingError as error:
            raise IncompleteError(window) from error

    def _narrow(self, slot: _Slot, page: Page) -> bool:
        """Give a part of a window back if its first page shows that it holds too much."""
        if not page.has_more:
            return False
        with self._change:
            older = self._plan.narrow(slot.window, (page.created, page.updated))
            if older is None:
                return False
            slot.window = older
            self._change.notify_all()
        return True

    def _put(self, slot: _Slot, page: Page) -> None:
        with self._change:
            self._change.wait_for(
                lambda: (
                    self._stopped
                    or self._waiting_bytes < AHEAD
                    or (slot.window.start == self._turn and not slot.pages)
                )
            )
            if self._stopped:
                raise _StoppedError
            slot.pages.append(page)
            slot.page_count += 1
            self._waiting_bytes += page.size
            self._change.notify_all()
