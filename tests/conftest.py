"""Keeps everything that the whole suite writes, for tests/test_zz_privacy.py to search.

That is: every log record of this process, every error text, and whatever a subprocess
wrote, but for the records on a tap's stdout, where the texts belong.
"""

from __future__ import annotations

import logging
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

settings.register_profile("noisy machine", deadline=None)
settings.load_profile("noisy machine")

WRITTEN: list[str] = []
"""What has been written so far."""


def keep(output: str | bytes | None, *, may_hold_records: bool) -> None:
    """Keep an output; of one that may hold records, only what is no record."""
    if not output:
        return
    text = output if isinstance(output, str) else output.decode(errors="replace")
    lines = text.splitlines()
    if may_hold_records:
        lines = [line for line in lines if '"type":"RECORD"' not in line.replace(" ", "")[:40]]
    WRITTEN.extend(lines)


class _Keeper(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        WRITTEN.append(self.format(record))


@pytest.fixture(autouse=True, scope="session")
def _keep_what_is_written() -> Iterator[None]:
    root, keeper = logging.getLogger(), _Keeper()
    root.addHandler(keeper)
    communicate = subprocess.Popen.communicate

    def keeping(process: Any, *args: Any, **kwargs: Any) -> Any:
        out, err = communicate(process, *args, **kwargs)
        keep(out, may_hold_records=True)
        keep(err, may_hold_records=False)
        return out, err

    subprocess.Popen.communicate = keeping  # type: ignore[assignment, method-assign]
    yield
    subprocess.Popen.communicate = communicate  # type: ignore[method-assign]
    root.removeHandler(keeper)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:  # noqa: ARG001
    """Keep what a test printed."""
    outcome = yield
    for _, text in outcome.get_result().sections:  # type: ignore[attr-defined]
        keep(text, may_hold_records=True)
