"""What a run says while it reads: enough to follow it, never what it reads."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
from typing import TYPE_CHECKING, Any

import pytest

from tap_fini.progress import SdkChatter, _duration
from tap_fini.tap import TapFini
from tests.expected import time_text
from tests.sandbox import API_KEY, Fault, Sandbox, Switches, make_conversations
from tests.support import (
    DAY,
    MARKER,
    Output,
    captured_log,
    config_for,
    discover,
    run_command,
    run_tap,
    select,
    without_end_of_life,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START = 1_735_689_600_000  # 2025-01-01
CONVERSATIONS = make_conversations(40, seed=1, marker=MARKER)
TAP = "INFO tap-fini: "
PARENT = "INFO tap-fini.conversations: "
CHILD = "INFO tap-fini.bot_requests: "


@pytest.fixture(scope="module")
def shared_sandbox() -> Iterator[Sandbox]:
    with Sandbox(CONVERSATIONS) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared_sandbox: Sandbox) -> Sandbox:
    shared_sandbox.reset()
    return shared_sandbox


def plain(lines: list[str]) -> list[str]:
    """Return log lines without metrics, and T in place of every duration."""
    return [
        re.sub(r"(?<=about )\S+ (?:s|min|h)(?= left)|(?<= in )\S+ (?:s|min|h)(?=: )", "T", line)
        for line in lines
        if "METRIC" not in line
    ]


def metrics(lines: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        json.loads(line.split("METRIC: ")[1]) for line in lines if "METRIC" in line
    ]
    return found


def last_line(output: Output) -> str:
    (line,) = (line for line in output.log if "conversations: Read " in line)
    return line


def test_a_whole_log(sandbox: Sandbox) -> None:
    output = run_tap(config_for(sandbox))
    windows = []
    for first in range(0, 201, 30):
        start, end = START + first * DAY, START + min(first + 30, 201) * DAY
        inside = [c for c in CONVERSATIONS if start <= c["updatedAt"] < end]
        bot_requests = sum(len(c["botRequests"]) for c in inside)
        share = min(first + 30, 201) / 201
        windows.append(
            f"{PARENT}{time_text(start)} to {time_text(end)}: {len(inside)} conversations, "
            f"{bot_requests} bot_requests, 1 pages; {100 * share:.0f} % done, about T left"
        )
    assert len(windows) == 7
    assert plain(output.log) == [
        f"{TAP}Skipping parse of env var settings...",
        f"{TAP}Added 'bot_requests' as child stream to 'conversations'",
        f"{TAP}Added 'interaction_events' as child stream to 'interactions'",
        f"{TAP}Skipping deselected stream 'agents'.",
        f"{PARENT}Beginning sync of 'conversations' in incremental mode",
        (
            f"{PARENT}Reading conversations and bot_requests from 2025-01-01T00:00:00.000Z to "
            "2025-07-21T00:00:00.000Z in 7 windows or more, filters: none"
        ),
        (
            f"{CHILD}Beginning sync of 'bot_requests' in incremental mode with context keys: "
            "('page',)"
        ),
        windows[0],
        (
            f"{PARENT}Fini selects by the time of the last change: every change is found, and "
            "'lookback_days' may be lowered"
        ),
        *windows[1:],
        (
            f"{PARENT}Read 40 conversations and 110 bot_requests in T: 7 windows, 7 requests, "
            "0 retries, 0 s waited for the throttle, 0 splits, 0 duplicates dropped"
        ),
        f"{TAP}Skipping deselected stream 'interaction_events'.",
        f"{TAP}Skipping deselected stream 'interactions'.",
    ]


def test_a_metric_for_each_stream_and_none_for_each_request(sandbox: Sandbox) -> None:
    output = run_tap(config_for(sandbox, page_size=1))
    assert len(sandbox.requests) >= 40
    assert [(m["metric"], m["tags"]["stream"], m["type"]) for m in metrics(output.log)] == [
        ("record_count", "bot_requests", "counter"),
        ("sync_duration", "conversations", "timer"),
        ("record_count", "conversations", "counter"),
    ]
    assert [m["value"] for m in metrics(output.log) if m["type"] == "counter"] == [110, 40]
    assert [m["tags"].get("context") for m in metrics(output.log)] == [None, {}, {}]


@pytest.mark.parametrize(("page_size", "window_days"), [(1, 30), (1, 1), (50, 1), (3, 0.25)])
def test_at_most_five_lines_a_window(sandbox: Sandbox, page_size: int, window_days: float) -> None:
    """Nor does the number of child syncs matter, of which there is one a page."""
    output = run_tap(config_for(sandbox, page_size=page_size, window_days=window_days))
    windows = sum("% done" in line for line in output.log)
    assert windows >= 201 / window_days
    assert len(output.log) <= windows + 16
    assert sum("Beginning sync of 'bot_requests'" in line for line in output.log) == 1
    assert f" {windows} windows, " in last_line(output)


def test_only_selected_streams_are_named(sandbox: Sandbox) -> None:
    output = run_tap(config_for(sandbox), catalog=select(discover(), conversations=False))
    assert f"{PARENT}Reading bot_requests from " in output.text
    output = run_tap(config_for(sandbox), catalog=select(discover(), bot_requests=False))
    assert f"{PARENT}Reading conversations from " in output.text
    assert "sync of 'bot_requests'" not in output.text


def test_the_end_line_counts_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tap_fini.client._WAITS", (0.001,) * 11)
    with Sandbox(CONVERSATIONS, Switches(cursor="ignored")) as sandbox:
        sandbox.faults = [Fault("500", at=(1, 2)), Fault("502_html", at=3)]
        output = run_tap(config_for(sandbox, page_size=5, max_concurrent_requests=1))
        asked = len(sandbox.requests)
    found = re.search(
        r"Read 40 conversations and 110 bot_requests in \d+ s: 7 windows, (\d+) requests, "
        r"3 retries, 0 s waited for the throttle, (\d+) splits, (\d+) duplicates dropped$",
        last_line(output),
    )
    assert found
    requests, splits, duplicates = map(int, found.groups())
    assert requests == asked
    assert splits > 0
    assert duplicates > 0


def test_the_wait_for_the_throttle_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tap_fini.client.THROTTLE_WINDOW", 0.5)
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with (
        Sandbox(CONVERSATIONS) as sandbox,
        captured_log() as lines,
        contextlib.redirect_stdout(stdout),
    ):
        tap = TapFini(config=config_for(sandbox, max_requests_per_minute=3))
        tap.sync_all()
    waited = tap.connection.throttle.waited
    assert waited > 0
    assert f"7 requests, 0 retries, {waited:.0f} s waited for the throttle" in "\n".join(lines)


def test_filters_are_named_but_their_values_are_not_told(sandbox: Sandbox) -> None:
    private = {"question": MARKER, "user_id": "user_4711", "ticket_id": "ticket_4712"}
    output = run_tap(config_for(sandbox, **private, escalation=False, source="all"))
    (line,) = (line for line in output.log if "Reading " in line)
    assert line.endswith("or more, filters: source, escalation, userId, ticketId, question")
    for value in private.values():
        assert value not in output.text
        assert value not in json.dumps(output.states)


def test_no_secret_in_the_log_at_any_level(sandbox: Sandbox) -> None:
    conversations = sandbox.world.conversations
    conversations[3]["botRequests"][0]["novel"] = {"text": MARKER}
    conversations[4]["botRequests"][0]["question"] = {"text": MARKER}
    conversations[5]["url"] = [MARKER]
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with (
        Sandbox(conversations) as strange,
        captured_log(logging.DEBUG) as lines,
        contextlib.redirect_stdout(stdout),
    ):
        TapFini(config=config_for(strange, page_size=5)).sync_all()
    text = "\n".join(lines)
    assert "DEBUG " in text
    assert API_KEY not in text
    assert MARKER not in text
    assert [line for line in lines if line.startswith("WARNING ")] == [
        f"WARNING tap-fini.conversations: Field '{field}' of '{stream}' {problem}; the record is "
        "complete all the same, see its 'extra'"
        for field, stream, problem in (
            ("question", "bot_requests", "has a value of an unexpected type"),
            ("novel", "bot_requests", "is a field this version does not know"),
            ("url", "conversations", "has a value of an unexpected type"),
        )
    ]


def test_no_word_on_bot_requests_that_are_filtered_out(sandbox: Sandbox) -> None:
    conversations = sandbox.world.conversations
    odd = conversations[3]
    odd["botRequests"][0]["novel"] = 1
    told = "Field 'novel' of 'bot_requests' is a field this version does not know"
    with Sandbox(conversations) as strange:
        for kept, times in ((odd["id"], 1), (conversations[4]["id"], 0)):
            maps = {"conversations": {"__filter__": f"id == '{kept}'"}}
            output = run_tap(config_for(strange, stream_maps=maps))
            assert [row["id"] for row in output.records("conversations")] == [kept]
            assert sum(told in line for line in output.log) == times


def test_a_process_says_the_same(sandbox: Sandbox, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(config_for(sandbox, window_days=10)), encoding="utf-8")
    done = run_command("--config", str(config))
    assert done.returncode == 0, done.stderr
    lines = without_end_of_life(done.stderr).splitlines()
    assert sum("% done" in line for line in lines) == 21
    assert len(lines) <= 21 + 17
    assert API_KEY not in done.stderr
    assert MARKER not in done.stderr
    assert MARKER in done.stdout


def test_an_error_is_told_once_and_in_one_line(sandbox: Sandbox, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    settings = config_for(sandbox, api_key="fini_wrong")
    config.write_text(json.dumps(settings), encoding="utf-8")
    done = run_command("--config", str(config))
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "| ERROR " in line]
    assert len(errors) == 1
    assert "Fini does not know the API key (401)" in errors[0]
    assert "Traceback" not in done.stderr
    assert "fini_wrong" not in done.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (3599, "60 min"),
        (7199, "120 min"),
        (7200, "2.0 h"),
        (100_000, "27.8 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


@pytest.mark.parametrize(
    ("message", "heard"),
    [
        ("Beginning sync of '%s' in %s mode with context keys: %s", [True, False, False]),
        ("An unhandled error occurred while syncing '%s'", [False, False, False]),
        ("Anything else", [True, True, True]),
    ],
)
def test_chatter(message: str, heard: list[bool]) -> None:
    chatter = SdkChatter()
    record = logging.LogRecord("x", logging.INFO, "x", 1, message, None, None)
    assert [chatter.filter(record) for _ in heard] == heard
