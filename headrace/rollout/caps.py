"""How many units may ever start on a candidate: leases of places, taken before a unit starts.

A trial's leases are a chain of small objects, `rollout/<name>/caps/<trial>/<n>.json`, each made by exactly one writer:
lease n begins where the ones before it end, and ends at the cap that its writer knew at most. A place that was leased
counts as used, whatever became of its holder: a crash makes the candidate's share smaller, never larger. A cap may
rise between two leases; one that falls below what is leased lets nobody lease any more.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.clock import Clock, iso
from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.store.objects import ObjectStore, create_json, new_nonce


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chain:
    """What is known of a trial's leases. Never changed: of two threads that read on, one's chain is kept."""

    num_leases: int = 0
    num_places: int = 0
    # Units that hold a place of their own.
    units: frozenset[str] = frozenset()
    # Leases that were read since a write of ours got no answer, by nonce.
    counts: Mapping[str, int] = field(default_factory=dict)


class CapLeases:
    """One campaign's or service's leases. Any number of processes and threads may lease at once."""

    def __init__(self, store: ObjectStore, name: str, clock: Clock) -> None:
        self._store = store
        self._name = name
        self._clock = clock
        # (trial, whether it was read from its first lease on) → chain.
        self._chains: dict[tuple[int, bool], _Chain] = {}
        # Nonces of leases whose write may have happened: they are ours if they turn up.
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
            if self._lease(trial, cap, chain, granted, {"by": by}):
                return granted
            chain = self._read_on(trial, chain, is_whole=False)

    def take_for(self, trial: int, cap: int, unit: str) -> bool:
        """Whether `unit` has a place, or got one now. One that has a place keeps it, however often it is asked for.

        Raises:
            StoreUnavailable: it may have a place or not; ask again.
        """
        chain = self._chains.get((trial, True), _Chain())
        while True:
            chain = self._read_on(trial, chain, is_whole=True)
            if unit in chain.units:
                return True
            if chain.num_places >= cap:
                return False
            if self._lease(trial, cap, chain, 1, {"by": unit, "unit": unit}):
                return True

    def num_leased(self, trial: int) -> int:
        """Places that are leased, as far as this process has read; it reads nothing."""
        return max((chain.num_places for (of, _), chain in self._chains.items() if of == trial), default=0)

    def _lease(self, trial: int, cap: int, chain: _Chain, count: int, whose: dict[str, Any]) -> bool:
        nonce = new_nonce()
        body = {"first": chain.num_places, "count": count, "cap": cap, "at": iso(self._clock.now()), **whose}
        if "unit" not in whose:
            self._unanswered[nonce] = trial
        won = create_json(self._store, self._key(trial, chain.num_leases + 1), body, nonce=nonce).won
        self._unanswered.pop(nonce, None)
        return won

    def _found_again(self, trial: int, cap: int, chain: _Chain) -> int:
        """Places of our own leases that were made although we were not told so."""
        found = 0
        for nonce, count in chain.counts.items():
            # Popped once, whatever else looks: nobody else gets these places.
            if self._unanswered.pop(nonce, None) == trial and chain.num_places <= cap:
                found += count
        return found

    def _jump(self, trial: int) -> _Chain:
        """The chain as its newest lease tells it: a gateway that starts late need not read thousands."""
        numbers = [int(name[:8]) for name in self._store.children(self._prefix(trial)) if name[:8].isdigit()]
        if not numbers:
            return _Chain()
        lease = json.loads(self._store.read(self._key(trial, max(numbers))))
        return _Chain(num_leases=max(numbers), num_places=int(lease["first"]) + int(lease["count"]))

    def _read_on(self, trial: int, chain: _Chain, *, is_whole: bool) -> _Chain:
        """Raises: HandoffCorrupt: a lease does not begin where the ones before it end."""
        while True:
            key = self._key(trial, chain.num_leases + 1)
            try:
                lease = json.loads(self._store.read(key))
            except ObjectMissing:
                break
            if lease["first"] != chain.num_places or lease["count"] < 1:
                raise HandoffCorrupt(
                    f"Cap lease {key} holds {lease['count']} places from {lease['first']} on, the leases before it "
                    f"end at {chain.num_places}: it was changed. No further unit starts on this candidate."
                )
            unit, nonce = lease.get("unit"), lease["nonce"]
            chain = _Chain(
                num_leases=chain.num_leases + 1,
                num_places=chain.num_places + lease["count"],
                units=chain.units | {unit} if is_whole and unit is not None else chain.units,
                counts={**chain.counts, nonce: lease["count"]} if nonce in self._unanswered else chain.counts,
            )
        known = self._chains.get((trial, is_whole))
        if known is None or known.num_leases <= chain.num_leases:
            self._chains[trial, is_whole] = chain
        return chain

    def _prefix(self, trial: int) -> str:
        return f"rollout/{self._name}/caps/{trial:08d}"

    def _key(self, trial: int, number: int) -> str:
        return f"{self._prefix(trial)}/{number:08d}.json"
