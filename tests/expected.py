"""What the streams have to hold, worked out from the API's JSON without the tap's own code."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

CONVERSATION_FIELDS = (
    "externalId",
    "userId",
    "source",
    "channel",
    "escalation",
    "hasLinks",
    "feedbackType",
    "expectingUserFollowup",
    "url",
    "categories",
)
BOT_REQUEST_FIELDS = (
    "id",
    "question",
    "answer",
    "categories",
    "escalation",
    "reasoning",
    "feedbackType",
    "expectingUserFollowup",
    "basedOn",
)
INTERACTION_FIELDS = (
    "externalId",
    "source",
    "channel",
    "status",
    "url",
    "subjectPreview",
    "hasFeedback",
    "resolved",
    "userAttributes",
    "usedArticles",
    "usedSubfolders",
)
EVENT_FIELDS = (
    "id",
    "role",
    "type",
    "message",
    "externalId",
    "csatRating",
    "feedback",
    "approved",
    "resolved",
    "attachments",
    "tags",
    "usedArticles",
)


def time_text(milliseconds: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=milliseconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds % 1000:03d}Z"


def conversation_row(conversation: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": conversation["id"],
        **{name: conversation.get(name) for name in CONVERSATION_FIELDS},
        "createdAt": time_text(conversation["createdAt"]),
        "updatedAt": time_text(conversation["updatedAt"]),
        "botRequestCount": len(conversation["botRequests"]),
    }


def bot_request_rows(conversation: dict[str, Any]) -> list[dict[str, Any]]:
    in_order = sorted(conversation["botRequests"], key=lambda request: request["createdAt"])
    return [
        {
            "conversationId": conversation["id"],
            "position": position,
            "conversationUpdatedAt": time_text(conversation["updatedAt"]),
            **{name: request.get(name) for name in BOT_REQUEST_FIELDS},
            "createdAt": time_text(request["createdAt"]),
        }
        for position, request in enumerate(in_order)
    ]


def latest_event(interaction: dict[str, Any]) -> int:
    times: list[int] = [event["createdAt"] for event in interaction["events"]]
    return max(times, default=interaction["createdAt"])


def interaction_row(interaction: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": interaction["id"],
        **{name: interaction.get(name) for name in INTERACTION_FIELDS},
        "createdAt": time_text(interaction["createdAt"]),
        "latestEventAt": time_text(latest_event(interaction)),
        "eventCount": len(interaction["events"]),
    }


def event_rows(interaction: dict[str, Any]) -> list[dict[str, Any]]:
    latest = latest_event(interaction)
    in_order = sorted(interaction["events"], key=lambda event: event["createdAt"])
    return [
        {
            "interactionId": interaction["id"],
            "position": position,
            "interactionLatestEventAt": time_text(latest),
            **{name: event.get(name) for name in EVENT_FIELDS},
            "createdAt": time_text(event["createdAt"]),
            "externalCreatedAt": (
                time_text(event["externalCreatedAt"]) if event.get("externalCreatedAt") else None
            ),
        }
        for position, event in enumerate(in_order)
    ]


def tables(conversations: list[dict[str, Any]]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Return both streams' rows by their keys."""
    parents = {c["id"]: conversation_row(c) for c in conversations}
    children = {
        (row["conversationId"], row["position"]): row
        for c in conversations
        for row in bot_request_rows(c)
    }
    return parents, children


def loaded(
    conversations: list[dict[str, Any]], bot_requests: list[dict[str, Any]]
) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Return records as a target that upserts by key would hold them."""
    return (
        {row["id"]: row for row in conversations},
        {(row["conversationId"], row["position"]): row for row in bot_requests},
    )
