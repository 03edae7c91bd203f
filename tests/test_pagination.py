"""Pages and the paginator that does not trust them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import requests

from tap_fini.pagination import (
    CursorPaginator,
    EnvelopeError,
    ExportPage,
    Page,
    UntrustedPagingError,
)
from tap_fini.streams import CHAT_HISTORY

if TYPE_CHECKING:
    from collections.abc import Sequence

FORM = ExportPage(("conversations",), CHAT_HISTORY.shape)


def page(ids: Sequence[str], *, has_more: bool = True, **envelope: object) -> Page:
    body = {"conversations": [{"id": key} for key in ids], "hasMore": has_more, **envelope}
    return FORM.parse(json.dumps(body).encode())


def follow(*pages: Page) -> list[str | None]:
    """Page through responses, and return the cursors that would have been sent."""
    responses = {requests.Response(): page for page in pages}
    paginator = CursorPaginator(responses.__getitem__)
    cursors = []
    for response, found in responses.items():
        assert not paginator.finished, "a page too many"
        cursors.append(paginator.current_value)
        if not found.ids:
            assert paginator.continue_if_empty(response)
        paginator.advance(response)
    assert paginator.finished, "a page was not asked for"
    return cursors


def test_a_page() -> None:
    records = [{"id": "a", "createdAt": 5, "x": [1]}, {"id": 7, "updatedAt": "y"}, {"id": None}]
    content = json.dumps({"hasMore": False, "interactions": records}).encode()
    found = ExportPage(("interactions", "conversations"), CHAT_HISTORY.shape).parse(
        content, served_at=9
    )
    assert (found.ids, found.created) == (("a", "7"), (5, None, None))
    assert found.updated == (None, "y", None)
    assert (found.has_more, found.cursor, found.served_at) == (False, "7", 9)
    assert found.records() == (records, 0)
    assert found.size == len(json.dumps(records))


@pytest.mark.parametrize(
    ("envelope", "cursor"),
    [
        ({}, "b"),
        ({"cursor": "tok"}, "tok"),
        ({"nextCursor": "tok"}, "tok"),
        ({"nextCursor": "tok", "cursor": "other"}, "tok"),
        ({"nextCursor": None, "cursor": "other"}, "other"),
        ({"nextCursor": None, "cursor": ""}, "b"),
        ({"cursor": 12}, "12"),
        ({"cursor": {"odd": 1}}, "b"),
    ],
)
def test_where_the_cursor_comes_from(envelope: dict[str, Any], cursor: str) -> None:
    assert page(["a", "b"], **envelope).cursor == cursor


KEYS = "an object with the keys 'conversations', 'hasMore'"
NO_ARRAY = "an object whose 'conversations' is not an array of objects"


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"{}", "an empty object"),
        (b'{"data": [], "hasMore": true}', "an object with the keys 'data', 'hasMore'"),
        (b'{"conversations": []}', "an object with the keys 'conversations'"),
        (b'{"conversations": [], "hasMore": "true"}', KEYS),
        (b'{"conversations": [], "hasMore": null}', KEYS),
        (b'{"conversations": null, "hasMore": true}', NO_ARRAY),
        (b'{"conversations": ["a"], "hasMore": true}', NO_ARRAY),
        (b'{"forged\\nline": 1}', "an object with the keys 'forged\\nline'"),
    ],
)
def test_what_is_no_page(body: bytes, found: str) -> None:
    with pytest.raises(EnvelopeError) as error:
        FORM.parse(body)
    assert str(error.value) == found


@pytest.mark.parametrize("body", [b"[]", b"null", b'"conversations"', b"5"])
def test_json_of_another_type(body: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        FORM.parse(body)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"conversations": [', b"\xff"])
def test_what_is_no_json(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError) as error:
        FORM.parse(body)
    assert not isinstance(error.value, msgspec.ValidationError)


def test_records_that_need_repair() -> None:
    body = b'{"conversations": [{"id": "a", "q": "\\u0000", "n": 1e999}], "hasMore": false}'
    assert FORM.parse(body).records() == (
        [{"id": "a", "q": "\ufffd", "n": "1e999"}],
        1,
    )


def test_last_ids_as_cursors() -> None:
    assert follow(page("ab"), page("cd"), page("e", has_more=False)) == [None, "b", "d"]


def test_one_page() -> None:
    assert follow(page("ab", has_more=False)) == [None]


@pytest.mark.parametrize("has_more", [True, False])
def test_an_empty_first_page_is_the_end(has_more: bool) -> None:  # noqa: FBT001
    assert follow(page("", has_more=has_more)) == [None]


def test_overlapping_pages_are_progress() -> None:
    assert follow(page("ab"), page("bc"), page("cd", has_more=False)) == [None, "b", "c"]


@pytest.mark.parametrize("has_more", [True, False])
@pytest.mark.parametrize("ids", ["", "ab", "a"])
def test_a_promised_page_without_anything_new(ids: str, has_more: bool) -> None:  # noqa: FBT001
    with pytest.raises(UntrustedPagingError, match="brought nothing new"):
        follow(page("ab"), page(ids, has_more=has_more))


def test_a_cursor_that_comes_round() -> None:
    with pytest.raises(UntrustedPagingError, match="came round"):
        follow(page("ab", cursor="x"), page("cd", cursor="y"), page("ef", cursor="x"))


def test_no_cursor_at_all() -> None:
    body = b'{"conversations": [{"id": null}, {"id": "a"}, {"id": ""}], "hasMore": true}'
    found = FORM.parse(body)
    assert (found.ids, found.cursor) == (("a",), "a")
