"""Offers this node's tensors to other nodes: ranges of the files that are put together here, over HTTP.

    GET /<kind>/<weights digest>/<number of the file>      Range: bytes=0-1048575      Prefer: wait=5

206 with the bytes, once their leaves are there; a range begins with one. 404 if they are not, and nobody here is
fetching them. Nothing else can be asked for, and nothing is checked of who asks: whoever asks compares what comes with
the index, and whoever reaches the address may read weights whose digest they know. Offer them in a network of your own
(`HEADRACE_NEIGHBOURS`).
"""

import fcntl
import functools
import os
import re
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from headrace.errors import HandoffCorrupt
from headrace.store.sparse_file import marked_pieces
from headrace.store.tensors.index import INDEX, TensorIndex
from headrace.store.tensors.sources import REQUEST_BYTES

ENTRY = "tensors"
_PATH = re.compile(r"/([a-z_]{1,40})/([0-9a-f]{64})/(\d{1,6})")
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})")
_WAIT = re.compile(r"wait=(\d{1,3})")
_WAIT_SECONDS_MAX = 30
_LOOK_SECONDS = 0.02
# A client that has fallen silent holds a thread no longer than this.
_SILENT_SECONDS = 60.0
# Some forty nodes that fetch at once. Each costs this process a thread and a descriptor; one too many asks the store.
_NUM_CONNECTIONS_MAX = 512


def entry_name(kind: str, weights_digest: str) -> str:
    return f"{ENTRY}-{kind}-{weights_digest}"


@functools.cache
def offered_at(cache: Path, address: str) -> str | None:
    """The URL at which this process offers a node's cache from now on; None: the address cannot be used here.

    Args: address: `HOST` or `HOST:PORT` of this machine; without a port a free one is taken.
    """
    host, _, port = address.rpartition(":") if ":" in address else (address, "", "0")
    try:
        server = _Server((host, int(port)), cache)
    except (OSError, ValueError, OverflowError):  # another process of this node has the port, and offers the same
        return None
    threading.Thread(target=server.serve_forever, name="headrace-offering", daemon=True).start()
    return f"http://{host}:{server.server_address[1]}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], cache: Path) -> None:
        super().__init__(address, _Offer)
        self._cache = cache
        self._room = threading.BoundedSemaphore(_NUM_CONNECTIONS_MAX)
        self._lock = threading.Lock()
        self._indexes: dict[Path, tuple[int, TensorIndex]] = {}
        # Of each file's marks: their length, and first byte → end of each leaf that is there.
        self._ends: dict[Path, tuple[int, dict[int, int]]] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores a client that hung up."""

    def open_range(self, kind: str, digest: str, number: int, start: int, end: int, seconds: float) -> int | None:
        """A descriptor of the file once its bytes from `start` to `end` are there; None: they will not be."""
        entry = self._cache / "entries" / entry_name(kind, digest)
        try:
            index = self._index(entry)
            if number >= len(index.files) or end > index.files[number].num_bytes:
                return None
            marks, until = entry / "marks" / str(number), time.monotonic() + seconds
            while not self._holds(marks, start, end):
                if time.monotonic() >= until or not (_is_filling(entry) or self._holds(marks, start, end)):
                    return None
                time.sleep(_LOOK_SECONDS)
            return os.open(entry / "files" / index.files[number].name, os.O_RDONLY)
        except (OSError, ValueError, HandoffCorrupt):
            return None

    def _holds(self, marks: Path, start: int, end: int) -> bool:
        """Whether every leaf from `start`, where one begins, to `end` is there."""
        length = marks.stat().st_size
        with self._lock:
            known = self._ends.get(marks)
            if known is None or known[0] != length:
                ends = {piece.offset: piece.offset + piece.num_bytes for piece in marked_pieces(marks)}
                known = self._ends[marks] = (length, ends)
        position: int | None = start
        while position is not None and position < end:
            position = known[1].get(position)
        return position is not None

    def _index(self, entry: Path) -> TensorIndex:
        inode = (entry / "index.json").stat().st_ino
        with self._lock:
            known = self._indexes.get(entry)
            if known is None or known[0] != inode:
                known = self._indexes[entry] = (inode, INDEX.checked((entry / "index.json").read_bytes()))
            return known[1]


class _Offer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _SILENT_SECONDS

    def do_GET(self) -> None:
        path, asked = _PATH.fullmatch(self.path), _RANGE.fullmatch(self.headers.get("Range", ""))
        wait = _WAIT.fullmatch(self.headers.get("Prefer", ""))
        if not path or not asked:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        start, end = int(asked[1]), int(asked[2]) + 1
        if not 0 < end - start <= REQUEST_BYTES:
            self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            return
        seconds = min(int(wait[1]), _WAIT_SECONDS_MAX) if wait else 0
        assert isinstance(self.server, _Server)
        descriptor = self.server.open_range(path[1], path[2], int(path[3]), start, end, seconds)
        if descriptor is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 (a descriptor)
            self.send_response(HTTPStatus.PARTIAL_CONTENT)
            self.send_header("Content-Length", str(end - start))
            self.end_headers()
            self.connection.sendfile(file, start, end - start)

    def _refuse(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (the base class's name)
        """Says nothing: a fetch is thousands of requests."""


def _is_filling(entry: Path) -> bool:
    """Whether a process of this node fetches into the entry now."""
    with suppress(FileNotFoundError):
        descriptor = os.open(entry / "filling", os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False
