"""Decides whether a candidate goes on: held-out loss first, then every metric to which the plan gives a margin.

Each metric is a sequential test of the candidate against the stable set (`headrace.rollout.sequential`), valid at any
number of looks. Harm on any metric sends a candidate back at once. It leaves an earlier step once that step has its own
rows and shows no harm, since a larger share teaches more. It leaves the last step, and is promoted, only when it is
shown on every metric to be worse by less than the margin. A candidate that is undecided at the horizon goes back.

A picture model has no held-out loss that tells (nobody guesses an unseen thing's picture): of a painter its registered
error on taught captions is compared instead, as a share of the stable set's.

A role's own metrics (`painter.agreement`) have its name before theirs, so that a worse painter is named as such, and
goes back for its pictures, whatever else the review finds.

Live units are judged client by client, so no single client decides (`headrace.rollout.sequential.clients`).

Rows of one partition or session are treated as independent. If they are not, the true error rates exceed those stated
here; then use a larger `min_rows` and a smaller `false_rollback`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from headrace.errors import InvalidInput
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.sequential.strata import ClientUnits, num_without_largest
from headrace.user_files.ranges import check_ranges

if TYPE_CHECKING:
    # Imports scipy: half a second that code location, daemon and command line should not pay.
    from headrace.rollout.sequential.designs import Design
    from headrace.rollout.sequential.looks import Finding


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a metric is judged. `words`: its name in sentences.

    `is_tolerated`: a loss within the margin is not harm (milliseconds); otherwise any certain loss is (bad rows).
    """

    kind: Literal["proportion", "mean"]
    worse: Literal["higher", "lower"]
    words: str
    is_tolerated: bool = False


PASS_RATE = "pass_rate"
MIRRORED_PASS_RATE = "mirrored_pass_rate"
# Of calls' spoken turns, asked again of both sets.
MIRRORED_WORD_ERRORS, MIRRORED_FIRST_AUDIO = "mirrored_word_error_rate", "mirrored_first_audio_seconds"
METRICS: dict[str, Metric] = {
    PASS_RATE: Metric(kind="proportion", worse="lower", words="share of rows that the review keeps"),
    MIRRORED_PASS_RATE: Metric(kind="mean", worse="lower", words="share kept of the same prompts"),
    "error": Metric(kind="proportion", worse="higher", words="share of failed units"),
    "latency_seconds": Metric(kind="mean", worse="higher", words="seconds a unit", is_tolerated=True),
    "first_piece_seconds": Metric(kind="mean", worse="higher", words="seconds to the first piece", is_tolerated=True),
    "output_tokens": Metric(kind="mean", worse="higher", words="output tokens a unit", is_tolerated=True),
    "cost": Metric(kind="mean", worse="higher", words="cost a unit", is_tolerated=True),
    "judged_quality": Metric(kind="mean", worse="lower", words="judged quality", is_tolerated=True),
    # Two sets that hear alike differ in a word here and there.
    MIRRORED_WORD_ERRORS: Metric(
        kind="mean", worse="higher", words="word error rate of the same turns", is_tolerated=True
    ),
    MIRRORED_FIRST_AUDIO: Metric(
        kind="mean", worse="higher", words="seconds to the first audio of the same turns", is_tolerated=True
    ),
}


BULK_METRICS = frozenset({PASS_RATE, MIRRORED_PASS_RATE})
CALL_METRICS = frozenset({MIRRORED_WORD_ERRORS, MIRRORED_FIRST_AUDIO})
LIVE_METRICS = METRICS.keys() - BULK_METRICS - CALL_METRICS
AGREEMENT, CHARACTER_ERROR_RATE = "agreement", "character_error_rate"
# Of one role of a campaign, named ROLE.METRIC. All but the pass rate are figures that the review measures of an item.
ROLE_METRICS: dict[str, Metric] = {
    PASS_RATE: Metric(kind="proportion", worse="lower", words="share of its parts that the review keeps"),
    AGREEMENT: Metric(kind="proportion", worse="lower", words="share of pictures that show what they should"),
    # Ears mishear; a certain loss of a hundredth of the letters is no harm.
    CHARACTER_ERROR_RATE: Metric(kind="mean", worse="higher", words="share of letters misheard", is_tolerated=True),
}


def role_metric(role: str, metric: str) -> str:
    return f"{role}.{metric}"


def metric_named(name: str) -> Metric | None:
    """A metric of rows or units, or one of a role; None: it is unknown."""
    role, _, metric = name.rpartition(".")
    if not role:
        return METRICS.get(name)
    found = ROLE_METRICS.get(metric)
    return replace(found, words=name) if found else None


def known_metric(name: str) -> Metric:
    """As `metric_named`, of a name that was checked."""
    found = metric_named(name)
    assert found, f"metric {name} was checked when its plan was read"
    return found


def metric_title(name: str) -> str:
    """A known metric as a heading: "Share of failed units", "Share of letters misheard (speaker)"."""
    role, _, metric = name.rpartition(".")
    words = f"{ROLE_METRICS[metric].words} ({role})" if role else known_metric(name).words
    return words[:1].upper() + words[1:]


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """The gate's requirements. Shares are of reviewed rows, losses are nats per token."""

    min_rows: Annotated[int, Ge(1)] = 10
    """How many rows or units the candidate must make in its present step before it may leave it; also each set's
    minimum for a comparison."""
    pass_rate_floor: Annotated[float, Ge(0), Le(1)] = 0.5
    """A candidate that certainly keeps less than this share goes back, whatever the stable set reaches."""
    pass_rate_margin: Annotated[float, Gt(0), Le(1)] | None = 0.1
    """How far the candidate's share may lie below the stable set's; null: not judged."""
    margins: dict[str, Annotated[float, Gt(0)]] = field(default_factory=dict)
    """Further metrics: how much worse the candidate's mean may be than the stable set's, in the metric's unit. In a
    campaign that paints or speaks also ROLE.pass_rate (the share of the role's texts, pictures or recordings that break
    none of its own rules), of a painter with true pictures to compare with ROLE.agreement, and of a speaker to whom the
    review listens ROLE.character_error_rate. mirrored_pass_rate, mirrored_word_error_rate and
    mirrored_first_audio_seconds compare the same prompts, or turns of calls, on both sets: see mirror_partitions."""
    heldout_margin: Annotated[float, Ge(0)] | None = 0.02
    """How far the candidate's held-out loss may lie above the stable set's; null: not judged."""
    taught_error_margin: Annotated[float, Ge(0)] | None = 0.05
    """How far the error of a candidate's painter on captions that it was taught may lie above that of the stable set's,
    as a share of it; null: not judged."""
    heldout_early: bool = True
    """true: too high a held-out loss, or error on taught captions, sends a candidate back before it makes a row; false:
    together with its first canaries, so that their rows show what was wrong."""
    false_rollback: Annotated[float, Gt(0), Lt(0.5)] = 0.05
    """Probability that a candidate as good as the stable set is ever rolled back for harm, over all metrics and looks.
    """
    false_advance: Annotated[float, Gt(0), Lt(0.5)] = 0.05
    """Probability that a candidate worse by a whole margin is ever promoted."""
    horizon_rows: int = 4000
    """Rows or units a side after which a candidate without proof goes back; at least `min_rows`."""
    horizon_seconds: Annotated[float, Gt(0)] = 14 * 86_400.0
    """Seconds of a trial after which it goes back."""
    method: Literal["group_sequential", "confidence_sequence"] = "group_sequential"
    """group_sequential knows the horizon and decides sooner; confidence_sequence is valid beyond any horizon."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.horizon_rows < self.min_rows:
            raise InvalidInput(f"horizon_rows must be at least min_rows={self.min_rows}, got {self.horizon_rows!r}.")
        for metric in self.margins:
            if metric_named(metric) is None or metric == PASS_RATE:
                known = ", ".join(name for name in METRICS if name != PASS_RATE)
                of_roles = " and ".join(role_metric("ROLE", name) for name in ROLE_METRICS)
                raise InvalidInput(f"margins may name {known}, and of roles {of_roles}, got {metric!r}.")

    def judged(self) -> dict[str, float]:
        """Metric → margin, for all metrics that rows or units decide."""
        return ({PASS_RATE: self.pass_rate_margin} if self.pass_rate_margin else {}) | self.margins

    def design(self, metric: str) -> "Design":
        """The sequential test of one judged metric. All metrics share the error of harm."""
        from headrace.rollout.sequential.designs import Design

        judged, told = self.judged(), known_metric(metric)
        return Design(
            method=self.method,
            alpha_harm=self.false_rollback / len(judged),
            alpha_advance=self.false_advance,
            margin=judged[metric],
            tolerated=judged[metric] if told.is_tolerated else 0.0,
            worse=told.worse,
            num_min=self.min_rows,
            num_max=self.horizon_rows,
            kind=told.kind,
        )


@dataclass(frozen=True, kw_only=True)
class LiveGateSettings(GateSettings):
    """The gate's requirements on live traffic, which has no reviewers and no end."""

    min_rows: Annotated[int, Ge(1)] = 100
    pass_rate_margin: Annotated[float, Gt(0), Le(1)] | None = None
    margins: dict[str, Annotated[float, Gt(0)]] = field(default_factory=lambda: {"error": 0.02})
    heldout_margin: Annotated[float, Ge(0)] | None = None
    horizon_rows: int = 20_000
    method: Literal["group_sequential", "confidence_sequence"] = "confidence_sequence"


@dataclass(frozen=True, kw_only=True)
class TaughtErrors:
    """Errors of one role's two painters on the same captions, which both were taught, with the same noise."""

    role: str
    candidate: float
    stable: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The evidence on both sets. Losses are `None` unless both were measured on the same held-out tokens, or pairs.

    `heldout_unit`: of what they are nats, a token or a pair. `taught`: of each role whose painters differ and were
    measured alike.
    """

    heldout_candidate: float | None = None
    heldout_stable: float | None = None
    heldout_unit: str = "token"
    taught: tuple[TaughtErrors, ...] = ()
    # Metric → (candidate, stable), over reviewed rows and live units.
    metrics: Mapping[str, tuple[Sample, Sample]] = field(default_factory=dict)
    # Metric → the same for each client, for metrics whose units have known clients.
    clients: Mapping[str, Sequence[ClientUnits]] = field(default_factory=dict)
    # Metric → candidate minus stable set, row by row for the same prompts.
    paired: Mapping[str, Sample] = field(default_factory=dict)

    def arms(self, metric: str) -> tuple[Sample, Sample]:
        """Candidate and stable set."""
        return self.metrics.get(metric, (Sample(), Sample()))

    @property
    def num_seen(self) -> int:
        """The candidate's judged rows or units; of live ones, those left without its largest client."""
        numbers = [
            num_without_largest(self.clients[metric]) if metric in self.clients else candidate.num
            for metric, (candidate, _) in self.metrics.items()
        ]
        return max(numbers, default=0)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`reason`: one sentence with the deciding figures; `findings`: those of each judged metric.

    `is_undecided`: it rolls back for lack of proof at the horizon, and not for harm.
    """

    action: Literal["advance", "wait", "roll_back"]
    reason: str
    is_undecided: bool = False
    findings: "Mapping[str, Finding]" = field(default_factory=dict)


def decide(
    evidence: Evidence,
    settings: GateSettings,
    *,
    num_rows_at_step: int = 0,
    is_last_step: bool = True,
    trial_seconds: float = 0.0,
) -> Verdict:
    """The verdict on a candidate's present step.

    Args:
        num_rows_at_step: the candidate's rows or units when the step began; only later ones count towards the step's
            `min_rows`, while the comparison covers all.
        is_last_step: whether leaving the step promotes the candidate.
        trial_seconds: how long the candidate has been on trial.
    """
    heldout = _heldout(evidence, settings)
    if heldout.action == "roll_back" and settings.heldout_early:
        return heldout
    findings = _findings(evidence, settings)
    if harm := _harm(evidence, settings, findings):
        return Verdict(action="roll_back", reason=harm, findings=findings)
    # Rows that another set made again no longer count.
    num_fresh = max(0, evidence.num_seen - num_rows_at_step)
    if num_fresh < settings.min_rows:
        reason = f"{num_fresh} of {settings.min_rows} rows in this step; {heldout.reason}"
        return _or_back(Verdict(action="wait", reason=reason, findings=findings), settings, trial_seconds)
    if heldout.action == "roll_back":
        reason = f"{heldout.reason}; review keeps {_kept(evidence.arms(PASS_RATE)[0])}"
        return Verdict(action="roll_back", reason=reason, findings=findings)
    undecided = _undecided(evidence, settings, findings)
    said = "; ".join([*(_said(evidence, metric, finding) for metric, finding in findings.items()), heldout.reason])
    if not is_last_step or not undecided:
        return Verdict(action="advance", reason=said, findings=findings)
    if all(finding.at_horizon for finding in findings.values()) and findings.keys() == settings.judged().keys():
        reason = f"undecided at the horizon of {settings.horizon_rows} rows a side: {said}"
        return Verdict(action="roll_back", reason=reason, findings=findings, is_undecided=True)
    verdict = Verdict(action="wait", reason=f"not shown to be as good yet: {undecided}", findings=findings)
    return _or_back(verdict, settings, trial_seconds)


def _findings(evidence: Evidence, settings: GateSettings) -> "dict[str, Finding]":
    """The findings for every judged metric with enough evidence on both sets."""
    from headrace.rollout.sequential.clients import look_at_clients
    from headrace.rollout.sequential.looks import look, paired_look

    found: dict[str, Finding] = {}
    for metric in settings.judged():
        paired, (candidate, stable) = evidence.paired.get(metric), evidence.arms(metric)
        if (paired.num if paired else min(candidate.num, stable.num)) < settings.min_rows:
            continue
        if paired:
            found[metric] = paired_look(settings.design(metric), paired)
        elif metric in evidence.clients:
            found[metric] = look_at_clients(settings.design(metric), evidence.clients[metric])
        else:
            found[metric] = look(settings.design(metric), candidate, stable)
    return found


def _harm(evidence: Evidence, settings: GateSettings, findings: "Mapping[str, Finding]") -> str | None:
    harmful = [metric for metric, finding in findings.items() if finding.verdict == "harmful"]
    if harmful:
        # Rows that a worse role spoils are missing in the whole campaign's share, too: the role says why.
        harmful.sort(key=lambda metric: metric in METRICS)
        return "; ".join(_harm_said(evidence, metric, findings[metric]) for metric in harmful)
    candidate, _ = evidence.arms(PASS_RATE)
    if candidate.num >= settings.min_rows and settings.pass_rate_margin is not None:
        from headrace.rollout.sequential.looks import confidence_band

        _, upper = confidence_band(settings.design(PASS_RATE), candidate)
        if upper < settings.pass_rate_floor:
            kept = _kept(candidate)
            return f"review keeps {kept} of the candidate, surely below the floor of {settings.pass_rate_floor:.0%}"
    return None


def _said(evidence: Evidence, metric: str, finding: "Finding") -> str:
    """A finding in words; a role's with its name and both means: "painter.agreement: 0.31 against 0.88, …"."""
    if metric in METRICS:
        return finding.sentence
    candidate, stable = evidence.arms(metric)
    return f"{metric}: {candidate.mean:.2f} against {stable.mean:.2f}, {finding.sentence}"


def _harm_said(evidence: Evidence, metric: str, finding: "Finding") -> str:
    said = _said(evidence, metric, finding)
    return f"{METRICS[metric].words}: {said}" if metric in METRICS else said


def _undecided(evidence: Evidence, settings: GateSettings, findings: "Mapping[str, Finding]") -> str | None:
    """What is not shown yet, in words; None: on every metric the candidate is worse by less than the margin."""
    parts = [
        f"too few rows of both sets for {known_metric(metric).words}"
        for metric in settings.judged()
        if metric not in findings
    ]
    parts += [
        _said(evidence, metric, finding) for metric, finding in findings.items() if finding.verdict != "not_inferior"
    ]
    return "; ".join(parts) or None


def _or_back(verdict: Verdict, settings: GateSettings, trial_seconds: float) -> Verdict:
    """Sends a waiting candidate back when its time is over, since no trial may last forever."""
    if trial_seconds < settings.horizon_seconds:
        return verdict
    reason = f"undecided after {trial_seconds / 3600:.0f} h on trial: {verdict.reason}"
    return Verdict(action="roll_back", reason=reason, findings=verdict.findings, is_undecided=True)


def _heldout(evidence: Evidence, settings: GateSettings) -> Verdict:
    """On what was measured at registration: held-out losses of writers, errors of painters."""
    verdict = _heldout_loss(evidence, settings)
    if not evidence.taught or settings.taught_error_margin is None or verdict.action == "roll_back":
        return verdict
    worse, said = [], []
    for errors in evidence.taught:
        both = f"{errors.role}: error on taught captions {errors.candidate:.4f} against {errors.stable:.4f}"
        said.append(both)
        # `not <=`, so that a NaN fails.
        if not errors.candidate <= errors.stable * (1 + settings.taught_error_margin):
            worse.append(f"{both}, more than {settings.taught_error_margin:.0%} worse")
    if worse:
        return Verdict(action="roll_back", reason="; ".join(worse))
    compared = [verdict.reason] if evidence.heldout_candidate is not None else []
    return Verdict(action="advance", reason="; ".join([*compared, *said]))


def _heldout_loss(evidence: Evidence, settings: GateSettings) -> Verdict:
    candidate, stable = evidence.heldout_candidate, evidence.heldout_stable
    if settings.heldout_margin is None:
        return Verdict(action="advance", reason="held-out loss is not judged")
    if candidate is None or stable is None:
        return Verdict(action="advance", reason="held-out losses cannot be compared")
    losses = f"held-out loss {candidate:.3f} against {stable:.3f} nats a {evidence.heldout_unit}"
    # `not <=`, so that a NaN loss fails.
    if not candidate <= stable + settings.heldout_margin:
        return Verdict(action="roll_back", reason=f"{losses}, more than {settings.heldout_margin:g} worse")
    return Verdict(action="advance", reason=losses)


def _kept(rows: Sample) -> str:
    return f"{rows.total:.0f} of {rows.num} rows ({rows.mean:.0%})"
