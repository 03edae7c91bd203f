"""No block of README.md and docs/ goes without being run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.pages import BLOCKS
from tests.targets import ROOT
from tests.test_recipes import CONFIGURED, README, SHELL
from tests.test_sql import ANSWERS

if TYPE_CHECKING:
    from collections.abc import Iterable

ELSEWHERE = {
    "uv run python -m tests.demo": "tests/test_meltano.py::test_demo_from_a_fresh_clone",
    "cp .env.example .env        # then put your key behind TAP_FINI_API_KEY=\n"
    "uv run python -m tests.demo": (
        "tests/test_meltano.py::test_demo_with_a_key_reads_what_the_key_opens"
    ),
}
"""Blocks that another test runs."""

NOT_RUN = {
    "uv run pytest": "that is what is running",
}
"""Blocks that nothing runs, and why."""


def test_every_block_is_run() -> None:
    """A block that this file does not know makes it fail."""
    known: dict[tuple[str, str], Iterable[str]] = {
        ("docs/sql.md", "sql"): ANSWERS,
        ("docs/recipes.md", "yaml"): {*CONFIGURED, *SHELL},
        ("docs/recipes.md", "sh"): SHELL,
        ("README.md", "sh"): README,
    }
    unknown = [
        (block.page, block.heading, block.text)
        for block in BLOCKS
        if block.text not in {**ELSEWHERE, **NOT_RUN}
        and block.heading not in known.get((block.page, block.language), ())
    ]
    assert unknown == []


def test_nothing_is_excused_that_is_not_there() -> None:
    present = {block.text for block in BLOCKS}
    assert [text for text in (*ELSEWHERE, *NOT_RUN) if text not in present] == []
    for test in ELSEWHERE.values():
        path, _, name = test.partition("::")
        assert f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8"), test


def test_every_recipe_is_on_the_page() -> None:
    headings = {(block.page, block.heading) for block in BLOCKS}
    assert {
        *(("docs/sql.md", heading) for heading in ANSWERS),
        *(("docs/recipes.md", heading) for heading in (*CONFIGURED, *SHELL)),
        *(("README.md", heading) for heading in README),
    } <= headings
