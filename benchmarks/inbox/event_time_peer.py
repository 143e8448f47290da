"""What Pathway's windows make of the streams of `--event-time`: what they lack of the oracle's, and have twice."""

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.measuring import run_child
from headrace.inbox.rules import InboxRules
from simulation.event_oracle import expected_windows
from simulation.event_streams import StreamShape, stream
from simulation.inbox_site import time_rules


@dataclass
class PeerJudged:
    """Over some seeds. Events by their names, so that one that was sent twice is one.

    Attributes:
        lost_on_time, lost_late: of the oracle's events on time, or late ones, that are in no window.
        twice: events that are in windows once more than they should.
        elsewhere: windows that have an event of another span.
        wrong: seeds whose windows do not have the oracle's events, late ones included.
    """

    seeds: int = 0
    events: int = 0
    lost_on_time: int = 0
    lost_late: int = 0
    twice: int = 0
    elsewhere: int = 0
    wrong: int = 0


def judge_pathway(interpreter: Path, num_seeds: int, rules: InboxRules) -> dict[str, PeerJudged]:
    """The streams as they are, and without clocks that run ahead: one such closes all of Pathway's windows."""
    shapes = {"pathway": StreamShape(), "pathway, no clock ahead": replace(StreamShape(), ahead_share=0.0)}
    return {name: _judged(interpreter, num_seeds, rules, shape) for name, shape in shapes.items()}


def _judged(interpreter: Path, num_seeds: int, rules: InboxRules, shape: StreamShape) -> PeerJudged:
    task: dict[str, Any] = {"seeds": list(range(num_seeds)), "shape": asdict(shape)}
    task |= {"window_seconds": rules.window_seconds, "lateness_seconds": rules.lateness_seconds}
    answer = run_child("benchmarks.inbox.event_time_pathway", task, interpreter=interpreter)
    judged = PeerJudged(seeds=num_seeds)
    for seed, found in answer.body["seeds"].items():
        _judge(int(seed), {int(begins): ids for begins, ids in found.items()}, rules, shape, judged)
    return judged


def _judge(seed: int, found: dict[int, list[str]], rules: InboxRules, shape: StreamShape, judged: PeerJudged) -> None:
    sent = stream(seed, shape)
    wanted = expected_windows(sent, time_rules(rules))
    on_time = {one: begins for begins, ids in wanted.on_time.items() for one in ids}
    late = {one: begins for begins, ids in wanted.late.items() for one in ids}
    times = Counter(one for ids in found.values() for one in ids)
    lost_on_time, lost_late = set(on_time) - set(times), set(late) - set(times)
    twice = sum(num - 1 for num in times.values())
    spans = on_time | late
    elsewhere = sum(any(spans[one] != begins for one in ids) for begins, ids in found.items())
    judged.events += len(spans)
    judged.lost_on_time += len(lost_on_time)
    judged.lost_late += len(lost_late)
    judged.twice += twice
    judged.elsewhere += elsewhere
    judged.wrong += bool(lost_on_time or lost_late or twice or elsewhere)
