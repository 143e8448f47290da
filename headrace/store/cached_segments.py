"""Remote objects of which a node keeps only the requested bytes, in sparse files (`headrace.store.sparse_file`).

Fillers of one object take turns (the kernel releases a dead filler's lock), so bytes that a reader may have mapped are
never written again.
"""

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from pathlib import Path

import xxhash

from headrace.errors import HandoffCorrupt, InvalidInput
from headrace.store.node_cache import NodeCache
from headrace.store.objects import Segment
from headrace.store.sparse_file import SparseFile

# Yields the requested bytes of one object, first to last: (offset, num_bytes).
Fetch = Callable[[int, int], Iterable[memoryview]]

# So long that a request's fixed cost is negligible, so short that several share one object of 64 MiB.
REQUEST_BYTES = 16 * 1024 * 1024
_DIGEST = re.compile(r"[0-9a-zA-Z._-]{1,128}")


@dataclass(frozen=True)
class _Request:
    """Consecutive whole segments, or one piece of a longer segment; then `segments` is empty."""

    offset: int
    num_bytes: int
    segments: tuple[Segment, ...]


def fill_segments(
    cache: NodeCache,
    uri: str,
    fetch: Fetch,
    threads: Executor,
    *,
    digest: str,
    num_bytes: int,
    segments: Sequence[Segment],
) -> Path:
    """Returns the file of `num_bytes` with `segments` in it; fetches only the missing ones.

    Raises:
        HandoffCorrupt: bytes differ from their digest twice, or the object ends early.
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidInput(f"The digest of {uri} must be 1 to 128 letters, digits, '.', '_' or '-', got {digest!r}.")
    with cache.entry(f"part-{digest}-{num_bytes}") as directory:
        file = SparseFile(directory / "data", directory / "marks", num_bytes, hasher=xxhash.xxh3_128)
        try:
            file.settle_doubts()
            if missing := file.missing(segments):
                lowest = missing[0].offset
                with file.turn(lowest, max(segment.offset + segment.num_bytes for segment in missing) - lowest):
                    # Another filler may have fetched them while this one waited.
                    if missing := file.missing(segments):
                        cache.make_room(sum(segment.num_bytes for segment in missing))
                        _fetch_all(file, uri, fetch, threads, missing)
        finally:
            file.close()
        return file.path


def _fetch_all(file: SparseFile, uri: str, fetch: Fetch, threads: Executor, missing: list[Segment]) -> None:
    damaged = _fetch_once(file, uri, fetch, threads, missing)
    if damaged:
        damaged = _fetch_once(file, uri, fetch, threads, damaged)
    if damaged:
        first = damaged[0]
        raise HandoffCorrupt(
            f"{uri} is damaged: its {first.num_bytes} bytes at {first.offset} are not xxh3-128 {first.xxh3_128}, "
            "though fetched twice. Make the object again.",
            object=uri,
        )


def _fetch_once(file: SparseFile, uri: str, fetch: Fetch, threads: Executor, missing: list[Segment]) -> list[Segment]:
    """Returns the segments that came in damaged; marks the others as they come."""
    damaged: list[Segment] = []
    cut = [segment for segment in missing if segment.num_bytes > REQUEST_BYTES]
    pieces_left = {segment: -(-segment.num_bytes // REQUEST_BYTES) for segment in cut}
    mutex = threading.Lock()

    def serve(request: _Request, whole: Segment | None) -> None:
        digests = _receive(file, uri, fetch, request)
        if whole:
            with mutex:
                pieces_left[whole] -= 1
                if pieces_left[whole]:
                    return
            digests = [file.digest(whole)]
        segments = (whole,) if whole else request.segments
        wrong = [segment for segment, digest in zip(segments, digests, strict=True) if digest != segment.xxh3_128]
        file.mark([segment for segment in segments if segment not in wrong])
        with mutex:
            damaged.extend(wrong)

    run_all(threads, [lambda request=request, whole=whole: serve(request, whole) for request, whole in _plan(missing)])
    return sorted(damaged, key=lambda segment: segment.offset)


def _plan(missing: list[Segment]) -> Iterator[tuple[_Request, Segment | None]]:
    """Joins neighbours up to one request's length; cuts a longer segment into pieces, each paired with that segment."""
    joined: list[Segment] = []

    def flush() -> Iterator[tuple[_Request, None]]:
        if joined:
            num_bytes = sum(segment.num_bytes for segment in joined)
            yield _Request(joined[0].offset, num_bytes, tuple(joined)), None
            joined.clear()

    for segment in missing:
        adjoins = joined and joined[-1].offset + joined[-1].num_bytes == segment.offset
        if not adjoins or sum(one.num_bytes for one in joined) + segment.num_bytes > REQUEST_BYTES:
            yield from flush()
        if segment.num_bytes <= REQUEST_BYTES:
            joined.append(segment)
            continue
        for start in range(0, segment.num_bytes, REQUEST_BYTES):
            length = min(REQUEST_BYTES, segment.num_bytes - start)
            yield _Request(segment.offset + start, length, ()), segment
    yield from flush()


def _receive(file: SparseFile, uri: str, fetch: Fetch, request: _Request) -> list[str]:
    """Writes the bytes as they come; returns the whole segments' digests, taken while the CPU's cache has the bytes."""
    ends = [segment.offset + segment.num_bytes for segment in request.segments]
    digests: list[str] = []
    digest = xxhash.xxh3_128()
    position, end = request.offset, request.offset + request.num_bytes
    for chunk in fetch(request.offset, request.num_bytes) if request.num_bytes else ():
        view = chunk[: end - position]
        file.write(view, position)
        while ends and position + len(view) >= ends[0]:
            own = ends.pop(0) - position
            digest.update(view[:own])
            digests.append(digest.hexdigest())
            digest = xxhash.xxh3_128()
            view, position = view[own:], position + own
        digest.update(view)
        position += len(view)
    while ends and ends[0] <= position:  # segments without bytes at the end
        ends.pop(0)
        digests.append(digest.hexdigest())
        digest = xxhash.xxh3_128()
    if position < end:
        raise HandoffCorrupt(
            f"{uri} ends at byte {position}, before byte {end}: it is torn. Make the object again.", object=uri
        )
    return digests


def run_all(threads: Executor, works: list[Callable[[], None]]) -> None:
    """Runs `works` in parallel. After a failure it starts no more, waits for the running ones and raises it."""
    if len(works) == 1:
        works[0]()
        return
    futures: list[Future[None]] = [threads.submit(work) for work in works]
    try:
        for future in futures:
            future.result()
    finally:
        for future in futures:
            future.cancel()
        wait_for(futures)
