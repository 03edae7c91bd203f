"""BEHAVIOR.md: each test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "BEHAVIOR.md").read_text(encoding="utf-8")


def test_each_test_that_is_named_is_there() -> None:
    named = re.findall(r"(tests/test_\w+\.py)(?:::(\w+))?", TEXT)
    assert len(named) > 15
    for path, name in named:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in source, f"{path}::{name}"


def test_nothing_is_left_to_be_filled_in() -> None:
    assert re.findall(r"\b(?:PAYLOADS|HISTORIES|FILL|TBD)\b", TEXT) == []
