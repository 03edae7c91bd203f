"""Time arithmetic: instants, windows, plans."""

from __future__ import annotations

from datetime import datetime, timezone

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
    narrow=st.lists(st.booleans(), max_size=200),
)
def test_windows_cover_the_plan_without_gap_or_overlap(
    start: int, length: int, max_width: int, pages: list[int], narrow: list[bool]
) -> None:
    plan = Plan(start, start + length, max_width=max_width)
    taken: list[Window] = []
    while plan.next_start is not None and len(taken) < 1000:
        expected = plan.next_start
        window = plan.take()
        assert window.start == expected
        if narrow and narrow.pop() and window.width > 1:
            window = plan.narrow(window)
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


def test_a_dense_first_page_shows() -> None:
    plan = Plan(0, 90 * DAY, max_width=30 * DAY)
    window = Window(0, 30 * DAY)
    an_hour_of_rows = [DAY - n * 72_000 for n in range(50)]
    scattered = [n * DAY // 2 for n in range(50)]
    assert plan.is_too_dense(window, (an_hour_of_rows,))
    assert plan.is_too_dense(window, (an_hour_of_rows[::-1], [None] * 50))
    assert not plan.is_too_dense(window, (scattered,))
    assert not plan.is_too_dense(window, (an_hour_of_rows, scattered)), "the wider one counts"
    assert not plan.is_too_dense(window, ([*an_hour_of_rows[25:], *an_hour_of_rows[:25]],))
    assert not plan.is_too_dense(window, ([n + 31 * DAY for n in an_hour_of_rows],))
    assert not plan.is_too_dense(window, (["a"] * 50, []))
    assert not plan.is_too_dense(Window(0, DAY // 96), (an_hour_of_rows,))


def test_a_plan_can_grow() -> None:
    plan = Plan(0, DAY, max_width=30 * DAY)
    assert plan.take() == Window(0, DAY)
    assert plan.next_start is None
    plan.extend(DAY // 2)
    assert plan.next_start is None
    plan.extend(3 * DAY)
    assert plan.take() == Window(DAY, 3 * DAY)
    assert len(plan) == 0
