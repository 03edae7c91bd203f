"""The SDK's own suite of tests for taps, against the sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from singer_sdk.testing import get_tap_test_class

from tap_fini.tap import TapFini
from tests.sandbox import (
    Sandbox,
    Switches,
    documented_interaction,
    make_agents,
    make_conversations,
    make_interactions,
)
from tests.support import config_for, discover, select

if TYPE_CHECKING:
    from collections.abc import Iterator

SANDBOX = Sandbox(
    switches=Switches(bot_request_ids=True),
    agents=[agent | {"novelty": 1} for agent in make_agents()],
)
CONFIG = config_for(SANDBOX)


@pytest.fixture(scope="module", autouse=True)
def running_sandbox() -> Iterator[None]:
    """Serve data in which no column is empty: the suite warns of a column that it cannot check."""
    for number, conversation in enumerate(make_conversations(40, seed=1)):
        conversation["novelty"] = number
        conversation["botRequests"][0]["novelty"] = number
        SANDBOX.world.upsert(conversation)
    for number, interaction in enumerate(
        [documented_interaction(), *make_interactions(40, seed=1)]
    ):
        interaction["novelty"] = number
        for event in interaction["events"]:
            event["novelty"] = number
        SANDBOX.interactions.upsert(interaction)
    with SANDBOX:
        # The suite was made with this very dict, when no port was known yet.
        CONFIG["api_url"] = SANDBOX.url
        yield


STREAMS = ("conversations", "bot_requests", "interactions", "interaction_events", "agents")
TestTapFini = get_tap_test_class(
    TapFini,
    config=CONFIG,
    parse_env_config=False,
    catalog=select(discover(), **dict.fromkeys(STREAMS, True)),
)
