"""The Meltano project, and the README's first command run in a copy of the repository."""

from __future__ import annotations

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
from tests.demo.first_look import Group, Landed
from tests.demo.page import render
from tests.sandbox import Sandbox, make_conversations

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[1]
DEMO_SECONDS = 600
NOT_COPIED = (
    ".git",
    ".meltano",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".targets",
    ".venv",
    ".env",
    "output",
)


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """meltano.yml."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))
    return content


def test_loaders_are_named(project: dict[str, Any]) -> None:
    assert [loader["name"] for loader in project["plugins"]["loaders"]] == [
        "target-duckdb",
        "target-jsonl",
        "target-postgres",
    ]


def test_every_plugin_is_defined_here(project: dict[str, Any]) -> None:
    """A plugin with a namespace is a custom one: Meltano asks no hub about it."""
    for plugins in project["plugins"].values():
        for plugin in plugins:
            assert {"namespace", "pip_url", "executable", "settings"} <= plugin.keys(), plugin[
                "name"
            ]
            assert "variant" not in plugin


def test_duckdb_is_one_that_loses_no_rows(project: dict[str, Any]) -> None:
    loader = project["plugins"]["loaders"][0]
    assert loader["pip_url"] == "target-duckdb~=0.8 duckdb<1.3"
    # A flush of one stream would acknowledge the other's bookmark.
    assert loader["config"]["flush_all_streams"] is True


def test_each_environment_has_files_and_schemas_of_its_own(project: dict[str, Any]) -> None:
    """Their states differ, so what they are about must differ too."""
    loaders = project["plugins"]["loaders"]
    own = {"target-duckdb": "path", "target-postgres": "default_target_schema"}
    for name, setting in own.items():
        places = [loader["config"][setting] for loader in loaders if loader["name"] == name]
        places += [
            loader["config"][setting]
            for environment in project["environments"]
            for loader in environment.get("config", {}).get("plugins", {}).get("loaders", ())
            if loader["name"] == name
        ]
        assert len(places) == len(set(places)) == len(project["environments"])


def test_capabilities_are_the_taps(project: dict[str, Any]) -> None:
    said = project["plugins"]["extractors"][0]["capabilities"]
    assert sorted(said) == sorted(str(capability) for capability in TapFini.capabilities)


def test_settings_are_the_taps(project: dict[str, Any]) -> None:
    """Names, and defaults, and what is secret; the words are each page's own."""
    TapFini.append_builtin_config(TapFini.config_jsonschema)
    schema = TapFini.config_jsonschema["properties"]
    said = {setting["name"]: setting for setting in project["plugins"]["extractors"][0]["settings"]}
    assert list(said) == list(schema)
    for name, setting in said.items():
        assert setting["kind"], name
        assert setting["label"], name
        assert setting["description"], name
        if name != "user_agent":
            assert setting.get("value") == schema[name].get("default"), name
        assert setting.get("sensitive", False) == schema[name].get("secret", False), name
        options = [option["value"] for option in setting.get("options", ())]
        assert options == [
            value for value in schema[name].get("enum") or () if value is not None
        ], name


def test_example_environment_names_every_setting(project: dict[str, Any]) -> None:
    said = re.findall(
        r"^(?:# )?TAP_FINI_(\w+)=",
        (ROOT / ".env.example").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    settings = [setting["name"] for setting in project["plugins"]["extractors"][0]["settings"]]
    assert [name.lower() for name in said] == settings[: settings.index("stream_maps")]


def test_page_shows_names_as_text_and_fetches_nothing() -> None:
    """Sources and titles are the customers' own words."""
    hostile = '<script>alert("1")</script> & more'
    groups = (Group(hostile, 3, 1, 1, 1), Group("x" * 99, 0, 0))
    landed = Landed(3, 4, "2025-01-01", "2025-02-01", 1, 1, 1, 0, 0, groups, groups, groups)
    page = render(landed, origin="https://example.com/<b>", database="output/x.duckdb")
    assert "<script" not in page
    assert "<b>&" not in page
    assert not re.search(r"(?:src|href|url\()\s*=?", page)


def test_page_of_an_empty_database() -> None:
    landed = Landed(0, 0, None, None, 0, 0, 0, 0, 0, (), (), ())
    assert render(landed, origin="a made-up Fini", database="x").count("Nothing here yet.") == 4


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository as a fresh clone would be."""
    folder = tmp_path_factory.mktemp("clone") / "tap-fini"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_COPIED, "uv.lock"))
    return folder


@pytest.mark.targets
def test_demo_from_a_fresh_clone(copy: Path) -> None:
    """The sandbox's own counts; again, nothing added; without its file, all again."""
    truth = make_conversations(300)
    counts = (len(truth), sum(len(conversation["botRequests"]) for conversation in truth))

    first = _demo(copy, "--conversations", "300")
    assert first.returncode == 0, first.stdout + first.stderr
    assert _landed(first.stdout) == [(count, count, count, "equal") for count in counts]
    page = (copy / "output" / "demo.html").read_text(encoding="utf-8")
    assert f"<b>{counts[1]:,}</b>" in page

    second = _demo(copy, "--conversations", "300")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "--full-refresh" not in second.stdout
    assert _landed(second.stdout) == [(count, 0, count, "equal") for count in counts]

    (copy / "output" / "demo.duckdb").unlink()
    third = _demo(copy, "--conversations", "300")
    assert third.returncode == 0, third.stdout + third.stderr
    assert _landed(third.stdout) == [(count, count, count, "equal") for count in counts]


@pytest.mark.targets
def test_the_readmes_picture_is_what_the_demo_shows(copy: Path) -> None:
    """To renew it: python -m tests.demo --picture docs/what-lands.svg."""
    done = _demo(copy, "--picture", "output/picture.svg")
    assert done.returncode == 0, done.stderr
    picture = (copy / "output" / "picture.svg").read_text(encoding="utf-8")
    assert picture == (ROOT / "docs" / "what-lands.svg").read_text(encoding="utf-8")
    assert "http" not in picture.replace("http://www.w3.org/2000/svg", ""), "nothing is fetched"


@pytest.mark.targets
def test_demo_with_a_key_reads_what_the_key_opens(copy: Path) -> None:
    """The same command; Fini's place is taken by a sandbox."""
    with Sandbox(make_conversations(120)) as sandbox:
        settings = {
            "TAP_FINI_API_URL": sandbox.url,
            "TAP_FINI_API_KEY": sandbox.api_key,
            "TAP_FINI_MAX_REQUESTS_PER_MINUTE": "0",
        }
        done = _demo(copy, **settings)
        truth = sandbox.truth()
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        f"TAP_FINI_API_KEY is set: this reads {sandbox.url} into output/fini.duckdb" in done.stdout
    )
    counts = (len(truth), sum(len(conversation["botRequests"]) for conversation in truth))
    assert _landed(done.stdout) == [(count, count) for count in counts]
    assert sandbox.api_key not in done.stdout + done.stderr


@pytest.mark.targets
def test_demo_fails_when_the_tap_fails(copy: Path) -> None:
    with Sandbox(make_conversations(1)) as sandbox:
        done = _demo(copy, TAP_FINI_API_URL=sandbox.url, TAP_FINI_API_KEY="fini_wrong")
    assert done.returncode == 1
    assert "The demo failed: `meltano --environment=dev run" in done.stderr
    assert "fini_wrong" not in done.stdout + done.stderr


@pytest.mark.targets
def test_demo_fails_when_the_target_fails(copy: Path) -> None:
    """Its file is no database."""
    broken = copy / "output" / "demo.duckdb"
    broken.parent.mkdir(exist_ok=True)
    done = _demo(copy, "--conversations", "10")
    assert done.returncode == 0, done.stdout + done.stderr
    broken.write_text("not a database, but long enough to look at" * 1000, encoding="ascii")
    done = _demo(copy, "--conversations", "10")
    assert done.returncode == 1
    assert "The demo failed: " in done.stderr


def _demo(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the README's command in ``folder``, with this Python."""
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv, "this test needs uv"
    return subprocess.run(
        [uv, "run", "python", "-m", "tests.demo", *arguments],
        cwd=folder,
        env={**_clean(os.environ), "UV_PYTHON": sys.executable, "COLUMNS": "120", **settings},
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
        check=False,
    )


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Without the developer's own settings and virtual environment."""
    mine = ("TAP_FINI_", "TARGET_", "MELTANO_", "VIRTUAL_ENV", "UV_PROJECT")
    return {name: value for name, value in environment.items() if not name.startswith(mine)}


def _landed(output: str) -> list[tuple[int | str, ...]]:
    """The demo's first table: rows, added and, of a sandbox, what it holds and the verdict."""
    rows = re.findall(r"^(?:conversations|bot_requests) +(.+)$", output, re.MULTILINE)
    return [
        tuple(word if word.isalpha() else int(word.replace(",", "")) for word in row.split())
        for row in rows
    ]
