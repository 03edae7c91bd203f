"""Time arithmetic: instants, windows, plans."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tap_fini.windows import DAY, MAX_SPAN, Plan, Window, to_instant, to_text

INSTANTS = st.integers(min_value=10**11, max_value=253_402_300_799_999)


@given(INSTANTS)
def test_text_and_back(instant: int) -> None:
    assert to_instant(to_text(instant)) == instant


@given(INSTANTS, INSTANTS)
def test_order_of_texts_is_order_of_instants(one: int, other: int) -> None:
    assert (to_text(one) < to_text(other)) == (one < other)
    assert len(to_text(one)) == 24


@given(st.datetimes(min_value=datetime(1974, 1, 1)))  # noqa: DTZ001 - Hypothesis wants it so
def test_texts_are_what_the_standard_library_says(moment: datetime) -> None:
    moment = moment.replace(tzinfo=timezone.utc, microsecond=moment.microsecond // 1000 * 1000)
    instant = (moment - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds() * 1000
    assert to_text(round(instant)) == moment.isoformat(timespec="milliseconds").replace(
        "+00:00", "Z"
    )


@pytest.mark.parametrize(
    ("value", "instant"),
    [
        (1740407178879, 1740407178879),
        (1740407178879.9, 1740407178879),
        ("2025-02-24T14:26:18.879Z", 1740407178879),
        ("2025-02-24T14:26:18.879+00:00", 1740407178879),
        ("2025-02-24T15:26:18.879123456+01:00", 1740407178879),
        ("2025-02-24T14:26:18.8z", 1740407178800),
        ("2025-02-24 14:26:18", 1740407178000),
        (" 2025-02-24 ", 1740355200000),
        (1740407178, None),  # seconds
        (-1740407178879, None),
        (0, None),
        (253_402_300_800_000, None),  # the year 10000
        (float("nan"), None),
        (float("inf"), None),
        (True, None),
        (None, None),
        ("", None),
        ("yesterday", None),
        ("1740407178879", None),
        ([], None),
        ({}, None),
    ],
)
def test_what_can_be_read_as_an_instant(value: object, instant: int | None) -> None:
    assert to_instant(value) == instant


@given(st.text() | st.integers() | st.floats() | st.none())
def test_nothing_breaks_it(value: object) -> None:
    instant = to_instant(value)
    assert instant is None or isinstance(instant, int)


def test_a_query_reaches_a_millisecond_past_its_window() -> None:
    assert Window(1000, 2000).query == (999, 2000)
    assert Window(0, 2000).query == (0, 2000)


@given(st.integers(0, 10**13), st.integers(2, 10**10))
def test_halves_make_the_whole(start: int, width: int) -> None:
    window = Window(start, start + width)
    older, younger = window.halves()
    assert (older.start, older.end, younger.end) == (window.start, younger.start, window.end)
    assert older.width >= 1
    assert younger.width >= 1


def test_a_millisecond_has_no_halves() -> None:
    with pytest.raises(ValueError, match="one millisecond"):
        Window(5, 6).halves()


@given(
    start=st.integers(0, 2 * 10**12),
    length=st.integers(-5, 10**11),
    max_width=st.integers(DAY, 200 * DAY),
    pages=st.lists(st.integers(0, 10_000), max_size=200),
    narrow=st.lists(st.integers(0, 10**6), max_size=200),
    workers=st.integers(1, 16),
)
def test_windows_cover_the_plan_without_gap_or_overlap(  # noqa: PLR0917
    start: int, length: int, max_width: int, pages: list[int], narrow: list[int], workers: int
) -> None:
    plan = Plan(start, start + length, max_width=max_width, workers=workers)
    taken: list[Window] = []
    while plan.next_start is not None and len(taken) < 1000:
        expected = plan.next_start
        window = plan.take()
        assert window.start == expected
        if narrow and (step := narrow.pop()):
            first = window.start - 1 + (step * 7919) % (window.width + 2)
            older = plan.narrow(window, ([first + n * (step - 5 * 10**5) for n in range(50)],))
            if older is not None:
                assert older.start == window.start
                assert older.width < window.width
                window = older
        taken.append(window)
        plan.learn(window, pages.pop() if pages else 0)
        first, last = window.query
        assert last - first <= MAX_SPAN
    edges = [start, *[window.end for window in taken]]
    assert [window.start for window in taken] == edges[:-1]
    if len(taken) < 1000:
        assert edges[-1] == max(start, start + length)
    with pytest.raises(IndexError):
        Plan(5, 5, max_width=DAY).take()


def test_width_follows_density() -> None:
    plan = Plan(0, 1000 * DAY, max_width=30 * DAY)
    first = plan.take()
    assert first == Window(0, 30 * DAY)
    plan.learn(first, 600)  # 20 pages a day: 50 pages take 2.5 days
    assert plan.take() == Window(30 * DAY, 30 * DAY + 5 * DAY // 2)
    plan.learn(Window(30 * DAY, 30 * DAY + 5 * DAY // 2), 1)
    assert plan.take().width == 30 * DAY
    assert plan.next_start == 30 * DAY + 5 * DAY // 2 + 30 * DAY


AN_HOUR_OF_ROWS = [DAY - n * 72_000 for n in range(50)]
SCATTERED = [n * DAY // 2 for n in range(50)]


@pytest.mark.parametrize(
    ("times", "is_narrowed"),
    [
        ((AN_HOUR_OF_ROWS,), True),
        ((AN_HOUR_OF_ROWS[::-1], [None] * 50), True),
        ((SCATTERED,), False),
        ((AN_HOUR_OF_ROWS, SCATTERED), False),  # the wider one counts
        (([*AN_HOUR_OF_ROWS[25:], *AN_HOUR_OF_ROWS[:25]],), False),
        (([n + 31 * DAY for n in AN_HOUR_OF_ROWS],), False),
        ((["a"] * 50, []), False),
    ],
)
def test_a_dense_first_page_shows(times: tuple[list[Any], ...], *, is_narrowed: bool) -> None:
    plan = Plan(0, 90 * DAY, max_width=30 * DAY)
    window = plan.take()
    assert (plan.narrow(window, times) is not None) == is_narrowed


def test_a_narrow_window_is_left_alone() -> None:
    assert Plan(0, DAY, max_width=DAY).narrow(Window(0, DAY // 96), (AN_HOUR_OF_ROWS,)) is None


HOUR = 3_600_000


def page(first: int, last: int) -> tuple[list[int]]:
    """A page's 50 times, from its first row to its last."""
    return ([first + (last - first) * n // 49 for n in range(50)],)


@pytest.mark.parametrize("newest_first", [True, False])
def test_a_dense_stretch_is_cut_to_size_when_a_second_page_confirms_it(
    *, newest_first: bool
) -> None:
    """A page holds three hours: 50 of them make 6.25 days. What is given back is cut too."""

    def first_page(window: Window) -> tuple[list[int]]:
        if newest_first:
            return page(window.end, window.end - 3 * HOUR)
        return page(window.start, window.start + 3 * HOUR)

    plan = Plan(0, 60 * DAY, max_width=30 * DAY)
    if newest_first:
        older = plan.narrow(plan.take(), first_page(Window(0, 30 * DAY)))
        assert older == Window(0, 15 * DAY)
        older = plan.narrow(older, first_page(older))
    else:  # the page at the start is the same for the older half: the younger one tells
        assert plan.narrow(plan.take(), first_page(Window(0, 30 * DAY))) == Window(0, 15 * DAY)
        younger = plan.take()
        assert younger == Window(15 * DAY, 30 * DAY)
        older = plan.narrow(younger, first_page(younger))
    assert older is not None
    assert round(older.width / DAY, 2) == 6.25
    assert plan.next_start == older.end
    following = plan.take()
    assert following.width == older.width
    assert following.start == older.end


def test_a_burst_is_cut_off_in_few_steps() -> None:
    """1,000 pages in the last hour of a month, as the page at its end looks each time."""
    plan = Plan(0, 30 * DAY, max_width=30 * DAY)
    window, end = plan.take(), page(30 * DAY, 30 * DAY - 3_600)
    cuts = []
    while (older := plan.narrow(window, end)) is not None:
        cuts.append(older.end)
        window = Window(older.end, window.end)  # nothing in the older part
        assert plan.next_start == older.end
        assert plan.take().start == older.end
    assert cuts == [15 * DAY, 30 * DAY - 50 * 3_600]


@pytest.mark.parametrize(
    ("times", "older"),
    [
        (page(3 * DAY, 2 * DAY + 23 * HOUR), Window(0, 3 * DAY + 1)),
        (page(27 * DAY, 27 * DAY + HOUR), Window(0, 27 * DAY)),
        (page(-1, -1 - HOUR), None),
    ],
    ids=["newest first", "oldest first", "outside"],
)
def test_what_is_seen_to_be_empty_is_cut_off_whole(
    times: tuple[list[int]], older: Window | None
) -> None:
    plan = Plan(0, 30 * DAY, max_width=30 * DAY)
    assert plan.narrow(plan.take(), times) == older


def test_a_long_burst_is_cut_off_in_ever_longer_pieces() -> None:
    plan = Plan(0, 30 * DAY, max_width=30 * DAY)
    assert plan.narrow(plan.take(), page(30 * DAY, 30 * DAY - 3_600)) == Window(0, 15 * DAY)
    window, edge = plan.take(), 30 * DAY
    for pages in (50, 100, 200):
        older = plan.narrow(window, page(edge, edge - 3_600))
        edge -= pages * 3_600
        assert older == Window(15 * DAY, edge)
        window = older


def test_a_page_of_another_density_confirms_nothing() -> None:
    plan = Plan(0, 30 * DAY, max_width=30 * DAY)
    older = plan.narrow(plan.take(), page(30 * DAY, 30 * DAY - 3 * HOUR))
    assert older == Window(0, 15 * DAY)
    assert plan.narrow(older, page(15 * DAY, 15 * DAY - HOUR)) == Window(0, 15 * DAY // 2)


def test_after_a_single_page_windows_are_as_wide_as_may_be() -> None:
    """However little is left for the workers to share."""
    plan = Plan(0, 60 * DAY, max_width=30 * DAY, workers=8)
    plan.learn(Window(0, DAY), 1)
    assert plan.take() == Window(0, 30 * DAY)


def test_what_was_given_back_is_cut_into_sixteen_parts_at_most() -> None:
    plan = Plan(0, 32 * DAY, max_width=32 * DAY)
    assert plan.narrow(plan.take(), page(32 * DAY, 32 * DAY - HOUR)) == Window(0, 16 * DAY)
    plan.learn(Window(0, 16 * DAY), 16_000)
    assert plan.take() == Window(16 * DAY, 17 * DAY)


def test_no_part_is_empty_of_time() -> None:
    """The query reaches a millisecond past the window, where no edge can be."""
    plan = Plan(DAY, 31 * DAY, max_width=30 * DAY)
    assert plan.narrow(plan.take(), page(DAY, DAY - 1)) == Window(DAY, DAY + 1)
    plan = Plan(DAY, 31 * DAY, max_width=30 * DAY)
    assert plan.narrow(plan.take(), page(31 * DAY - 1, 31 * DAY)) == Window(DAY, 31 * DAY - 1)


def test_towards_the_end_each_worker_gets_a_share() -> None:
    """10 pages a day, 4 workers: a window is a quarter of what is left, 6 pages at least."""
    plan = Plan(0, 30 * DAY, max_width=10 * DAY, workers=4)
    plan.learn(plan.take(), 100)
    widths = []
    while plan.next_start is not None:
        widths.append(round(plan.take().width / DAY, 2))
    assert widths == [5.0, 3.75, 2.81, 2.11, 1.58, 1.19, 0.89, 0.67, 0.6, 0.6, 0.6, 0.2]


def test_a_plan_can_grow() -> None:
    plan = Plan(0, DAY, max_width=30 * DAY)
    assert plan.take() == Window(0, DAY)
    assert plan.next_start is None
    plan.extend(DAY // 2)
    assert plan.next_start is None
    plan.extend(3 * DAY)
    assert plan.take() == Window(DAY, 3 * DAY)
    assert len(plan) == 0
