"""Which rank the others wait for, from what each has reached: the guard `stalled_rank`, in the run worker.

A rank tells its points before and after each forward pass, which it runs by itself. Behind it come collectives, in
which ranks wait for each other; so whoever is furthest behind is who they wait for. Ranks that stopped at one point,
all within a collective, look alike: `step_timeout_seconds` ends those.

Looks at no clock of a rank: how long a point has lasted is what this process saw.
"""

from dataclasses import dataclass

from headrace.training.progress import duration
from headrace.training.run_config import RunConfig

Point = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Stalled:
    """`what`: "waits for rank 1, which has been in …", of the gang. `ends`: the recipe says to stop then."""

    rank: int
    what: str
    ends: bool


class StalledRanks:
    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._guard = config.recipe.guards.stalled_rank if config.recipe.guards else None
        self._since: dict[int, tuple[Point, float]] = {}
        self._told: Point | None = None

    @property
    def is_watching(self) -> bool:
        return self._guard is not None

    def look(self, reached: dict[int, Point], now: float) -> Stalled | None:
        """A rank that is newly stalled; each time once.

        Args:
            reached: the newest point of each rank.
            now: seconds of a monotonic clock.
        """
        if self._guard is None:
            return None
        for rank, point in reached.items():
            if rank not in self._since or self._since[rank][0] != point:
                self._since[rank] = point, now
        if len(reached) < self._config.world_size:
            return None
        last = min(reached, key=lambda rank: (reached[rank], rank))
        point, since = self._since[last]
        is_behind = any(other > point for other in reached.values())
        # The others must have waited as long: a step that takes a minute on every rank stalls none.
        waited = now - max(self._since[rank][1] for rank in reached)
        if not is_behind or min(waited, now - since) < self._guard.seconds or self._told == point:
            return None
        self._told = point
        half = "forward" if point[1] % 2 == 0 else "backward"
        what = (
            f"waits for rank {last}, which has been in the {half} half of pass {point[1] // 2 + 1} of step "
            f"{point[0] + 1} for {duration(now - since)} (guards.stalled_rank of recipe {self._config.recipe.key})"
        )
        return Stalled(rank=last, what=what, ends=self._guard.action == "stop")
