"""The response on Fini's page "Get chat history", fed through the tap."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import exports
from tests.sandbox import (
    Fault,
    Sandbox,
    Switches,
    documented_example,
    documented_interaction,
)
from tests.support import Output, config_for, run_tap

RESPONSE = b"""
{
  "conversations": [
    {
      "id": "a35607bc-8008-44fd-9991-1d7c2c5c3f22",
      "externalId": null,
      "source": "widget",
      "channel": null,
      "escalation": false,
      "hasLinks": true,
      "feedbackType": null,
      "expectingUserFollowup": false,
      "url": null,
      "categories": [
        "fini-other"
      ],
      "createdAt": 1740407169191,
      "updatedAt": 1740407178879,
      "botRequests": [
        {
          "question": "Hello",
          "answer": "Hello, how can I help you?",
          "categories": [
            "fini-other"
          ],
          "escalation": false,
          "reasoning": null,
          "feedbackType": null,
          "expectingUserFollowup": false,
          "createdAt": 1740407178963,
          "basedOn": []
        }
      ]
    }
  ],
  "hasMore": false
}
"""
"""As documented, but for the two commas that JSON does not allow."""

CONVERSATION = {
    "id": "a35607bc-8008-44fd-9991-1d7c2c5c3f22",
    "externalId": None,
    "userId": None,
    "source": "widget",
    "channel": None,
    "escalation": False,
    "hasLinks": True,
    "feedbackType": None,
    "expectingUserFollowup": False,
    "url": None,
    "categories": ["fini-other"],
    "createdAt": "2025-02-24T14:26:09.191Z",
    "updatedAt": "2025-02-24T14:26:18.879Z",
    "botRequestCount": 1,
}
BOT_REQUEST = {
    "conversationId": "a35607bc-8008-44fd-9991-1d7c2c5c3f22",
    "position": 0,
    "id": None,
    "question": "Hello",
    "answer": "Hello, how can I help you?",
    "categories": ["fini-other"],
    "escalation": False,
    "reasoning": None,
    "feedbackType": None,
    "expectingUserFollowup": False,
    "createdAt": "2025-02-24T14:26:18.963Z",
    "basedOn": [],
    "conversationUpdatedAt": "2025-02-24T14:26:18.879Z",
}
STATE = {
    "bookmarks": {
        "conversations": {
            "replication_key": "updatedAt",
            "replication_key_value": "2025-02-24T14:26:18.879Z",
        },
        "bot_requests": {
            "replication_key": "conversationUpdatedAt",
            "replication_key_value": "2025-02-24T14:26:18.879Z",
        },
    }
}


INTERACTIONS = b"""
{
  "interactions": [
    {
      "id": "0f6c1f0a-3d1e-4b58-9a7e-6a1d2c3b4e5f",
      "createdAt": 1740407169191,
      "source": "zendesk",
      "channel": "email",
      "status": "Escalated to Human Agent",
      "externalId": "48213",
      "url": "https://acme.zendesk.com/agent/tickets/48213",
      "subjectPreview": "I cannot log in",
      "hasFeedback": true,
      "resolved": null,
      "userAttributes": {"plan": "pro", "seats": 12, "tags": ["vip"]},
      "usedArticles": [
        {
          "id": "5b1f3e4c-77a2-4f0e-9d0a-2c8f6f1d0a11",
          "title": "How to reset your password",
          "documentUrl": "https://help.acme.com/reset"
        }
      ],
      "usedSubfolders": [{"id": "folder-1", "title": "Accounts"}],
      "events": [
        {
          "id": "e-1",
          "createdAt": 1740407169191,
          "role": "user",
          "type": "message",
          "message": "I cannot log in",
          "externalId": "900001",
          "externalCreatedAt": 1740407168000,
          "csatRating": null,
          "feedback": null,
          "approved": null,
          "resolved": null,
          "attachments": [],
          "tags": [],
          "usedArticles": []
        },
        {
          "id": "e-2",
          "createdAt": 1740407178963,
          "role": "finibot",
          "type": "message",
          "message": "Use the link on the login page.",
          "externalId": null,
          "externalCreatedAt": null,
          "csatRating": 0,
          "feedback": "The link was dead",
          "approved": false,
          "resolved": false,
          "attachments": [],
          "tags": [],
          "usedArticles": [
            {
              "id": "5b1f3e4c-77a2-4f0e-9d0a-2c8f6f1d0a11",
              "title": "How to reset your password",
              "documentUrl": "https://help.acme.com/reset"
            }
          ]
        }
      ]
    }
  ],
  "hasMore": false,
  "nextCursor": null,
  "prevCursor": null
}
"""
"""Every field that Fini's newer reference shows, in an answer of the form it documents."""

ARTICLE = {
    "id": "5b1f3e4c-77a2-4f0e-9d0a-2c8f6f1d0a11",
    "title": "How to reset your password",
    "documentUrl": "https://help.acme.com/reset",
}
INTERACTION = {
    "id": "0f6c1f0a-3d1e-4b58-9a7e-6a1d2c3b4e5f",
    "externalId": "48213",
    "source": "zendesk",
    "channel": "email",
    "status": "Escalated to Human Agent",
    "url": "https://acme.zendesk.com/agent/tickets/48213",
    "subjectPreview": "I cannot log in",
    "hasFeedback": True,
    "resolved": None,
    "userAttributes": {"plan": "pro", "seats": 12, "tags": ["vip"]},
    "usedArticles": [ARTICLE],
    "usedSubfolders": [{"id": "folder-1", "title": "Accounts"}],
    "createdAt": "2025-02-24T14:26:09.191Z",
    "latestEventAt": "2025-02-24T14:26:18.963Z",
    "eventCount": 2,
}
EVENTS = [
    {
        "interactionId": "0f6c1f0a-3d1e-4b58-9a7e-6a1d2c3b4e5f",
        "id": "e-1",
        "position": 0,
        "role": "user",
        "type": "message",
        "message": "I cannot log in",
        "externalId": "900001",
        "createdAt": "2025-02-24T14:26:09.191Z",
        "externalCreatedAt": "2025-02-24T14:26:08.000Z",
        "csatRating": None,
        "feedback": None,
        "approved": None,
        "resolved": None,
        "attachments": [],
        "tags": [],
        "usedArticles": [],
        "interactionLatestEventAt": "2025-02-24T14:26:18.963Z",
    },
    {
        "interactionId": "0f6c1f0a-3d1e-4b58-9a7e-6a1d2c3b4e5f",
        "id": "e-2",
        "position": 1,
        "role": "finibot",
        "type": "message",
        "message": "Use the link on the login page.",
        "externalId": None,
        "createdAt": "2025-02-24T14:26:18.963Z",
        "externalCreatedAt": None,
        "csatRating": 0,
        "feedback": "The link was dead",
        "approved": False,
        "resolved": False,
        "attachments": [],
        "tags": [],
        "usedArticles": [ARTICLE],
        "interactionLatestEventAt": "2025-02-24T14:26:18.963Z",
    },
]
AGENTS = b"""
[
  {
    "id": "9d0c4d7e-1f57-4c63-8a52-07b5f1c7a001",
    "name": "Fin",
    "createdAt": "2024-03-17T09:30:00.5Z"
  }
]
"""
AGENT = {
    "id": "9d0c4d7e-1f57-4c63-8a52-07b5f1c7a001",
    "name": "Fin",
    "createdAt": "2024-03-17T09:30:00.500Z",
}
SPAN = {"start_date": "2025-02-01", "end_date": "2025-03-01"}


def told_by(output: Output) -> list[tuple[Any, ...]]:
    return [
        (m["type"], m.get("stream"), m.get("record", m.get("value")))
        for m in output.messages
        if m["type"] != "SCHEMA"
    ]


def test_the_sandbox_knows_the_documented_conversation() -> None:
    assert json.loads(RESPONSE) == {"conversations": [documented_example()], "hasMore": False}


@pytest.mark.parametrize("served", ["by the sandbox", "letter by letter"])
def test_the_documented_response(served: str) -> None:
    with Sandbox([documented_example()]) as sandbox:
        if served == "letter by letter":
            sandbox.faults = [Fault("wrong_shape", body=RESPONSE)]
        output = run_tap(config_for(sandbox, **SPAN))
    assert told_by(output) == [
        ("RECORD", "bot_requests", BOT_REQUEST),
        ("RECORD", "conversations", CONVERSATION),
        ("STATE", None, STATE),
    ]
    assert [m["stream"] for m in output.messages[:2]] == ["conversations", "bot_requests"]
    assert len(sandbox.requests) == 1


def test_the_sandbox_knows_the_documented_interaction() -> None:
    page = {"hasMore": False, "nextCursor": None, "prevCursor": None}
    assert json.loads(INTERACTIONS) == {"interactions": [documented_interaction()], **page}


@pytest.mark.parametrize("key", ["interactions", "conversations"])
@pytest.mark.parametrize("served", ["by the sandbox", "letter by letter"])
def test_the_documented_interaction(served: str, key: Any) -> None:
    switches = Switches(interactions_key=key, cursor="next_id")
    with Sandbox(switches=switches, interactions=[documented_interaction()]) as sandbox:
        if served == "letter by letter":
            body = INTERACTIONS.replace(b"interactions", key.encode())
            sandbox.faults = [Fault("wrong_shape", body=body)]
        output = exports.INTERACTIONS.run(config_for(sandbox, **SPAN))
    state = exports.INTERACTIONS.state("2025-02-24T14:26:18.963Z")
    assert told_by(output) == [
        *(("RECORD", "interaction_events", event) for event in EVENTS),
        ("RECORD", "interactions", INTERACTION),
        ("STATE", None, state),
    ]
    assert [m["stream"] for m in output.messages[:2]] == ["interactions", "interaction_events"]
    (request,) = sandbox.requests
    assert (request.path, request.params) == (
        "/v2/hc-interactions/public",
        {"since": "1738367999999", "until": "1740787200000", "limit": "50"},
    )


def test_agents() -> None:
    with Sandbox() as sandbox:
        sandbox.faults = [Fault("wrong_shape", body=AGENTS)]
        output = run_tap(config_for(sandbox), catalog=exports.INTERACTIONS.catalog(["agents"]))
    assert told_by(output) == [("RECORD", "agents", AGENT)]
    (request,) = sandbox.requests
    assert (request.path, request.params) == ("/v2/bots/public", {})
