"""The Meltano project as in a fresh clone, its commands run for real, and changes to a sandbox."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from typing import TYPE_CHECKING

from tests.sandbox import edited
from tests.targets import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.sandbox import Sandbox

COPIED = (
    "meltano.yml",
    "orchestrate",
    "output",
    "pyproject.toml",
    "README.md",
    "tap_fini",
    "transform",
)
MINE = ("DAGSTER_", "DBT_", "FINI_", "MELTANO_", "TAP_FINI_", "TARGET_", "VIRTUAL_ENV")
RUN_SECONDS = 300


def copy_project(folder: Path) -> Path:
    """Copy what Meltano needs into ``folder``, and return where it is."""
    project = folder / "tap-fini"
    project.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("*.duckdb*", "*.html", "*.sha256", "__pycache__")
            shutil.copytree(ROOT / name, project / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, project / name)
    return project


def variables_for(sandbox: Sandbox, **more: str) -> dict[str, str]:
    """Return an environment in which the tap reads ``sandbox``, and nothing is the developer's."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(MINE)},
        "PATH": os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"])),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "TAP_FINI_API_URL": sandbox.url,
        "TAP_FINI_API_KEY": sandbox.api_key,
        "TAP_FINI_MAX_REQUESTS_PER_MINUTE": "0",
        **more,
    }


def run_shell(
    script: str, folder: Path, variables: Mapping[str, str], *, seconds: float = RUN_SECONDS
) -> str:
    """Run a shell script as a page shows it, in ``folder``.

    Returns:
        What it wrote, to both outputs.

    Raises:
        AssertionError: a command failed.
    """
    done = subprocess.run(
        # This environment has what uv would install.
        ["bash", "-eo", "pipefail", "-c", script.replace("uv run ", "")],
        cwd=folder,
        env=dict(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def change(sandbox: Sandbox) -> None:
    """Do everything that can happen to a conversation, and show every form of its sources."""
    before = sorted(sandbox.truth(), key=lambda conversation: conversation["updatedAt"])
    later = (before[-1]["updatedAt"] + 1000 * number for number in range(1, 1000))
    for conversation in before[::10]:
        sandbox.world.upsert(edited(conversation, next(later)))
    shrunk, emptied, forgotten, odd, fewer = [
        c for c in before[1::5] if len(c["botRequests"]) > 1 and c["botRequests"][0]["basedOn"]
    ][:5]
    sandbox.world.upsert(
        {**shrunk, "botRequests": shrunk["botRequests"][:-1], "updatedAt": next(later)}
    )
    sandbox.world.upsert({**emptied, "botRequests": [], "updatedAt": next(later)})
    without = [{**turn, "basedOn": []} for turn in forgotten["botRequests"]]
    sandbox.world.upsert({**forgotten, "botRequests": without, "updatedAt": next(later)})
    fewer["botRequests"][0] |= {"basedOn": fewer["botRequests"][0]["basedOn"][:1], "answer": None}
    fewer["botRequests"][1]["answer"] = " "
    sandbox.world.upsert({**fewer, "updatedAt": next(later)})
    odd["botRequests"][0]["basedOn"] = [
        {"id": 7, "score": 1},
        {"id": ["a", "b", "a"], "score": "high", "source_type": "zendesk"},
        {"id": [], "sourceId": "source without id", "sourceType": "article"},
        {"id": [None], "source_id": "source with no id"},
        {"id": None, "title": "A title alone"},
        {"entry": "nothing to know it by"},
        {},
    ]
    odd |= {"source": None, "escalation": None, "updatedAt": next(later)}
    sandbox.world.upsert(odd)
    # What moves updatedAt is not documented: this does not.
    last = before[-1]
    last["botRequests"][-1]["feedbackType"] = "thumbs_down"
    sandbox.world.upsert(last)
