"""``GET /v2/bots/public``: the workspace's agents, in a bare array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tests.sandbox.paging import refuse_unknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.sandbox.switches import Switches

PATH = "/v2/bots/public"


def answer(
    agents: Sequence[dict[str, Any]],
    params: Mapping[str, str],
    switches: Switches,  # noqa: ARG001 - every endpoint is asked alike
    now: int,  # noqa: ARG001
) -> tuple[bytes, tuple[str, ...]]:
    """Return the body of the answer, and the ids of the agents in it.

    Raises:
        Refusal: there is a parameter.
    """
    refuse_unknown(params, ())
    return msgspec.json.encode(agents), tuple(str(agent.get("id")) for agent in agents)
