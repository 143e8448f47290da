"""A queue over time as a picture: how many wait, and for how long the oldest of them does, under several policies."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.queueing.jobs import Job
from benchmarks.queueing.policies import POLICIES, pool_of
from benchmarks.queueing.simulation import Active, Choice, Policy, Queued, Simulation
from headrace.placement.fleet import Fleet

# Ours, and the two ends between which it lies: nobody starves, and everybody short is served at once.
DRAWN = {"headrace": "#1f6f8b", "easy": "#c05a2b", "sjf": "#8a8a8a"}
FORMATS = (".png", ".svg")
_HOUR = 3600.0


class Watched:
    """A policy, and after each of its choices: when it was, how many wait, and how long the oldest has, in seconds."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.points: list[tuple[float, int, float]] = []

    def choose(self, now: float, fleet: Fleet, queue: Mapping[str, Queued], active: Mapping[str, Active]) -> Choice:
        choice = self._policy.choose(now, fleet, queue, active)
        came = [queued.job.arrival for name, queued in queue.items() if name not in choice.starts]
        self.points.append((now, len(came), now - min(came, default=now)))
        return choice


def watched(jobs: Sequence[Job], num_gpus: int) -> dict[str, list[tuple[float, int, float]]]:
    """By policy: the points of the same jobs."""
    found = {}
    for name in DRAWN:
        pool = pool_of(num_gpus)
        policy = Watched(POLICIES[name](pool))
        Simulation(pool, jobs, policy).run()
        found[name] = policy.points
    return found


def draw(path: Path, found: Mapping[str, Sequence[tuple[float, int, float]]], title: str) -> None:
    """Args: path: its ending says in which of `FORMATS`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    many, old = figure.subplots(2, 1, sharex=True)
    for name, points in found.items():
        hours = [at / _HOUR for at, _, _ in points]
        drawn = {"linewidth": 1.2, "color": DRAWN[name], "label": name}
        many.step(hours, [count for _, count, _ in points], where="post", **drawn)
        old.plot(hours, [age / _HOUR for _, _, age in points], **drawn)
    many.set_ylabel("jobs that wait")
    old.set_ylabel("hours since the oldest of them came")
    old.set_xlabel("hours")
    many.legend()
    for axes in (many, old):
        axes.grid(alpha=0.3)
    figure.savefig(path, format=path.suffix[1:])
