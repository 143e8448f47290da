"""What gateways have measured of each version set: sums, written now and then, added up by whoever decides.

A gateway writes all that it has measured in a trial, not what is new, under a number of its own that it never uses
twice: `rollout/<name>/evidence/<trial>/<gateway>/<seq>.json`. A reader takes each gateway's newest; a lost reply, a
repeated write or a reader in between counts nothing twice. A gateway that is killed loses what it measured since it
wrote last; one that starts again has another name.
"""

import json
import math
import threading
from collections.abc import Iterator

from headrace.clock import Clock, SystemClock, iso
from headrace.errors import InvalidInput, ObjectMissing
from headrace.rollout.sequential.samples import Sample
from headrace.store.objects import ObjectStore, create_json

# Trials that are measured at once: the present one, and units of the one before that are still under way.
_NUM_TRIALS = 2
# Times that a snapshot may be taken away while it is looked for.
_NUM_TRIES = 20


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
        arms: dict[str, dict[str, dict[str, float]]] = {}
        for (version_set, metric), (num, total, squares) in sums.items():
            arms.setdefault(version_set, {})[metric] = {"num": num, "total": total, "total_squares": squares}
        written = self._written.setdefault(trial, [])
        is_ours = False
        while not is_ours:
            # A number is left behind once anything may stand under it: an older snapshot of ours, whose reply was lost.
            seq = self._seq + 1
            body = {"trial": trial, "gateway": self._gateway, "seq": seq, "at": iso(self._clock.now()), "arms": arms}
            is_ours = create_json(self._store, self._key(trial, seq), body).won
            self._seq = seq
            written.append(seq)
        for old in written[:-1]:
            self._store.delete(self._key(trial, old))
            written.remove(old)

    def _key(self, trial: int, seq: int) -> str:
        return f"{_prefix(self._name, trial)}/{self._gateway}/{seq:08d}.json"


def read_live(store: ObjectStore, name: str, trial: int) -> dict[str, dict[str, Sample]]:
    """Version set id → metric → what all gateways measured of it in a trial."""
    arms: dict[str, dict[str, Sample]] = {}
    for snapshot in _snapshots(store, _prefix(name, trial)):
        for version_set, metrics in snapshot["arms"].items():
            found = arms.setdefault(version_set, {})
            for metric, sums in metrics.items():
                found[metric] = found.get(metric, Sample()) + Sample(**sums)
    return arms


def _snapshots(store: ObjectStore, prefix: str) -> Iterator[dict]:  # pyright: ignore[reportMissingTypeArgument]
    """The newest of each gateway."""
    for gateway in store.children(prefix):
        for _ in range(_NUM_TRIES):
            numbers = [name for name in store.children(f"{prefix}/{gateway}") if name.endswith(".json")]
            if not numbers:
                break
            try:
                yield json.loads(store.read(f"{prefix}/{gateway}/{max(numbers)}"))
            except ObjectMissing:
                continue  # The gateway wrote a newer one meanwhile.
            break


def _prefix(name: str, trial: int) -> str:
    return f"rollout/{name}/evidence/{trial:08d}"
