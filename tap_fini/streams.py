"""The streams: what each is called, keyed and made of."""

from __future__ import annotations

from singer_sdk import typing as th

from tap_fini.export import Export, ExportStream, Filter, InnerStream
from tap_fini.records import EXTRA, Shape
from tap_fini.table import TableStream

CHAT_HISTORY = Export(
    path="/v2/bots/requests/public",
    record_keys=("conversations",),
    start_param="startEpoch",
    end_param="endEpoch",
    filters={
        "source": Filter(
            "source", ("all", "zendesk", "slack", "discord", "widget", "intercom", "ui", "api")
        ),
        "category": Filter("category"),
        "feedback_type": Filter("feedbackType"),
        "escalation": Filter("escalation"),
        "has_links": Filter("hasLinks"),
        "user_id": Filter("userId"),
        "ticket_id": Filter("ticketId"),
        "question": Filter("question"),
    },
    shape=Shape(
        id="id",
        updated="updatedAt",
        created="createdAt",
        replication_key="updatedAt",
        children="botRequests",
        child_count="botRequestCount",
        child_id=None,
        child_time="createdAt",
        child_parent_id="conversationId",
        child_replication_key="conversationUpdatedAt",
        child_position="position",
    ),
)
"""Fini's "Get chat history"."""

INTERACTIONS = Export(
    path="/v2/hc-interactions/public",
    record_keys=("interactions", "conversations"),
    start_param="since",
    end_param="until",
    filters={
        "source": Filter(
            "source",
            (
                *("api", "widget", "ui", "standalone", "testsuite", "replay", "zendesk"),
                *("intercom", "front", "hubspot", "salesforce", "gorgias", "livechat", "slack"),
                *("discord", "freshdesk", "freshchat"),
            ),
            is_list=True,
        ),
        "agent_id": Filter("agentId"),
        "channel": Filter("channel", is_list=True),
    },
    shape=Shape(
        id="id",
        updated=None,
        created="createdAt",
        replication_key="latestEventAt",
        children="events",
        child_count="eventCount",
        child_id="id",
        child_time="createdAt",
        child_parent_id="interactionId",
        child_replication_key="interactionLatestEventAt",
        child_position="position",
    ),
)
"""The export that Fini's newer reference documents."""

_COUNT = th.IntegerType(minimum=0, maximum=2**31 - 1)
_OBJECTS = th.ArrayType(th.ObjectType(additional_properties=True))
# Not th.ObjectType: its empty 'properties' would be flattened to no column at all.
_OPEN_OBJECT = th.CustomType({"type": ["object", "null"], "additionalProperties": True})
_EXTRA = th.Property(
    EXTRA,
    _OPEN_OBJECT,
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
            _COUNT,
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
            _COUNT,
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
            _OBJECTS,
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


class InteractionsStream(ExportStream):
    """Interactions, as the export of Fini's newer reference returns them."""

    name = "interactions"
    primary_keys = ("id",)
    replication_key = "latestEventAt"
    selected_by_default = False
    schema = th.PropertiesList(
        th.Property("id", th.StringType, required=True, description="Fini's id (a UUID)."),
        th.Property(
            "externalId", th.StringType, description="The id in the ticketing system, if any."
        ),
        th.Property(
            "source",
            th.StringType,
            description="Where it came from: widget, zendesk, intercom, front, hubspot, ...",
        ),
        th.Property("channel", th.StringType, description="The channel within the source."),
        th.Property(
            "status",
            th.StringType,
            description="How far it has come, in words, for instance Escalated to Human Agent.",
        ),
        th.Property("url", th.StringType, description="The address of the interaction."),
        th.Property(
            "subjectPreview", th.StringType, description="The beginning of what it is about."
        ),
        th.Property("hasFeedback", th.BooleanType, description="Whether somebody judged it."),
        th.Property(
            "resolved",
            th.BooleanType,
            description="Whether it was resolved, null where nobody knows.",
        ),
        th.Property(
            "userAttributes",
            _OPEN_OBJECT,
            description="What is known of the user; the names differ by workspace.",
        ),
        th.Property(
            "usedArticles",
            _OBJECTS,
            description="The articles used, with id, title and documentUrl.",
        ),
        th.Property("usedSubfolders", _OBJECTS, description="The folders used, with id and title."),
        th.Property("createdAt", th.DateTimeType, description="When it began."),
        th.Property(
            "latestEventAt",
            th.DateTimeType,
            required=True,
            description="The time of its latest event, or of its creation if it has none.",
        ),
        th.Property(
            "eventCount",
            _COUNT,
            description="How many records of interaction_events belong to it.",
        ),
        _EXTRA,
    ).to_dict()
    export = INTERACTIONS


class InteractionEventsStream(InnerStream):
    """The messages and other events inside interactions."""

    name = "interaction_events"
    primary_keys = ("interactionId", "id")
    replication_key = "interactionLatestEventAt"
    parent_stream_type = InteractionsStream
    selected_by_default = False
    schema = th.PropertiesList(
        th.Property(
            "interactionId", th.StringType, required=True, description="The interaction's id."
        ),
        th.Property(
            "id",
            th.StringType,
            required=True,
            description="Fini's id; 'position:' and the position where it gives none of its own.",
        ),
        th.Property(
            "position",
            _COUNT,
            description="The place in the interaction, from 0, in the order of createdAt.",
        ),
        th.Property(
            "role", th.StringType, description="Who it is from: user, finibot, agent or otherbot."
        ),
        th.Property("type", th.StringType, description="What it is, for instance message."),
        th.Property("message", th.StringType, description="What was written."),
        th.Property("externalId", th.StringType, description="The id in the ticketing system."),
        th.Property("createdAt", th.DateTimeType, description="When it happened."),
        th.Property(
            "externalCreatedAt",
            th.DateTimeType,
            description="When it happened according to the ticketing system.",
        ),
        th.Property(
            "csatRating",
            _COUNT,
            description="The user's rating; 0 is one, null is none.",
        ),
        th.Property("feedback", th.StringType, description="What a reviewer said of it."),
        th.Property("approved", th.BooleanType, description="Whether a reviewer approved of it."),
        th.Property(
            "resolved",
            th.BooleanType,
            description="Whether it resolved the matter, null where nobody knows.",
        ),
        th.Property(
            "attachments",
            _OBJECTS,
            description="The files that came with it. Fini does not say of what they are made.",
        ),
        th.Property(
            "tags",
            th.ArrayType(th.StringType),
            description="The tags on it. Those that are no texts are in extra.",
        ),
        th.Property(
            "usedArticles",
            _OBJECTS,
            description="The articles used, with id, title and documentUrl.",
        ),
        th.Property(
            "interactionLatestEventAt",
            th.DateTimeType,
            required=True,
            description=(
                "The interaction's latestEventAt when this was read. Other than the interaction's "
                "present one: this record is no longer part of it."
            ),
        ),
        _EXTRA,
    ).to_dict()


class AgentsStream(TableStream):
    """The workspace's agents: the bots that answer."""

    name = "agents"
    path = "/v2/bots/public"
    primary_keys = ("id",)
    selected_by_default = False
    schema = th.PropertiesList(
        th.Property("id", th.StringType, required=True, description="Fini's id of the agent."),
        th.Property("name", th.StringType, description="What the agent is called."),
        th.Property("createdAt", th.DateTimeType, description="When the agent was made."),
        _EXTRA,
    ).to_dict()


EXPORTS: tuple[tuple[type[ExportStream], type[InnerStream]], ...] = (
    (ConversationsStream, BotRequestsStream),
    (InteractionsStream, InteractionEventsStream),
)
"""The streams that are read in windows, each with that of the records inside."""

TABLES: tuple[type[TableStream], ...] = (AgentsStream,)
"""The streams that are read whole."""

FILTERS = tuple(dict.fromkeys(name for parent, _ in EXPORTS for name in parent.export.filters))
"""The settings that filter."""
