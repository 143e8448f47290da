"""Facts about httptools and uvicorn's protocol on it, which `headrace.serving.gateway.http_protocol` works around."""

import inspect
from typing import Any

import httptools
import pytest
from uvicorn.protocols.http import httptools_impl

CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nAuthorization: theirs\r\n\r\n"
H2C = b"POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\n"


class Heard:
    """What a parser calls, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *parts: self.calls.append((name, *(part.decode() for part in parts)))


def test_trailers_are_called_headers() -> None:
    heard = Heard()
    httptools.HttpRequestParser(heard).feed_data(CHUNKED)
    assert heard.calls.index(("on_header", "Authorization", "theirs")) > heard.calls.index(("on_headers_complete",))


def test_the_body_of_a_request_that_offers_another_protocol_is_skipped() -> None:
    """When it is not, the second parser can go."""
    heard = Heard()
    parser = httptools.HttpRequestParser(heard)
    with pytest.raises(httptools.HttpParserUpgrade) as offer:
        parser.feed_data(H2C + b"abc")
    assert offer.value.args == (len(H2C),)
    assert ("on_message_complete",) in heard.calls
    assert not [call for call in heard.calls if call[0] == "on_body"]


def test_a_header_is_kept_whole_before_it_is_told() -> None:
    """So bytes are counted before they are parsed: a value without end would never be seen."""
    heard = Heard()
    parser = httptools.HttpRequestParser(heard)
    parser.feed_data(b"GET / HTTP/1.1\r\nX: ")
    for _ in range(100):
        parser.feed_data(b"a" * 10_000)
    assert not [call for call in heard.calls if call[0] == "on_header"]


def test_uvicorns_protocol_has_the_parts_that_ours_is_made_of() -> None:
    protocol, cycle = httptools_impl.HttpToolsProtocol, httptools_impl.RequestResponseCycle
    assert list(inspect.signature(protocol._start_asgi_task).parameters) == ["self", "cycle", "app"]
    names = {"keep_alive", "disconnected", "message_event", "response_started", "response_complete"}
    assert names <= set(cycle.__init__.__code__.co_names)
    source = inspect.getsource(protocol)
    assert "self.headers.append((name, value))" in source
    assert "on_response=self.on_response_complete" in source
