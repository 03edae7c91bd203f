"""Meltano end to end: what the README's Meltano commands do, in a clone and in another project."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tap_fini.tap import TapFini
from tests import expected
from tests.meltanohub import DEFINITION
from tests.sandbox import Sandbox, edited, make_conversations
from tests.support import ROOT
from tests.targets import uv
from tests.test_meltano import NOT_COPIED, _clean
from tests.warehouses import STREAMS, DuckDB, time

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.targets, pytest.mark.long]

MELTANO = Path(sys.executable).parent / "meltano"
START = 1_640_995_200_000  # the default start_date, 2022-01-01
MELTANO_SECONDS = 300


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Fini for this module."""
    with Sandbox(make_conversations(60)) as running:
        yield running


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, sandbox: Sandbox) -> Path:
    """A clone of the repository with a ``.env``, and everything installed."""
    folder = tmp_path_factory.mktemp("clone") / "tap-fini"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_COPIED, "uv.lock"))
    (folder / "output").mkdir()
    _write_env(folder, sandbox)
    _meltano(folder, "install")
    return folder


@pytest.fixture
def untouched(clone: Path) -> Iterator[Path]:
    """The clone, whose meltano.yml a test may have changed."""
    project = (clone / "meltano.yml").read_text(encoding="utf-8")
    yield clone
    (clone / "meltano.yml").write_text(project, encoding="utf-8")


def test_the_key_in_env_is_tested(clone: Path, sandbox: Sandbox) -> None:
    """Right key, wrong key, and neither is shown."""
    right = _meltano(clone, "config", "test", "tap-fini")
    assert "Plugin configuration is valid" in right.stdout
    wrong = _meltano(clone, "config", "test", "tap-fini", fails=True, TAP_FINI_API_KEY="fini_wrong")
    assert "Plugin configuration is invalid" in wrong.stdout + wrong.stderr
    assert "Fini does not know the API key (401)" in wrong.stdout + wrong.stderr
    shown = _meltano(clone, "config", "print", "tap-fini")
    assert json.loads(shown.stdout)["api_url"] == sandbox.url
    for done in (right, wrong, shown):
        assert sandbox.api_key not in done.stdout + done.stderr
        assert "fini_wrong" not in done.stdout + done.stderr


def test_about(clone: Path) -> None:
    about = json.loads(
        _meltano(clone, "invoke", "tap-fini", "--about", "--format=json", log="error").stdout
    )
    TapFini.append_builtin_config(TapFini.config_jsonschema)
    assert about["name"] == "tap-fini"
    assert about["settings"]["properties"].keys() == TapFini.config_jsonschema["properties"].keys()


def test_a_job_its_state_and_its_schedule(clone: Path, sandbox: Sandbox) -> None:
    """A run, a scheduled one after a change, a full refresh, and one with a state of its own."""
    state_id = "dev:tap-fini-to-target-duckdb"
    warehouse = DuckDB(clone / "output", "fini")
    _meltano(clone, "run", "fini-to-duckdb")
    assert _rows(warehouse) == _truth(sandbox)
    assert _state(clone, state_id) == _bookmarks(sandbox)

    newest = max(conversation["updatedAt"] for conversation in sandbox.truth())
    sandbox.world.upsert(edited(sandbox.truth()[0], newest + 1000))
    (schedule,) = json.loads(_meltano(clone, "schedule", "list", "--format=json").stdout)[
        "schedules"
    ]["job"]
    assert (schedule["name"], schedule["interval"]) == ("fini-daily", "@daily")
    assert schedule["job"]["name"] == "fini-to-duckdb"
    assert schedule["job"]["tasks"] == ["tap-fini target-duckdb"]
    sandbox.reset()
    _meltano(clone, "schedule", "run", "fini-daily")
    assert _first_epoch(sandbox) > START
    assert _rows(warehouse) == _truth(sandbox)

    sandbox.reset()
    _meltano(clone, "run", "--full-refresh", "tap-fini", "target-duckdb")
    assert _first_epoch(sandbox) < START
    assert _rows(warehouse) == _truth(sandbox)

    sandbox.reset()
    _meltano(clone, "run", "--state-id-suffix=eu", "tap-fini", "target-duckdb")
    assert _first_epoch(sandbox) < START
    assert _state(clone, f"{state_id}:eu") == _bookmarks(sandbox)


def test_an_environment_has_a_state_and_a_file_of_its_own(clone: Path, sandbox: Sandbox) -> None:
    sandbox.reset()
    _meltano(clone, "--environment=prod", "run", "tap-fini", "target-duckdb")
    assert _first_epoch(sandbox) < START
    assert _rows(DuckDB(clone / "output", "fini_prod")) == _truth(sandbox)


def test_streams_and_fields_are_selected(untouched: Path, sandbox: Sandbox) -> None:
    """What is selected comes, and nothing else."""
    _meltano(untouched, "select", "--clear", "tap-fini")
    _meltano(untouched, "select", "tap-fini", "conversations", "*")
    _meltano(untouched, "select", "--exclude", "tap-fini", "conversations", "url")
    _meltano(
        untouched,
        "run",
        "--state-id-suffix=selected",
        "tap-fini",
        "target-jsonl",
        TARGET_JSONL_DO_TIMESTAMP_FILE="false",
        TARGET_JSONL_DESTINATION_PATH="output/selected",
        make="output/selected",
    )
    files = {path.name: path for path in (untouched / "output" / "selected").iterdir()}
    assert list(files) == ["conversations.jsonl"]
    lines = files["conversations.jsonl"].read_text(encoding="utf-8").splitlines()
    truth = [expected.conversation_row(conversation) for conversation in sandbox.truth()]
    for row in truth:
        del row["url"]
    by_id = {row["id"]: row for row in truth}
    assert {row["id"]: row for row in map(json.loads, lines)} == by_id


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tap as users install it."""
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--quiet", "--wheel", f"--out-dir={folder}", str(ROOT))
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.parametrize("way", ["the README's lines", "meltano add --from-ref"])
def test_in_another_project(tmp_path: Path, sandbox: Sandbox, wheel: Path, way: str) -> None:
    """The tap from a package index, for which the built wheel stands in."""
    loader = _loader("target-jsonl")
    loader["config"] = {"destination_path": "output", "do_timestamp_file": False}
    project: dict[str, Any] = {
        "default_environment": "dev",
        "environments": [{"name": "dev"}],
        "send_anonymous_usage_stats": False,
        "venv": {"backend": "uv"},
        "plugins": {"extractors": [], "loaders": [loader]},
    }
    (tmp_path / "output").mkdir()
    _write_env(tmp_path, sandbox)
    _save(tmp_path, project)
    if way == "the README's lines":
        project["plugins"]["extractors"] = _readme_extractor()
    else:
        shutil.copy(DEFINITION, tmp_path / "tap-fini.yml")
        _meltano(tmp_path, "add", "--no-install", "--from-ref", "tap-fini.yml", "tap-fini")
        project = yaml.safe_load((tmp_path / "meltano.yml").read_text(encoding="utf-8"))
        (added,) = project["plugins"]["extractors"]
        assert "select" not in added  # which Meltano leaves out, so the README says to add it
        added["select"] = yaml.safe_load(DEFINITION.read_text(encoding="utf-8"))["select"]
    (extractor,) = project["plugins"]["extractors"]
    assert extractor["pip_url"] == "tap-fini"
    extractor["pip_url"] = str(wheel)
    extractor.setdefault("config", {})["api_url"] = sandbox.url
    _save(tmp_path, project)

    _meltano(tmp_path, "install")
    _meltano(tmp_path, "run", "tap-fini", "target-jsonl")
    parents, children = expected.tables(sandbox.truth())
    held = [
        (tmp_path / "output" / f"{stream}.jsonl").read_text(encoding="utf-8").splitlines()
        for stream in STREAMS
    ]
    assert [sorted(map(json.loads, lines), key=str) for lines in held] == [
        sorted(rows.values(), key=str) for rows in (parents, children)
    ]

    sandbox.reset()
    _meltano(tmp_path, "run", "tap-fini", "target-jsonl")
    assert _first_epoch(sandbox) > START


def _meltano(
    folder: Path,
    *arguments: str,
    fails: bool = False,
    log: str = "info",
    make: str = "",
    **env: str,
) -> subprocess.CompletedProcess[str]:
    if make:
        (folder / make).mkdir()
    done = subprocess.run(
        [str(MELTANO), f"--log-level={log}", *arguments],
        cwd=folder,
        # uv lies beside Meltano.
        env={**_clean(os.environ), "PATH": f"{MELTANO.parent}{os.pathsep}{os.environ['PATH']}"}
        | env,
        capture_output=True,
        text=True,
        timeout=MELTANO_SECONDS,
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def _write_env(folder: Path, sandbox: Sandbox) -> None:
    (folder / ".env").write_text(
        f"TAP_FINI_API_KEY={sandbox.api_key}\n"
        f"TAP_FINI_API_URL={sandbox.url}\n"
        "TAP_FINI_MAX_REQUESTS_PER_MINUTE=0\n"
        "TAP_FINI_WINDOW_DAYS=45.5\n",
        encoding="utf-8",
    )


def _save(folder: Path, project: dict[str, Any]) -> None:
    (folder / "meltano.yml").write_text(yaml.safe_dump(project, sort_keys=False), encoding="utf-8")


def _loader(name: str) -> dict[str, Any]:
    project = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))
    loader: dict[str, Any]
    (loader,) = (loader for loader in project["plugins"]["loaders"] if loader["name"] == name)
    return loader


def _readme_extractor() -> list[dict[str, Any]]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(
        r"^```yaml\n(- name: tap-fini\n.*?)^```", readme, re.MULTILINE | re.DOTALL
    )
    extractors: list[dict[str, Any]] = yaml.safe_load(lines)
    return extractors


def _state(folder: Path, state_id: str) -> dict[str, Any]:
    shown = _meltano(folder, "state", "get", state_id, log="error").stdout
    bookmarks: dict[str, Any] = json.loads(shown)["singer_state"]["bookmarks"]
    return {stream: bookmarks[stream]["replication_key_value"] for stream in STREAMS}


def _bookmarks(sandbox: Sandbox) -> dict[str, str]:
    newest = max(conversation["updatedAt"] for conversation in sandbox.truth())
    return dict.fromkeys(STREAMS, expected.time_text(newest))


def _first_epoch(sandbox: Sandbox) -> int:
    return min(int(request.params["startEpoch"]) for request in sandbox.requests)


def _rows(warehouse: DuckDB) -> dict[str, set[tuple[Any, ...]]]:
    """What tells whether a row is there and up to date; values are compared elsewhere."""
    rows = warehouse.read().rows
    assert all(len(rows[table]) == len({str(row) for row in rows[table]}) for table in rows)
    return {
        "conversations": {(row["id"], row["updatedat"]) for row in rows["conversations"]},
        "bot_requests": {
            (row["conversationid"], row["position"], row["question"])
            for row in rows["bot_requests"]
        },
    }


def _truth(sandbox: Sandbox) -> dict[str, set[tuple[Any, ...]]]:
    return {
        "conversations": {
            (conversation["id"], time(expected.time_text(conversation["updatedAt"])))
            for conversation in sandbox.truth()
        },
        "bot_requests": {
            (conversation["id"], place, row["question"])
            for conversation in sandbox.truth()
            for place, row in enumerate(expected.bot_request_rows(conversation))
        },
    }
