"""What a release is made of: built, checked and installed as users get it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tap_fini.tap import TapFini
from tests.support import ROOT, pyproject
from tests.targets import uv, venv
from tests.test_documentation import DESIGNED, _readme

if TYPE_CHECKING:
    from pathlib import Path

VERSION: str = pyproject()["project"]["version"]
MODULES = {path.name for path in (ROOT / "tap_fini").glob("*.py")} | {"py.typed"}

# What meets the libraries: HTTP, msgspec, the SDK, a run's very messages. test_settings.py is not
# among them: before urllib3 2.8 an address with a space in it fails later, in other words.
QUICK = ["example", "standard", "catalog", "pagination", "writer", "sdk_hooks", "client"]
TEST_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Release:
    """The two files that are published."""

    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Build them, the wheel from the sdist, as ``uv build`` does."""
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--quiet", f"--out-dir={folder}", str(ROOT))
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    return Release(wheel, sdist)


def test_the_version_is_written_once() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
    named = [
        path.name for path in (ROOT / "tap_fini").glob("*.py") if VERSION in path.read_text("utf-8")
    ]
    assert named == []
    assert TapFini.plugin_version == VERSION


def test_the_changelog_is_kept() -> None:
    """In the form of keepachangelog.com, with what comes next or is this version on top."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    released = titles[1:] if titles[0] == "[Unreleased]" else titles
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", title) for title in released)
    versions = [
        tuple(int(part) for part in re.findall(r"\d+", title.split("]")[0])) for title in released
    ]
    assert versions == sorted(versions, reverse=True)
    this = tuple(int(part) for part in VERSION.split("."))
    if titles[0] == "[Unreleased]":
        assert this not in versions or this == versions[0]
    else:
        assert this == versions[0]
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.targets
def test_the_files_hold_the_tap_and_nothing_else(release: Release) -> None:
    info = f"tap_fini-{VERSION}.dist-info"
    with zipfile.ZipFile(release.wheel) as wheel:
        assert set(wheel.namelist()) == {
            *(f"tap_fini/{name}" for name in MODULES),
            *(f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")),
            f"{info}/licenses/LICENSE",
        }
    top = f"tap_fini-{VERSION}"
    with tarfile.open(release.sdist) as sdist:
        assert {member.name for member in sdist.getmembers()} == {
            *(f"{top}/tap_fini/{name}" for name in MODULES),
            *(f"{top}/{name}" for name in ("CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md")),
            f"{top}/.gitignore",
            f"{top}/pyproject.toml",
        }


@pytest.mark.targets
def test_twine_has_nothing_to_say(release: Release) -> None:
    checked = subprocess.run(
        [
            str(venv("twine").scripts / "twine"),
            "--no-color",
            "check",
            "--strict",
            str(release.wheel),
            str(release.sdist),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout
    assert re.findall(r": (\w+)$", checked.stdout, re.MULTILINE) == ["PASSED", "PASSED"]


@pytest.mark.targets
def test_installed_as_a_tool_it_says_what_the_readme_says(release: Release, tmp_path: Path) -> None:
    """``uv tool install tap-fini``, which pipx does alike; the README's table is its own."""
    uv(
        "tool",
        "install",
        "--quiet",
        f"--python={sys.executable}",
        str(release.wheel),
        UV_TOOL_DIR=str(tmp_path / "tools"),
        UV_TOOL_BIN_DIR=str(tmp_path / "bin"),
    )
    (command,) = (tmp_path / "bin").iterdir()
    assert command.stem == "tap-fini"

    def says(*arguments: str) -> str:
        done = subprocess.run(
            [str(command), *arguments],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout

    assert says("--version").startswith(f"tap-fini v{VERSION}, Meltano SDK v")
    about = re.findall(
        r"^\| (\w+) \| (True|False) \| (.*?) \| (.*) \|$",
        says("--about", "--format=markdown"),
        re.MULTILINE,
    )
    own = [row for row in about if row[0] in DESIGNED]
    assert [
        (
            name,
            "required, secret" if required == "True" else default.replace("None", ""),
            description,
        )
        for name, required, default, description in own
    ] == [
        (name, default.replace("`", ""), meaning.replace("`", ""))
        for name, (default, meaning) in _readme().items()
    ]


@pytest.mark.targets
@pytest.mark.long
@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
def test_the_bounds_of_the_dependencies_hold(
    release: Release, tmp_path: Path, resolution: str
) -> None:
    """With the oldest and the newest libraries that pyproject.toml lets in."""
    folder = tmp_path / "venv"
    python = folder / ("Scripts/python" if os.name == "nt" else "bin/python")
    install = ("pip", "install", "--quiet", f"--python={python}")
    uv("venv", "--quiet", f"--python={sys.executable}", str(folder))
    uv(*install, f"--resolution={resolution}", "--requirements", str(ROOT / "pyproject.toml"))
    uv(*install, "--no-deps", str(release.wheel))
    before = uv("pip", "freeze", f"--python={python}")
    uv(*install, *pyproject()["dependency-groups"]["test"])
    after = uv("pip", "freeze", f"--python={python}")
    assert set(before.splitlines()) <= set(after.splitlines()), "the tests changed a library"
    installed = dict(line.split("==") for line in after.splitlines() if "==" in line)
    if resolution == "lowest-direct":
        # Else a bound is lower than what the others let in, and nothing has tried it.
        assert [
            (name, installed[name])
            for name, bound in _bounds().items()
            if installed[name] not in SpecifierSet(f"=={bound}.*")
        ] == []
    tested = subprocess.run(
        [
            str(python),
            *("-m", "pytest", "--quiet", "-p", "no:cacheprovider"),
            *(f"tests/test_{name}.py" for name in QUICK),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=TEST_SECONDS,
    )
    assert tested.returncode == 0, tested.stdout[-3000:]


def _bounds() -> dict[str, str]:
    """The lower bounds in pyproject.toml, as far as they are about this Python."""
    wanted = map(Requirement, pyproject()["project"]["dependencies"])
    return {
        requirement.name: next(iter(requirement.specifier)).version
        for requirement in wanted
        if requirement.marker is None or requirement.marker.evaluate()
    }
