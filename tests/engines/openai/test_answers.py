"""One table of what servers answer, and both clients over all of its rows."""

import gzip
import json
import re
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from simulation.servers.chat import completion, endless, events, http, served, telling
from tests.engines.openai.clients import Made, Not, by_bulk, by_live

Answer = bytes | Callable[[], Iterable[bytes]]
CLIENTS: dict[str, Callable[..., Made | Not]] = {
    "bulk": by_bulk,
    "live": lambda url, **changes: by_live(url, stream=False, **changes),
    "stream": lambda url, **changes: by_live(url, stream=True, **changes),
}
END = {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}


def usage(prompt: Any, output: Any) -> bytes:
    return http(completion("abc", usage={"prompt_tokens": prompt, "completion_tokens": output}))


def raw_usage(text: str) -> bytes:
    """What `json.dumps` would not write."""
    return http(json.dumps(completion("abc", usage="HERE")).replace('"HERE"', text).encode())


def counts(prompt: int | None, output: int | None) -> Made:
    return Made(text="abc", num_prompt_tokens=prompt, num_output_tokens=output)


MADE: dict[str, tuple[Answer, Made]] = {
    "plain": (http(completion("abc")), Made(text="abc")),
    "cut off by length": (http(completion("abc", "max_tokens")), Made(text="abc", finish="length")),
    "eos_token": (http(completion("abc", "eos_token")), Made(text="abc")),
    "a reason of capitals": (http(completion("abc", "MAX_TOKENS")), Made(text="abc", finish="length")),
    "a reason that nobody knows": (http(completion("abc", "eos_found")), Made(text="abc")),
    "a reason that is no word": (http(completion("abc", 7)), Made(text="abc")),
    "no reason": (http(completion("abc", None)), Made(text="abc")),
    "parts": (http(completion([{"type": "text", "text": "a"}, {"type": "text", "text": "bc"}])), Made(text="abc")),
    "parts with a thought": (
        http(completion([{"type": "thinking", "thinking": [{"text": "x"}]}, {"type": "output_text", "text": "abc"}])),
        Made(text="abc"),
    ),
    "parts that are words": (http(completion(["a", "bc"])), Made(text="abc")),
    "usage of null": (http(completion("abc", usage=None)), counts(None, None)),
    "usage of nothing": (http(completion("abc", usage={})), counts(None, None)),
    "usage of a word": (http(completion("abc", usage="many")), counts(None, None)),
    "usage of a list": (http(completion("abc", usage=[5, 3])), counts(None, None)),
    "negative": (usage(5, -5), counts(5, None)),
    "a word": (usage("x", 3), counts(None, 3)),
    "a broken number": (usage(5, 2.5), counts(5, None)),
    "a whole number with a point": (usage(5.0, 3.0), counts(5, 3)),
    "true": (usage(True, 3), counts(None, 3)),
    "more than a column holds": (usage(2**31, 3), counts(None, 3)),
    "no number": (raw_usage('{"prompt_tokens": NaN, "completion_tokens": 3}'), counts(None, 3)),
    "infinite": (raw_usage('{"prompt_tokens": 5, "completion_tokens": 1e400}'), counts(5, None)),
    "html that is JSON": (http(completion("abc"), kind="text/html"), Made(text="abc")),
    "a stream called JSON": (http(events("a", "bc", END)), Made(text="abc")),
    "JSON called a stream": (http(completion("abc"), kind="text/event-stream"), Made(text="abc")),
    "a stream": (http(events("a", "bc", END), kind="text/event-stream"), Made(text="abc")),
    "a stream with a byte order mark": (http(b"\xef\xbb\xbf" + events("abc", END)), Made(text="abc")),
    "a stream with carriage returns": (http(events("a", "bc", END, end="\r")), Made(text="abc")),
    "a stream of parts": (
        http(events({"choices": [{"delta": {"content": [{"text": "abc"}]}}]}, END)),
        Made(text="abc"),
    ),
    "a character in two events": (http(events("ab\ud83d", "\ude00", END)), Made(text="ab\N{GRINNING FACE}")),
    "gzip that nobody asked for": (
        http(gzip.compress(json.dumps(completion("abc")).encode()), Content_Encoding="gzip"),
        Made(text="abc"),
    ),
    "deflate that nobody asked for": (
        http(zlib.compress(events("abc", END)), Content_Encoding="deflate"),
        Made(text="abc"),
    ),
}

# kinds by bulk and by live.
NOT: dict[str, tuple[Answer, str, str, str]] = {
    "refused": (http({"error": {"message": "too long"}}, 400), "given up", "refused", "answered 400: too long"),
    "refused in a body of 200": (
        http({"error": {"code": "context_length_exceeded", "message": "too long"}}),
        "given up",
        "refused",
        "answered 200, and in it 400: the server says: too long",
    ),
    "busy": (http({"error": "slow down"}, 429, Retry_After="1"), "later", "later", "answered 429: slow down"),
    "busy in a body of 200": (
        http({"error": {"code": 429, "message": "slow down"}}),
        "later",
        "later",
        "answered 200, and in it 429",
    ),
    "busy in an event": (
        http(events({"error": {"type": "rate_limit_error", "message": "slow down"}})),
        "later",
        "later",
        "answered 200, and in it 429",
    ),
    "failing": (http(b"boom", 500), "given up", "given up", "answered 500: boom"),
    "failing in a body of 200": (http({"error": {"message": "boom"}}), "given up", "given up", "in it 500: .*boom"),
    "a gateway's time-out": (http(b"", 504), "given up", "given up", "answered 504: nothing"),
    "forbidden": (http(b"flagged", 403), "given up", "given up", "answered 403"),
    "a redirect": (http(b"", 302, Location="http://127.0.0.1:9/"), "given up", "given up", "answered 302"),
    "no content": (http(b"", 204), "given up", "given up", "answered 204"),
    "html": (http(b"<html>welcome</html>", kind="text/html"), "given up", "given up", "broken answer: .*<html>welcome"),
    "nothing": (http(b""), "given up", "given up", "broken answer: no chat completion"),
    "an empty object": (http({}), "given up", "given up", "broken answer: no chat completion"),
    "a list": (http(b"[]"), "given up", "given up", "broken answer: no chat completion"),
    "a number": (http(b"7"), "given up", "given up", "broken answer: no chat completion"),
    "choices of numbers": (http({"choices": [7]}), "given up", "given up", "broken answer: no chat completion"),
    "choices of a word": (http({"choices": "x"}), "given up", "given up", "broken answer: no chat completion"),
    "content of an object": (http(completion({"text": "abc"})), "given up", "given up", "its content is of type dict"),
    "content of a number": (http(completion(7)), "given up", "given up", "its content is of type int"),
    "a picture": (http(completion([{"type": "image_url"}])), "given up", "given up", r"is no text \(image_url\)"),
    "broken off": (http(completion("ab", "abort")), "given up", "given up", "the server ended it with 'abort'"),
    "deep": (http(b"[" * 200_000), "given up", "given up", r"no chat completion \(RecursionError\)"),
    "deep inside": (
        http(b'{"choices": ' + b'{"a":' * 40_000),
        "given up",
        "given up",
        r"no chat completion \(RecursionError\)",
    ),
    "a number of 5,000 digits": (http(b'{"usage": ' + b"9" * 5000 + b"}"), "given up", "given up", r"\(ValueError\)"),
    "half a character": (http(completion("ab\ud83d")), "given up", "given up", "half a character"),
    "the other half": (http(completion("\ude00ab")), "given up", "given up", "half a character"),
    "half a character in a stream": (http(events("ab", "\ud83d", END)), "given up", "given up", "half a character"),
    "a body without end": (
        lambda: endless(b'{"choices": [{"message": {"content": "', b"a" * 65_536),
        "given up",
        "given up",
        r"longer than \d+ bytes",
    ),
    "a stream without end": (
        lambda: endless(b"", events("ab", done=False) * 1000, kind="text/event-stream"),
        "given up",
        "given up",
        r"longer than \d+ (bytes|characters), more than",
    ),
    "more than its tokens can be": (
        http(completion("ab " * 5000)),
        "given up",
        "given up",
        r"longer than \d+ characters, more than \d+ tokens can be",
    ),
    "events of nothing without end": (
        lambda: endless(b"", events({"choices": [{"delta": {}}]}, done=False) * 1000, kind="text/event-stream"),
        "given up",
        "given up",
        r"longer than \d+ bytes",
    ),
    "an event without end": (
        lambda: endless(b'data: {"choices": "', b"a" * 65_536, kind="text/event-stream"),
        "given up",
        "given up",
        r"longer than \d+ bytes",
    ),
    "a gzip bomb": (
        http(gzip.compress(b" " * 100_000_000, 9), Content_Encoding="gzip"),
        "given up",
        "given up",
        r"longer than \d+ bytes",
    ),
    "brotli": (
        http(b"\x0b", Content_Encoding="br"),
        "given up",
        "given up",
        "encoding is 'br', which was not asked for",
    ),
    "what is no gzip": (http(b"abc", Content_Encoding="gzip"), "given up", "given up", "not in the content encoding"),
    "an end in the middle": (http(events("ab", done=False)), "given up", "given up", "ended the stream in its middle"),
    "what is no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "given up", "given up", "ended the connection|no HTTP"),
    "a header that is none": (
        b"HTTP/1.1 200 OK\r\nno header at all\r\n\r\n",
        "given up",
        "given up",
        "ended the connection|no HTTP",
    ),
}


def meaning(client: str, answer: Answer, **changes: Any) -> Made | Not:
    with served(telling(lambda prompt, asked: answer if isinstance(answer, bytes) else answer())) as server:
        return CLIENTS[client](server.url, **changes)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", MADE)
def test_what_is_an_answer_is_taken(name: str, client: str) -> None:
    answer, made = MADE[name]
    assert meaning(client, answer) == made


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", NOT)
def test_what_is_none_has_one_meaning(name: str, client: str) -> None:
    answer, by_bulk_kind, by_live_kind, why = NOT[name]
    got = meaning(client, answer)
    assert isinstance(got, Not)
    assert got.kind == (by_bulk_kind if client == "bulk" else by_live_kind)
    assert re.search(why, got.why, re.S), got.why
    got.why.encode()


@pytest.mark.parametrize("client", CLIENTS)
def test_an_answer_that_trickles_for_ever_ends_with_its_time(client: str) -> None:
    def trickle() -> Iterable[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        for _ in range(100):
            yield b": ping\n\n"
            time.sleep(0.05)

    limits = {"turn_seconds_max": 0.4, "first_piece_seconds_max": 0.3}
    got = meaning(client, trickle, **({"request_seconds": 0.3} if client == "bulk" else limits))
    assert isinstance(got, Not)
    assert got.kind == "given up"
