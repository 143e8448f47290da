"""What a campaign's gate can tell: how often it promotes a candidate that is as good, and sends back a worse one.

Simulates nights of the plan, with its own steps, partitions and gate (`headrace.rollout.gates`), at a pass rate. Each
night makes the canaries and as many control partitions, asks the gate, goes on as it says, and makes the rest on the
stable set, as `headrace.generation.dispatch` does. It does not know held-out losses and mirrored rows, which the real
gate sees too, and takes approvals as given at once. A trial that outlives `evidence_days` counts as undecided: its
oldest rows no longer count.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from headrace.errors import InvalidInput
from headrace.rollout.assignment import canary_count
from headrace.rollout.gates import PASS_RATE, Evidence, GateSettings, decide
from headrace.rollout.plan import Plan, Step
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.sequential.simulated import run_trial

_DAY_SECONDS = 86_400.0
# A share of 1,000 runs is known to within 3 points (two standard deviations), of 50 to within 14.
_RUNS_MAX, _RUNS_MIN = 1000, 50
# A look costs 0.1 ms of CPU: both outlooks of one campaign stay below two seconds together.
_LOOKS_MAX, NIGHTS_MAX = 4_000, 100
# How often an equal candidate should be promoted: the horizon that is proposed reaches about that.
WANTED_PROMOTED = 0.9
# Its standard score, for the horizon's size.
_WANTED_SCORE = 1.2816

End = Literal["promoted", "harmful", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Nights:
    """How a campaign's nights are divided: all rows of a night, dealt to the partitions in turn."""

    num_partitions: int
    num_rows: int

    def rows_of(self, num_partitions: int) -> int:
        """So many partitions' rows, to the nearest one: some partitions may have one more than others, or none."""
        return round(self.num_rows * num_partitions / self.num_partitions)


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Shares of simulated trials. `pass_rate`: the stable set's; a worse candidate's is lower by the whole margin.

    `nights`: the median of the trials of an equal candidate.
    """

    pass_rate: float
    margin: float
    num_runs: int
    equal_promoted: float
    equal_undecided: float
    equal_harmful: float
    worse_sent_back: float
    nights: float


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """A horizon at which an equal candidate is promoted often enough."""

    rows: int
    nights: int

    @property
    def seconds(self) -> float:
        return self.nights * _DAY_SECONDS


def outlook(plan: Plan, nights: Nights, pass_rate: float, *, seed: int = 0) -> Outlook:
    """Simulates trials of an equal candidate and of one that is worse by the margin.

    Raises:
        InvalidInput: the plan's gate does not judge the pass rate.
    """
    import numpy as np

    margin = _margin(plan)
    num_looks = len(plan.steps) + min(_num_nights(plan), _nights_to_fill(plan, nights))
    num_runs = min(_RUNS_MAX, max(_RUNS_MIN, _LOOKS_MAX // num_looks))
    draws = np.random.default_rng(seed)
    plan = replace(plan, gate=_on_pass_rate(plan.gate))
    equal, worse = (
        [
            run_trial(_Trial(plan, nights), (candidate, pass_rate), draws) or ("undecided", _num_nights(plan))
            for _ in range(num_runs)
        ]
        for candidate in (pass_rate, max(0.0, pass_rate - margin))
    )
    ends = [end for end, _ in equal]
    return Outlook(
        pass_rate=pass_rate,
        margin=margin,
        num_runs=num_runs,
        equal_promoted=ends.count("promoted") / num_runs,
        equal_undecided=ends.count("undecided") / num_runs,
        equal_harmful=ends.count("harmful") / num_runs,
        worse_sent_back=sum(end != "promoted" for end, _ in worse) / num_runs,
        nights=float(np.median([num for _, num in equal])),
    )


def horizon_for(plan: Plan, nights: Nights, pass_rate: float) -> Horizon:
    """The horizon at which about nine of ten equal candidates are promoted, by the test's own boundary at its end.

    Raises:
        InvalidInput: the plan's gate does not judge the pass rate.
    """
    from headrace.rollout.sequential.boundaries import ADVANCE_SLOPE, line_boundary, mixture_boundary

    margin, gate = _margin(plan), plan.gate
    if gate.method == "group_sequential":
        bound = line_boundary(1.0, gate.false_advance, ADVANCE_SLOPE)
    else:
        bound = mixture_boundary(1.0, gate.false_advance)
    # Both sides of a rate near 0 or 1 vary less; the margin's own shift keeps some variance.
    rate = min(max(pass_rate - margin / 2, margin / 2), 1 - margin / 2)
    # Of the tiniest margin more rows than there are numbers.
    score = min((bound + _WANTED_SCORE) / margin, 1e9)
    rows = math.ceil(2 * rate * (1 - rate) * score**2)
    rows = max(rows, gate.min_rows)
    canaries = canary_count(plan.steps[-1].weight, nights.num_partitions)
    # With fewer rows of one side than of the other, the smaller side decides.
    a_night = nights.rows_of(min(canaries, max(1, nights.num_partitions - canaries)))
    return Horizon(rows=rows, nights=math.ceil(rows / max(1, a_night)) + 1)


def _margin(plan: Plan) -> float:
    if plan.gate.pass_rate_margin is None:
        raise InvalidInput("pass_rate_margin is null: the gate does not judge the pass rate, so rows tell it nothing.")
    return plan.gate.pass_rate_margin


def _on_pass_rate(gate: GateSettings) -> GateSettings:
    return replace(gate, margins={})


def _num_nights(plan: Plan) -> int:
    """The most nights that a simulated trial may take."""
    return min(plan.evidence_days, NIGHTS_MAX, math.ceil(plan.gate.horizon_seconds / _DAY_SECONDS) + 1)


def _nights_to_fill(plan: Plan, nights: Nights) -> int:
    """Nights until the last step's canaries have made the horizon's rows."""
    rows = nights.rows_of(canary_count(plan.steps[-1].weight, nights.num_partitions))
    return math.ceil(plan.gate.horizon_rows / max(1, rows)) + 1


class _Trial:
    """One candidate's nights, as `run_trial` asks for them."""

    def __init__(self, plan: Plan, nights: Nights) -> None:
        self._plan, self._nights = plan, nights
        self._index = 0
        self._night = self._step_night = 0
        self._rows_at_step = 0
        # Partitions of the present night by set, and all that the candidate ever got.
        self._canaries = self._controls = self._num_tried = 0
        self._is_night_over = False

    @property
    def _step(self) -> Step:
        return self._plan.steps[self._index]

    def next_rows(self) -> tuple[int, int] | None:
        if self._is_night_over and self._night + 1 == _num_nights(self._plan):
            return None
        num = self._nights.num_partitions
        rest = 0
        if self._is_night_over:
            # What waited for the verdict runs on the stable set after all.
            rest = num - self._canaries - self._controls
            self._night += 1
            self._canaries = self._controls = 0
            self._is_night_over = False
        wanted = canary_count(self._step.weight, num)
        canaries = wanted - self._canaries
        if self._step.cap is not None:
            canaries = min(canaries, max(0, self._step.cap - self._num_tried))
        self._canaries += canaries
        self._num_tried += canaries
        controls = max(0, min(self._canaries, num - wanted) - self._controls)
        self._controls += controls
        return self._nights.rows_of(canaries), self._nights.rows_of(controls + rest)

    def look(self, candidate: Sample, stable: Sample) -> tuple[End, int] | None:
        is_last = self._index == len(self._plan.steps) - 1
        verdict = decide(
            Evidence(metrics={PASS_RATE: (candidate, stable)}),
            self._plan.gate,
            num_rows_at_step=self._rows_at_step,
            is_last_step=is_last,
            trial_seconds=self._night * _DAY_SECONDS,
        )
        if verdict.action == "roll_back":
            return ("undecided" if verdict.is_undecided else "harmful"), self._night + 1
        soaked = (self._night - self._step_night) * _DAY_SECONDS >= self._step.soak_seconds
        if verdict.action == "wait" or not soaked:
            self._is_night_over = True
            return None
        if is_last:
            return "promoted", self._night + 1
        self._index += 1
        self._step_night, self._rows_at_step = self._night, candidate.num
        return None
