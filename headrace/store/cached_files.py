"""Remote objects that a node keeps as a directory of whole files: the directory is complete or absent.

The directory is filled under another name and then renamed. A list of its files' digests records that it is complete,
and in which boot. After another boot the files are compared with that list before anybody gets them.
"""

import fcntl
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import xxhash

from headrace.errors import HandoffCorrupt
from headrace.store.cached_segments import REQUEST_BYTES, run_all
from headrace.store.node_cache import NodeCache, boot_identity

# Bytes of one of the files as they come in: (name, offset, num_bytes).
FetchFile = Callable[[str, int, int], Iterable[memoryview]]

_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """`name`: relative, `/`-separated."""

    name: str
    num_bytes: int


def fill_files(
    cache: NodeCache,
    name: str,
    uri: str,
    files: Sequence[RemoteFile],
    fetch: FetchFile,
    threads: Executor,
    *,
    for_life: bool,
) -> Path:
    """Returns the directory that holds `files`. Other contents need another `name`.

    Raises:
        HandoffCorrupt: an object ends early.
    """
    with cache.entry(f"files-{name}", for_life=for_life) as entry:
        directory, complete = entry / "files", entry / "complete"
        if not _is_complete(complete):
            with (entry / "filling").open("w") as turn:
                fcntl.flock(turn, fcntl.LOCK_EX)
                if not _is_complete(complete) and not _is_whole(directory, complete):
                    cache.make_room(sum(file.num_bytes for file in files))
                    _fill(entry / "partial", directory, complete, uri, files, fetch, threads)
        return directory


def _fill(
    partial: Path,
    directory: Path,
    complete: Path,
    uri: str,
    files: Sequence[RemoteFile],
    fetch: FetchFile,
    threads: Executor,
) -> None:
    complete.unlink(missing_ok=True)
    for old in (partial, directory):
        shutil.rmtree(old, ignore_errors=True)
    partial.mkdir()
    works = []
    for file in files:
        path = partial / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, file.num_bytes)
        works += [
            functools.partial(_receive, path, uri, fetch, file, offset)
            for offset in range(0, file.num_bytes, REQUEST_BYTES)
        ]
    run_all(threads, works)
    digests = {}
    for file in files:
        (partial / file.name).chmod(0o444)
        digests[file.name] = _digest(partial / file.name)
    partial.rename(directory)
    _write_complete(complete, digests)


def _receive(path: Path, uri: str, fetch: FetchFile, file: RemoteFile, offset: int) -> None:
    position, end = offset, min(offset + REQUEST_BYTES, file.num_bytes)
    with path.open("r+b", buffering=0) as target:
        target.seek(offset)
        for chunk in fetch(file.name, offset, end - offset):
            view = chunk[: end - position]
            while view:
                num_written = target.write(view)
                view, position = view[num_written:], position + num_written
    if position < end:
        raise HandoffCorrupt(
            f"{uri} holds {file.name} only up to byte {position} of {file.num_bytes}: it is torn. Make it again.",
            object=uri,
        )


def _is_complete(complete: Path) -> bool:
    with suppress(OSError, ValueError):
        return json.loads(complete.read_bytes())["boot"] == boot_identity()
    return False


def _is_whole(directory: Path, complete: Path) -> bool:
    """Whether the files of an earlier boot survived the end of that boot."""
    try:
        digests: dict[str, str] = json.loads(complete.read_bytes())["xxh3_128"]
        if any(_digest(directory / name) != digest for name, digest in digests.items()):
            return False
    except (OSError, ValueError, KeyError):
        return False
    _write_complete(complete, digests)
    return True


def _write_complete(complete: Path, digests: dict[str, str]) -> None:
    temporary = complete.with_name("complete.partial")
    temporary.write_text(json.dumps({"boot": boot_identity(), "xxh3_128": digests}))
    temporary.replace(complete)


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
