"""The fenced blocks of README.md and docs/."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from tests.targets import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: the page's path.
        heading: what it stands under.
        language: the first word behind the fence.
        engine: the second one: the only database that a block of SQL is for.
        text: what is between the fences.
    """

    page: str
    heading: str
    language: str
    engine: str
    text: str


def read_blocks(page: Path) -> Iterator[Block]:
    """Find all fenced blocks of a page."""
    heading, info = "", None
    lines: list[str] = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if info is not None:
            if line.strip() == "```":
                language, _, engine = info.partition(" ")
                name = page.relative_to(ROOT).as_posix()
                yield Block(name, heading, language, engine, "\n".join(lines))
                info, lines = None, []
            else:
                lines.append(line)
        elif line.lstrip().startswith("```"):
            info = line.strip().removeprefix("```")
        elif line.startswith("#"):
            heading = line.lstrip("#").strip()
    assert info is None, f"{page.name} has a block without an end"


BLOCKS = [
    block
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    for block in read_blocks(page)
]


def blocks(page: str, heading: str, language: str) -> list[str]:
    """Return the texts of a section's blocks in a language."""
    return [b.text for b in BLOCKS if (b.page, b.heading, b.language) == (page, heading, language)]


def merge(project: Path, fragment: str) -> None:
    """Put a part of meltano.yml where it belongs."""
    path = project / "meltano.yml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for kind, plugins in yaml.safe_load(fragment)["plugins"].items():
        known = {plugin["name"]: plugin for plugin in content["plugins"][kind]}
        for plugin in plugins:
            if plugin["name"] in known:
                known[plugin["name"]].update(plugin)
            else:
                content["plugins"][kind].append(plugin)
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
