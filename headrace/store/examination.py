"""Examines a store by using it: tries out each of its promises under a prefix of its own, which it deletes afterwards.

Knows nothing of handoffs. What one machine cannot try (a server's exports, its disks' caches) is reported as unknown,
never assumed.
"""

import mmap
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from headrace.errors import HeadraceError
from headrace.store.local import LocalStore
from headrace.store.mounts import Finding, mount_findings, mount_of
from headrace.store.objects import ObjectStore, new_nonce
from headrace.store.opening import open_store

_NUM_RACES = 20
_SKEW_SECONDS_MAX = 5.0  # leases leave a wider margin than this
_FREE_BYTES_MIN = 5 * 1000**3
_RACER = (
    "import sys; from headrace.store.opening import open_store\n"
    "store = open_store(sys.argv[1]); print('ready', flush=True); sys.stdin.readline()\n"
    "print(''.join(str(int(store.create(f'{sys.argv[2]}/race/{n}', sys.argv[3].encode()))) for n in range(%d)))"
)


def examine_store(url: str, *, cache: Path | None = None, cache_bytes: int | None = None) -> list[Finding]:
    """Runs every check of the store at `url`, and of the node's cache if it has one. Problems are findings, not errors.

    A store that cannot be used at all gives one finding: further checks would repeat it.

    Raises:
        InvalidInput: no store has such a URL.
    """
    store = open_store(url, cache=cache, cache_bytes=cache_bytes)
    prefix = f"examination/{new_nonce()}"
    findings = [_tried("reachable", lambda: _reach(store, prefix))]
    if findings[0].level == "ok":
        for check, act in _checks(store, prefix):
            findings.append(_tried(check, act))
        with suppress(HeadraceError):
            store.delete_prefix(prefix)
    if isinstance(store, LocalStore):
        findings += mount_findings(mount_of(store.directory))
        findings.append(_tried("free space", lambda: _free_space(store.directory, "HEADRACE_STORE")))
    else:
        findings += examine_cache(store.node_directory().parent.parent)
    return findings


def examine_cache(directory: Path) -> list[Finding]:
    """Checks the node's cache: a local file system with free space."""
    mount = mount_of(directory)
    if mount.is_nfs:
        sentence = f"{directory} is on NFS, where maps and locks of one machine mean nothing to another. "
        return [Finding(check="node cache", level="fail", sentence=sentence + "Set HEADRACE_CACHE to a local disk.")]
    return [
        *(Finding(check="node cache", level=one.level, sentence=one.sentence) for one in mount_findings(mount)),
        _tried("node cache space", lambda: _free_space(directory, "HEADRACE_CACHE")),
    ]


class _Refused(Exception):
    """The store breaks a promise."""


class _Doubtful(Exception):
    """The store keeps its promise, with a reservation."""


def _checks(store: ObjectStore, prefix: str) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "create if absent", lambda: _create_once(store, prefix)
    yield "one winner of two processes", lambda: _race(store, prefix)
    yield "listing", lambda: _listing(store, prefix)
    yield "large parts", lambda: _large_part(store, prefix)
    yield "ranged reads", lambda: _ranges(store, prefix)
    yield "memory maps", lambda: _memory_map(store, prefix)
    if isinstance(store, LocalStore):
        yield "link counts", lambda: _link_count(store.directory)
    yield "clock", lambda: _clock(store, prefix)


def _tried(check: str, act: Callable[[], str]) -> Finding:
    try:
        return Finding(check=check, level="ok", sentence=act())
    except _Doubtful as doubt:
        return Finding(check=check, level="warn", sentence=str(doubt))
    except (_Refused, HeadraceError) as refusal:
        return Finding(check=check, level="fail", sentence=str(refusal))
    except OSError as error:
        return Finding(check=check, level="fail", sentence=f"The file system refuses: {error}. Check the mount.")


def _reach(store: ObjectStore, prefix: str) -> str:
    store.create(f"{prefix}/reachable", b"yes")
    if store.read(f"{prefix}/reachable") != b"yes":
        raise _Refused(f"{store.url} does not give back what was just written there. Use another store.")
    return f"{store.url} takes an object durably and gives it back."


def _create_once(store: ObjectStore, prefix: str) -> str:
    key = f"{prefix}/once"
    if not store.create(key, b"first"):
        raise _Refused(f"{store.url} says that a key is there which was never written. Use another store.")
    if store.create(key, b"second") or store.read(key) != b"first":
        raise _Refused(
            f"{store.url} overwrites what must be created once (for S3: it ignores If-None-Match). Two writers would "
            "lose each other's versions: use a server that enforces it, such as AWS S3, MinIO or SeaweedFS."
        )
    return "A key is created once; a second writer is refused and changes nothing."


def _race(store: ObjectStore, prefix: str) -> str:
    command = [sys.executable, "-c", _RACER % _NUM_RACES, store.url, prefix]
    racers = [
        subprocess.Popen([*command, who], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for who in "ab"
    ]
    for racer in racers:
        assert racer.stdout
        racer.stdout.readline()
    for racer in racers:
        assert racer.stdin
        with suppress(BrokenPipeError):
            racer.stdin.write("go\n")
            racer.stdin.flush()
    wins = [racer.communicate()[0].strip() for racer in racers]
    if any(racer.returncode for racer in racers):
        raise _Refused(f"A second process cannot use {store.url}. Check that the AWS_* variables are exported.")
    for number, pair in enumerate(zip(*wins, strict=True)):
        if pair.count("1") != 1 or store.read(f"{prefix}/race/{number}").decode() != "ab"[pair.index("1")]:
            raise _Refused(f"{store.url} let two processes create one key. Nothing is safe there: use another store.")
    return f"Two processes raced for {_NUM_RACES} keys; each had one winner, and what that one wrote."


def _listing(store: ObjectStore, prefix: str) -> str:
    keys = [f"{prefix}/listed/{number}" for number in range(3)]
    for key in keys:
        store.create(key, b"")
    if store.list(f"{prefix}/listed") != keys:
        raise _Refused(f"{store.url} does not list a new key at once: the newest version would be missed.")
    store.delete(keys[0])
    if store.list(f"{prefix}/listed") != keys[1:]:
        raise _Refused(f"{store.url} lists a deleted key: garbage collection could not be believed.")
    return "New keys are listed at once, and deleted ones no more."


def _large_part(store: ObjectStore, prefix: str) -> str:
    body = os.urandom(1 << 20)
    with store.write_part(f"{prefix}/part") as part:
        for _ in range(9):
            part.write(body)
    (entry,) = (entry for entry in store.entries(prefix) if entry.key == f"{prefix}/part")
    if entry.num_bytes != 9 * len(body):
        raise _Refused(f"{store.url} kept {entry.num_bytes} of {9 * len(body)} bytes of a part. Check its free space.")
    return "A part of 9 MiB streams in (on S3 as a multipart upload) and is whole."


def _ranges(store: ObjectStore, prefix: str) -> str:
    key = f"{prefix}/ranges"
    store.create(key, bytes(range(256)))
    if [bytes(body) for body in store.read_ranges(key, [(250, 6), (0, 2)])] != [bytes(range(250, 256)), b"\0\1"]:
        raise _Refused(f"{store.url} ignores ranges. Use a server that serves them.")
    return "Ranges of an object are read by themselves."


def _memory_map(store: ObjectStore, prefix: str) -> str:
    body = os.urandom(100_000)
    store.create(f"{prefix}/map", body)
    path = store.local_path(f"{prefix}/map")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        store.delete(f"{prefix}/map")
        if mapped[:] != body:
            raise _Refused(f"A memory map of {path} shows other bytes than were written. Use another file system.")
    return "Files are mapped, and stay readable after their key is deleted."


def _link_count(directory: Path) -> str:
    place = directory / ".tmp" / f"examination-{new_nonce()}"
    place.mkdir(parents=True)
    try:
        (place / "one").write_bytes(b"")
        (place / "two").hardlink_to(place / "one")
        if (place / "one").stat().st_nlink != 2:
            raise _Refused(
                f"{directory} does not count hard links: after a lost reply a writer could not tell whether it won. "
                "Use ext4, xfs or NFS."
            )
        for path, flags in ((place / "one", os.O_RDONLY), (place, os.O_RDONLY | os.O_DIRECTORY)):
            descriptor = os.open(path, flags)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return "Hard links are made and counted; files and directories take fsync."


def _clock(store: ObjectStore, prefix: str) -> str:
    before = time.time()
    store.create(f"{prefix}/clock", b"")
    (entry,) = (entry for entry in store.entries(prefix) if entry.key == f"{prefix}/clock")
    # S3 reports times in whole seconds.
    skew = max(before - 1 - entry.modified_at, entry.modified_at - time.time() - 1, 0.0)
    if skew > _SKEW_SECONDS_MAX:
        raise _Doubtful(
            f"The store's clock and this machine's differ by {skew:.0f} s: leases would expire too early or too late. "
            "Synchronize both (chrony, ntpd)."
        )
    return "The store's clock agrees with this machine's."


def _free_space(directory: Path, variable: str) -> str:
    place = next(path for path in (directory, *directory.parents) if path.exists())
    usage = shutil.disk_usage(place)
    found = f"{usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB are free at {directory}"
    if usage.free < _FREE_BYTES_MIN:
        raise _Doubtful(f"Only {found}. Free some, or set {variable} to another disk.")
    return f"{found}."
