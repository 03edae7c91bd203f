"""Meltano, run for real: which environment, with which variables, into which file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dotenv import dotenv_values

if TYPE_CHECKING:
    from rich.console import Console

ROOT = Path(__file__).parents[2]
TAP = "tap-fini"
TARGET = "target-duckdb"


class DemoError(Exception):
    """Something failed; the message is a sentence for the person who ran the demo."""


def api_key() -> str | None:
    """The Fini API key in the environment or in ``.env``, None without one."""
    return (
        os.environ.get("TAP_FINI_API_KEY")
        or dotenv_values(ROOT / ".env").get("TAP_FINI_API_KEY")
        or None
    )


@dataclass(frozen=True, slots=True)
class Pipeline:
    """``meltano run tap-fini target-duckdb`` in one of the project's environments.

    Attributes:
        environment: the Meltano environment.
        variables: the whole environment of the Meltano process.
        api_url: what the tap reads.
        database: the DuckDB file as the loader's configuration names it.
        schema: the schema that the tables are in.
        options: more options of ``meltano run``.
    """

    environment: str
    variables: dict[str, str]
    api_url: str
    database: str
    schema: str
    options: tuple[str, ...]

    @classmethod
    def for_sandbox(cls, url: str, key: str) -> Pipeline:
        """The pipeline that reads a sandbox at ``url``.

        Raises:
            DemoError: Meltano does not start.
        """
        # The user's own settings are for Fini; here they would filter or redirect.
        variables = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TAP_FINI_", "TARGET_DUCKDB_", "MELTANO_"))
        }
        # A file and a state of its own: the environment may have read another sandbox.
        variables |= {
            "TAP_FINI_API_URL": url,
            "TAP_FINI_API_KEY": key,
            "TARGET_DUCKDB_PATH": "output/demo.duckdb",
        }
        for name in ("NO_PROXY", "no_proxy"):
            variables[name] = ",".join(filter(None, [variables.get(name), "127.0.0.1"]))
        return cls._configured("sandbox", variables, url, "--state-id-suffix=demo")

    @classmethod
    def for_fini(cls) -> Pipeline:
        """The pipeline that reads Fini, in the environment that a plain ``meltano run`` would use.

        Raises:
            DemoError: Meltano does not start.
        """
        environment = os.environ.get("MELTANO_ENVIRONMENT") or "dev"
        variables = dict(os.environ)
        return cls._configured(
            environment, variables, _config(environment, variables, TAP)["api_url"]
        )

    @classmethod
    def _configured(
        cls, environment: str, variables: dict[str, str], url: str, *options: str
    ) -> Pipeline:
        target = _config(environment, variables, TARGET)
        return cls(
            environment, variables, url, target["path"], target["default_target_schema"], options
        )

    @property
    def path(self) -> Path:
        """Where the database file is."""
        return ROOT / self.database

    @property
    def python(self) -> Path:
        """The loader's Python: the DuckDB beside it is the one that wrote the file."""
        folder = "Scripts" if os.name == "nt" else "bin"
        return ROOT / ".meltano" / "loaders" / TARGET / "venv" / folder / "python"

    def run(self, console: Console) -> None:
        """Read and write.

        Raises:
            DemoError: the tap or the target failed.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A state without its rows would hide the history from a new file.
        refresh = () if self.path.exists() else ("--full-refresh",)
        arguments = (
            f"--environment={self.environment}",
            "run",
            *self.options,
            *refresh,
            TAP,
            TARGET,
        )
        shown = f"meltano {' '.join(arguments)}"
        console.print(f"[bold]$ {shown}[/]", highlight=False)
        done = subprocess.run(_command(*arguments), cwd=ROOT, env=self.variables, check=False)
        if done.returncode:
            msg = f"`{shown}` ended with {done.returncode}; its log above says why."
            raise DemoError(msg)
        console.print()


def _command(*arguments: str) -> list[str]:
    """Meltano's own command, out of the environment that runs this."""
    meltano = shutil.which("meltano", path=sysconfig.get_path("scripts"))
    if meltano is None:
        msg = "Meltano is not installed here; run this as `uv run python -m tests.demo`."
        raise DemoError(msg)
    return [meltano, *arguments]


def _config(environment: str, variables: dict[str, str], plugin: str) -> dict[str, Any]:
    done = subprocess.run(
        _command(f"--environment={environment}", "config", "print", plugin),
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing."]
        msg = f"Meltano cannot tell the configuration of {plugin}: {last[0]}"
        raise DemoError(msg)
    config: dict[str, Any] = json.loads(done.stdout)
    return config
