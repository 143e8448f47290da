"""An object store in a bucket of S3 or of a server that speaks it, through obstore.

`create` is one conditional request (`If-None-Match: *`): the server picks the winner. Trouble that may pass (5xx, lost
connections, time-outs) is waited out for `patience_seconds` and then raised as StoreOutage. A `create` whose reply was
lost is sent again and gets "already there": it returns False, though it may have won; `create_json` finds out by its
nonce.
Large parts are multipart uploads, which support no condition: the store looks for the key before the upload and before
its completion. A part's key carries its writer's nonce, so no two writers race for it. Killed writers' uploads stay
invisible and cost space: give the bucket a rule that ends incomplete uploads after a day.

Files to be mapped come through the node's cache. A child that was forked after its parent used S3 is refused (it lacks
obstore's threads).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError

from headrace.errors import HandoffCorrupt, InvalidInput, ObjectMissing, StoreOutage
from headrace.keys import digest_text
from headrace.store.cached_files import RemoteFile, fill_files
from headrace.store.cached_segments import fill_segments
from headrace.store.node_cache import NodeCache
from headrace.store.objects import Entry, Segment, check_key
from headrace.store.s3_part import S3Part
from headrace.store.s3_requests import RangeBeyondEnd, S3Requests

if TYPE_CHECKING:
    from obstore import ObjectMeta

T = TypeVar("T")

# Concurrent requests over all threads of a process: enough to fill a fast network at a latency of some ms.
_NUM_REQUESTS = 12
_LIST_CHUNK = 1000


class S3Store:
    """`headrace.store.objects.ObjectStore` states what each method promises.

    Args:
        options: obstore's S3 configuration (`endpoint`, `access_key_id`, …); over the environment's AWS_* variables.
        patience_seconds: how long trouble that may pass is waited out.
        request_seconds: how long one request may take; no request carries more than some MiB.
    """

    checks_what_it_fetches = True

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        cache: NodeCache,
        options: dict[str, Any] | None = None,
        patience_seconds: float = 60.0,
        request_seconds: float = 30.0,
    ) -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self.cache = cache
        self._requests = S3Requests(
            bucket, options or {}, patience_seconds=patience_seconds, request_seconds=request_seconds
        )
        self._client = self._requests.client
        self._threads: ThreadPoolExecutor | None = None
        self._mutex = threading.Lock()

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    @property
    def url(self) -> str:
        return self.uri("").rstrip("/")

    @property
    def endpoint(self) -> str:
        return self._requests.endpoint

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        path = self._path(key)

        def put() -> bool:
            try:
                obstore.put(self._client, path, body, mode="create")
            except AlreadyExistsError as error:
                if "ConditionalRequestConflict" in str(error):  # S3 had not decided between two writers
                    raise StoreOutage(str(error)) from error
                return False
            return True

        return self._send(key, put)

    def replace(self, key: str, body: bytes, *, of: bytes) -> bool:
        path = self._path(key)

        def put() -> bool:
            found = obstore.get(self._client, path)
            present = found.bytes().to_bytes()
            if present == body:  # by an attempt whose reply was lost, or by somebody who wrote the same
                return True
            if present != of:
                return False
            try:
                obstore.put(self._client, path, body, mode={"e_tag": found.meta["e_tag"]})
            except PreconditionError:
                return False
            return True

        try:
            return self._send(key, put)
        except ObjectMissing:
            return False

    def read(self, key: str) -> bytes:
        path = self._path(key)
        return self._send(key, lambda: obstore.get(self._client, path).bytes().to_bytes())

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> "list[memoryview]":
        path = self._path(key)

        def read(extent: tuple[int, int]) -> memoryview:
            offset, num_bytes = extent
            if not num_bytes:
                return memoryview(b"")
            try:
                body = self._send(key, lambda: obstore.get_range(self._client, path, start=offset, length=num_bytes))
            except RangeBeyondEnd:
                body = b""
            if len(body) < num_bytes:
                raise HandoffCorrupt(
                    f"{self.uri(key)} ends at or before byte {offset + len(body)}, before byte {offset + num_bytes}, "
                    "which was asked for: it is torn. Make it again.",
                    key=key,
                )
            return memoryview(body)

        if len(ranges) <= 1:
            return [read(extent) for extent in ranges]
        return [*self._pool().map(read, ranges)]

    def exists(self, key: str) -> bool:
        try:
            self._head(key)
        except ObjectMissing:
            return False
        return True

    @contextmanager
    def write_part(self, key: str) -> Iterator[S3Part]:
        path = self._path(key)
        self._requests.check_process(self.uri(key))
        part = S3Part(self._requests, self.uri(key), path, refuse_present=lambda: self._refuse_present(key))
        try:
            yield part
            if part.is_small:
                body = part.small_body()
                if not self.create(key, body) and self.read(key) != body:
                    self._refuse_present(key)
            else:
                part.finish()
        finally:
            part.abort()

    def link(self, key: str, existing: str) -> bool:
        return False

    def local_path(self, key: str) -> Path:
        meta = self._head(key)
        name = key.rsplit("/", 1)[-1]
        directory = self._fetch_whole(key.removesuffix(name).rstrip("/"), {name: meta}, for_life=False)
        return directory / name

    def local_directory(self, prefix: str) -> Path:
        below = len(self._path(prefix)) + 1
        files = {meta["path"][below:]: meta for meta in self._metas(prefix)}
        return self._fetch_whole(prefix, dict(sorted(files.items())), for_life=True)

    def local_segments(self, key: str, *, digest: str, num_bytes: int, segments: Sequence[Segment]) -> Path:
        return fill_segments(
            self.cache,
            self.uri(key),
            lambda offset, length: self._stream(key, offset, length),
            self._pool(),
            digest=digest,
            num_bytes=num_bytes,
            segments=segments,
        )

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{self._full(key)}"

    def node_directory(self) -> Path:
        return self.cache.directory / "stores" / quote(f"{self.endpoint} {self.url}", safe="")

    def delete(self, key: str, *, durable: bool = True) -> None:
        self._delete(key, [self._path(key)])

    def delete_prefix(self, prefix: str) -> None:
        paths = [meta["path"] for meta in self._metas(prefix)]
        for start in range(0, len(paths), _LIST_CHUNK):
            self._delete(prefix, paths[start : start + _LIST_CHUNK])

    def children(self, prefix: str) -> list[str]:
        path = self._path(prefix) if prefix else self.prefix
        found = self._send(prefix, lambda: obstore.list_with_delimiter(self._client, path or None))
        paths = [*found["common_prefixes"], *(meta["path"] for meta in found["objects"])]
        return sorted({one[len(path) :].strip("/") for one in paths} - {""})

    def entries(self, prefix: str) -> "list[Entry]":
        below = len(self._full(""))
        entries = [
            Entry(key=meta["path"][below:], num_bytes=meta["size"], modified_at=meta["last_modified"].timestamp())
            for meta in self._metas(prefix)
        ]
        return sorted(entries, key=lambda entry: entry.key)

    # Last of the public ones: its name hides the built-in `list` from the annotations that follow it.
    def list(self, prefix: str) -> list[str]:
        return [entry.key for entry in self.entries(prefix)]

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _path(self, key: str) -> str:
        if "\\" in check_key(key):
            raise InvalidInput(f"Store key must not have a backslash (some S3 servers take it for a '/'), got {key!r}.")
        return self._full(key)

    def _metas(self, prefix: str) -> "Sequence[ObjectMeta]":
        path = self._path(prefix)
        metas = self._send(prefix, lambda: obstore.list(self._client, path, chunk_size=_LIST_CHUNK).collect())
        # Some servers list their own directories as objects.
        return [meta for meta in metas if meta["path"].startswith(f"{path}/")]

    def _head(self, key: str) -> "ObjectMeta":
        path = self._path(key)
        return self._send(key, lambda: obstore.head(self._client, path))

    def _refuse_present(self, key: str) -> None:
        if self.exists(key):
            raise InvalidInput(f"Part {key} is already there. Part keys must be unique: put a nonce into them.")

    def _delete(self, key: str, paths: Sequence[str]) -> None:
        with suppress(ObjectMissing):  # some servers' answer if another call deleted the object
            self._send(key, lambda: obstore.delete(self._client, paths))

    def _send(self, key: str, request: Callable[[], T]) -> T:
        return self._requests.send(self.uri(key), request)

    def _stream(self, key: str, offset: int, num_bytes: int) -> Iterator[memoryview]:
        return self._requests.stream(self.uri(key), self._path(key), offset, num_bytes)

    def _fetch_whole(self, prefix: str, metas: "dict[str, ObjectMeta]", *, for_life: bool) -> Path:
        # Names the present content of these keys: a repaired file gets another name.
        stamps = [f"{name} {meta['size']} {meta['e_tag']}" for name, meta in metas.items()]
        return fill_files(
            self.cache,
            digest_text(str(self.node_directory()), prefix, *stamps),
            self.uri(prefix),
            [RemoteFile(name=name, num_bytes=meta["size"]) for name, meta in metas.items()],
            lambda name, offset, length: self._stream(f"{prefix}/{name}" if prefix else name, offset, length),
            self._pool(),
            for_life=for_life,
        )

    def _pool(self) -> ThreadPoolExecutor:
        with self._mutex:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_NUM_REQUESTS, thread_name_prefix="headrace-s3")
            return self._threads
