"""The reader: order, proof, memory, failure, whatever its threads do."""

from __future__ import annotations

import json
import random
import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tap_fini import reader as reader_module
from tap_fini.pagination import ExportPage, Page, UntrustedPagingError
from tap_fini.reader import IncompleteError, WindowReader
from tap_fini.streams import CHAT_HISTORY
from tap_fini.windows import DAY, Plan, Window

if TYPE_CHECKING:
    from collections.abc import Iterator

FORM = ExportPage(("c",), CHAT_HISTORY.shape)


def page(instants: list[int], *, has_more: bool, padding: int = 0) -> Page:
    rows = [
        {"id": str(at), "createdAt": at, "updatedAt": at, "x": "x" * padding} for at in instants
    ]
    return FORM.parse(json.dumps({"c": rows, "hasMore": has_more}).encode())


def pages_of(instants: list[int], window: Window, size: int, *, padding: int = 0) -> Iterator[Page]:
    found = sorted((at for at in instants if window.start <= at < window.end), reverse=True)
    for place in range(0, max(1, len(found)), size):
        more = place + size < len(found)
        yield page(found[place : place + size], has_more=more, padding=padding)


def collect(reader: WindowReader) -> tuple[list[Window], list[list[str]]]:
    windows, ids = [], [[]]  # type: ignore[var-annotated]
    for window, found in reader.read():
        if found is None:
            windows.append(window)
            ids.append([])
        else:
            ids[-1] += found.ids
    assert ids.pop() == []
    return windows, ids


@given(
    instants=st.lists(st.integers(0, 400 * DAY), unique=True, max_size=300),
    workers=st.integers(1, 6),
    size=st.integers(1, 20),
    trust=st.sampled_from(["always", "never", "at random"]),
    seed=st.integers(0, 100),
)
@settings(deadline=None, max_examples=60)
def test_everything_comes_out_in_the_order_of_windows(
    instants: list[int], workers: int, size: int, trust: str, seed: int
) -> None:
    chance = random.Random(seed)

    def fetch(window: Window, *, other_size: bool = False) -> Iterator[Page]:  # noqa: ARG001
        for found in pages_of(instants, window, size):
            yield found
            if found.has_more and (
                trust == "never" or (trust != "always" and chance.random() < 0.5)
            ):
                raise UntrustedPagingError

    plan = Plan(0, 401 * DAY, max_width=30 * DAY)
    windows, ids = collect(WindowReader(plan, fetch, workers=workers))
    assert [w.start for w in windows] == [0, *[w.end for w in windows[:-1]]]
    assert windows[-1].end == 401 * DAY
    for window, found in zip(windows, ids, strict=True):
        assert {int(key) for key in found} == {
            at for at in instants if window.start <= at < window.end
        }


def _nothing(window: Window, *, other_size: bool = False) -> Iterator[Page]:  # noqa: ARG001
    return iter(())


def test_an_empty_plan() -> None:
    reader = WindowReader(Plan(5, 5, max_width=DAY), _nothing, workers=2)
    assert list(reader.read()) == []


def test_a_failure_comes_out_in_its_turn() -> None:
    """What is older has been handed out before; what is younger is not even begun for long."""
    begun = []

    def fetch(window: Window, *, other_size: bool = False) -> Iterator[Page]:  # noqa: ARG001
        begun.append(window.start // DAY)
        if window.start == 30 * DAY:
            message = "in its turn"
            raise ValueError(message)
        yield from pages_of([window.start], window, 5)

    finished: list[int] = []
    reader = WindowReader(Plan(0, 1000 * DAY, max_width=10 * DAY), fetch, workers=4)

    def hand_out() -> None:
        for window, found in reader.read():
            if found is None:
                finished.append(window.start // DAY)

    with pytest.raises(ValueError, match="in its turn"):
        hand_out()
    assert finished == [0, 10, 20]
    assert len(begun) < 12


def test_what_cannot_be_split_further() -> None:
    def fetch(window: Window, *, other_size: bool = False) -> Iterator[Page]:  # noqa: ARG001
        yield page([window.start], has_more=True)
        raise UntrustedPagingError

    reader = WindowReader(Plan(0, 4, max_width=DAY), fetch, workers=2)
    with pytest.raises(IncompleteError) as error:
        list(reader.read())
    assert error.value.window == Window(0, 1)
    assert reader.splits == 2


def test_dense_windows_become_narrow() -> None:
    instants = list(range(0, 30 * DAY, 40_000))  # 64,800 in a month: 1,296 pages of 50
    requests = 0

    def fetch(window: Window, *, other_size: bool = False) -> Iterator[Page]:  # noqa: ARG001
        nonlocal requests
        for found in pages_of(instants, window, 50):
            requests += 1
            yield found

    windows, ids = collect(WindowReader(Plan(0, 30 * DAY, max_width=30 * DAY), fetch, workers=4))
    assert sorted(int(key) for found in ids for key in found) == instants
    assert max(len(found) for found in ids) <= 76 * 50
    assert requests <= len(instants) / 50 * 1.05 + len(windows)


@pytest.mark.parametrize("workers", [1, 4])
def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """However slow whoever takes the pages is, and however large the window."""
    monkeypatch.setattr(reader_module, "AHEAD", 50_000)
    instants = list(range(0, 40 * DAY, DAY // 100))
    lock, waiting, most, largest = threading.Lock(), 0, 0, 0

    def fetch(window: Window, *, other_size: bool = False) -> Iterator[Page]:  # noqa: ARG001
        nonlocal waiting, most, largest
        for found in pages_of(instants, window, 10, padding=100):
            with lock:
                waiting += found.size
                most, largest = max(most, waiting), max(largest, found.size)
            try:
                yield found
            except GeneratorExit:  # a first page that is thrown away, for it narrows its window
                with lock:
                    waiting -= found.size
                raise

    reader = WindowReader(Plan(0, 40 * DAY, max_width=10 * DAY), fetch, workers=workers)
    total = 0
    for _, found in reader.read():
        if found is not None:
            time.sleep(0.0002)
            total += len(found.ids)
            with lock:
                waiting -= found.size
    assert total == len(instants)
    # Beyond the limit: a page in the hands of each worker, one that tips the balance, one for
    # the window whose turn it is, one handed out and one put in its place.
    assert most <= 50_000 + (workers + 4) * largest


def test_pages_that_were_read_in_vain_say_nothing_of_the_density() -> None:
    instants = [n * DAY * 20 // 15 for n in range(75)]
    failures = {Window(60 * DAY, 80 * DAY), Window(60 * DAY, 70 * DAY)}

    def fetch(window: Window, *, other_size: bool = False) -> Iterator[Page]:  # noqa: ARG001
        yield from pages_of(instants, window, 5)
        if window in failures:
            failures.remove(window)
            raise UntrustedPagingError

    reader = WindowReader(Plan(0, 100 * DAY, max_width=20 * DAY, workers=4), fetch, workers=1)
    windows, _ = collect(reader)
    assert (failures, reader.splits) == (set(), 2)
    assert windows == [Window(start * DAY, (start + 20) * DAY) for start in range(0, 100, 20)]


def threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("window-reader")}


@pytest.mark.parametrize("leave", ["early", "at the end"])
def test_no_thread_is_left_behind(leave: str) -> None:
    def fetch(window: Window, *, other_size: bool = False) -> Iterator[Page]:  # noqa: ARG001
        yield from pages_of([window.start], window, 5)

    before = threads()  # of other tests, whose runs ended in the middle of a request
    reader = WindowReader(Plan(0, 300 * DAY, max_width=DAY), fetch, workers=4)
    pages = reader.read()
    next(pages)
    started = threads() - before
    assert len(started) == 4
    if leave == "early":
        pages.close()  # type: ignore[attr-defined]
    else:
        list(pages)
    for thread in started:
        thread.join(5)
    assert not any(thread.is_alive() for thread in started)


def test_a_plan_that_grows_while_it_is_read() -> None:
    reader = WindowReader(
        Plan(0, DAY, max_width=DAY),
        lambda window, **_: pages_of([window.start], window, 5),
        workers=2,
    )
    windows = []
    for window, found in reader.read():
        if found is None:
            windows.append(window)
            if len(windows) == 1:
                reader.extend(3 * DAY)
    assert [w.end // DAY for w in windows] == [1, 2, 3]


@pytest.mark.parametrize("trusted", [True, False])
def test_a_millisecond_that_fills_its_page_exactly(trusted: bool) -> None:  # noqa: FBT001
    asked = []

    def fetch(window: Window, *, other_size: bool = False) -> Iterator[Page]:
        asked.append((window.width, other_size))
        yield page([window.start], has_more=True)
        if not (other_size and trusted):
            raise UntrustedPagingError

    reader = WindowReader(Plan(0, 1, max_width=DAY), fetch, workers=1)
    if trusted:
        assert len(list(reader.read())) == 3
    else:
        with pytest.raises(IncompleteError):
            list(reader.read())
    assert asked == [(1, False), (1, True)]
