"""The Dagster job in orchestrate/, run for real, and the figures of docs/scale-out.md."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.pages import blocks, merge
from tests.project import copy_project, run_shell, variables_for
from tests.sandbox import Fault, Sandbox, Switches, edited, make_conversations
from tests.targets import ROOT, load, postgres_server, venv
from tests.test_settings import DEFAULTS

if TYPE_CHECKING:
    from pathlib import Path

PAGE = "docs/scale-out.md"
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
ALLOWED = 14
"""Requests a minute that the sandboxes allow a key: fewer than the job makes."""

JOB_SECONDS = 900

DIFFERENCES = """
import json, psycopg, sys
ask = json.load(sys.stdin)
answer = {}
with psycopg.connect(ask["url"].replace("+psycopg", "")) as connection:
    for table in ("conversations", "bot_requests"):
        columns = ", ".join(
            f'"{name}"' for (name,) in connection.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_name = %s "
                "AND table_schema = 'one_by_one' AND column_name NOT LIKE %s", (table, "_sdc%")
            )
        )
        count, *differing = (
            connection.execute(query).fetchone()[0]
            for query in (
                f"SELECT count(*) FROM fini.{table}",
                f"SELECT count(*) FROM (SELECT {columns} FROM fini.{table} "
                f"EXCEPT SELECT {columns} FROM one_by_one.{table}) AS more",
                f"SELECT count(*) FROM (SELECT {columns} FROM one_by_one.{table} "
                f"EXCEPT SELECT {columns} FROM fini.{table}) AS missing",
            )
        )
        answer[table] = [count, *differing]
json.dump(answer, sys.stdout)
"""


def test_the_figures() -> None:
    """What the throttle allows, worked out from the settings' defaults."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in TEXT.splitlines()
        if line.startswith("|")
    ]
    head = next(n for n, row in enumerate(rows) if row[0] == "`page_size`")
    keys = [int(cell.split()[0]) for cell in rows[head][1:]]
    sizes = rows[head + 2 : head + 4]
    page_size, per_minute, at_a_time = (
        int(str(DEFAULTS[name]))
        for name in ("page_size", "max_requests_per_minute", "max_concurrent_requests")
    )
    assert [row[0] for row in sizes] == [str(page_size), "100"]
    for size, *cells in sizes:
        assert [int(cell.replace(",", "")) for cell in cells] == [
            60 * per_minute * int(size) * number for number in keys
        ]
    seconds = [float(number) for number in re.findall(r"within ([0-9.]+) seconds", TEXT)]
    assert seconds == [pytest.approx(number * 60 / per_minute) for number in (at_a_time, 16)]


@pytest.mark.targets
@pytest.mark.long
def test_slices_equal_one_run_after_the_other(tmp_path: Path) -> None:
    """Two workspaces in two slices each; one slice fails and is tried again alone.

    The sandboxes' throttle is lower than what the job asks for, and is never exceeded.
    """
    project = copy_project(tmp_path)
    (fragment,) = blocks("docs/recipes.md", "Several workspaces in one project", "yaml")
    merge(project, fragment)
    (command,) = (text for text in blocks(PAGE, "Run it with Dagster", "sh") if "job" in text)
    throttle = Switches(throttle=ALLOWED)
    with (
        postgres_server(tmp_path) as url,
        Sandbox(make_conversations(180), throttle) as acme,
        Sandbox(make_conversations(90, seed=1), throttle) as globex,
    ):
        variables = variables_for(
            acme,
            PATH=os.pathsep.join((variables_for(acme)["PATH"], str(venv("dagster").scripts))),
            DAGSTER_HOME=str(tmp_path),
            FINI_REQUESTS_PER_MINUTE=str(ALLOWED),
            TARGET_POSTGRES_SQLALCHEMY_URL=url,
            TAP_FINI__ACME_API_URL=acme.url,
            TAP_FINI__ACME_API_KEY=acme.api_key,
            TAP_FINI__GLOBEX_API_URL=globex.url,
            TAP_FINI__GLOBEX_API_KEY=globex.api_key,
            TAP_FINI__ACME_PAGE_SIZE="20",
            TAP_FINI__GLOBEX_PAGE_SIZE="20",
        )
        # One request of one slice; its run ends at once.
        acme.faults = [Fault("wrong_shape", at=(6,), times=1, status=403, body=b"{}")]
        said = run_shell(command, project, variables, seconds=JOB_SECONDS)

        retried = re.findall(r"(\w+) - STEP_RESTARTED ", said)
        assert len(retried) == 1
        assert retried[0].startswith("tap_fini__acme_slice_")
        assert (acme.violations, globex.violations) == (0, 0)
        # More than a minute's worth, so that without the shares there would be violations.
        assert len(acme.requests) > ALLOWED

        one_by_one(acme, "acme", url, tmp_path)
        one_by_one(globex, "globex", url, tmp_path)
        ask = {"url": url}
        expected = {
            "conversations": [180 + 90, 0, 0],
            "bot_requests": [turns(acme) + turns(globex), 0, 0],
        }
        assert venv("target-postgres").ask(DIFFERENCES, ask) == expected

        # The daily run goes on from there.
        acme.faults = []
        acme.reset()
        newest = max(acme.truth(), key=lambda conversation: conversation["updatedAt"])
        acme.world.upsert(edited(newest, newest["updatedAt"] + 1))
        run_shell("meltano run tap-fini--acme target-postgres", project, variables)
        first = min(int(request.params["startEpoch"]) for request in acme.requests)
        assert first > newest["updatedAt"] - 8 * 86_400_000
        one_by_one(acme, "acme", url, tmp_path)
        expected["bot_requests"][0] = turns(acme) + turns(globex)
        assert venv("target-postgres").ask(DIFFERENCES, ask) == expected


def one_by_one(sandbox: Sandbox, workspace: str, url: str, folder: Path) -> None:
    """Load all of a workspace in one run, into a schema beside the other."""
    sandbox.switches = Switches()
    label = {"workspace": f"'{workspace}'"}
    tap: dict[str, Any] = {
        "api_url": sandbox.url,
        "api_key": sandbox.api_key,
        "start_date": "2025-01-01T00:00:00Z",
        "max_requests_per_minute": 0,
        "stream_maps": {"conversations": label, "bot_requests": label},
    }
    target = {"sqlalchemy_url": url, "default_target_schema": "one_by_one"}
    load("target-postgres", tap, target, folder)


def turns(sandbox: Sandbox) -> int:
    return sum(len(conversation["botRequests"]) for conversation in sandbox.truth())
