"""The usual tap: parent and child streams the way the SDK's documentation teaches them.

One paginator, the SDK's own message writer, and ``get_child_context`` handing each conversation's
bot requests down: one child sync a conversation.
"""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from singer_sdk import Stream, Tap
from singer_sdk import typing as th
from singer_sdk.authenticators import BearerTokenAuthenticator
from singer_sdk.pagination import BaseAPIPaginator
from singer_sdk.streams import RESTStream

from tap_fini.streams import BotRequestsStream, ConversationsStream

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable

    import requests
    from singer_sdk.helpers.types import Context, Record
    from singer_sdk.streams.rest import HTTPRequest, PageContext

WINDOW = 30 * 86_400_000


def epoch(text: str) -> int:
    """Read a date of the settings as epoch milliseconds."""
    return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)


def text(instant: int) -> str:
    """Write epoch milliseconds as RFC 3339."""
    moment = datetime.fromtimestamp(instant / 1000, tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds")


class WindowPaginator(BaseAPIPaginator[tuple[int, "str | None"]]):
    """Goes from page to page and from window to window."""

    def __init__(self, start: int, end: int) -> None:
        """Begin with the first page of the first window."""
        super().__init__((start, None))
        self._end = end

    @override
    def continue_if_empty(self, response: requests.Response) -> bool:
        return True

    @override
    def get_next(self, response: requests.Response) -> tuple[int, str | None] | None:
        page = response.json()
        start, _ = self.current_value
        if page["hasMore"]:
            return start, page["conversations"][-1]["id"]
        start += WINDOW
        return (start, None) if start < self._end else None


class Conversations(RESTStream[tuple[int, "str | None"]]):
    """The parent stream."""

    name = "conversations"
    path = "/v2/bots/requests/public"
    records_jsonpath = "$.conversations[*]"
    primary_keys = ("id",)
    replication_key = "updatedAt"
    schema = ConversationsStream.schema

    @property
    @override
    def url_base(self) -> str:
        return str(self.config["api_url"])

    @property
    @override
    def authenticator(self) -> BearerTokenAuthenticator:
        return BearerTokenAuthenticator(token=self.config["api_key"])

    @override
    def get_new_paginator(self) -> WindowPaginator:
        return WindowPaginator(epoch(self.config["start_date"]), epoch(self.config["end_date"]))

    @override
    def get_http_request(self, *, page: PageContext[tuple[int, str | None]]) -> HTTPRequest:
        request = super().get_http_request(page=page)
        assert page.next_page_token is not None
        start, cursor = page.next_page_token
        end = min(start + WINDOW, epoch(self.config["end_date"])) - 1
        request.params = {"startEpoch": start, "endEpoch": end, "limit": self.config["page_size"]}
        if cursor:
            request.params |= {"cursor": cursor, "direction": "next"}
        return request

    @override
    def post_process(self, row: Record, context: Context | None = None) -> Record | None:
        row["createdAt"] = text(row["createdAt"])
        row["updatedAt"] = text(row["updatedAt"])
        row["botRequestCount"] = len(row["botRequests"])
        return row

    @override
    def get_child_context(self, record: Record, context: Context | None) -> Context | None:
        return {
            "conversation_id": record["id"],
            "conversation_updated_at": record["updatedAt"],
            "bot_requests": record.pop("botRequests"),
        }


class BotRequests(Stream):
    """The child stream."""

    name = "bot_requests"
    parent_stream_type = Conversations
    primary_keys = ("conversationId", "position")
    replication_key = "conversationUpdatedAt"
    state_partitioning_keys = ()
    schema = BotRequestsStream.schema

    @override
    def get_records(self, context: Context | None) -> Iterable[dict[str, Any]]:
        assert context is not None
        ordered = sorted(context["bot_requests"], key=lambda row: row["createdAt"])
        for position, row in enumerate(ordered):
            yield {
                "conversationId": context["conversation_id"],
                "position": position,
                "conversationUpdatedAt": context["conversation_updated_at"],
                **row,
                "createdAt": text(row["createdAt"]),
            }


class PlainTap(Tap):
    """The baseline."""

    name = "plain-tap"
    config_jsonschema = th.PropertiesList(
        th.Property("api_key", th.StringType, required=True, secret=True),
        th.Property("api_url", th.StringType, required=True),
        th.Property("start_date", th.DateTimeType, required=True),
        th.Property("end_date", th.DateTimeType, required=True),
        th.Property("page_size", th.IntegerType, default=50),
    ).to_dict()

    @override
    def discover_streams(self) -> list[Stream]:
        return [Conversations(self), BotRequests(self)]


if __name__ == "__main__":
    PlainTap.cli()
