"""Asks other nodes for tensors before the store: those that began earlier with the same weights.

A node that begins to fetch creates the next number below `neighbours/<kind>/<weights digest>/`, and asks the nodes with
lower ones; they have the bytes, or will have them before long, since they fetch in the same order. So nobody waits in a
circle, and the store serves each byte about once, to the lowest node that lives. Nobody is trusted: every leaf that
comes is compared with its digest, and a neighbour that sent a wrong one is not asked again.

The price: a node whose neighbours are slower than the store waits for them. One that answers nothing, or has not had a
range for half a minute, is passed over; so is one whose answer to one question is not whole by then.
"""

import http.client
import io
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from blake3 import blake3

from headrace.errors import HandoffCorrupt, ObjectMissing, StoreUnavailable
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind, create_object, read_object
from headrace.store.tensors.sources import Requested, read_verified

ROOT = "neighbours"
# How long a neighbour may hold a request back while it fetches, and how often it is asked the same again.
_WAIT_SECONDS = 5
_ASKED_TIMES = 6
_CONNECT_SECONDS = 2.0
_SILENT_SECONDS = _WAIT_SECONDS + 10.0
# A whole answer: 4 MiB at 150 kB/s. What drips in is never silent, and would be waited for without an end.
_ANSWER_SECONDS = 30.0
# Enough to spread over; of dead ones each costs a failed connection.
_NUM_ASKED = 16
_WRONG_MAX = 1
_MISSES_MAX = 64


@dataclass(frozen=True, kw_only=True)
class Offer:
    """`url`: where a node offers its tensors, as long as the process lives that said so."""

    url: str


OFFER = Kind("Neighbour", Offer, "It is passed over; the store has what it offers.")


def offers_prefix(kind: str, weights_digest: str) -> str:
    return f"{ROOT}/{kind}/{weights_digest}"


def offer_key(kind: str, weights_digest: str, number: int) -> str:
    return f"{offers_prefix(kind, weights_digest)}/{number:06d}.json"


def announce(store: ObjectStore, kind: str, weights_digest: str, url: str) -> list[str]:
    """Says that this process offers these weights. Returns who said so before, without this process."""
    while True:
        found = _offers(store, kind, weights_digest)
        if url in found.values():
            number = next(number for number, one in found.items() if one == url)
            return [one for earlier, one in sorted(found.items()) if earlier < number]
        number = max(found, default=0) + 1
        key = offer_key(kind, weights_digest, number)
        with suppress(HandoffCorrupt):
            if create_object(store, key, OFFER, Offer(url=url)).won:
                return [one for _, one in sorted(found.items())]


class Neighbours:
    """Thread-safe. `num_bytes`: what came from them, and was right."""

    def __init__(self, kind: str, weights_digest: str, urls: list[str]) -> None:
        self.num_bytes = 0
        self._path = f"/{kind}/{weights_digest}"
        self._urls = list(dict.fromkeys(urls))
        self._lock = threading.Lock()
        self._wrong: Counter[str] = Counter()
        self._misses: Counter[str] = Counter()
        self._connections = threading.local()

    def __call__(self, request: Requested) -> memoryview | None:
        """The bytes, compared with their digests; None: no neighbour has them."""
        first = request.leaves[0]
        for _ in range(_ASKED_TIMES):
            urls = sorted(self._urls, key=lambda url: blake3(f"{url} {first.digest}".encode()).digest())
            if not urls:
                return None
            is_promised = False
            for url in urls:
                started = time.monotonic()
                body = self._asked(url, request)
                if body is not None:
                    return body
                # It held the request back, so it is fetching.
                is_promised |= time.monotonic() - started >= _WAIT_SECONDS / 2 and url in self._urls
            if not is_promised:
                return None
        return None

    def _asked(self, url: str, request: Requested) -> memoryview | None:
        first = request.leaves[0]
        span = f"bytes={first.offset}-{first.offset + request.num_bytes - 1}"
        try:
            body = self._get(url, f"{self._path}/{first.file}", span, request.num_bytes)
        except (OSError, ValueError, http.client.HTTPException):
            self._pass_over(url)
            return None
        if body is None:
            self._count(self._misses, url, _MISSES_MAX)
            return None
        if (verified := read_verified(lambda: body, request)) is None:
            self._count(self._wrong, url, _WRONG_MAX)
            return None
        with self._lock:
            self._misses[url] = 0
            self.num_bytes += request.num_bytes
        return verified

    def _get(self, url: str, path: str, span: str, num_bytes: int) -> bytes | None:
        """Raises: OSError, ValueError, HTTPException: it does not answer, or not in HTTP."""
        open_ones: dict[str, http.client.HTTPConnection] = self._connections.__dict__
        if (kept := open_ones.get(url)) is not None:
            # One that rested was perhaps closed at the other end.
            with suppress(OSError, http.client.HTTPException):
                return self._sent(kept, path, span, num_bytes)
            open_ones.pop(url).close()
        place = urlsplit(url)
        if not place.hostname:
            raise http.client.InvalidURL(url)
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=_CONNECT_SECONDS)
        try:
            connection.response_class = _TimedAnswer
            connection.connect()
            body = self._sent(connection, path, span, num_bytes)
        except BaseException:
            connection.close()
            raise
        open_ones[url] = connection
        return body

    @staticmethod
    def _sent(connection: http.client.HTTPConnection, path: str, span: str, num_bytes: int) -> bytes | None:
        connection.request("GET", path, headers={"Range": span, "Prefer": f"wait={_WAIT_SECONDS}"})
        answer = connection.getresponse()
        wanted = num_bytes if answer.status == HTTPStatus.PARTIAL_CONTENT else 0
        # One byte beyond it tells that it never ends, without holding what comes.
        body = answer.read(wanted + 1)
        if len(body) > wanted:
            raise http.client.HTTPException(f"{path} was answered with more than {wanted:,} bytes")
        return body if wanted else None

    def _count(self, counts: Counter[str], url: str, most: int) -> None:
        with self._lock:
            counts[url] += 1
            is_enough = counts[url] >= most
        if is_enough:
            self._pass_over(url)

    def _pass_over(self, url: str) -> None:
        with self._lock, suppress(ValueError):
            self._urls.remove(url)


class _TimedAnswer(http.client.HTTPResponse):
    """An answer that is whole within `_ANSWER_SECONDS`, heads and chunks included, or raises TimeoutError."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_TimedReader(sock, self.fp.detach()))


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, inner: io.RawIOBase) -> None:
        self._sock, self._inner = sock, inner
        self._until = time.monotonic() + _ANSWER_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        if (left := self._until - time.monotonic()) <= 0:
            raise TimeoutError("the answer does not end")
        self._sock.settimeout(min(left, _SILENT_SECONDS))
        return self._inner.readinto(buffer)

    def close(self) -> None:
        self._inner.close()
        super().close()


def _offers(store: ObjectStore, kind: str, weights_digest: str) -> dict[int, str]:
    """Number → URL; a damaged one is none, and keeps its number."""
    found: dict[int, str] = {}
    for name in store.children(offers_prefix(kind, weights_digest)):
        number = name.removesuffix(".json")
        if number.isdecimal():
            with suppress(ObjectMissing):
                try:
                    offer = read_object(store, offer_key(kind, weights_digest, int(number)), OFFER)
                    found[int(number)] = offer.url
                except HandoffCorrupt:
                    found[int(number)] = ""
    return found


def neighbours_of(store: ObjectStore, kind: str, weights_digest: str, url: str) -> Neighbours:
    """The neighbours to ask, after this process said what it offers too. Nobody, if the store takes no offer now."""
    urls: list[str] = []
    with suppress(StoreUnavailable):
        urls = announce(store, kind, weights_digest, url)
    return Neighbours(kind, weights_digest, [one for one in urls if one][-_NUM_ASKED:])
