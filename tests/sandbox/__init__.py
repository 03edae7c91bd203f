"""A local Fini API for tests, the demo and the benchmarks: see README.md."""

from __future__ import annotations

from tests.sandbox.data import documented_example, edited, make_conversations
from tests.sandbox.interaction_data import (
    as_interaction,
    documented_interaction,
    make_agents,
    make_interactions,
)
from tests.sandbox.server import API_KEY, WRITE_ONLY_KEY, Request, Sandbox
from tests.sandbox.switches import Fault, Switches
from tests.sandbox.world import World

__all__ = [
    "API_KEY",
    "WRITE_ONLY_KEY",
    "Fault",
    "Request",
    "Sandbox",
    "Switches",
    "World",
    "as_interaction",
    "documented_example",
    "documented_interaction",
    "edited",
    "make_agents",
    "make_conversations",
    "make_interactions",
]
