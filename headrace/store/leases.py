"""Leases: a live process says which versions it reads, or writes, so that garbage collection leaves them alone.

A lease is an empty object whose key carries its end: `leases/<nonce>/<holder>-<expires>`. A thread renews what this
process holds, by a later key; a killed process's leases run out. Keys are made without fsync: after a power cut there
is no process left that would need them.

A lease alone protects nothing. Its holder looks for a tombstone after the lease is made, as a collector looks for
leases after its tombstone is made (`headrace.store.tombstones`): at least one of them sees the other. A version is
also looked for by its manifest, which a collector deletes first: then even a reader that slept through a whole
collection is told.

Who names something later, or looks at it in its own way (weights), takes a lease once, for a day, and gives nothing
back: `hold_for`.

Where the store cannot be written to, reading goes on without leases, with one warning: whoever collects there has to
see to it that nobody reads. What a lease does not see is a clock that is wrong by more than CLOCK_SKEW_SECONDS.
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
# Long enough for a machine that swaps or a server that is restarted; what a killed reader held waits this long.
TTL_SECONDS = 900.0
# Added by whoever judges another machine's lease.
CLOCK_SKEW_SECONDS = 300.0

_POLLS = 40
_POLL_SECONDS = 0.05
# A third of its time is left for the renewal to be tried again: the thread wakes at every sixth.
_RENEW_AFTER = 1 / 3

_log = logging.getLogger(__name__)


class Lease:
    """One holder's share of its process's lease on a nonce. Ends by `release`, at its block's end, or when collected.

    In a forked child it protects nothing until `check`, which takes a lease of the child's own.
    """

    def __init__(self, leases: "Leases", held: "_Held") -> None:
        self._leases = leases
        self._held = held
        # Not released right there: a finalizer may run where a lock is held, and must not wait for a network.
        self._release = weakref.finalize(self, leases._give_back_later, held)
        self._release.atexit = False

    @property
    def nonce(self) -> str:
        return self._held.nonce

    @property
    def is_protected(self) -> bool:
        """False: the store could not be written to, so that no collector knows of this reader."""
        return bool(self._held.keys)

    def check(self) -> None:
        """To be called before data is touched again: costs one look at the clock while the lease is in force.

        Raises:
            HandoffCollected: the lease had run out (a stopped process, a suspended machine), and the version is gone.
        """
        self._leases._check(self._held)

    def confirm(self, manifest_key: str | None = None) -> None:
        """For writers, after the manifest was created and before anybody is told: looks at the store in any case.

        Raises:
            HandoffCollected: a collector took, or is about to take, what was written.
        """
        self._leases._confirm(self._held, manifest_key)

    def release(self) -> None:
        """Nothing happens the second time."""
        if self._release.detach():
            self._leases._give_back(self._held)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Leases:
    """What one process holds in one store. Safe among threads."""

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
        # Of this kind because a finalizer may put into it at any moment, also during a put.
        self._returned: queue.SimpleQueue[_Held] = queue.SimpleQueue()

    def hold(self, nonce: str, *, manifest_key: str | None = None) -> Lease:
        """Takes a lease, or a share of the one this process has.

        Args:
            manifest_key: for readers: the manifest that named the nonce. It must be there still.

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
        """Renews what is due. The renewal thread calls this; so may who has no time for threads."""
        self._end_returned()
        with self._lock:
            everything = list(self._held.values())
        for held in everything:
            # What the store refuses now it may take at the next wake, before the lease runs out.
            with contextlib.suppress(HeadraceError), held.lock:
                if held.num_shares and not held.is_collected and self.clock.now() >= held.due_at:
                    self._renew(held)

    def release_all(self) -> None:
        """At the process's end: what is not released now is in a collector's way until it expires."""
        with self._lock:
            everything = list(self._held.values())
            self._held.clear()
        for held in everything:
            with held.lock:
                self._end(held)

    def _take(self, held: "_Held") -> None:
        """From nothing, or after it ran out: it is in force once nobody was seen who wants the objects."""
        held.in_force_until = 0.0
        for _ in range(_POLLS):
            self._end(held)
            expires_at = self._create_key(held)
            found = standing(self.objects, held.nonce)
            if found == "none":
                if held.manifest_key and not self.objects.exists(held.manifest_key):
                    break
                # Without a key there is nothing to run out, nor to protect.
                held.in_force_until = expires_at or math.inf
                return
            # Out of the way: a collector that looks for leases must not take this one for a reader.
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
            # Else this process was stopped in between, and the new lease came too late.
            if self.clock.now() < until:
                held.in_force_until = expires_at or until
                # The key before the last one stays until next time: a listing that runs meanwhile sees one of them.
                while len(held.keys) > 2:
                    self.objects.delete(held.keys.pop(0), durable=False)
                return
        self._take(held)

    def _create_key(self, held: "_Held") -> float | None:
        """When the new key expires; None: the store does not take it."""
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
        """At a lease that is there already: while it is in force that costs the store nothing."""
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
        """In a forked child: the keys are the parent's, and end with it."""
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
            # Left where the store is away: it expires.
            with contextlib.suppress(StoreUnavailable):
                self.objects.delete(held.keys.pop(), durable=False)

    def after_fork(self) -> None:
        """In the child: everything held is the parent's, and locks are as its other threads left them."""
        self._lock = threading.Lock()
        self._returned = queue.SimpleQueue()
        self._held = {}


class _Held:
    """This process's lease on one nonce, and how many share it."""

    def __init__(self, nonce: str) -> None:
        self.nonce = nonce
        self.num_shares = 0
        self.manifest_key: str | None = None
        self.is_collected = False
        self.become_own()

    def become_own(self) -> None:
        self.lock = threading.Lock()
        self.pid = os.getpid()
        # Never used twice, so that no key is ever made again.
        self.holder = new_nonce()
        self.keys: list[str] = []
        # By this process's clock; 0: not before it was looked whether somebody wants the objects.
        self.in_force_until = 0.0
        self.due_at = 0.0


# Enough to load weights from anywhere, and to hand on what was sealed.
HELD_SECONDS = 24 * 3600.0


def hold_for(objects: ObjectStore, nonce: str, clock: Clock, *, seconds: float = HELD_SECONDS) -> None:
    """Keeps a nonce's objects for a while, whatever becomes of this process: half of `seconds` are left at least.

    A collector that has not decided yet is overruled. The caller then looks whether the objects were there to keep: a
    collection that is over has left no tombstone.

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
            with contextlib.suppress(ObjectMissing):  # cleared away since: that collection is over
                if tombstone.decide(objects, "spare", at=iso(clock.now())) == "collect":
                    objects.delete(key)
                    raise HandoffCollected(f"Garbage collection took what was written under nonce {nonce}.")
        # Else this process was stopped meanwhile, and a collector may not have seen the lease in force.
        if clock.now() < ends_at - seconds / 2:
            return


def is_leased(objects: ObjectStore, nonce: str, now: float) -> bool:
    """Whether any lease on it is in force, or might be by its holder's clock. `now`: seconds since the epoch."""
    names = objects.children(f"{ROOT}/{nonce}")
    # A name with a dot in front is a file system's or a desktop's (`.nfs…`).
    return any(expires_at(name) + CLOCK_SKEW_SECONDS > now for name in names if not name.startswith("."))


def expires_at(name: str) -> float:
    """When a lease ends, from the last segment of its key; what no lease is called never ends, to be safe."""
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


# Read by people who wonder what keeps a version. What protects is the key alone.
HOLDER = Kind("Lease", LeaseHolder, "It protects all the same, until it expires.")


def _holder_body(key: str) -> bytes:
    return encode_object(key, HOLDER, LeaseHolder(host=socket.gethostname(), pid=os.getpid()), nonce=new_nonce())


_warned: set[str] = set()


def _warn_once(objects: ObjectStore, error: StoreUnavailable) -> None:
    store = objects.uri(ROOT)
    if store not in _warned:
        _warned.add(store)
        _log.warning("Reading goes on without leases: collect no garbage meanwhile. %s", error)
