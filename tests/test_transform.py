"""The dbt models in transform/: built by Meltano, and compared with the sandbox's truth."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from tests.project import change, copy_project, run_shell, variables_for
from tests.sandbox import Sandbox, edited, make_conversations
from tests.targets import ROOT, load, postgres_server, venv

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

TRANSFORM = ROOT / "transform"
KEYS = {
    "bot_requests": "bot_request_key",
    "conversations": "conversation_id",
    "daily_metrics": "daily_metrics_key",
    "knowledge_source_usage": "usage_key",
}
MODELS = tuple(KEYS)
STAGING = ("stg_fini__bot_requests", "stg_fini__conversations")
RUN_SECONDS = 300
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 # like the columns
SANDBOX = "meltano --environment=sandbox"
RUN = f"{SANDBOX} run tap-fini target-duckdb dbt-duckdb:build"

Row = dict[str, Any]
Facts = dict[str, dict[str, Row]]

# What the databases say of themselves, and all rows of the models.
DUCKDB = """
import duckdb, json, sys
ask = json.load(sys.stdin)
with duckdb.connect(ask["path"], read_only=True) as connection:
    rows = {}
    for model in ask["models"]:
        cursor = connection.execute(f"SELECT * FROM analytics.{model}")
        names = [column[0] for column in cursor.description]
        rows[model] = [dict(zip(names, row)) for row in cursor.fetchall()]
json.dump(rows, sys.stdout, default=lambda time: time.isoformat())
"""

POSTGRES = """
import json, sys, psycopg
ask = json.load(sys.stdin)
url = ask["url"].replace("+psycopg", "")
with psycopg.connect(url, row_factory=psycopg.rows.dict_row) as connection:
    rows = {
        model: connection.execute(f"SELECT * FROM fini_analytics.{model}").fetchall()
        for model in ask["models"]
    }
json.dump(rows, sys.stdout, default=lambda time: time.isoformat())
"""


MARK = """
import duckdb, json, sys
with duckdb.connect(json.load(sys.stdin)["path"]) as connection:
    connection.execute("UPDATE analytics.bot_requests SET created_date = DATE '1999-01-01'")
json.dump(None, sys.stdout)
"""


def test_the_models_are_built_where_the_loader_wrote() -> None:
    project = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))
    (utility,) = project["plugins"]["utilities"]
    (loader,) = (p for p in project["plugins"]["loaders"] if p["name"] == "target-duckdb")
    defaults = {setting["name"]: setting["value"] for setting in utility["settings"]}
    assert defaults["path"] == loader["config"]["path"]
    assert defaults["source_schema"] == loader["config"]["default_target_schema"]
    for environment in project["environments"]:
        plugins = environment.get("config", {}).get("plugins", {})
        paths = {
            plugin["name"]: plugin["config"]["path"]
            for kind in ("loaders", "utilities")
            for plugin in plugins.get(kind, ())
            if "path" in plugin["config"]
        }
        assert paths.get("dbt-duckdb") == paths.get("target-duckdb"), environment["name"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Meltano project as in a fresh clone."""
    return copy_project(tmp_path_factory.mktemp("clone"))


@pytest.mark.targets
def test_meltano_builds_what_fini_holds(project: Path) -> None:
    """Load and build; change, load and build; drop it all and build: the sandbox's numbers."""
    with Sandbox(make_conversations(300)) as sandbox:
        path = project / "output" / "sandbox.duckdb"
        variables = variables_for(sandbox)
        run_shell(RUN, project, variables)
        _assert_equal(_facts(_rows_in_duckdb(path)), _truth(sandbox))

        change(sandbox)
        run_shell(RUN, project, variables)
        incremental = _rows_in_duckdb(path)
        _assert_equal(_facts(copy.deepcopy(incremental)), _truth(sandbox))

        run_shell(f"{SANDBOX} invoke dbt-duckdb:build --full-refresh", project, variables)
        refreshed = _rows_in_duckdb(path, (*MODELS, *STAGING))
        # Their hashes and all.
        for model, key in KEYS.items():
            assert sorted(incremental[model], key=lambda row: row[key]) == sorted(
                refreshed[model], key=lambda row: row[key]
            )

    # And every model and column is described.
    manifest = json.loads(
        (project / ".meltano/transformers/dbt/target/manifest.json").read_text(encoding="utf-8")
    )
    described = {
        node["name"]: {
            column for column, said in node["columns"].items() if said["description"].strip()
        }
        for node in manifest["nodes"].values()
        if node["resource_type"] == "model" and node["description"].strip()
    }
    columns = {model: set(rows[0]) for model, rows in refreshed.items()}
    assert described == columns


@pytest.mark.targets
def test_fields_that_were_not_selected_and_rows_that_did_not_change(tmp_path: Path) -> None:
    """Dropped fields are NULL; an incremental build writes changed rows and no others."""
    path = tmp_path / "fini.duckdb"
    dropped = {
        "conversations": {"userId": None, "categories": None},
        "bot_requests": {"question": None, "answer": None, "basedOn": None},
    }
    target = {"path": str(path), "default_target_schema": "main", "flush_all_streams": True}
    with Sandbox(make_conversations(80)) as sandbox:
        tap = {**_tap(sandbox), "stream_maps": dropped}
        state = load("target-duckdb", tap, target, tmp_path)
        _dbt(tmp_path, "build", TARGET_DUCKDB_PATH=str(path))
        before = {
            key: {**row, "question": None, "answer": None, "is_answered": False}
            | {"knowledge_source_count": 0}
            for key, row in _truth(sandbox)["bot_requests"].items()
        }
        facts = _facts(_rows_in_duckdb(path))
        _assert_equal({"bot_requests": facts["bot_requests"]}, {"bot_requests": before})
        assert facts["knowledge_source_usage"] == {}
        assert {row["users"] for row in facts["daily_metrics"].values()} == {0}

        venv("dbt").ask(MARK, {"path": str(path)})
        changed = edited(sandbox.truth()[5], max(c["updatedAt"] for c in sandbox.truth()) + 1)
        sandbox.world.upsert(changed)
        load("target-duckdb", tap, target, tmp_path, state=state)
        _dbt(tmp_path, "build", "--select=+bot_requests", TARGET_DUCKDB_PATH=str(path))
        rows = _rows_in_duckdb(path)["bot_requests"]
    written = {row["bot_request_key"] for row in rows if row["created_date"] != "1999-01-01"}
    assert written == {f"{changed['id']}/{n}" for n in range(len(changed["botRequests"]))}


@pytest.mark.targets
def test_the_models_build_in_postgres(tmp_path: Path) -> None:
    """The same models and numbers, incremental builds included."""
    with Sandbox(make_conversations(120)) as sandbox, postgres_server(tmp_path) as url:
        target = {"sqlalchemy_url": url, "default_target_schema": "fini"}
        state = load("target-postgres", _tap(sandbox), target, tmp_path)
        _dbt(tmp_path, "build", "--target=postgres", **_postgres_variables(url))
        ask = {"url": url, "models": MODELS}
        reader = venv("target-postgres")
        _assert_equal(_facts(reader.ask(POSTGRES, ask)), _truth(sandbox))

        change(sandbox)
        load("target-postgres", _tap(sandbox), target, tmp_path, state=state)
        _dbt(tmp_path, "build", "--target=postgres", **_postgres_variables(url))
        _assert_equal(_facts(reader.ask(POSTGRES, ask)), _truth(sandbox))


def _tap(sandbox: Sandbox) -> dict[str, Any]:
    return {
        "api_url": sandbox.url,
        "api_key": sandbox.api_key,
        "start_date": "2024-12-01T00:00:00Z",
        "max_requests_per_minute": 0,
        "window_days": 90,
    }


def _truth(sandbox: Sandbox) -> Facts:
    """What the models' descriptions make of the sandbox's conversations."""
    facts: Facts = {model: {} for model in MODELS}
    for conversation in sandbox.truth():
        turns = sorted(conversation["botRequests"], key=lambda turn: turn["createdAt"])
        facts["conversations"][conversation["id"]] = _conversation(conversation, turns)
        for position, turn in enumerate(turns):
            row = _bot_request(conversation, position, turn)
            facts["bot_requests"][row["bot_request_key"]] = row
            for usage in _usage(conversation["id"], position, turn):
                facts["knowledge_source_usage"][usage["usage_key"]] = usage
    days = defaultdict(list)
    for row in facts["conversations"].values():
        days[row["created_date"], row["source"]].append(row)
    facts["daily_metrics"] = {
        f"{day}/{source}": _daily(day, source, rows) for (day, source), rows in days.items()
    }
    return facts


def _conversation(conversation: Row, turns: list[Row]) -> Row:
    feedback = Counter(turn["feedbackType"] for turn in turns)
    escalated = bool(conversation["escalation"])
    return {
        "conversation_id": conversation["id"],
        "external_id": conversation["externalId"],
        "user_id": conversation["userId"],
        "source": conversation["source"] or "unknown",
        "channel": conversation["channel"],
        "is_escalated": escalated,
        "is_deflected": not escalated,
        "has_links": conversation["hasLinks"],
        "feedback_type": conversation["feedbackType"],
        "is_expecting_user_followup": conversation["expectingUserFollowup"],
        "url": conversation["url"],
        "categories": conversation["categories"],
        "created_at": _time(conversation["createdAt"]),
        "created_date": _time(conversation["createdAt"])[:10],
        "updated_at": _time(conversation["updatedAt"]),
        "first_bot_request_at": _time(turns[0]["createdAt"]) if turns else None,
        "last_bot_request_at": _time(turns[-1]["createdAt"]) if turns else None,
        "duration_seconds": (turns[-1]["createdAt"] - conversation["createdAt"]) / 1000
        if turns
        else None,
        "turns": len(turns),
        "thumbs_up_bot_requests": feedback["thumbs_up"],
        "thumbs_down_bot_requests": feedback["thumbs_down"],
        "unanswered_bot_requests": sum(not (turn["answer"] or "").strip() for turn in turns),
        "bot_requests_without_knowledge": sum(not turn["basedOn"] for turn in turns),
        "bot_request_count": len(turns),
        "is_complete": True,
    }


def _bot_request(conversation: Row, position: int, turn: Row) -> Row:
    return {
        "bot_request_key": f"{conversation['id']}/{position}",
        "conversation_id": conversation["id"],
        "position": position,
        "bot_request_id": None,
        "question": turn["question"],
        "answer": turn["answer"],
        "reasoning": turn["reasoning"],
        "categories": turn["categories"],
        "is_escalated": turn["escalation"],
        "feedback_type": turn["feedbackType"],
        "is_expecting_user_followup": turn["expectingUserFollowup"],
        "is_answered": bool((turn["answer"] or "").strip()),
        "knowledge_source_count": len(turn["basedOn"]),
        "created_at": _time(turn["createdAt"]),
        "created_date": _time(turn["createdAt"])[:10],
        "conversation_updated_at": _time(conversation["updatedAt"]),
    }


def _usage(conversation_id: str, position: int, turn: Row) -> Iterator[Row]:
    for source_place, item in enumerate(turn["basedOn"]):
        identifiers = item.get("id")
        if not isinstance(identifiers, list):
            identifiers = [identifiers]
        for id_place, identifier in enumerate(identifiers or [None]):
            article = None if identifier is None else str(identifier)
            source_id = item.get("sourceId") or item.get("source_id")
            score = item.get("score")
            yield {
                "usage_key": f"{conversation_id}/{position}/{source_place}/{id_place}",
                "bot_request_key": f"{conversation_id}/{position}",
                "conversation_id": conversation_id,
                "position": position,
                "knowledge_source": article or source_id or item.get("title") or "unknown",
                "article_id": article,
                "source_id": source_id,
                "source_type": item.get("sourceType") or item.get("source_type"),
                "title": item.get("title"),
                "score": score if isinstance(score, int | float) else None,
            }


def _daily(day: str, source: str, rows: list[Row]) -> Row:
    escalated = sum(row["is_escalated"] for row in rows)
    turns = sum(row["turns"] for row in rows)
    return {
        "daily_metrics_key": f"{day}/{source}",
        "metric_date": day,
        "source": source,
        "conversations": len(rows),
        "escalated_conversations": escalated,
        "deflected_conversations": len(rows) - escalated,
        "escalation_rate": escalated / len(rows),
        "deflection_rate": (len(rows) - escalated) / len(rows),
        "bot_requests": turns,
        "turns_per_conversation": turns / len(rows),
        **{
            name: sum(row[name] for row in rows)
            for name in (
                "unanswered_bot_requests",
                "bot_requests_without_knowledge",
                "thumbs_up_bot_requests",
                "thumbs_down_bot_requests",
            )
        },
        "users": len({row["user_id"] for row in rows} - {None}),
    }


def _time(milliseconds: int) -> str:
    return (EPOCH + timedelta(milliseconds=milliseconds)).isoformat()


def _facts(rows: dict[str, list[Row]]) -> Facts:
    """Rows by key, without the hashes."""
    facts: Facts = {}
    for model, key in KEYS.items():
        facts[model] = {row[key]: row for row in rows[model]}
        assert len(facts[model]) == len(rows[model]), model
        for row in rows[model]:
            assert len(row.pop("content_hash", "0" * 32)) == 32
    return facts


def _assert_equal(facts: Facts, truth: Facts) -> None:
    """Compare, and show the values that differ instead of all of them."""
    differing = {
        f"{model} {key} {name}": (held.get(name, "missing"), true.get(name, "missing"))
        for model in truth
        for key in facts[model].keys() | truth[model].keys()
        for held, true in [(facts[model].get(key, {}), truth[model].get(key, {}))]
        for name in held.keys() | true.keys()
        if held.get(name, "missing") != true.get(name, "missing")
    }
    assert dict(list(differing.items())[:20]) == {}


def _rows_in_duckdb(path: Path, models: Iterable[str] = MODELS) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = venv("dbt").ask(DUCKDB, {"path": str(path), "models": [*models]})
    return rows


def _dbt(folder: Path, *arguments: str, **variables: str) -> None:
    """Run dbt alone; what it makes goes into ``folder``."""
    done = subprocess.run(
        [str(venv("dbt").scripts / "dbt"), *arguments],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("DBT_")},
            "DBT_PROJECT_DIR": str(TRANSFORM),
            "DBT_PROFILES_DIR": str(TRANSFORM),
            "DBT_TARGET_PATH": str(folder / "target"),
            "DBT_LOG_PATH": str(folder / "logs"),
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def _postgres_variables(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    (host,) = parse_qs(parts.query).get("host", [parts.hostname])
    return {
        "DBT_POSTGRES_HOST": host or "",
        "DBT_POSTGRES_USER": parts.username or "",
        "DBT_POSTGRES_DBNAME": parts.path.removeprefix("/"),
    }
