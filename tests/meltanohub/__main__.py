"""Writes docs/meltanohub/tap-fini.yml anew."""

from __future__ import annotations

import yaml

from tests.meltanohub import DEFINITION, ROOT, definition, page
from tests.support import pyproject

project = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))
DEFINITION.write_text(page(definition(project, pyproject()["project"])), encoding="utf-8")
print(f"Wrote {DEFINITION.relative_to(ROOT)}")
