"""How a whole answer is sent: a small one at once, a large one in pieces that wait for their client."""

import asyncio
from collections.abc import MutableMapping
from typing import Any, cast

import pytest

from headrace.serving.gateway.http_messages import Request
from headrace.serving.gateway.http_protocol import EXTENSION


class Connection:
    """Only what an answer asks of it."""

    def hold_head(self) -> None:
        pass


@pytest.mark.parametrize(
    ("num_bytes", "sizes"),
    [(0, [0]), (1, [1]), (65_536, [65_536]), (65_537, [65_536, 1]), (200_000, [65_536] * 3 + [3_392])],
)
def test_an_answer_is_finished_with_its_last_piece_and_not_before(num_bytes: int, sizes: list[int]) -> None:
    sent: list[tuple[MutableMapping[str, Any], bool]] = []
    body = bytes(number % 251 for number in range(num_bytes))

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append((message, request.finished))

    async def receive() -> MutableMapping[str, Any]:
        return {}

    scope: dict[str, Any] = {"method": "POST", "path": "/", "query_string": b"", "headers": []}
    scope["extensions"] = {EXTENSION: cast("Any", Connection())}
    request = Request(scope, receive, send)
    asyncio.run(request.respond(200, body, []))
    (head, _), *pieces = sent
    assert (b"content-length", b"%d" % num_bytes) in head["headers"]
    assert [len(piece["body"]) for piece, _ in pieces] == sizes
    assert b"".join(piece["body"] for piece, _ in pieces) == body
    assert [piece.get("more_body", False) for piece, _ in pieces] == [True] * (len(sizes) - 1) + [False]
    # A client that leaves before the last piece left before it had its answer.
    assert [is_finished for _, is_finished in pieces] == [False] * (len(sizes) - 1) + [True]
