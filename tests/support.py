"""What the tests share: a run of the tap against a sandbox, and what came out of it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tap_fini.tap import TapFini

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sandbox import Sandbox

ROOT = Path(__file__).parents[1]
DAY = 86_400_000

MARKER = "PRIVATE-TEXT-7c1e"
"""Stands in every question, answer and reasoning of made-up data; nothing may log it."""


@dataclass
class Output:
    """The messages of a run, and its log."""

    messages: list[dict[str, Any]]
    log: list[str] = field(default_factory=list)
    error: BaseException | None = None

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]

    def records(self, stream: str) -> list[dict[str, Any]]:
        return [m["record"] for m in self.of_type("RECORD") if m["stream"] == stream]

    @property
    def states(self) -> list[dict[str, Any]]:
        return [message["value"] for message in self.of_type("STATE")]

    @property
    def state(self) -> dict[str, Any]:
        return self.states[-1]

    @property
    def text(self) -> str:
        return "\n".join(self.log)


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")


@contextlib.contextmanager
def captured_log(level: int = logging.INFO) -> Iterator[list[str]]:
    """Collect everything that is logged."""
    handler, root = _Lines(), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level)
    try:
        yield handler.lines
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


def config_for(sandbox: Sandbox, **settings: object) -> dict[str, Any]:
    """Return settings for a sandbox whose data lies in the first half of 2025."""
    return {
        "api_key": sandbox.api_key,
        "api_url": sandbox.url,
        "start_date": "2025-01-01T00:00:00Z",
        "end_date": "2025-07-21T00:00:00Z",
        "max_requests_per_minute": 0,
        "request_timeout": 5,
        **settings,
    }


def run_tap(
    config: dict[str, Any],
    *,
    state: dict[str, Any] | None = None,
    catalog: dict[str, Any] | None = None,
    dry_run: bool = False,
    fails: type[BaseException] | None = None,
) -> Output:
    """Run the tap in this process and parse what it writes."""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    error: BaseException | None = None
    with captured_log() as log, contextlib.redirect_stdout(stdout):
        try:
            tap = TapFini(config=dict(config), state=state, catalog=catalog)
            if dry_run:
                tap.run_sync_dry_run(streams=[s for s in tap.streams.values() if s.selected])
            else:
                tap.sync_all()
        except BaseException as raised:
            if fails is None or not isinstance(raised, fails):
                raise
            error = raised
    if fails is not None and error is None:
        message = f"{fails.__name__} was not raised"
        raise AssertionError(message)
    stdout.flush()
    lines = stdout.buffer.getvalue().splitlines()
    return Output([json.loads(line) for line in lines], log, error)


def discover(config: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the tap's catalog."""
    tap = TapFini(config=config or {}, validate_config=False, setup_mapper=False)
    catalog: dict[str, Any] = json.loads(tap.catalog_json_text)
    return catalog


def select(catalog: dict[str, Any], **selected: bool) -> dict[str, Any]:
    """Select or deselect streams (``conversations=False``) of a catalog, in place.

    What is not named stays selected, or not, as it is without a catalog.
    """
    for stream in catalog["streams"]:
        for entry in stream["metadata"]:
            if not entry["breadcrumb"]:
                entry["metadata"]["selected"] = selected.get(
                    stream["tap_stream_id"], entry["metadata"]["selected-by-default"]
                )
    return catalog


_END_OF_LIFE = re.compile(
    r"^.*SingerSDKPythonEOLWarning.*\n +warn_python_eol\(\)\n\n?", re.MULTILINE
)


def without_end_of_life(log: str) -> str:
    """Leave out what the SDK says on Pythons near their end of life."""
    return _END_OF_LIFE.sub("", log)


def run_command(
    *args: str, env: dict[str, str] | None = None, cwd: Path | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run the console script as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "tap_fini", *args],
        capture_output=True,
        check=False,
        cwd=cwd,
        encoding="utf-8",
        env=env,
        timeout=timeout,
    )


def pyproject() -> dict[str, Any]:
    """Return pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
