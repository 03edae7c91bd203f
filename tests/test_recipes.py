"""The commands and configurations of README.md and docs/recipes.md: run, and rows compared."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests import expected
from tests.pages import blocks, merge
from tests.project import copy_project, run_shell, variables_for
from tests.sandbox import Sandbox, make_conversations
from tests.targets import ROOT, postgres_server, venv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

Row = dict[str, Any]
Tables = dict[str, list[Row]]

SALT = "pepper"
SAID = ("question", "answer", "reasoning", "basedOn")


def without(rows: Iterable[Row], *names: str) -> list[Row]:
    return [{name: row[name] for name in row if name not in names} for row in rows]


def of_conversations(tables: Tables, kept: Callable[[Row], bool]) -> Tables:
    """Keep some conversations and their bot requests."""
    conversations = [row for row in tables["conversations"] if kept(row)]
    ids = {row["id"] for row in conversations}
    return {
        "conversations": conversations,
        "bot_requests": [row for row in tables["bot_requests"] if row["conversationId"] in ids],
    }


def hashed(tables: Tables) -> Tables:
    def digest(user: str | None) -> str | None:
        return user and hashlib.sha256((SALT + user).encode()).hexdigest()

    rows = [{**row, "userId": digest(row["userId"])} for row in tables["conversations"]]
    return {**tables, "conversations": rows}


def dropped(tables: Tables) -> Tables:
    return {
        "conversations": without(tables["conversations"], "extra"),
        "bot_requests": without(tables["bot_requests"], *SAID, "extra"),
    }


def masked(tables: Tables) -> Tables:
    def digest(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()  # noqa: S324

    rows = [
        {
            **row,
            "question": digest(row["question"]),
            "reasoning": "[hidden]" if row["reasoning"] else None,
        }
        for row in tables["bot_requests"]
    ]
    return {**tables, "bot_requests": rows}


def labelled(tables: Tables) -> Tables:
    return {name: [{**row, "workspace": "acme"} for row in rows] for name, rows in tables.items()}


CONFIGURED: dict[str, tuple[Callable[[Tables], Tables], ...]] = {
    "Choose streams": (lambda tables: {"conversations": tables["conversations"]},),
    "Hash the user": (hashed,),
    "Drop what was said": (dropped,),
    "Mask what was said": (masked,),
    "Keep only escalated conversations": (
        lambda tables: of_conversations(tables, lambda row: row["escalation"]),
        lambda tables: of_conversations(
            tables, lambda row: row["escalation"] or row["feedbackType"] == "thumbs_down"
        ),
    ),
    "Label the rows": (labelled,),
}
"""Recipes that are nothing but configuration: what each block makes of all rows."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Meltano project."""
    return copy_project(tmp_path_factory.mktemp("clone"))


@pytest.fixture
def fresh(project: Path) -> Path:
    """The Meltano project without anything that another test has done to it."""
    shutil.copy(ROOT / "meltano.yml", project)
    for path in (project / "output").glob("*.duckdb*"):
        path.unlink()
    (project / ".meltano" / "meltano.db").unlink(missing_ok=True)
    return project


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(make_conversations(60)) as running:
        yield running


@pytest.mark.targets
@pytest.mark.parametrize(
    ("heading", "number"),
    [(heading, number) for heading, made in CONFIGURED.items() for number in range(len(made))],
)
def test_configuration(heading: str, number: int, fresh: Path, sandbox: Sandbox) -> None:
    """Put into meltano.yml and run: exactly the rows that the recipe promises."""
    found = blocks("docs/recipes.md", heading, "yaml")
    assert len(found) == len(CONFIGURED[heading])
    merge(fresh, found[number])
    run_shell("meltano run tap-fini target-duckdb", fresh, variables_for(sandbox, FINI_SALT=SALT))
    truth = CONFIGURED[heading][number](all_rows(sandbox))
    assert_equal(landed(fresh), as_in_duckdb(truth))


def choose_fields(project: Path, sandbox: Sandbox) -> None:
    heading, variables = "Choose fields", variables_for(sandbox)
    (fragment,) = blocks("docs/recipes.md", heading, "yaml")
    rows = all_rows(sandbox)
    merge(project, fragment)
    run_shell("meltano run tap-fini target-duckdb", project, variables)
    truth = {
        "conversations": without(rows["conversations"], "userId"),
        "bot_requests": without(rows["bot_requests"], *SAID),
    }
    assert_equal(landed(project), as_in_duckdb(truth))

    shutil.copy(ROOT / "meltano.yml", project)
    (project / "output" / "fini.duckdb").unlink()
    run_shell(script(heading), project, variables)
    run_shell("meltano run --full-refresh tap-fini target-duckdb", project, variables)
    truth = {**rows, "conversations": without(rows["conversations"], "userId")}
    assert_equal(landed(project), as_in_duckdb(truth))


def backfill(project: Path, sandbox: Sandbox) -> None:
    variables = variables_for(sandbox)
    run_shell(script("Backfill one quarter"), project, variables)
    rows = all_rows(sandbox)
    quarter = of_conversations(rows, lambda row: row["updatedAt"] < "2025-04-01")
    assert 0 < len(quarter["conversations"]) < len(rows["conversations"])
    assert_equal(landed(project), as_in_duckdb(quarter))
    # The daily run does not take the backfill's state for its own.
    run_shell("meltano run tap-fini target-duckdb", project, variables)
    assert_equal(landed(project), as_in_duckdb(rows))


def workspaces(project: Path, sandbox: Sandbox) -> None:
    heading = "Several workspaces in one project"
    (fragment,) = blocks("docs/recipes.md", heading, "yaml")
    merge(project, fragment)
    with Sandbox(make_conversations(40, seed=1)) as other:
        variables = variables_for(
            sandbox,
            TAP_FINI_API_KEY="",
            TAP_FINI__ACME_API_KEY=sandbox.api_key,
            TAP_FINI__ACME_API_URL=sandbox.url,
            TAP_FINI__GLOBEX_API_KEY=other.api_key,
            TAP_FINI__GLOBEX_API_URL=other.url,
        )
        run_shell(script(heading), project, variables)
        truth = {
            name: [
                *({**row, "workspace": "acme"} for row in all_rows(sandbox)[name]),
                *({**row, "workspace": "globex"} for row in all_rows(other)[name]),
            ]
            for name in ("conversations", "bot_requests")
        }
        assert_equal(landed(project), as_in_duckdb(truth))
        said = run_shell("meltano state list", project, variables)
    assert {f"dev:tap-fini--{name}-to-target-duckdb" for name in ("acme", "globex")} <= {
        *said.split()
    }


def filter_later(project: Path, sandbox: Sandbox) -> None:
    variables = variables_for(sandbox)
    filtered, refreshed = script("Add or change a filter later").splitlines()
    rows = all_rows(sandbox)
    widget = of_conversations(rows, lambda row: row["source"] == "widget")

    assert "filters have changed" not in run_shell(filtered, project, variables)
    assert_equal(landed(project), as_in_duckdb(widget))
    # The gap, and the warning.
    said = run_shell("meltano run tap-fini target-duckdb", project, variables)
    assert "The filters have changed since the state of 'conversations' was made" in said
    newest = max(row["updatedAt"] for row in widget["conversations"])
    again = (datetime.fromisoformat(newest[:-1]) - timedelta(days=7)).isoformat()
    read = of_conversations(
        rows, lambda row: row["source"] == "widget" or row["updatedAt"] >= again
    )
    assert len(read["conversations"]) < len(rows["conversations"])
    assert_equal(landed(project), as_in_duckdb(read))

    run_shell(refreshed, project, variables)
    assert_equal(landed(project), as_in_duckdb(rows))


SHELL: dict[str, Callable[[Path, Sandbox], None]] = {
    "Choose fields": choose_fields,
    "Backfill one quarter": backfill,
    "Several workspaces in one project": workspaces,
    "Add or change a filter later": filter_later,
}
"""Recipes with commands."""


@pytest.mark.targets
@pytest.mark.parametrize("heading", SHELL)
def test_commands(heading: str, fresh: Path, sandbox: Sandbox) -> None:
    SHELL[heading](fresh, sandbox)


def script(heading: str) -> str:
    (text,) = blocks("docs/recipes.md", heading, "sh")
    return text


def all_rows(sandbox: Sandbox) -> Tables:
    """Every row, with ``extra``, as the tap sends it."""
    tables = expected.tables(sandbox.truth())
    names = ("conversations", "bot_requests")
    return {
        name: [{**row, "extra": None} for row in table.values()]
        for name, table in zip(names, tables, strict=True)
    }


def as_in_duckdb(tables: Tables) -> Tables:
    """As target-duckdb writes it: lower-case names, times without zone, no empty text."""

    def value(name: str, there: Any) -> Any:
        if there == "":
            return None
        if there is not None and name in {"createdAt", "updatedAt", "conversationUpdatedAt"}:
            return datetime.fromisoformat(there[:-1]).isoformat()
        return there

    return {
        table: in_order({name.lower(): value(name, row[name]) for name in row} for row in rows)
        for table, rows in tables.items()
    }


ALL_ROWS = """
import duckdb, json, sys
with duckdb.connect(json.load(sys.stdin)["path"], read_only=True) as connection:
    tables = {}
    for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
        cursor = connection.execute(f"SELECT * FROM {table}")
        names = [column[0] for column in cursor.description]
        tables[table] = [dict(zip(names, row)) for row in cursor.fetchall()]
json.dump(tables, sys.stdout, default=lambda time: time.isoformat())
"""


def landed(project: Path) -> Tables:
    """Every table and column of the project's database."""
    tables = venv("target-duckdb").ask(ALL_ROWS, {"path": str(project / "output/fini.duckdb")})
    listed = ("categories", "basedon", "extra")
    return {
        table: in_order(
            {
                name: json.loads(value) if name in listed and value is not None else value
                for name, value in row.items()
            }
            for row in rows
        )
        for table, rows in tables.items()
    }


def assert_equal(held: Tables, truth: Tables) -> None:
    """Compare, and show the first rows that differ instead of all of them."""
    assert {name: len(rows) for name, rows in held.items()} == {
        name: len(rows) for name, rows in truth.items()
    }
    differing = [
        pair
        for name in truth
        for pair in zip(held[name], truth[name], strict=True)
        if pair[0] != pair[1]
    ]
    assert differing[:2] == []


def in_order(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    def key(row: Mapping[str, Any]) -> tuple[str, int]:
        return (row["conversationid"], row["position"]) if "position" in row else (row["id"], 0)

    return sorted(map(dict, rows), key=key)


def meltano_lines(folder: Path, project: Path, sandbox: Sandbox, text: str) -> None:
    """The first line loads everything into DuckDB, another one into PostgreSQL."""
    first, rest = text.split("\n", 1)
    with postgres_server(folder) as url:
        variables = variables_for(sandbox, TARGET_POSTGRES_SQLALCHEMY_URL=url)
        run_shell(first, project, variables)
        assert_equal(landed(project), as_in_duckdb(all_rows(sandbox)))
        run_shell(rest, project, variables)
        counts = (
            "import json, psycopg, sys\n"
            "url = json.load(sys.stdin)['url'].replace('+psycopg', '')\n"
            "with psycopg.connect(url) as connection:\n"
            "    print(json.dumps([\n"
            "        connection.execute(f'SELECT count(*) FROM fini_prod.{table}').fetchone()[0]\n"
            "        for table in ('conversations', 'bot_requests')\n"
            "    ]))\n"
        )
        assert venv("target-postgres").ask(counts, {"url": url}) == [
            len(rows) for rows in all_rows(sandbox).values()
        ]


def without_meltano(folder: Path, _: Path, sandbox: Sandbox, text: str) -> None:
    """A first run and a second one, which goes on from the first one's state."""
    first, again = text.splitlines()
    settings = f'"api_key": "{sandbox.api_key}", "api_url": "{sandbox.url}"'
    assert '"api_key": "fini_..."' in first
    first = first.replace('"api_key": "fini_..."', settings)
    path = os.pathsep.join((variables_for(sandbox)["PATH"], str(venv("target-jsonl").scripts)))
    variables = variables_for(sandbox, PATH=path)
    run_shell(f"{first}\n{again}", folder, variables)

    def read() -> Tables:
        return {
            table: [
                json.loads(line)
                for file in folder.glob(f"{table}-*.jsonl")
                for line in file.read_text(encoding="utf-8").splitlines()
            ]
            for table in ("conversations", "bot_requests")
        }

    rows = all_rows(sandbox)
    assert {table: len(read()[table]) for table in rows} == {t: len(rows[t]) for t in rows}
    for file in folder.glob("*.jsonl"):
        if not file.name.startswith("states"):
            file.unlink()
    run_shell(again, folder, variables)
    assert 0 < len(read()["conversations"]) < len(rows["conversations"])


README: dict[str, tuple[Callable[[Path, Path, Sandbox, str], None], ...]] = {
    "Use it with Meltano": (meltano_lines, without_meltano),
}
"""The README's sections with commands, and what each of their blocks has to do."""


@pytest.mark.targets
@pytest.mark.parametrize(
    ("heading", "number"),
    [(heading, number) for heading, made in README.items() for number in range(len(made))],
)
def test_readme(heading: str, number: int, tmp_path: Path, fresh: Path, sandbox: Sandbox) -> None:
    found = blocks("README.md", heading, "sh")
    assert len(found) == len(README[heading])
    README[heading][number](tmp_path, fresh, sandbox, found[number])
