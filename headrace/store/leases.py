"""Leases: a live process states which versions it reads or writes, so that garbage collection leaves them alone.

A lease is an empty object whose key carries its end: `leases/<nonce>/<holder>-<expires>`. A thread renews this
process's leases by creating later keys; a killed process's leases run out. Keys are made without fsync: after a power
cut no process is left that needs them.

A lease alone protects nothing. Its holder looks for a tombstone after making the lease, and a collector looks for
leases after making its tombstone (`headrace.store.tombstones`): at least one of them sees the other. The holder also
checks that the version's manifest still exists. A collector deletes it first, so even a reader that slept through a
whole collection notices.

`hold_for` is for a process that names an object later, or reads it in its own way (weights): it takes one lease for a
day and never releases it.

If the store cannot be written to, reading continues without leases, after one warning: the operator must not collect
there while anybody reads. Leases do not protect against a clock that is wrong by more than CLOCK_SKEW_SECONDS.
"""

import contextlib
import logging
import math
import os
import queue
import socket
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from headrace.clock import Clock, iso
from headrace.errors import HandoffCollected, HeadraceError, ObjectMissing, StoreUnavailable
from headrace.store.objects import ObjectStore, new_nonce
from headrace.store.renewal import RENEWAL, Renewal
from headrace.store.small_objects import Kind, encode_object
from headrace.store.tombstones import standing, tombstones

ROOT = "leases"
# Long enough for a swapping machine or a restarting server. A killed reader's versions stay this long.
TTL_SECONDS = 900.0
# Every machine adds this to another machine's lease before it judges it.
CLOCK_SKEW_SECONDS = 300.0

_POLLS = 40
_POLL_SECONDS = 0.05
# Leaves two thirds of a lease's time for more tries: the thread wakes after every sixth.
_RENEW_AFTER = 1 / 3

_log = logging.getLogger(__name__)


class Lease:
    """One holder's share of its process's lease on a nonce. Ends by `release`, at its block's end, or when collected.

    In a forked child it protects nothing until `check` takes a lease of the child's own.
    """

    def __init__(self, leases: "Leases", held: "_Held") -> None:
        self._leases = leases
        self._held = held
        # Not released at once: a finalizer may run while a lock is held, and must not wait for a network.
        self._release = weakref.finalize(self, leases._give_back_later, held)
        self._release.atexit = False

    @property
    def nonce(self) -> str:
        return self._held.nonce

    @property
    def is_protected(self) -> bool:
        """False: the store could not be written to, so no collector knows of this reader."""
        return bool(self._held.keys)

    def check(self) -> None:
        """Must be called before data is touched again. Reads only the clock while the lease is in force.

        Raises:
            HandoffCollected: the lease ran out (a stopped process, a suspended machine), and the version is gone.
        """
        self._leases._check(self._held)

    def confirm(self, manifest_key: str | None = None) -> None:
        """For writers, between creating the manifest and announcing it. Always looks at the store.

        Raises:
            HandoffCollected: a collector took, or is about to take, what was written.
        """
        self._leases._confirm(self._held, manifest_key)

    def release(self) -> None:
        """A second call does nothing."""
        if self._release.detach():
            self._leases._give_back(self._held)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Leases:
    """The leases of one process in one store. Thread-safe."""

    def __init__(
        self,
        objects: ObjectStore,
        clock: Clock,
        ttl_seconds: float = TTL_SECONDS,
        *,
        sleep: Callable[[float], None] = time.sleep,
        renewal: Renewal = RENEWAL,
    ) -> None:
        self.objects = objects
        self.clock = clock
        self.ttl_seconds = ttl_seconds
        self._sleep = sleep
        self._renewal = renewal
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()
        # A SimpleQueue, because a finalizer may put into it at any moment, even during another put.
        self._returned: queue.SimpleQueue[_Held] = queue.SimpleQueue()

    def hold(self, nonce: str, *, manifest_key: str | None = None) -> Lease:
        """Takes a lease, or a share of the one this process has.

        Args:
            manifest_key: for readers: the manifest that named the nonce. It must still exist.

        Raises:
            HandoffCollected: a collector decided to take the nonce's objects, or has been about to for two seconds.
        """
        self._renewal.includes(self)
        self._end_returned()
        with self._lock:
            held = self._held.get(nonce)
            if held is None or held.is_collected:
                held = self._held[nonce] = _Held(nonce)
            held.num_shares += 1
        try:
            with held.lock:
                held.manifest_key = held.manifest_key or manifest_key
                self._look(held)
        except BaseException:
            self._give_back(held)
            raise
        return Lease(self, held)

    def renew(self) -> None:
        """Renews leases that are due. The renewal thread calls this; a caller without threads may call it too."""
        self._end_returned()
        with self._lock:
            everything = list(self._held.values())
        for held in everything:
            # The store may accept at the next wake what it refuses now, before the lease runs out.
            with contextlib.suppress(HeadraceError), held.lock:
                if held.num_shares and not held.is_collected and self.clock.now() >= held.due_at:
                    self._renew(held)

    def release_all(self) -> None:
        """For the process's end: a lease that is not released blocks collectors until it expires."""
        with self._lock:
            everything = list(self._held.values())
            self._held.clear()
        for held in everything:
            with held.lock:
                self._end(held)

    def _take(self, held: "_Held") -> None:
        """Takes a new lease, or one that ran out. It is in force once no collector is seen that wants the objects."""
        held.in_force_until = 0.0
        for _ in range(_POLLS):
            self._end(held)
            expires_at = self._create_key(held)
            found = standing(self.objects, held.nonce)
            if found == "none":
                if held.manifest_key and not self.objects.exists(held.manifest_key):
                    break
                # A lease without a key cannot run out, and protects nothing.
                held.in_force_until = expires_at or math.inf
                return
            # Removed, so that a collector that looks for leases does not take this one for a reader.
            self._end(held)
            if found == "collected":
                break
            self._sleep(_POLL_SECONDS)
        self._end(held)
        held.is_collected = True
        raise _collected(held)

    def _renew(self, held: "_Held") -> None:
        if held.keys and self.clock.now() < held.in_force_until:
            until = held.in_force_until
            expires_at = self._create_key(held)
            # Otherwise this process was stopped in between, and the new lease came too late.
            if self.clock.now() < until:
                held.in_force_until = expires_at or until
                # The last two keys stay until the next renewal: a listing that runs meanwhile sees one of them.
                while len(held.keys) > 2:
                    self.objects.delete(held.keys.pop(0), durable=False)
                return
        self._take(held)

    def _create_key(self, held: "_Held") -> float | None:
        """Returns when the new key expires; None: the store refuses it."""
        now = self.clock.now()
        held.due_at = now + self.ttl_seconds * _RENEW_AFTER
        expires_at = math.ceil(now + self.ttl_seconds)
        key = f"{ROOT}/{held.nonce}/{held.holder}-{expires_at}"
        if key not in held.keys:
            try:
                self.objects.create(key, _holder_body(key), durable=False)
            except StoreUnavailable as error:
                _warn_once(self.objects, error)
                return None
            held.keys.append(key)
        return expires_at

    def _look(self, held: "_Held") -> None:
        """Checks a lease that exists; while it is in force this costs the store nothing."""
        if not held.is_collected and self.clock.now() >= held.in_force_until:
            self._take(held)
        if held.is_collected:
            raise _collected(held)

    def _check(self, held: "_Held") -> None:
        self._take_over(held)
        if held.is_collected or self.clock.now() >= held.in_force_until:
            with held.lock:
                self._look(held)

    def _confirm(self, held: "_Held", manifest_key: str | None) -> None:
        self._take_over(held)
        with held.lock:
            held.manifest_key = manifest_key or held.manifest_key
            self._look(held)
            is_gone = held.manifest_key and not self.objects.exists(held.manifest_key)
            if is_gone or standing(self.objects, held.nonce) != "none":
                held.is_collected = True
                raise _collected(held)

    def _take_over(self, held: "_Held") -> None:
        """In a forked child: makes the lease the child's own, since its keys belong to the parent and end with it."""
        if held.pid == os.getpid():
            return
        with self._lock:
            if held.pid == os.getpid():
                return
            held.become_own()
            self._held.setdefault(held.nonce, held)
        self._renewal.includes(self)

    def _give_back(self, held: "_Held") -> None:
        if held.pid != os.getpid():
            return
        with self._lock:
            held.num_shares -= 1
            if held.num_shares:
                return
            if self._held.get(held.nonce) is held:
                del self._held[held.nonce]
        with held.lock:
            self._end(held)

    def _give_back_later(self, held: "_Held") -> None:
        self._returned.put(held)
        self._renewal.wake(self)

    def _end_returned(self) -> None:
        while True:
            try:
                held = self._returned.get_nowait()
            except queue.Empty:
                return
            self._give_back(held)

    def _end(self, held: "_Held") -> None:
        while held.keys:
            # An unreachable store keeps the key, which expires.
            with contextlib.suppress(StoreUnavailable):
                self.objects.delete(held.keys.pop(), durable=False)

    def after_fork(self) -> None:
        """In the child: everything held is the parent's, and locks are in whatever state its threads left them."""
        self._lock = threading.Lock()
        self._returned = queue.SimpleQueue()
        self._held = {}


class _Held:
    """This process's lease on one nonce, and the number of its shares."""

    def __init__(self, nonce: str) -> None:
        self.nonce = nonce
        self.num_shares = 0
        self.manifest_key: str | None = None
        self.is_collected = False
        self.become_own()

    def become_own(self) -> None:
        self.lock = threading.Lock()
        self.pid = os.getpid()
        # Unique, so that no key is ever made twice.
        self.holder = new_nonce()
        self.keys: list[str] = []
        # By this process's clock; 0: nobody has yet checked whether a collector wants the objects.
        self.in_force_until = 0.0
        self.due_at = 0.0


# Long enough to load weights from anywhere, and to hand over what was sealed.
HELD_SECONDS = 24 * 3600.0


def hold_for(objects: ObjectStore, nonce: str, clock: Clock, *, seconds: float = HELD_SECONDS) -> None:
    """Keeps a nonce's objects for a while, even if this process ends: at least half of `seconds` remain on return.

    Overrules a collector that has not decided yet. The caller must then check that the objects exist: a finished
    collection leaves no tombstone.

    Raises:
        HandoffCollected: a collector has taken them.
        HandoffCorrupt: what a collector decided cannot be read.
    """
    while True:
        ends_at = math.ceil(clock.now() + seconds)
        key = f"{ROOT}/{nonce}/{new_nonce()}-{ends_at}"
        try:
            objects.create(key, _holder_body(key))
        except StoreUnavailable as error:
            _warn_once(objects, error)
            return
        for tombstone in tombstones(objects, nonce):
            with contextlib.suppress(ObjectMissing):  # cleared meanwhile: that collection is over
                if tombstone.decide(objects, "spare", at=iso(clock.now())) == "collect":
                    objects.delete(key)
                    raise HandoffCollected(f"Garbage collection took what was written under nonce {nonce}.")
        # Otherwise this process was stopped meanwhile, and a collector may have missed the lease.
        if clock.now() < ends_at - seconds / 2:
            return


def is_leased(objects: ObjectStore, nonce: str, now: float) -> bool:
    """Whether a lease on it is in force, or may be by its holder's clock. `now`: seconds since the epoch."""
    names = objects.children(f"{ROOT}/{nonce}")
    # Names that begin with a dot belong to a file system or a desktop (`.nfs…`).
    return any(expires_at(name) + CLOCK_SKEW_SECONDS > now for name in names if not name.startswith("."))


def expires_at(name: str) -> float:
    """When a lease ends, by the last segment of its key. A name that is no lease's counts as endless, to be safe."""
    end = name.rpartition("-")[2]
    return float(end) if end.isdigit() else float("inf")


def _collected(held: _Held) -> HandoffCollected:
    what = (held.manifest_key or "").removesuffix("/manifest.json") or f"what was written under nonce {held.nonce}"
    return HandoffCollected(
        f"Garbage collection took {what}, or is about to. Open the newest version, or materialize the partition again; "
        "versions are kept by `headrace gc --keep`."
    )


@dataclass(frozen=True, kw_only=True)
class LeaseHolder:
    host: str
    pid: int


# For people who ask which process keeps a version. Only the key protects.
HOLDER = Kind("Lease", LeaseHolder, "It protects all the same, until it expires.")


def _holder_body(key: str) -> bytes:
    return encode_object(key, HOLDER, LeaseHolder(host=socket.gethostname(), pid=os.getpid()), nonce=new_nonce())


_warned: set[str] = set()


def _warn_once(objects: ObjectStore, error: StoreUnavailable) -> None:
    store = objects.uri(ROOT)
    if store not in _warned:
        _warned.add(store)
        _log.warning("Reading goes on without leases: collect no garbage meanwhile. %s", error)
