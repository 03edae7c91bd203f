"""The plugin definition that is ready for MeltanoHub: valid there, and the same as all else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jsonschema import Draft7Validator
from referencing import Registry, Resource

from tap_fini.tap import TapFini
from tests.meltanohub import DEFINITION, ROOT, definition, page
from tests.support import pyproject
from tests.test_documentation import kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMAS = ROOT / "tests" / "meltanohub"


def _schema(name: str) -> dict[str, Any]:
    # The references are paths in the Hub's folders; here all lie side by side.
    path = SCHEMAS / name.rsplit("/", 1)[-1]
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return schema


def _complaints(plugin: dict[str, Any]) -> list[str]:
    # mypy knows only the private name of the argument.
    registry: Registry[bool | Mapping[str, Any]] = Registry(
        retrieve=lambda name: Resource.from_contents(_schema(name))  # type: ignore[call-arg]
    )
    validator = Draft7Validator(_schema("extractors.schema.json"), registry=registry)
    return [error.message for error in validator.iter_errors(plugin)]


@pytest.fixture(scope="module")
def plugin() -> dict[str, Any]:
    """The definition, as the Hub reads it."""
    content: dict[str, Any] = yaml.safe_load(DEFINITION.read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """meltano.yml."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))
    return content


def test_the_hub_takes_it(plugin: dict[str, Any]) -> None:
    assert _complaints(plugin) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"colour": "blue"},
        {"quality": "excellent"},
        {"capabilities": ["flying"]},
        {"settings": [{"name": "api_key", "required": True}]},
        {"settings": [{"name": "api_key", "kind": "number"}]},
        {"supported_python_versions": [3.1]},
    ],
)
def test_the_hub_would_complain(plugin: dict[str, Any], wrong: dict[str, Any]) -> None:
    """Each part of the schema is really applied."""
    assert len(_complaints({**plugin, **wrong})) == 1


def test_it_is_made_from_meltano_yml_and_pyproject_toml(project: dict[str, Any]) -> None:
    made = page(definition(project, pyproject()["project"]))
    said = DEFINITION.read_text(encoding="utf-8")
    assert said == made, "write it anew with `python -m tests.meltanohub`"


def test_its_settings_are_the_taps(plugin: dict[str, Any]) -> None:
    TapFini.append_builtin_config(TapFini.config_jsonschema)
    assert {
        setting["name"]: (
            setting["kind"],
            setting.get("value"),
            setting.get("sensitive", False),
            [option["value"] for option in setting.get("options", [])],
        )
        for setting in plugin["settings"]
    } == {
        name: (
            kind_of(schema),
            schema.get("default"),
            schema.get("secret", False),
            schema.get("enum", []),
        )
        for name, schema in TapFini.config_jsonschema["properties"].items()
    }
    assert plugin["settings_group_validation"] == [TapFini.config_jsonschema["required"]]
    assert set(plugin["capabilities"]) == {str(capability) for capability in TapFini.capabilities}
    assert plugin["name"] == TapFini.name
