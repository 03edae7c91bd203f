"""The streams: what each is called, keyed and made of."""

from __future__ import annotations

from singer_sdk import typing as th

from tap_fini.export import Export, ExportStream, InnerStream
from tap_fini.records import EXTRA, Shape

CHAT_HISTORY = Export(
    path="/v2/bots/requests/public",
    record_keys=("conversations",),
    start_param="startEpoch",
    end_param="endEpoch",
    filters={
        "source": "source",
        "category": "category",
        "feedback_type": "feedbackType",
        "escalation": "escalation",
        "has_links": "hasLinks",
        "user_id": "userId",
        "ticket_id": "ticketId",
        "question": "question",
    },
    shape=Shape(
        id="id",
        updated=("updatedAt", "createdAt"),
        created="createdAt",
        replication_key="updatedAt",
        children="botRequests",
        child_count="botRequestCount",
        child_time="createdAt",
        child_parent_id="conversationId",
        child_replication_key="conversationUpdatedAt",
        child_position="position",
    ),
)
"""Fini's "Get chat history"."""

_BIGGEST = 2**31 - 1
_EXTRA = th.Property(
    EXTRA,
    # Not th.ObjectType: its empty 'properties' would be flattened to no column at all.
    th.CustomType({"type": ["object", "null"], "additionalProperties": True}),
    description="Fields unknown to this version, and values of unexpected types.",
)


class ConversationsStream(ExportStream):
    """Conversations, as Fini's "Get chat history" returns them."""

    name = "conversations"
    primary_keys = ("id",)
    replication_key = "updatedAt"
    schema = th.PropertiesList(
        th.Property("id", th.StringType, required=True, description="Fini's id (a UUID)."),
        th.Property(
            "externalId", th.StringType, description="The id in the ticketing system, if any."
        ),
        th.Property("userId", th.StringType, description="The id of the user who asked."),
        th.Property(
            "source",
            th.StringType,
            description="Where the question came from: zendesk, slack, discord, widget, ...",
        ),
        th.Property("channel", th.StringType, description="The channel within the source."),
        th.Property(
            "escalation", th.BooleanType, description="Whether it was escalated to a human."
        ),
        th.Property("hasLinks", th.BooleanType, description="Whether it contains links."),
        th.Property(
            "feedbackType",
            th.StringType,
            description="The user's verdict: thumbs_up, thumbs_down, or null for none.",
        ),
        th.Property(
            "expectingUserFollowup",
            th.BooleanType,
            description="Whether Fini waits for the user to answer.",
        ),
        th.Property("url", th.StringType, description="The address of the conversation."),
        th.Property(
            "categories",
            th.ArrayType(th.StringType),
            description="The categories assigned to the conversation.",
        ),
        th.Property("createdAt", th.DateTimeType, description="When it began."),
        th.Property(
            "updatedAt",
            th.DateTimeType,
            required=True,
            description="When it last changed (the time of creation where Fini gives none).",
        ),
        th.Property(
            "botRequestCount",
            th.IntegerType(minimum=0, maximum=_BIGGEST),
            description="How many records of bot_requests belong to it.",
        ),
        _EXTRA,
    ).to_dict()
    export = CHAT_HISTORY


class BotRequestsStream(InnerStream):
    """The questions and answers inside conversations."""

    name = "bot_requests"
    primary_keys = ("conversationId", "position")
    replication_key = "conversationUpdatedAt"
    parent_stream_type = ConversationsStream
    schema = th.PropertiesList(
        th.Property(
            "conversationId", th.StringType, required=True, description="The conversation's id."
        ),
        th.Property(
            "position",
            th.IntegerType(minimum=0, maximum=_BIGGEST),
            required=True,
            description="The place in the conversation, from 0, in the order of createdAt.",
        ),
        th.Property("id", th.StringType, description="Fini's id, null where it gives none."),
        th.Property("question", th.StringType, description="What the user asked."),
        th.Property("answer", th.StringType, description="What Fini answered."),
        th.Property(
            "categories",
            th.ArrayType(th.StringType),
            description="The categories assigned to the answer.",
        ),
        th.Property(
            "escalation", th.BooleanType, description="Whether the answer led to an escalation."
        ),
        th.Property("reasoning", th.StringType, description="Why Fini answered as it did."),
        th.Property(
            "feedbackType",
            th.StringType,
            description="The verdict on the answer: thumbs_up, thumbs_down, or null for none.",
        ),
        th.Property(
            "expectingUserFollowup",
            th.BooleanType,
            description="Whether Fini waits for the user to answer.",
        ),
        th.Property("createdAt", th.DateTimeType, description="When the answer was made."),
        th.Property(
            "basedOn",
            th.ArrayType(th.ObjectType(additional_properties=True)),
            description="The knowledge sources used, as Fini gives them.",
        ),
        th.Property(
            "conversationUpdatedAt",
            th.DateTimeType,
            required=True,
            description=(
                "The conversation's updatedAt when this was read. Older than the conversation's "
                "present one: this record is no longer part of it."
            ),
        ),
        _EXTRA,
    ).to_dict()
