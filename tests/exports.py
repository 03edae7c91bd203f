"""Both exports, for tests that have to hold for either.

Such tests tell their story in made-up conversations; for the newer export these become
interactions, whose latest event is at the conversation's ``updatedAt``.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests import expected
from tests.sandbox import Sandbox, as_interaction
from tests.support import discover, run_tap, select

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.sandbox import Switches, World
    from tests.support import Output

Row = dict[str, Any]
_discovered = functools.cache(discover)
Tables = tuple[dict[Any, Row], dict[Any, Row]]


@dataclass(frozen=True)
class Export:
    """One of Fini's exports, and what its two streams have to hold."""

    name: str
    streams: tuple[str, str]
    replication_keys: tuple[str, str]
    child_keys: tuple[str, str]
    start_param: str
    convert: Callable[[Row], Row]
    parent_row: Callable[[Row], Row]
    child_rows: Callable[[Row], list[Row]]

    def __str__(self) -> str:
        return self.name

    def sandbox(
        self,
        conversations: Iterable[Row] = (),
        switches: Switches | None = None,
        *,
        clock: Callable[[], int] | None = None,
    ) -> Sandbox:
        """Make a sandbox in which this export has what these conversations become."""
        sandbox = Sandbox((), switches, clock=clock)
        for conversation in conversations:
            self.put(sandbox, conversation)
        return sandbox

    def world(self, sandbox: Sandbox) -> World:
        return sandbox.world if self is CHAT_HISTORY else sandbox.interactions

    def put(self, sandbox: Sandbox, conversation: Row) -> None:
        self.world(sandbox).upsert(self.convert(conversation))

    def run(self, config: Row, **options: Any) -> Output:
        """Run the tap with this export's streams selected, and no other."""
        return run_tap(config, **{"catalog": self.catalog(), **options})

    def catalog(self, streams: Iterable[str] | None = None) -> Row:
        """Return a catalog in which these streams are selected; without any, the export's two."""
        wanted = set(self.streams if streams is None else streams)
        catalog = copy.deepcopy(_discovered())
        return select(
            catalog,
            **{s["tap_stream_id"]: s["tap_stream_id"] in wanted for s in catalog["streams"]},
        )

    def tables(self, records: Iterable[Row]) -> Tables:
        """Return both streams' rows by their keys."""
        records = list(records)
        return self.by_key(
            [self.parent_row(r) for r in records],
            [row for r in records for row in self.child_rows(r)],
        )

    def truth(self, sandbox: Sandbox) -> Tables:
        """Return what both streams have to hold, by their keys."""
        return self.tables(self.world(sandbox).truth(sandbox.switches))

    def loaded(self, output: Output) -> Tables:
        """Return a run's records as a target that upserts by key would hold them."""
        return self.by_key(*map(output.records, self.streams))

    def by_key(self, parents: list[Row], children: list[Row]) -> Tables:
        """Return both streams' rows as a target that upserts by key would hold them."""
        first, second = self.child_keys
        return (
            {row["id"]: row for row in parents},
            {(row[first], row[second]): row for row in children},
        )

    def state(self, value: str) -> Row:
        """Return a state in which both streams' bookmarks are at ``value``."""
        return {
            "bookmarks": {
                stream: {"replication_key": key, "replication_key_value": value}
                for stream, key in zip(self.streams, self.replication_keys, strict=True)
            }
        }


CHAT_HISTORY = Export(
    name="chat history",
    streams=("conversations", "bot_requests"),
    replication_keys=("updatedAt", "conversationUpdatedAt"),
    child_keys=("conversationId", "position"),
    start_param="startEpoch",
    convert=lambda conversation: conversation,
    parent_row=expected.conversation_row,
    child_rows=expected.bot_request_rows,
)
INTERACTIONS = Export(
    name="interactions",
    streams=("interactions", "interaction_events"),
    replication_keys=("latestEventAt", "interactionLatestEventAt"),
    child_keys=("interactionId", "id"),
    start_param="since",
    convert=as_interaction,
    parent_row=expected.interaction_row,
    child_rows=expected.event_rows,
)
EXPORTS = (CHAT_HISTORY, INTERACTIONS)
