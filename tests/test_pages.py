"""No block of README.md and docs/ goes without being run."""

from __future__ import annotations

from collections import Counter, defaultdict

from tests.pages import BLOCKS, blocks
from tests.targets import PACKAGES, ROOT
from tests.test_recipes import CONFIGURED, README, SHELL
from tests.test_sql import ANSWERS

(IN_A_PROJECT_OF_YOUR_OWN,) = blocks("README.md", "Use it with Meltano", "yaml")

ELSEWHERE = {
    IN_A_PROJECT_OF_YOUR_OWN: "tests/test_meltano_runs.py::test_in_another_project",
    "uv run python -m tests.demo": "tests/test_meltano.py::test_demo_from_a_fresh_clone",
    "cp .env.example .env        # then put your key behind TAP_FINI_API_KEY=\n"
    "uv run python -m tests.demo": (
        "tests/test_meltano.py::test_demo_with_a_key_reads_what_the_key_opens"
    ),
    "export FINI_EXTRACTORS=tap-fini--acme,tap-fini--globex FINI_SLICES=2\n"
    "export FINI_BACKFILL_START=2025-01-01 FINI_BACKFILL_END=2025-07-21\n"
    "uv run dagster job execute -f orchestrate/dagster_backfill.py -j backfill": (
        "tests/test_scale_out.py::test_slices_equal_one_run_after_the_other"
    ),
}
"""Blocks that another test runs."""

NOT_RUN = {
    "uv run pytest": "that is what is running",
    f"uv tool install {PACKAGES['dagster'][0]}": "the tests have the same one beside the project",
}
"""Blocks that nothing runs, and why."""


RUN: dict[tuple[str, str], dict[str, int]] = {
    ("docs/recipes.md", "yaml"): {
        **{heading: len(made) for heading, made in CONFIGURED.items()},
        "Choose fields": 1,
        "Several workspaces in one project": 1,
    },
    ("docs/recipes.md", "sh"): dict.fromkeys(SHELL, 1),
    ("README.md", "sh"): {heading: len(made) for heading, made in README.items()},
}
"""How many blocks of a section the tests take from a page, but for SQL."""


def test_every_block_is_run() -> None:
    """One more or one less makes it fail."""
    there: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for block in BLOCKS:
        if block.text not in {**ELSEWHERE, **NOT_RUN} and block.language != "sql":
            there[block.page, block.language][block.heading] += 1
    assert there == RUN


def test_every_statement_is_run() -> None:
    engines = defaultdict(list)
    for block in BLOCKS:
        if block.language == "sql":
            engines[block.page, block.heading].append(block.engine)
    assert {heading for _, heading in engines} == set(ANSWERS)
    assert {page for page, _ in engines} == {"docs/sql.md"}
    assert {tuple(found) for found in engines.values()} == {("",), ("duckdb", "postgres")}


def test_nothing_is_excused_that_is_not_there() -> None:
    present = {block.text for block in BLOCKS}
    assert [text for text in (*ELSEWHERE, *NOT_RUN) if text not in present] == []
    for test in ELSEWHERE.values():
        path, _, name = test.partition("::")
        assert f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8"), test
