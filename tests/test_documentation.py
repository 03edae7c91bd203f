"""The settings in tap.py, meltano.yml, .env.example and README.md say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tap_fini.tap import TapFini

ROOT = Path(__file__).parents[1]

DESIGNED = {
    "api_key": None,
    "api_url": "https://api-prod.usefini.com",
    "start_date": "2022-01-01T00:00:00Z",
    "end_date": None,
    "lookback_days": 7,
    "window_days": 30,
    "page_size": 50,
    "source": None,
    "category": None,
    "feedback_type": None,
    "escalation": None,
    "has_links": None,
    "user_id": None,
    "ticket_id": None,
    "question": None,
    "agent_id": None,
    "channel": None,
    "max_concurrent_requests": 4,
    "max_requests_per_minute": 100,
    "request_timeout": 60,
    "user_agent": None,
}
"""The settings and their defaults, in the order in which every page lists them."""


def _settings() -> dict[str, dict[str, Any]]:
    TapFini.append_builtin_config(TapFini.config_jsonschema)
    settings: dict[str, dict[str, Any]] = TapFini.config_jsonschema["properties"]
    return settings


def _meltano() -> dict[str, dict[str, Any]]:
    project = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))
    (extractor,) = project["plugins"]["extractors"]
    return {setting["name"]: setting for setting in extractor["settings"]}


def _environment() -> dict[str, tuple[str, str, bool]]:
    """Return the comment above each variable of .env.example, its value, and whether it is set."""
    found = {}
    comment: list[str] = []
    for line in (ROOT / ".env.example").read_text(encoding="utf-8").splitlines():
        variable = re.fullmatch(r"(# )?TAP_FINI_(\w+)=(.*)", line)
        if variable:
            found[variable[2].lower()] = (" ".join(comment), variable[3], not variable[1])
            comment = []
        elif line.startswith("# "):
            comment.append(line[2:])
        else:
            comment = []
    return found


def _readme() -> dict[str, tuple[str, str]]:
    """Return the cells of README.md's settings table: default and meaning."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    head = next((n for n, line in enumerate(lines) if line.startswith("| setting |")), None)
    assert head is not None, "README.md has no table whose first column is 'setting'"
    rows = {}
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        name, default, meaning = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name.strip("`")] = (default, meaning)
    return rows


SETTINGS = _settings()
BUILTIN = [name for name in SETTINGS if name not in DESIGNED]


def kind_of(definition: dict[str, Any]) -> str:
    """Return Meltano's word for a setting's type."""
    if "enum" in definition:
        return "options"
    if definition.get("format") == "date-time":
        return "date_iso8601"
    kind: str
    (kind,) = (kind for kind in definition["type"] if kind != "null")
    # Meltano has decimals too, but fails when one comes from the environment.
    return {"number": "string"}.get(kind, kind)


def test_the_tap_has_the_settings_of_the_design() -> None:
    assert {
        name: definition.get("default")
        for name, definition in SETTINGS.items()
        if name not in BUILTIN
    } == DESIGNED
    assert list(SETTINGS) == [*DESIGNED, *BUILTIN]
    assert TapFini.config_jsonschema["required"] == ["api_key"]
    secret = [name for name, definition in SETTINGS.items() if definition.get("secret")]
    assert secret == ["api_key"]


@pytest.mark.parametrize("name", SETTINGS)
def test_the_tap_says_what_each_setting_is(name: str) -> None:
    assert SETTINGS[name]["title"]
    assert SETTINGS[name]["description"]


def test_every_page_lists_the_settings_in_the_same_order() -> None:
    assert list(_meltano()) == [*DESIGNED, *BUILTIN]
    assert list(_environment()) == list(DESIGNED)
    assert list(_readme()) == list(DESIGNED)


@pytest.mark.parametrize("name", SETTINGS)
def test_meltano_yml(name: str) -> None:
    said, definition = _meltano()[name], SETTINGS[name]
    assert said["kind"] == kind_of(definition)
    assert said.get("value") == definition.get("default")
    assert said.get("sensitive", False) == definition.get("secret", False)
    options = [option["value"] for option in said.get("options", [])]
    assert options == definition.get("enum", [])
    assert said["label"]
    assert said["description"]


@pytest.mark.parametrize("name", DESIGNED)
def test_env_example(name: str) -> None:
    comment, value, is_set = _environment()[name]
    definition = SETTINGS[name]
    default = definition.get("default")
    assert value == ("" if default is None else str(default))
    assert is_set == (name == "api_key"), "copied as it is, the file changes no default"
    if name == "api_key":
        assert comment.endswith(" Required.")
        return
    otherwise = {"end_date": "now", "user_agent": "tap-fini/<version>"}.get(name, "none")
    assert comment.endswith(f" Default: {otherwise if default is None else default}")
    assert [option for option in definition.get("enum", []) if option not in comment] == []


@pytest.mark.parametrize("name", DESIGNED)
def test_readme(name: str) -> None:
    default, meaning = _readme()[name]
    expected = DESIGNED[name]
    if name == "api_key":
        assert default == "required, secret"
    else:
        assert default == ("" if expected is None else f"`{expected}`")
    assert meaning.replace("`", "") == SETTINGS[name]["description"]


def test_readme_names_the_environment_variables() -> None:
    assert "`TAP_FINI_API_KEY`" in (ROOT / "README.md").read_text(encoding="utf-8")
