"""The tap's plugin definition for MeltanoHub, made from ``meltano.yml`` and ``pyproject.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEFINITION = ROOT / "docs" / "meltanohub" / "tap-fini.yml"
HEAD = """\
# The plugin definition for MeltanoHub; `python -m tests.meltanohub` writes it.
#
# To submit it, set `variant` to the GitHub account that the tap is published from, and add `repo`
# and `logo_url`. Then open a pull request at meltano/hub with this file as
# _data/meltano/extractors/tap-fini/<variant>.yml, a line each in _data/default_variants.yml and
# _data/maintainers.yml, and the logo.
"""
SHARED = (
    "name",
    "namespace",
    "label",
    "description",
    "executable",
    "capabilities",
    "log_parser",
    "select",
    "settings_group_validation",
    "settings",
)
"""What the Hub is told in meltano.yml's own words."""


def definition(project: dict[str, Any], package: dict[str, Any]) -> dict[str, Any]:
    """Return the plugin definition.

    Args:
        project: meltano.yml.
        package: the table ``project`` of pyproject.toml.
    """
    (extractor,) = project["plugins"]["extractors"]
    python = "Programming Language :: Python :: 3."
    return {
        **{name: extractor[name] for name in SHARED},
        "pip_url": package["name"],
        "variant": "tap-fini",
        "domain_url": "https://www.usefini.com",
        "keywords": ["api", "chat", "customer support", "meltano_sdk"],
        "maintenance_status": "beta",
        "quality": "unknown",
        "prereq": "A Fini API key with the scope `read`, made in Fini under Deploy → API Keys.",
        "supported_python_versions": [
            name.removeprefix(python.removesuffix("3."))
            for name in package["classifiers"]
            if name.startswith(python)
        ],
    }


def page(content: dict[str, Any]) -> str:
    """Return the definition as YAML in the Hub's own layout."""
    return HEAD + yaml.safe_dump(content, allow_unicode=True, sort_keys=True, width=120)
