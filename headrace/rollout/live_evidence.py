"""The gateways' measurements of each version set: sums that gateways write from time to time and readers add up.

A gateway writes all its measurements of a trial, not only new ones, under its own number that it never reuses:
`rollout/<name>/evidence/<trial>/<gateway>/<seq>.json`. A reader takes each gateway's newest object, so a lost reply, a
repeated write or a concurrent read counts nothing twice. A killed gateway loses what it measured since its last write;
after a restart it has another name.

Sums are kept by client (an API key's name) and by the journal entry at which units were drawn: the gate compares units
that were drawn with the same chance, and no single client decides (`headrace.rollout.sequential.clients`). Older
releases' objects know neither; their content counts as one further client's. Beyond a limit, clients share one sum.
"""

import math
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge

from headrace.clock import Clock, SystemClock, iso
from headrace.errors import HandoffCorrupt, InvalidInput
from headrace.rollout.gates import METRICS
from headrace.rollout.layout import rollout_prefix
from headrace.rollout.sequential.samples import Sample
from headrace.store.chain import Chain
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Damaged, Kind

# Trials measured at once: the present one, and the one before for its units that still run.
_NUM_TRIALS = 2
# How many clients have their own sums, at one gateway and in the total of all. The others share one.
_NUM_CLIENTS_MAX = 64
# How many entries of one trial keep their units apart. Each step adds one; people may add some by hand.
_NUM_ENTRIES_MAX = 64
# No API key has this name.
OTHER_CLIENTS = "(other clients)"
BEFORE_CLIENTS = "(before clients were told apart)"

_Arms = dict[str, dict[str, Sample]]


@dataclass(frozen=True)
class Sums:
    """One metric's `Sample`, as it is stored."""

    num: Annotated[int, Ge(0)]
    total: float
    total_squares: Annotated[float, Ge(0)]

    def __post_init__(self) -> None:
        # Any finite numbers satisfy this inequality, up to rounding (Cauchy and Schwarz).
        is_possible = abs(self.total) <= math.sqrt(self.num * self.total_squares) * (1 + 1e-6) + 1e-9
        if not is_possible or not math.isfinite(self.total_squares):
            raise InvalidInput(f"{self.num} numbers cannot have the sum {self.total} and squares {self.total_squares}")


@dataclass(frozen=True)
class Drawn:
    """Measurements of one client's units drawn at one entry: version set → metric → sums."""

    client: str
    entry: Annotated[int, Ge(0)]
    arms: dict[str, dict[str, Sums]]


@dataclass(frozen=True)
class Snapshot:
    """One gateway's sums. `arms` comes from releases that did not tell clients apart."""

    trial: Annotated[int, Ge(1)]
    gateway: str
    seq: Annotated[int, Ge(1)]
    at: str
    drawn: list[Drawn] = field(default_factory=list)
    arms: dict[str, dict[str, Sums]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for arms in (self.arms, *(drawn.arms for drawn in self.drawn)):
            for metrics in arms.values():
                for name, sums in metrics.items():
                    kind = METRICS[name].kind if name in METRICS else "mean"
                    if kind == "proportion" and not 0 <= sums.total <= sums.num:
                        raise InvalidInput(f"{name} cannot be {sums.total} of {sums.num}")


SNAPSHOT = Kind(
    "Evidence",
    Snapshot,
    "It is left out, the gateway's next one replaces it; of a gateway that is gone, delete it.",
)


def evidence_chain(store: ObjectStore, name: str, trial: int, gateway: str) -> Chain[Snapshot]:
    """One gateway's snapshots of a trial. It numbers the snapshots of all its trials together, so there are gaps."""
    prefix = f"{rollout_prefix(name, 'evidence', trial)}/{gateway}"
    return Chain(store=store, prefix=prefix, kind=SNAPSHOT, may_lack="any", remedy=SNAPSHOT.remedy)


class EvidenceWriter:
    """One gateway's sums. `record` is cheap and does no I/O; `flush` is called by one thread at a time."""

    def __init__(self, store: ObjectStore, name: str, gateway: str, clock: Clock | None = None) -> None:
        """Args:
        gateway: a nonce that no other process ever uses.
        """
        self._store = store
        self._name = name
        self._gateway = gateway
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._trials: dict[int, _Trial] = {}
        self._changed: set[int] = set()
        self._seq = 0
        # Trial → numbers of snapshots that a newer one replaces.
        self._written: dict[int, list[int]] = {}

    def record(self, trial: int, version_set: str, values: Mapping[str, float], *, client: str, entry: int) -> None:
        """Adds one unit's measurements to a trial; drops a unit of a trial that ended long ago.

        Args:
            values: metric → its value.
            client: whose unit it was.
            entry: the journal entry at which the unit was drawn.

        Raises:
            InvalidInput: a value is not a finite number; nothing was added.
        """
        sums = [(metric, 1, value, value * value) for metric, value in values.items()]
        self._add(trial, version_set, sums, client, entry)

    def record_all(self, trial: int, version_set: str, metric: str, sample: Sample, *, client: str, entry: int) -> None:
        """As `record`, for several measurements that are summed already."""
        self._add(trial, version_set, [(metric, sample.num, sample.total, sample.total_squares)], client, entry)

    def _add(
        self, trial: int, version_set: str, added: list[tuple[str, int, float, float]], client: str, entry: int
    ) -> None:
        for metric, _, total, squares in added:
            if not (math.isfinite(total) and math.isfinite(squares)):
                raise InvalidInput(f"Evidence must be finite numbers, got {metric}={total!r}.")
        with self._lock:
            sums = self._trials.get(trial)
            if sums is None:
                if trial < 1 or not self._begin(trial):
                    return
                sums = self._trials[trial]
            for metric, num, total, squares in added:
                cell = sums.cell(client, entry, version_set, metric)
                if cell is None:
                    return
                cell[0] += num
                cell[1] += total
                cell[2] += squares
            self._changed.add(trial)

    def flush(self) -> None:
        """Writes what was measured since the last flush.

        Raises:
            StoreUnavailable: nothing is lost; the next flush writes it.
        """
        for trial in sorted(self._changed):
            with self._lock:
                self._changed.discard(trial)
                drawn = self._trials[trial].drawn() if trial in self._trials else []
            if not drawn:
                continue
            try:
                self._write(trial, drawn)
            except BaseException:
                with self._lock:
                    self._changed.add(trial)
                raise

    def _begin(self, trial: int) -> bool:
        if len(self._trials) >= _NUM_TRIALS:
            oldest = min(self._trials)
            if trial < oldest:
                return False
            # Its last snapshot stays in the store, for people.
            del self._trials[oldest]
            self._changed.discard(oldest)
        self._trials[trial] = _Trial()
        return True

    def _write(self, trial: int, drawn: list[dict[str, Any]]) -> None:
        chain = evidence_chain(self._store, self._name, trial, self._gateway)
        written = self._written.setdefault(trial, [])
        is_ours = False
        while not is_ours:
            # A number that may be taken is skipped: our older snapshot may lie there, after a lost reply.
            seq = self._seq + 1
            at = iso(self._clock.now())
            snapshot = {"trial": trial, "gateway": self._gateway, "seq": seq, "at": at, "drawn": drawn}
            try:
                is_ours = chain.create(seq, snapshot).won
            except HandoffCorrupt:
                is_ours = False
            self._seq = seq
            written.append(seq)
        chain.sweep(written[:-1])
        del written[:-1]


class _Trial:
    """One trial's sums: client and entry → version set and metric → [num, total, total of squares]."""

    def __init__(self) -> None:
        self._clients: set[str] = set()
        self._entries: set[int] = set()
        self._sums: dict[tuple[str, int], dict[tuple[str, str], list[float]]] = {}

    def cell(self, client: str, entry: int, version_set: str, metric: str) -> list[float] | None:
        """None: there are too many entries, so this one's units are left out."""
        sums = self._sums.get((client, entry))
        if sums is None:
            if client not in self._clients and len(self._clients) >= _NUM_CLIENTS_MAX:
                client = OTHER_CLIENTS
            if entry not in self._entries and len(self._entries) >= _NUM_ENTRIES_MAX:
                return None
            self._clients.add(client)
            self._entries.add(entry)
            sums = self._sums.setdefault((client, entry), {})
        return sums.setdefault((version_set, metric), [0, 0.0, 0.0])

    def drawn(self) -> list[dict[str, Any]]:
        """The sums in the form of `Snapshot.drawn`."""
        found: list[dict[str, Any]] = []
        for (client, entry), sums in self._sums.items():
            arms: dict[str, dict[str, Any]] = {}
            for (version_set, metric), (num, total, squares) in sums.items():
                arms.setdefault(version_set, {})[metric] = {"num": num, "total": total, "total_squares": squares}
            found.append({"client": client, "entry": entry, "arms": arms})
        return found


def read_live(store: ObjectStore, name: str, trial: int, *, damaged: Damaged | None = None) -> _Arms:
    """Version set id → metric → all gateways' measurements in a trial, over all clients; raises as `read_drawn`."""
    return totals(read_drawn(store, name, trial, damaged=damaged))


def read_drawn(
    store: ObjectStore, name: str, trial: int, *, damaged: Damaged | None = None
) -> Mapping[tuple[str, int], _Arms]:
    """Client and entry → version set id → metric → all gateways' measurements in a trial.

    Args:
        damaged: called for unreadable objects, which are left out.

    Raises:
        HandoffCorrupt: an object cannot be read, and `damaged` is None.
    """
    found: defaultdict[tuple[str, int], _Arms] = defaultdict(dict)
    for snapshot in _snapshots(store, name, trial, damaged):
        for drawn in snapshot.drawn:
            _add(found[drawn.client, drawn.entry], _samples(drawn.arms))
        if snapshot.arms:
            _add(found[BEFORE_CLIENTS, 0], _samples(snapshot.arms))
    return _fewer(found)


def totals(drawn: Mapping[tuple[str, int], _Arms]) -> _Arms:
    """Version set → metric → sample, over all clients."""
    found: _Arms = {}
    for arms in drawn.values():
        _add(found, arms)
    return found


def _fewer(found: Mapping[tuple[str, int], _Arms]) -> Mapping[tuple[str, int], _Arms]:
    """Merges the smallest clients, if there are many."""
    sizes: defaultdict[str, int] = defaultdict(int)
    for (client, _), arms in found.items():
        sizes[client] += max(sample.num for metrics in arms.values() for sample in metrics.values())
    if len(sizes) <= _NUM_CLIENTS_MAX:
        return found
    sizes.pop(OTHER_CLIENTS, None)
    largest = set(sorted(sizes, key=lambda client: (-sizes[client], client))[: _NUM_CLIENTS_MAX - 1])
    fewer: defaultdict[tuple[str, int], _Arms] = defaultdict(dict)
    for (client, entry), arms in found.items():
        _add(fewer[client if client in largest else OTHER_CLIENTS, entry], arms)
    return fewer


def _samples(arms: Mapping[str, Mapping[str, Sums]]) -> _Arms:
    return {
        version_set: {
            metric: Sample(num=sums.num, total=sums.total, total_squares=sums.total_squares)
            for metric, sums in metrics.items()
        }
        for version_set, metrics in arms.items()
    }


def _add(to: _Arms, arms: Mapping[str, Mapping[str, Sample]]) -> None:
    for version_set, metrics in arms.items():
        found = to.setdefault(version_set, {})
        for metric, sample in metrics.items():
            found[metric] = found.get(metric, Sample()) + sample


def _snapshots(store: ObjectStore, name: str, trial: int, damaged: Damaged | None) -> Iterator[Snapshot]:
    """The newest snapshot of each gateway."""
    for gateway in store.children(rollout_prefix(name, "evidence", trial)):
        try:
            last = evidence_chain(store, name, trial, gateway).last()
        except HandoffCorrupt as error:
            if damaged is None:
                raise
            damaged(error)
            continue
        if last is not None:
            yield last[1]
