"""A part on its way to an S3 server: one request if it is small, else a multipart upload in bounded memory."""

import queue
import threading
from collections.abc import Callable, Iterator

import obstore
from obstore.exceptions import BaseError

from headrace.errors import ObjectMissing, StoreUnavailable
from headrace.store.s3_requests import S3Requests

# A multipart upload has at most 10,000 pieces, so parts reach 80 GB. S3's own minimum is 5 MiB.
PIECE_BYTES = 8 * 1024 * 1024
# Concurrent uploads, beside one piece that fills and one that waits: 48 MiB of memory a part.
_NUM_UPLOADS = 4
_WAIT_SECONDS = 0.2


class _Abandoned(Exception):
    pass


class S3Part:
    """A `headrace.store.objects.PartWriter`; nothing is visible before `finish`."""

    def __init__(self, requests: S3Requests, uri: str, path: str, *, refuse_present: Callable[[], None]) -> None:
        self.num_bytes = 0
        self.closed = False
        self._requests = requests
        self._uri = uri
        self._path = path
        self._refuse_present = refuse_present
        self._piece = bytearray()
        self._pieces: queue.Queue[bytearray | None] = queue.Queue(maxsize=1)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._abandoned = False

    @property
    def is_small(self) -> bool:
        return self._thread is None

    def small_body(self) -> bytes:
        self.closed = True
        return bytes(self._piece)

    def write(self, body: bytes | bytearray | memoryview, /) -> int:
        if self.closed:
            raise ValueError(f"{self._uri} is closed")
        rest = memoryview(body).cast("B")
        num_bytes = len(rest)
        while rest:
            room = PIECE_BYTES - len(self._piece)
            self._piece += rest[:room]
            rest = rest[room:]
            if len(self._piece) == PIECE_BYTES:
                self._send_piece()
        self.num_bytes += num_bytes
        return num_bytes

    def flush(self) -> None:
        """Does nothing: a piece is sent when it is full."""

    def finish(self) -> None:
        """Raises: InvalidInput: the key exists already."""
        self.closed = True
        assert self._thread
        if self._piece:
            self._send_piece()
        self._refuse_present()
        self._put(None)
        self._thread.join()
        if self._error:
            self._raise_unless_there(self._error)

    def abort(self) -> None:
        """Ends a running upload and removes its result. Does nothing after `finish`."""
        self.closed = True
        if self._thread and self._thread.is_alive():
            self._abandoned = True
            while self._thread.is_alive():
                try:
                    self._pieces.put(None, timeout=_WAIT_SECONDS)
                    break
                except queue.Full:
                    continue
            self._thread.join()

    def _send_piece(self) -> None:
        if self._thread is None:
            self._refuse_present()
            self._thread = threading.Thread(target=self._upload, name="headrace-s3-part", daemon=True)
            self._thread.start()
        self._put(self._piece)
        self._piece = bytearray()

    def _put(self, piece: bytearray | None) -> None:
        assert self._thread
        while True:
            if not self._thread.is_alive() and self._error:
                self._raise(self._error)
            try:
                self._pieces.put(piece, timeout=_WAIT_SECONDS)
            except queue.Full:
                continue
            return

    def _upload(self) -> None:
        try:
            obstore.put(
                self._requests.client,
                self._path,
                self._pieces_to_send(),
                use_multipart=True,
                chunk_size=PIECE_BYTES,
                max_concurrency=_NUM_UPLOADS,
            )
        except BaseException as error:  # noqa: BLE001 (handed to the thread that writes)
            self._error = error

    def _pieces_to_send(self) -> Iterator[bytearray]:
        """An exception in here makes obstore abort the upload. Runs in obstore's event loop: send no requests."""
        while (piece := self._pieces.get()) is not None and not self._abandoned:
            yield piece
        if self._abandoned:
            raise _Abandoned

    def _raise_unless_there(self, error: BaseException) -> None:
        """Only the reply to the completion may have been lost; the key carries this writer's nonce."""
        if isinstance(error, BaseError | FileNotFoundError):
            try:
                meta = self._requests.send(self._uri, lambda: obstore.head(self._requests.client, self._path))
            except (ObjectMissing, StoreUnavailable):
                meta = None
            if meta and meta["size"] == self.num_bytes:
                return
        self._raise(error)

    def _raise(self, error: BaseException) -> None:
        if isinstance(error, BaseError | FileNotFoundError):
            raise self._requests.refusal(self._uri, str(error)) from error
        raise error
