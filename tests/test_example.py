"""The response on Fini's page "Get chat history", fed through the tap."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sandbox import Fault, Sandbox, documented_example
from tests.support import config_for, run_tap

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


def test_the_sandbox_knows_the_documented_conversation() -> None:
    assert json.loads(RESPONSE) == {"conversations": [documented_example()], "hasMore": False}


@pytest.mark.parametrize("served", ["by the sandbox", "letter by letter"])
def test_the_documented_response(served: str) -> None:
    span = {"start_date": "2025-02-01", "end_date": "2025-03-01"}
    with Sandbox([documented_example()]) as sandbox:
        if served == "letter by letter":
            sandbox.faults = [Fault("wrong_shape", body=RESPONSE)]
        output = run_tap(config_for(sandbox, **span))
    told: list[tuple[Any, ...]] = [
        (m["type"], m.get("stream"), m.get("record", m.get("value")))
        for m in output.messages
        if m["type"] != "SCHEMA"
    ]
    assert told == [
        ("RECORD", "bot_requests", BOT_REQUEST),
        ("RECORD", "conversations", CONVERSATION),
        ("STATE", None, STATE),
    ]
    assert [m["stream"] for m in output.messages[:2]] == ["conversations", "bot_requests"]
    assert len(sandbox.requests) == 1
