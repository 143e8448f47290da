"""A run's needs, and their form in a run tag."""

import json
from dataclasses import dataclass, field

from headrace.placement.demand import WHOLE, Demand, Gang
from headrace.placement.tag_values import (
    CPU_MILLI_MAX,
    EXPECTED_SECONDS_MAX,
    MEMORY_MIB_MAX,
    NAME_LENGTH_MAX,
    NUM_GPUS_MAX,
)

DEFAULT_QUEUE = "default"


@dataclass(frozen=True, kw_only=True)
class RunNeeds:
    """One run's demand with what the queue wants to know of it. Written into one run tag when the run is queued."""

    demand: Demand = field(default_factory=Demand)
    queue: str = DEFAULT_QUEUE
    stage: str = ""
    expected_seconds: float | None = None  # stated by a tag; None: learned from past runs
    preemptible: bool = False
    version_set: str = ""

    def to_json(self) -> str:
        demand = self.demand
        return json.dumps(
            {
                "num_gpus": demand.num_gpus,
                "gpu_milli": demand.gpu_milli,
                "gpu_memory_mib": demand.gpu_memory_mib,
                "gpu_models": sorted(demand.gpu_models),
                "gang": demand.gang,
                "cpu_milli": demand.cpu_milli,
                "memory_mib": demand.memory_mib,
                "queue": self.queue,
                "stage": self.stage,
                "expected_seconds": self.expected_seconds,
                "preemptible": self.preemptible,
                "version_set": self.version_set,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> "RunNeeds":
        """Raises: ValueError: not needs as `to_json` writes them, or out of bounds."""
        try:
            fields = json.loads(text)
            demand = Demand(
                num_gpus=_count(fields.pop("num_gpus"), 0, NUM_GPUS_MAX),
                gpu_milli=_count(fields.pop("gpu_milli"), 1, WHOLE),
                gpu_memory_mib=_count(fields.pop("gpu_memory_mib"), 0, MEMORY_MIB_MAX),
                gpu_models=frozenset(_word(model) for model in fields.pop("gpu_models")),
                gang=_gang(fields.pop("gang")),
                cpu_milli=_count(fields.pop("cpu_milli"), 0, CPU_MILLI_MAX),
                memory_mib=_count(fields.pop("memory_mib"), 0, MEMORY_MIB_MAX),
            )
            if demand.gpu_milli < WHOLE and demand.num_gpus != 1:
                raise ValueError("a share of other than one GPU")
            needs = cls(
                demand=demand,
                queue=_word(fields.pop("queue")),
                stage=_word(fields.pop("stage")),
                expected_seconds=_stated_seconds(fields.pop("expected_seconds")),
                preemptible=_truth(fields.pop("preemptible")),
                version_set=_word(fields.pop("version_set")),
            )
        except (AttributeError, TypeError, KeyError, ValueError, RecursionError) as error:
            raise ValueError(f"Not a run's needs: {text[:200]!r}.") from error
        if fields:
            raise ValueError(f"Not a run's needs: {sorted(fields)} are unknown to this version of Headrace.")
        return needs


def _count(number: object, least: int, most: int) -> int:
    if type(number) is not int or not least <= number <= most:
        raise ValueError(f"{number!r} is no number from {least} to {most}")
    return number


def _word(word: object) -> str:
    if not isinstance(word, str) or len(word) > NAME_LENGTH_MAX:
        raise ValueError(f"{word!r} is no name")
    return word


def _truth(truth: object) -> bool:
    if not isinstance(truth, bool):
        raise ValueError(f"{truth!r} is neither true nor false")
    return truth


def _gang(gang: object) -> Gang:
    if gang == "node":
        return "node"
    if gang == "any":
        return "any"
    raise ValueError(f"{gang!r} is no gang")


def _stated_seconds(seconds: object) -> float | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= EXPECTED_SECONDS_MAX:
        raise ValueError(f"{seconds!r} are no seconds")
    return float(seconds)
