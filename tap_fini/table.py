"""A small table, which one response holds whole."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from tap_fini.client import FiniError, FiniStream
from tap_fini.export import CheckpointedStream
from tap_fini.pagination import BareArray
from tap_fini.progress import FieldWarnings, silence
from tap_fini.records import MAX_ID, RowMaker, usable_id
from tap_fini.run import decoded
from tap_fini.writer import BufferedWriter

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from singer_sdk import Tap
    from singer_sdk.helpers.types import Context, Record

    from tap_fini.client import Connection


class TableStream(CheckpointedStream, FiniStream):
    """A table without pages, bookmark and children: each run reads all of it."""

    form = BareArray()

    def __init__(self, tap: Tap, connection: Callable[[], Connection]) -> None:
        """Belong to a tap.

        Args:
            tap: The tap.
            connection: Returns the connection of the tap's run.
        """
        super().__init__(tap, connection)
        self.message_writer = tap.message_writer
        silence(self.logger)

    @override
    def get_records(self, context: Context | None) -> Iterator[Record]:
        """Read the table and yield its rows.

        Raises:
            FiniError: If something cannot be read, or no target could load it.
        """
        self.connection.open()
        try:
            pages = [item["page"] for item in self.request_records(context)]
        finally:
            self.connection.close()
        rows = [self._row(raw) for page in pages for raw in decoded(page, self.logger)]
        yield from rows
        if isinstance(self.message_writer, BufferedWriter):
            self.message_writer.flush()
        self.logger.info("Read %d %s", len(rows), self.name)

    @functools.cached_property
    def _maker(self) -> RowMaker:
        return RowMaker(
            self.schema,
            derived=self.primary_keys,
            consumed=self.primary_keys,
            report=FieldWarnings(self.logger, self.name),
        )

    def _row(self, raw: dict[str, Any]) -> Record:
        (name,) = self.primary_keys
        key = usable_id(raw.get(name))
        if key is None:
            message = (
                f"Fini returned one of its {self.name} without a usable '{name}' (a whole number, "
                f"or a text of up to {MAX_ID} characters): no target could load it; report it to "
                f"Fini, and deselect '{self.name}' until it is mended."
            )
            raise FiniError(message)
        row: Record = {name: key}
        self._maker.fill(row, raw)
        return row
