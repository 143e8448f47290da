"""`python -m benchmarks.gates --hostile`: what one client that means ill can do to a gate, with all its skill.

Honest clients fail at the rates of the case; beside them one client sends a share of all requests. Each look takes what
gateways would have written: units go through the counting of `headrace.serving.gateway.outcomes` and the sums of
`EvidenceWriter`, are read back from a store, and judged by `headrace.rollout.gates`. A tenth of the units goes to the
candidate at first, half of them after a while.

| attack | what it sends |
|---|---|
| aimed | bad requests under names that it knows to land on one set, turns of sessions whose set it has seen |
| trivial | what never fails, to drown what others show |
| alike | what fails as often as honest requests do on the stable set, on either set |
| noise | what fails half the time, whichever set it comes to |
| turncoat | what never fails while few units are the candidate's, then what fails half the time |

| bar | of the worst attack on several honest clients, at each share of the traffic |
|---|---|
| false_rollback | rolled back for harm, as good as the stable set: at most 5% |
| false_promotion | promoted, worse by the margin: at most 5% |
| goes_back | rolled back, for harm or at the horizon, worse by the margin: at least 80%, and 95% of undisturbed |
| promoted | promoted, as good as the stable set: at least 80%, and 95% of undisturbed |
| time | median honest units until the decision: at most 1.5 times undisturbed |

Populations: five clients alike; five that make 50, 25, 12, 8 and 5% of the honest requests; one alone, which must
decide when it is undisturbed. Beside one honest client of the same size no rule can tell which of the two means ill:
there, the error rates are held to the bars, and the rest is shown.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.measuring import Bars, at_least, at_most, finish, print_table
from headrace.clock import FixedClock
from headrace.rollout.gates import GateSettings, decide
from headrace.rollout.live_evidence import EvidenceWriter
from headrace.rollout.routing import Pin
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.states import RolloutState
from headrace.serving.gateway.outcomes import measured
from headrace.serving.gateway.unit import Unit
from headrace.serving.subject import live_evidence
from headrace.store.local import LocalStore

MARGIN = 0.02
_RUNS_MAX, _EVERY_MIN = 300, 250
CASES = {"equal": (0.05, 0.05), "margin": (0.05, 0.07)}
POPULATIONS = {
    "five alike": (1.0, 1.0, 1.0, 1.0, 1.0),
    "five unequal": (50.0, 25.0, 12.0, 8.0, 5.0),
    "one alone": (1.0,),
}
SHARES = (0.05, 0.2, 0.5)
ATTACKS = ("aimed", "trivial", "alike", "noise", "turncoat")
_STABLE, _CANDIDATE, _TRIAL = "a" * 64, "b" * 64, 2
# Honest units a side at the first weight, and the weights: each is one journal entry.
_FIRST_UNITS = 500
_WEIGHTS = {2: 0.1, 3: 0.5}
# Horizons that a run may take, in honest units a side: far beyond what any gate does.
_NUM_HORIZONS = 10

End = Literal["rolled back", "promoted", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Shares of runs by how they ended, and the median of honest units a side until then."""

    harmful: float
    promoted: float
    median: float

    @property
    def goes_back(self) -> float:
        return 1.0 - self.promoted


@dataclass(frozen=True, kw_only=True)
class Sent:
    """So many units of one client at one entry: to each set, how many of them failed; `pin`: how they got it."""

    client: str
    nums: tuple[int, int]
    failed: tuple[int, int]
    reason: Literal["weight", "session", "override"] = "weight"
    is_drawn: bool = True
    is_clients_fault: bool = False


class Trial:
    """One rollout: what was sent so far, as its gateway would have written it, and what the gate says."""

    def __init__(self, directory: Path, settings: GateSettings) -> None:
        self._store = LocalStore(directory)
        self._settings = settings
        self._evidence = EvidenceWriter(self._store, "service", "gateway", FixedClock())
        self._state = RolloutState(
            stable=_STABLE, stable_weights="", candidate=_CANDIDATE, trial=_TRIAL, weight=0.5, head=max(_WEIGHTS)
        )

    def add(self, sent: Sent, entry: int) -> None:
        for version_set, num, failed in zip((_CANDIDATE, _STABLE), sent.nums, sent.failed, strict=True):
            pin = Pin(version_set, entry, sent.reason, _TRIAL, is_fair=sent.is_drawn)
            if not pin.is_evidence:
                continue
            for is_failed, count in ((True, failed), (False, num - failed)):
                # What the gateway's own counting says of one such unit, as often as it was sent.
                value = _measured(is_failed=is_failed, is_clients_fault=sent.is_clients_fault).get("error")
                if value is not None and count:
                    sample = Sample(num=count, total=value * count, total_squares=value * value * count)
                    self._evidence.record_all(_TRIAL, version_set, "error", sample, client=sent.client, entry=entry)

    def look(self) -> End | None:
        """None: the gate waits."""
        self._evidence.flush()
        verdict = decide(live_evidence(self._store, "service", self._state), self._settings)
        if verdict.action == "wait":
            return None
        if verdict.action == "advance":
            return "promoted"
        return "undecided" if verdict.reason.startswith("undecided") else "rolled back"


def _measured(*, is_failed: bool, is_clients_fault: bool) -> dict[str, float]:
    unit = Unit(
        request="",
        key="",
        ask=_UNUSED,
        name="",
        session=None,
        pin=_UNUSED,
        loaded=_UNUSED,
        seed=0,
        started_at=0.0,
        started=0.0,
        is_failed=is_failed and not is_clients_fault,
    )
    if not is_failed:
        unit.answered = 1.0
        unit.steps.append(_STEP)
    return measured(unit, None)


@dataclass
class _Step:
    num_output_tokens: int = 1


# Stand for what `measured` does not look at, and for what it looks at one field of.
_UNUSED: Any = None
_STEP: Any = _Step()


def simulate(
    honest: Sequence[float],
    rates: tuple[float, float],
    *,
    attack: str | None,
    share: float,
    settings: GateSettings,
    runs: int,
    every: int,
    seed: int,
) -> Outcome:
    """Run `runs` rollouts; `rates`: of the stable set and of the candidate, for honest requests."""
    # Honest requests are the same beside every attack, so that what differs is what the attack did.
    draws = np.random.default_rng([seed, round(1e4 * rates[1]), round(1e4 * max(honest))])
    hostile = np.random.default_rng([seed, round(1e4 * share), ATTACKS.index(attack) if attack else 0])
    ends: list[End] = []
    times: list[int] = []
    parts = np.array(honest) / sum(honest)
    for start in draws.spawn(runs):
        with tempfile.TemporaryDirectory(dir=_memory()) as directory:
            trial = Trial(Path(directory), settings)
            end: End | None = None
            num = 0
            while end is None and num < _NUM_HORIZONS * settings.horizon_rows:
                num += every
                entry = 2 if num <= _FIRST_UNITS else 3
                for client, count in enumerate(start.multinomial(2 * every, parts)):
                    trial.add(_honest(start, f"client-{client}", int(count), entry, rates), entry)
                if attack is not None:
                    for sent in _sent(hostile, attack, round(2 * every * share / (1 - share)), entry, rates):
                        trial.add(sent, entry)
                end = trial.look()
        ends.append(end or "undecided")
        times.append(num)
    found = np.array(ends)
    return Outcome(
        harmful=float((found == "rolled back").mean()),
        promoted=float((found == "promoted").mean()),
        median=float(np.median(times)),
    )


def _honest(draws: np.random.Generator, client: str, num: int, entry: int, rates: tuple[float, float]) -> Sent:
    candidate = int(draws.binomial(num, _WEIGHTS[entry]))
    failed = int(draws.binomial(candidate, rates[1])), int(draws.binomial(num - candidate, rates[0]))
    return Sent(client=client, nums=(candidate, num - candidate), failed=failed)


def _sent(draws: np.random.Generator, attack: str, num: int, entry: int, rates: tuple[float, float]) -> list[Sent]:
    """What the client that means ill sends between two looks."""
    client = "ill"
    if attack == "aimed":
        # To roll a good candidate back, or to promote a worse one: failures go to the set that is to look bad.
        is_good = rates[0] == rates[1]
        nums = (num // 4, 0) if is_good else (0, num // 4)
        aimed = {"client": client, "nums": nums, "failed": nums}
        return [
            Sent(**aimed, is_drawn=False),
            Sent(**aimed, is_drawn=False, is_clients_fault=True),
            Sent(**aimed, reason="session"),
            # The rest is drawn like everybody's, and refused.
            Sent(client=client, nums=(num // 8, num // 8), failed=(num // 8, num // 8), is_clients_fault=True),
        ]
    rate = {"trivial": 0.0, "alike": rates[0], "noise": 0.5, "turncoat": 0.0 if entry == 2 else 0.5}[attack]
    return [_honest(draws, client, num, entry, (rate, rate))]


def _memory() -> str | None:
    """Where files cost no disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def settings_of(method: Literal["group_sequential", "confidence_sequence"], rows: int) -> GateSettings:
    return GateSettings(
        method=method,
        min_rows=50,
        pass_rate_margin=None,
        heldout_margin=None,
        margins={"error": MARGIN},
        horizon_rows=rows,
    )


def run(*, runs: int, rows: int, every: int, seed: int, json_path: Path | None) -> int:
    """Through records, a store and the gate a look costs a thousand times one on counts: so fewer, and rarer ones."""
    runs, every = min(runs, _RUNS_MAX), max(every, _EVERY_MIN)
    settings = settings_of("confidence_sequence", rows)
    shown: list[list[str]] = []
    worst = _Worst()
    for population, honest in POPULATIONS.items():
        for share, attack in [(0.0, None), *((share, attack) for share in SHARES for attack in ATTACKS)]:
            for case, rates in CASES.items():
                started = time.process_time()
                found = simulate(
                    honest, rates, attack=attack, share=share, settings=settings, runs=runs, every=every, seed=seed
                )
                ratio = worst.add(population, share, case, found)
                shares = (found.harmful, found.promoted, found.goes_back - found.harmful)
                shown.append(
                    [
                        f"{population}, {share:.0%} {attack or 'undisturbed'}, {case}",
                        *(f"{part:.1%}" for part in shares),
                        f"{found.median:.0f}",
                        f"{ratio:.2f}",
                        f"{time.process_time() - started:.1f}",
                    ]
                )
    print_table(
        f"{runs} rollouts a line, a look every {every} honest units a side, horizon {rows} a side",
        ("clients, hostile, case", "rolled back", "promoted", "undecided", "median units", "× undisturbed", "CPU s"),
        shown,
    )
    return finish({"runs": runs}, worst.bars, json_path)


class _Worst:
    """The worst of each figure, over attacks and populations, by the hostile client's share."""

    def __init__(self) -> None:
        self.bars: Bars = {}
        self._undisturbed: dict[tuple[str, str], Outcome] = {}

    def add(self, population: str, share: float, case: str, found: Outcome) -> float:
        """The median's ratio to the undisturbed one."""
        base = self._undisturbed.setdefault((population, case), found)
        ratio = found.median / base.median
        at = f"_{share:.0%}" if share else "_undisturbed"
        if case == "equal":
            name, got, undisturbed = "promoted", found.promoted, base.promoted
            self._note(f"false_rollback{at}", at_most(found.harmful, 0.05))
        else:
            name, got, undisturbed = "goes_back", found.goes_back, base.goes_back
            self._note(f"false_promotion{at}", at_most(found.promoted, 0.05))
        if population == "one alone" and share >= 0.5:
            return ratio
        self._note(f"{name}{at}", at_least(round(got, 4), 0.8))
        if share:
            self._note(
                f"{name}_of_undisturbed{at}", at_least(round(got / undisturbed, 4) if undisturbed else 1.0, 0.95)
            )
            self._note(f"time_{case}{at}", at_most(round(ratio, 4), 1.5))
        return ratio

    def _note(self, name: str, bar: dict[str, Any]) -> None:
        before = self.bars.get(name)
        is_lower_worse = name.startswith(("promoted", "goes_back"))
        if before is None or (bar["value"] < before["value"]) == is_lower_worse:
            self.bars[name] = bar
