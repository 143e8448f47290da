"""Nodes that fetch from each other: the store serves each byte once, and nobody is believed."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from headrace.store.indexing import index_directory
from headrace.store.node_cache import NodeCache
from headrace.store.sealed_directory import open_directory, seal_directory
from headrace.store.tensors import assembling, neighbours, offering
from headrace.store.tensors.neighbours import announce
from tests.store.tensors.weights_builder import CountingStore, make_tensors, sha256_of_files, write_weights
from tests.waiting import eventually


class Fleet:
    """Indexed weights, and nodes that offer what they have."""

    def __init__(self, root: Path, store: CountingStore) -> None:
        self.store = store
        self.source = write_weights(root / "one", make_tensors(layers=2, rows=2048, columns=512))
        self.digest = seal_directory(store, self.source).digest
        index_directory(store, self.digest)
        self.num_bytes = sum(path.stat().st_size for path in self.source.iterdir())

    def node(self, name: str, *, offers: bool = True) -> CountingStore:
        store = self.store.on(name)
        # As a remote store has it.
        store.cache = NodeCache(store.node_directory(), offered_at="127.0.0.1" if offers else None)  # pyright: ignore
        return store

    def check(self, node: CountingStore) -> None:
        assert sha256_of_files(open_directory(node, self.digest)) == sha256_of_files(self.source)


@pytest.fixture
def fleet(tmp_path: Path, remote: CountingStore) -> Fleet:
    return Fleet(tmp_path, remote)


def test_the_store_serves_each_byte_once_to_nodes_that_fetch_at_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [fleet.node(f"node{number}") for number in range(3)]
    # All begin before the first has anything.
    gate = threading.Barrier(3)
    fetch = assembling.Assembly._fetch

    def fetch_together(self: assembling.Assembly, *arguments: object) -> None:
        gate.wait(20)
        fetch(self, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(assembling.Assembly, "_fetch", fetch_together)
    threads = [threading.Thread(target=fleet.check, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(node.fetched for node in nodes) == fleet.num_bytes
    late = fleet.node("late")
    monkeypatch.setattr(assembling.Assembly, "_fetch", fetch)
    fleet.check(late)
    assert late.fetched == 0
    alone = fleet.node("alone", offers=False)
    fleet.check(alone)
    assert alone.fetched == fleet.num_bytes


class Liar(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        body = bytes(int(last) - int(first) + 1)
        self.send_response(206)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None: ...  # noqa: A002


class Endless(Liar):
    num_asked = num_sent = 0

    def do_GET(self) -> None:
        Endless.num_asked += 1
        self.send_response(206)
        self.end_headers()
        with suppress(OSError):
            while Endless.num_sent < 2**30:
                Endless.num_sent += self.wfile.write(bytes(2**20))


class Dripping(Liar):
    """Never silent, and never done: in the head, in the body, or with answers that only announce one."""

    piece = b""

    def do_GET(self) -> None:
        with suppress(OSError):
            self.wfile.write(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1048576\r\n\r\n" * (self.piece == b"x"))
            while True:
                self.wfile.write(self.piece)
                time.sleep(0.01)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_neighbour_that_lies_or_is_gone_is_passed_over(fleet: Fleet) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        dead = f"http://127.0.0.1:{gone.getsockname()[1]}"
    with serving(Liar) as liar:
        for url in (dead, liar, "no address"):
            announce(fleet.store, "weights", fleet.digest, url)
        node = fleet.node("node")
        fleet.check(node)
    assert node.fetched == fleet.num_bytes


def test_an_answer_without_an_end_is_not_read_to_it(fleet: Fleet) -> None:
    with serving(Endless) as endless:
        announce(fleet.store, "weights", fleet.digest, endless)
        node = fleet.node("node")
        fleet.check(node)
    assert node.fetched == fleet.num_bytes
    assert Endless.num_asked
    # What a few connections' buffers hold; nothing, where the other end closed before the first piece was taken.
    assert Endless.num_sent < 2**28


@pytest.mark.parametrize("piece", [b"x", b"h", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_an_answer_that_drips_is_not_waited_for_to_its_end(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, piece: bytes
) -> None:
    monkeypatch.setattr(neighbours, "_ANSWER_SECONDS", 0.2)
    with serving(type("Drip", (Dripping,), {"piece": piece})) as url:
        announce(fleet.store, "weights", fleet.digest, url)
        node = fleet.node("node")
        fleet.check(node)
    assert node.fetched == fleet.num_bytes


def test_only_leaves_that_are_there_are_offered(fleet: Fleet) -> None:
    node = fleet.node("node")
    open_directory(node, fleet.digest)
    (url,) = announce(fleet.store, "weights", fleet.digest, "http://other")

    def status(path: str, span: str | None) -> int:
        try:
            return urlopen(Request(f"{url}{path}", headers={"Range": span} if span else {}), timeout=10).status
        except OSError as error:
            return getattr(error, "code", 0)

    whole = f"/weights/{fleet.digest}/0"
    assert status(whole, "bytes=0-9") == 206
    assert [
        status(f"/weights/{'0' * 64}/0", "bytes=0-9"),
        status(f"/weights/{fleet.digest}/99", "bytes=0-9"),
        status(f"/../{fleet.digest}/0", "bytes=0-9"),
        status(whole, "bytes=1-9"),
        status(whole, "bytes=0-99999999999"),
        status(whole, None),
    ] == [404, 404, 404, 404, 416, 404]


def test_connections_beyond_a_limit_are_closed_and_others_are_served_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offering, "_NUM_CONNECTIONS_MAX", 2)
    url = offering.offered_at(tmp_path, "127.0.0.1")
    assert url
    place = ("127.0.0.1", int(url.rpartition(":")[2]))

    def answer() -> bytes:
        with socket.create_connection(place, timeout=10) as asked, suppress(ConnectionError):
            asked.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return asked.recv(12)
        return b""

    with socket.create_connection(place), socket.create_connection(place):
        eventually(lambda: answer() == b"")
    eventually(lambda: answer() == b"HTTP/1.1 404")


def test_an_offer_is_numbered_once_a_process(fleet: Fleet) -> None:
    assert announce(fleet.store, "weights", "d", "http://a") == []
    assert announce(fleet.store, "weights", "d", "http://b") == ["http://a"]
    assert announce(fleet.store, "weights", "d", "http://a") == []
    assert announce(fleet.store, "weights", "d", "http://c") == ["http://a", "http://b"]
