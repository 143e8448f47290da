"""What gateways have measured of each version set: sums, written now and then, added up by whoever decides.

A gateway writes all that it has measured in a trial, not what is new, under a number of its own that it never uses
twice: `rollout/<name>/evidence/<trial>/<gateway>/<seq>.json`. A reader takes each gateway's newest; a lost reply, a
repeated write or a reader in between counts nothing twice. A gateway that is killed loses what it measured since it
wrote last; one that starts again has another name.
"""

import math
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from headrace.clock import Clock, SystemClock, iso
from headrace.errors import HandoffCorrupt, InvalidInput, ObjectMissing
from headrace.rollout.sequential.samples import Sample
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Damaged, Kind, create_object, read_object

# Trials that are measured at once: the present one, and units of the one before that are still under way.
_NUM_TRIALS = 2
# Times that a snapshot may be taken away while it is looked for.
_NUM_TRIES = 20
_NAME = re.compile(r"\d{8,}\.json")
# Beyond this a square is no number any more.
_TOTAL_MAX = 1e150


@dataclass(frozen=True, kw_only=True)
class Sums:
    """`num` values, their sum and the sum of their squares."""

    num: Annotated[int, Ge(0)]
    total: float
    total_squares: Annotated[float, Ge(0)]

    def __post_init__(self) -> None:
        # What no values add up to: no mean is farther from 0 than the root of the mean square.
        limit = self.num * self.total_squares
        if abs(self.total) > _TOTAL_MAX or not self.total**2 <= limit * (1 + 1e-6) + 1e-12:
            raise InvalidInput(f"No {self.num} values have sum {self.total:g} and squares {self.total_squares:g}.")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that one gateway has measured in a trial: version set → metric → sums."""

    trial: int
    gateway: str
    seq: int
    at: str
    arms: Mapping[str, Mapping[str, Sums]]


SNAPSHOT = Kind(
    "Evidence", Snapshot, "It is left out, the gateway's next one replaces it; of a gateway that is gone, delete it."
)


class EvidenceWriter:
    """One gateway's sums. `record` is cheap and does no I/O; `flush` is called by one thread at a time."""

    def __init__(self, store: ObjectStore, name: str, gateway: str, clock: Clock | None = None) -> None:
        """Args:
        gateway: a nonce that no other process has or had.
        """
        self._store = store
        self._name = name
        self._gateway = gateway
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        # Trial → (version set, metric) → [num, total, total of squares].
        self._sums: dict[int, dict[tuple[str, str], list[float]]] = {}
        self._changed: set[int] = set()
        self._seq = 0
        # Trial → numbers of snapshots that a newer one has replaced, or will.
        self._written: dict[int, list[int]] = {}

    def record(self, trial: int, version_set: str, metric: str, value: float) -> None:
        """Add one measurement to a trial; one of a trial that ended long ago is left out.

        Raises:
            InvalidInput: `value` is no finite number.
        """
        if not math.isfinite(value):
            raise InvalidInput(f"Evidence must be finite numbers, got {metric}={value!r}.")
        with self._lock:
            sums = self._sums.get(trial)
            if sums is None:
                if trial < 1 or not self._begin(trial):
                    return
                sums = self._sums[trial]
            cell = sums.get((version_set, metric))
            if cell is None:
                cell = sums[version_set, metric] = [0, 0.0, 0.0]
            cell[0] += 1
            cell[1] += value
            cell[2] += value * value
            self._changed.add(trial)

    def flush(self) -> None:
        """Write what was measured since the last time.

        Raises:
            StoreUnavailable: nothing is lost, the next flush writes it.
        """
        for trial in sorted(self._changed):
            with self._lock:
                self._changed.discard(trial)
                sums = {cell: tuple(sums) for cell, sums in self._sums.get(trial, {}).items()}
            if not sums:
                continue
            try:
                self._write(trial, sums)
            except BaseException:
                with self._lock:
                    self._changed.add(trial)
                raise

    def _begin(self, trial: int) -> bool:
        if len(self._sums) >= _NUM_TRIALS:
            oldest = min(self._sums)
            if trial < oldest:
                return False
            # Its last snapshot stays, for people.
            del self._sums[oldest]
            self._changed.discard(oldest)
        self._sums[trial] = {}
        return True

    def _write(self, trial: int, sums: dict[tuple[str, str], tuple[float, ...]]) -> None:
        arms: dict[str, dict[str, Sums]] = {}
        for (version_set, metric), (num, total, squares) in sums.items():
            arms.setdefault(version_set, {})[metric] = Sums(num=int(num), total=total, total_squares=squares)
        written = self._written.setdefault(trial, [])
        is_ours = False
        while not is_ours:
            # A number is left behind once anything may stand under it: an older snapshot of ours, whose reply was lost.
            seq = self._seq + 1
            at = iso(self._clock.now())
            snapshot = Snapshot(trial=trial, gateway=self._gateway, seq=seq, at=at, arms=arms)
            try:
                is_ours = create_object(self._store, self._key(trial, seq), SNAPSHOT, snapshot).won
            except HandoffCorrupt:
                is_ours = False
            self._seq = seq
            written.append(seq)
        for old in written[:-1]:
            self._store.delete(self._key(trial, old))
            written.remove(old)

    def _key(self, trial: int, seq: int) -> str:
        return f"{_prefix(self._name, trial)}/{self._gateway}/{seq:08d}.json"


def read_live(
    store: ObjectStore, name: str, trial: int, *, damaged: Damaged | None = None
) -> dict[str, dict[str, Sample]]:
    """Version set id → metric → what all gateways measured of it in a trial.

    Args:
        damaged: told of what cannot be read, which is left out.

    Raises:
        HandoffCorrupt: something cannot be read, and nobody wants to be told.
    """
    arms: dict[str, dict[str, Sample]] = {}
    for snapshot in _snapshots(store, _prefix(name, trial), damaged):
        for version_set, metrics in snapshot.arms.items():
            found = arms.setdefault(version_set, {})
            for metric, sums in metrics.items():
                sample = Sample(num=sums.num, total=sums.total, total_squares=sums.total_squares)
                found[metric] = found.get(metric, Sample()) + sample
    return arms


def _snapshots(store: ObjectStore, prefix: str, damaged: Damaged | None) -> Iterator[Snapshot]:
    """The newest of each gateway."""
    for gateway in store.children(prefix):
        for _ in range(_NUM_TRIES):
            numbers = [name for name in store.children(f"{prefix}/{gateway}") if _NAME.fullmatch(name)]
            if not numbers:
                break
            try:
                yield read_object(store, f"{prefix}/{gateway}/{max(numbers, key=_number)}", SNAPSHOT)
            except ObjectMissing:
                continue  # The gateway wrote a newer one meanwhile.
            except HandoffCorrupt as error:
                if damaged is None:
                    raise
                damaged(error)
            break


def _number(name: str) -> int:
    return int(name.removesuffix(".json"))


def _prefix(name: str, trial: int) -> str:
    return f"rollout/{name}/evidence/{trial:08d}"
