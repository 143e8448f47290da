"""Limits how many units may ever start on a candidate: a unit starts only with a leased place.

A trial's leases are a chain of small objects, `rollout/<name>/caps/<trial>/<n>.json`, each made by exactly one writer.
Lease n begins where lease n - 1 ends, and ends at its writer's cap at most. A leased place counts as used whatever
becomes of its holder: a crash makes the candidate's share smaller, never larger. A cap may rise between two leases; if
it falls below the leased places, nobody can lease any more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge

from headrace.clock import Clock, iso
from headrace.errors import HandoffCorrupt
from headrace.rollout.layout import rollout_prefix
from headrace.store.chain import Chain
from headrace.store.objects import ObjectStore, new_nonce
from headrace.store.small_objects import Kind

_REMEDY = (
    "Nobody can tell how many units have started on this candidate, and no further one does: advance it to a weight "
    "without a cap, or abort it."
)


@dataclass(frozen=True, kw_only=True)
class CapLease:
    """`count` places from `first` on, under the cap that its writer knew. `unit`: the one unit that owns the place."""

    first: Annotated[int, Ge(0)]
    count: Annotated[int, Ge(1)]
    cap: Annotated[int, Ge(0)]
    at: str
    by: str
    unit: str | None = None
    nonce: str

    @property
    def end(self) -> int:
        return self.first + self.count


LEASE = Kind("Cap lease", CapLease, _REMEDY)


def lease_chain(store: ObjectStore, name: str, trial: int) -> Chain[CapLease]:
    return Chain(store=store, prefix=rollout_prefix(name, "caps", trial), kind=LEASE, remedy=_REMEDY)


def num_places(store: ObjectStore, name: str, trial: int) -> int:
    """How many places a trial's leases have given out, which the newest lease says.

    Raises:
        HandoffCorrupt: the newest lease cannot be read, or an earlier one is missing.
    """
    last = lease_chain(store, name, trial).last()
    return last[1].end if last else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chain:
    """What is known of a trial's leases. Immutable: if two threads read on, one thread's chain is kept."""

    num_leases: int = 0
    num_places: int = 0
    # Units with a place of their own.
    units: frozenset[str] = frozenset()
    # By nonce: leases of ours whose write got no answer, found by reading on.
    counts: Mapping[str, int] = field(default_factory=dict)


class CapLeases:
    """One campaign's or service's leases. Any number of processes and threads may lease at once."""

    def __init__(self, store: ObjectStore, name: str, clock: Clock) -> None:
        self._store = store
        self._name = name
        self._clock = clock
        # (trial, whether it was read from its first lease on) → chain.
        self._chains: dict[tuple[int, bool], _Chain] = {}
        # Nonces of leases whose write got no answer: if they appear, they are ours.
        self._unanswered: dict[str, int] = {}

    def take(self, trial: int, cap: int, *, count: int, by: str) -> int:
        """Lease up to `count` places; returns how many (0: the cap is reached).

        Raises:
            StoreUnavailable: places may be leased or not. If they are, a later call finds and returns them.
        """
        chain = self._read_on(trial, self._chains.get((trial, False)) or self._jump(trial), is_whole=False)
        while True:
            if found := self._found_again(trial, cap, chain):
                return found
            granted = min(count, cap - chain.num_places)
            if granted <= 0:
                return 0
            if self._lease(trial, cap, chain, granted, by=by):
                return granted
            chain = self._read_on(trial, chain, is_whole=False)

    def take_for(self, trial: int, cap: int, unit: str) -> bool:
        """Whether `unit` has a place, old or new. A unit keeps its place, however often it asks.

        Raises:
            StoreUnavailable: the unit may have a place or not; ask again.
        """
        chain = self._chains.get((trial, True))
        if chain is None:
            lease_chain(self._store, self._name, trial).newest()  # checks from the first one on that none is missing
            chain = _Chain()
        while True:
            chain = self._read_on(trial, chain, is_whole=True)
            if unit in chain.units:
                return True
            if chain.num_places >= cap:
                return False
            if self._lease(trial, cap, chain, 1, by=unit, unit=unit):
                return True

    def num_leased(self, trial: int) -> int:
        """Leased places, as far as this process has read; reads nothing."""
        return max((chain.num_places for (of, _), chain in self._chains.items() if of == trial), default=0)

    def _lease(self, trial: int, cap: int, chain: _Chain, count: int, *, by: str, unit: str | None = None) -> bool:
        nonce, at = new_nonce(), iso(self._clock.now())
        lease = CapLease(first=chain.num_places, count=count, cap=cap, at=at, by=by, unit=unit, nonce=nonce)
        if unit is None:
            self._unanswered[nonce] = trial
        won = lease_chain(self._store, self._name, trial).create(chain.num_leases + 1, lease, nonce=nonce).won
        # Between the write and its answer, another thread may have read the lease and have taken its places.
        is_ours = unit is not None or self._unanswered.pop(nonce, None) is not None
        return won and is_ours

    def _found_again(self, trial: int, cap: int, chain: _Chain) -> int:
        """Places of our own leases that were made although their writes got no answer."""
        found = 0
        for nonce, count in chain.counts.items():
            # Popped once, so that concurrent calls cannot return the same places.
            if self._unanswered.pop(nonce, None) == trial and chain.num_places <= cap:
                found += count
        return found

    def _jump(self, trial: int) -> _Chain:
        """Starts the chain at its newest lease, so that a late gateway need not read thousands."""
        last = lease_chain(self._store, self._name, trial).last()
        return _Chain(num_leases=last[0], num_places=last[1].end) if last else _Chain()

    def _read_on(self, trial: int, chain: _Chain, *, is_whole: bool) -> _Chain:
        """Raises: HandoffCorrupt: a lease does not begin where its predecessor ends."""
        leases = lease_chain(self._store, self._name, trial)
        while (lease := leases.following(chain.num_leases)) is not None:
            if lease.first != chain.num_places:
                key = leases.key(chain.num_leases + 1)
                raise HandoffCorrupt(
                    f"Cap lease {key} holds {lease.count} places from {lease.first} on, the leases before it end at "
                    f"{chain.num_places}: it was changed. {_REMEDY}",
                    key=key,
                )
            chain = _Chain(
                num_leases=chain.num_leases + 1,
                num_places=lease.end,
                units=chain.units | {lease.unit} if is_whole and lease.unit is not None else chain.units,
                counts=(
                    {**chain.counts, lease.nonce: lease.count} if lease.nonce in self._unanswered else chain.counts
                ),
            )
        known = self._chains.get((trial, is_whole))
        if known is None or known.num_leases <= chain.num_leases:
            self._chains[trial, is_whole] = chain
        return chain
