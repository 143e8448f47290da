"""Where the models are that runs need, within one plan, and what it costs a run to be put elsewhere. Pure.

A run is placed where waiting and bringing are shortest together. Of the GPUs that fit now it takes the one that lacks
least of its models; if none has any, one whose models nobody waits for. It is held for a busy GPU only while that one
should be free sooner than the models would be on a free one. Such an estimate binds nobody: a run that has waited too
long is never held for it, and once it has passed it counts for less with every second.

What was never measured is preferred where it is, and waited for nowhere. A GPU whose models nobody uses is free; a run
that computes by itself gets it when they have left.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from headrace.placement.demand import WHOLE, Demand
from headrace.placement.fleet import Fleet
from headrace.placement.inventory import Gpu
from headrace.placement.packing import Wish
from headrace.placement.placements import GpuShare, Placement
from headrace.placement.residency import NO_MODELS, Device
from headrace.placement.snapshot import Eviction, PlannedRun, Snapshot, Waiting

_NO_WISH = Wish()
# How a run of a queue goes before others of equal rank.
WARM, UNSERVED, SERVED = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Sooner:
    """A busy GPU on which a run would compute sooner than where it fits now, which is `here`.

    Attributes:
        models: those of the run that are there.
        free_at: when it should be free.
        lapses_at: until when the run waits for it, even if nothing ends there; both in seconds since the epoch.
    """

    device: Device
    here: Device
    models: frozenset[str]
    seconds: float
    free_at: float
    lapses_at: float


def is_hosted(run: PlannedRun) -> bool:
    """Whether its models' places are planned. On several GPUs, where each may get a copy, and if nobody knows what it
    loads, it is planned as a run that opens its models itself."""
    return run.demand.num_gpus == 1 and bool(run.loads)


class ModelPlaces:
    """As found in a snapshot, and as the plan's admissions change it."""

    def __init__(self, snapshot: Snapshot, fleet: Callable[[], Fleet], now: float) -> None:
        """Args: fleet: what runs that cannot be stopped may take, at present."""
        self._residency, self._fleet, self._now = snapshot.residency, fleet, now
        self._gpus: Mapping[Device, Gpu] = {
            (node.name, gpu.device): gpu for node in snapshot.inventory.nodes for gpu in node.gpus
        }
        self._here: dict[Device, frozenset[str]] = {
            device: models for device, models in snapshot.residency.loaded.items() if device in self._gpus
        }
        # By device: what sleeps there, and the seconds until it would be awake.
        self._asleep: dict[Device, dict[str, float]] = {
            device: dict(asleep) for device, asleep in snapshot.residency.asleep.items()
        }
        # When what is on a device should have ended; overdue ends are guessed anew.
        self._ends: dict[Device, float] = {}
        self._is_at_work: dict[Device, frozenset[str]] = {}
        self._where: dict[str, set[Device]] = {}
        for device, models in self._here.items():
            self._note(device, models)
        for run in snapshot.running:
            self._take(run, run.placement, run.started + run.expected_seconds)
        self._snapshot = snapshot
        self._admitted: set[str] = set()

    @cached_property
    def _wanted(self) -> Counter[str]:
        """By model, how many runs wait for it. Made when it is first asked: a queue may be long."""
        gone = self._admitted | self._snapshot.blocked.keys()
        return Counter(model for run in self._snapshot.waiting if run.run_id not in gone for model in run.loads)

    def labels(self, models: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(map(self._residency.label, models)))

    # --- where a run is put ---

    def wishes(self, run: PlannedRun, fleet: Fleet) -> Iterator[Wish]:
        """In the order in which they are tried; the last one wishes nothing."""
        if run.demand.num_gpus:
            if is_hosted(run) and (prefer := self._best_of(run, fleet)):
                yield Wish(prefer=prefer)
            else:
                yield from self._sparing(run, fleet)
        yield _NO_WISH

    def _best_of(self, run: PlannedRun, fleet: Fleet) -> frozenset[Device]:
        """Of the devices with room, those that lack least of the run's models; none: all lack all."""
        lacks = {
            device: self._missing(run.loads, device)
            for model in run.loads
            for device in self._where.get(model, ())
            if self._has_room(fleet, device, run.demand)
        }
        least = min(lacks.values(), default=None)
        return frozenset(device for device, lack in lacks.items() if lack == least)

    def _sparing(self, run: PlannedRun, fleet: Fleet) -> Iterator[Wish]:
        """Keeps a run that must bring its models from those that others wait for; one that computes by itself, from all
        that would have to leave."""
        worth = {
            device: self._worth(device)
            for device in self._here
            if self._has_room(fleet, device, run.demand) and not (is_hosted(run) and not self._worth(device))
        }
        if worth:
            yield Wish(avoid=frozenset(worth))
            yield Wish(prefer=frozenset([min(worth, key=lambda device: (worth[device], device))]))

    def _worth(self, device: Device) -> float:
        """Seconds of bringing that waiting runs are spared here."""
        asleep = self._asleep.get(device, {})
        return sum(
            self._wanted[model]
            * max(0.0, self._residency.bring_seconds.get(model, 1.0) - asleep.get(model, 0.0))
            / len(self._where[model])
            for model in self._here[device]
        )

    def admitted(self, run: Waiting, placement: Placement) -> None:
        first = min((share.node, share.device) for share in placement.gpus) if placement.gpus else None
        brings = self._missing(run.loads, first)[0] if first else 0.0
        self._admitted.add(run.run_id)
        if "_wanted" in self.__dict__:
            self._wanted.subtract(run.loads)
        self._take(run, placement, self._now + brings + run.expected_seconds)

    # --- which of several goes first ---

    @property
    def has_any_room(self) -> bool:
        fleet = self._fleet()
        return any(fleet.free_milli(*device) for device in self._gpus)

    @property
    def version(self) -> tuple[int, int]:
        """Another one: `rank` may say something else."""
        fleet = self._fleet()
        return id(fleet), fleet.num_changes

    def rank(self, loads: frozenset[str], demand: Demand) -> int:
        """WARM: a GPU with room has the models; SERVED: only one without room has; else UNSERVED."""
        if not loads:
            return UNSERVED
        where = set.intersection(*(self._where.get(model, set()) for model in loads))
        if not where:
            return UNSERVED
        fleet = self._fleet()
        return WARM if any(self._has_room(fleet, device, demand) for device in where) else SERVED

    def least_missing(self, loads: frozenset[str], demand: Demand) -> float:
        """Seconds of bringing where the run would have to wait for least of it now."""
        fleet = self._fleet()
        where = {device for model in loads for device in self._where.get(model, ())}
        lacks = [self._missing(loads, device)[0] for device in where if self._has_room(fleet, device, demand)]
        return min(lacks, default=sum(self._residency.bring_seconds.get(model, 0.0) for model in loads))

    # --- whether waiting is shorter ---

    def sooner(self, run: Waiting, placement: Placement, kept: Collection[Device]) -> Sooner | None:
        """Args: kept: devices that are promised to other runs."""
        if not is_hosted(run):
            return None
        [here] = ((share.node, share.device) for share in placement.gpus)
        bringing = self._missing(run.loads, here)[0]
        found: Sooner | None = None
        for device in sorted({device for model in run.loads for device in self._where.get(model, ())}):
            if device == here or device in kept or device[0] not in self._residency.nodes:
                continue
            if not self._ever_fits(run.demand, device) or self._has_room(self._fleet(), device, run.demand):
                continue
            has = self._here[device] & run.loads
            end = self._ends.get(device, math.inf)
            # As long again as it is late already: nobody knows.
            waits = abs(end - self._now)
            saved = bringing - self._missing(run.loads, device)[0] - waits
            lapses_at = max(self._now, end) + (saved if end <= self._now else saved + waits)
            # What is saved may be less than clocks tell apart: then nothing would end the wait when it lapses.
            if saved > 0 and lapses_at > self._now and (found is None or saved > found.seconds):
                found = Sooner(device=device, here=here, models=has, seconds=saved, free_at=end, lapses_at=lapses_at)
        return found

    def waits(self, run: Waiting, device: Device) -> None:
        """The run is held for a device: whoever waits for it too, waits for this run as well."""
        self._ends[device] = max(self._ends.get(device, self._now), self._now) + run.expected_seconds

    # --- what must leave first ---

    def to_empty(self, run: Waiting, gpus: Iterable[GpuShare]) -> tuple[Eviction, ...]:
        """What a host still has on a run's devices that computes there by itself, and that nobody uses. Whoever has one
        GPU and says what it loads has the host make room; on several, each run opens its models itself."""
        if is_hosted(run):
            return ()
        found = []
        for share in gpus:
            device = (share.node, share.device)
            models = self._residency.loaded.get(device, NO_MODELS) - self._is_at_work.get(device, NO_MODELS)
            if models:
                found.append(
                    Eviction(node=share.node, device=share.device, models=self.labels(models), for_run_id=run.run_id)
                )
        return tuple(found)

    # --- small steps ---

    def _take(self, run: PlannedRun, placement: Placement, end: float) -> None:
        for share in placement.gpus:
            device = (share.node, share.device)
            if device not in self._gpus:
                continue
            self._ends[device] = max(self._ends.get(device, end), end)
            self._is_at_work[device] = self._is_at_work.get(device, NO_MODELS) | run.loads
            here = self._here.get(device, NO_MODELS)
            for model in run.loads & self._asleep.get(device, {}).keys():
                del self._asleep[device][model]
            if run.loads <= here:
                continue
            # What else is there may have to leave for what is to come.
            stays = here if share.milli < WHOLE else NO_MODELS
            self._here[device] = stays | run.loads
            for model in here - stays:
                self._where[model].discard(device)
            self._note(device, run.loads)

    def _note(self, device: Device, models: Iterable[str]) -> None:
        for model in models:
            self._where.setdefault(model, set()).add(device)

    def _missing(self, loads: frozenset[str], device: Device) -> tuple[float, int]:
        """Seconds to bring what the device lacks, and to wake what sleeps there, as far as they were measured; and how
        many models those are."""
        here, asleep = self._here.get(device, NO_MODELS), self._asleep.get(device, {})
        seconds = [
            asleep[model] if model in here else self._residency.bring_seconds.get(model, 0.0)
            for model in loads
            if model not in here or model in asleep
        ]
        return sum(seconds), len(seconds)

    def _ever_fits(self, demand: Demand, device: Device) -> bool:
        gpu = self._gpus[device]
        return (
            gpu.healthy
            and (not demand.gpu_models or gpu.model in demand.gpu_models)
            and demand.milli_on(gpu.memory_mib) <= WHOLE
        )

    def _has_room(self, fleet: Fleet, device: Device, demand: Demand) -> bool:
        if device not in self._gpus or not self._ever_fits(demand, device):
            return False
        return demand.milli_on(self._gpus[device].memory_mib) <= fleet.free_milli(*device)
