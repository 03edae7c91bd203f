"""The benchmarks measure what they say, and what does not depend on the machine's speed holds."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.benchmarks import measure
from tests.benchmarks.bench import Bench
from tests.benchmarks.contestants import FLOOR, PLAIN, TAP, TAP_NEWER
from tests.benchmarks.goals import GOALS, Goal
from tests.benchmarks.history import DAY, History, Stretch, even, place_of
from tests.benchmarks.measure import Messages, Truth, WrongRowsError, check, write_config
from tests.benchmarks.page import html
from tests.benchmarks.report import goal_rows, text
from tests.benchmarks.scenarios import SCENARIOS
from tests.benchmarks.server import Api
from tests.sandbox import Sandbox, Switches, make_conversations

if TYPE_CHECKING:
    from pathlib import Path

    from tests.benchmarks.contestants import Contestant

PATH = "/v2/bots/requests/public"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, sizes=[200], repeat=1, extras=False)


def answer(api: Api, start: int, end: int, **more: object) -> dict[str, object]:
    query = "&".join(f"{k}={v}" for k, v in {"startEpoch": start, "endEpoch": end, **more}.items())
    _, response = api.answer(f"{PATH}?{query}")
    page: dict[str, object] = msgspec.json.decode(response.partition(b"\r\n\r\n")[2])
    return page


@pytest.mark.parametrize("contestant", [TAP, PLAIN, FLOOR], ids=lambda c: c.name)
def test_every_contestant_writes_all_rows(bench: Bench, contestant: object) -> None:
    with bench.serve(even(200)) as site:
        run = site.run("smoke", contestant)  # type: ignore[arg-type]
    assert (run.messages.conversations, run.messages.distinct) == (200, 200)
    assert run.messages.bot_requests == site.server.truth.bot_requests > 200
    assert run.cpu > 0
    assert run.peak > 10


def test_the_newer_export_costs_what_chat_history_does(bench: Bench) -> None:
    with bench.serve(even(2_000), newer=1) as site:
        run = site.run("smoke", TAP_NEWER)
        truth = site.server.truth
    assert (run.messages.conversations, run.messages.distinct) == (2_000, 2_000)
    assert run.messages.bot_requests == truth.bot_requests > 4_000
    assert run.messages.schemas == 2
    assert run.messages.states <= run.windows + 2
    assert run.requests - run.empty_windows <= 2_000 / 50 * 1.4


@pytest.mark.parametrize(("contestant", "can"), [(TAP, True), (PLAIN, False), (FLOOR, False)])
def test_who_can_read_if_the_cursor_is_not_the_last_id(
    tmp_path: Path, contestant: Contestant, *, can: bool
) -> None:
    """What the README says of those who know but one cursor."""
    with Sandbox(make_conversations(120), Switches(cursor="body_cursor")) as sandbox:
        config = {
            "api_key": sandbox.api_key,
            "api_url": sandbox.url,
            "start_date": "2025-01-01T00:00:00Z",
            "end_date": "2025-08-01T00:00:00Z",
            "page_size": 5,
            **contestant.settings,
        }
        command = contestant.command(write_config(tmp_path / "config.json", config), tmp_path)
        with contextlib.nullcontext() if can else pytest.raises(RuntimeError):
            measure.run(contestant.name, command, tmp_path, keep=tmp_path / "out")
    assert (contestant.read(tmp_path).distinct == 120) == can


def test_the_tap_says_little(bench: Bench) -> None:
    with bench.serve(even(2_000)) as site:
        run = site.run("smoke", TAP)
    assert run.messages.schemas == 2
    assert run.windows == 13  # of 30 days
    assert run.messages.states <= run.windows + 2
    assert run.log_lines <= 5 * run.windows + 60


def test_a_backfill_costs_its_pages(bench: Bench) -> None:
    history = [Stretch(0, 0, 0), *even(2_000, days=30)]
    with bench.serve(history[1:]) as site:
        run = site.run("smoke", TAP)
    assert run.requests - run.empty_windows <= 2_000 / 50 * 1.05


def test_a_small_workspace_costs_one_request(bench: Bench) -> None:
    with bench.serve(even(50, days=10)) as site:
        assert site.run("smoke", TAP).requests == 1


def test_rows_that_are_missing_or_doubled_are_found() -> None:
    truth = Truth(conversations=3, bot_requests=5)
    check("all", Messages(conversations=3, distinct=3, bot_requests=5), truth)
    with pytest.raises(WrongRowsError, match="wrote 3 conversations"):
        check("one twice", Messages(conversations=3, distinct=2, bot_requests=5), truth)
    with pytest.raises(WrongRowsError):
        check("too few", Messages(conversations=3, distinct=3, bot_requests=4), truth)


def test_a_history_is_what_its_arithmetic_says() -> None:
    history = History([Stretch(0, 10 * DAY, 7), Stretch(20 * DAY, 20 * DAY + 3, 9)], huge=1_000)
    decoded = [msgspec.json.decode(history.conversation(n)) for n in range(history.count)]
    times = [c["updatedAt"] for c in decoded]
    assert times == sorted(times)
    assert [place_of(c["id"]) for c in decoded] == list(range(16))
    assert sum(len(c["botRequests"]) for c in decoded) == history.children > 1_000
    for instant in {*times, *(t + 1 for t in times), *(t - 1 for t in times)}:
        assert history.before(instant) == sum(t < instant for t in times)


def test_the_server_pages_backwards_in_time() -> None:
    history = History(even(7))
    api = Api(history)
    end = 2_000_000_000_000
    places: list[int] = []
    more: dict[str, object] = {}
    while True:
        page = answer(api, 0, end, limit=3, **more)
        rows = page["conversations"]
        assert isinstance(rows, list)
        places += [place_of(row["id"]) for row in rows]
        if not page["hasMore"]:
            break
        more = {"cursor": rows[-1]["id"]}
    assert places == [6, 5, 4, 3, 2, 1, 0]
    assert api.requests == 3


def test_the_server_counts_what_it_refuses() -> None:
    api = Api(History(even(1)))
    api.answer("/control?throttle=2&per=60")
    statuses = [api.answer(f"{PATH}?startEpoch=0&endEpoch=1")[1].split()[1] for _ in range(3)]
    assert statuses == [b"200", b"200", b"429"]
    assert (api.requests, api.refused) == (2, 1)


def test_goals_name_scenarios_and_judge_figures() -> None:
    assert {goal.scenario for goal in GOALS} == SCENARIOS.keys()
    assert all(goal.needs for goal in GOALS)
    most = Goal("0", "at most", "s", "f", 2.5)
    least = Goal("0", "at least", "s", "f", 3.5, at_least=True)
    assert [most.verdict({"s": {"f": x}}) for x in (2.5, 2.6)] == ["met", "NOT MET"]
    assert [least.verdict({"s": {"f": x}}) for x in (3.5, 3.4)] == ["met", "NOT MET"]
    assert most.verdict({}) == "not measured"


def test_the_report_has_a_row_for_every_goal(bench: Bench) -> None:
    figures = {"records": {"20000.schemas": 1.0, "20000.plain.wall": 0.5}}
    bench.points["a plot"] = {"tap-fini": [(1, 2), (10, 3)]}
    with bench.serve(even(50, days=10)) as site:
        for contestant in (TAP, FLOOR):
            site.run("two <runs>", contestant)
    rows = goal_rows(figures)
    assert [row[-1] for row in rows].count("not measured") == len(GOALS) - 2
    assert [row[-1] for row in rows].count("NOT MET") == 1
    assert all(goal.says in text(bench, figures) for goal in GOALS)
    page = html(bench, figures, when="today", machine="here")
    assert "two &lt;runs&gt;" in page
    assert page.count("<svg") == 3
    assert "http" not in page  # nothing is loaded from elsewhere
