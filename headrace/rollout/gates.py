"""Whether a candidate goes on: held-out loss first, then the share of rows that the review keeps.

Two point comparisons with margins, judged once a step has seen enough rows of its own. Margins have to cover chance:
a pass rate over n rows is known to about ±2·sqrt(p(1-p)/n) (at 10 rows and p = 0.9: ±0.19), and a step that is looked
at often is rolled back by chance more often than one look suggests.
"""

from dataclasses import dataclass, field
from typing import Literal

from headrace.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """What a candidate must reach. Shares are of reviewed rows, losses are nats per token."""

    # Reviewed rows of the candidate, made since its present step began, before the pass rate is judged.
    min_rows: int = 10
    # Below this share of kept rows a candidate goes back, whatever the stable set reaches.
    pass_rate_floor: float = 0.5
    # How far below the stable set's share the candidate's may lie.
    pass_rate_margin: float = 0.1
    # How far above the stable set's held-out loss the candidate's may lie; null: not judged.
    heldout_margin: float | None = 0.02
    # A held-out loss that is too high sends a candidate back before it makes a row; false: together with its first
    # canaries, so that their rows show what was wrong with it.
    heldout_early: bool = True

    def __post_init__(self) -> None:
        if self.min_rows < 1:
            raise InvalidInput(f"min_rows must be at least 1, got {self.min_rows!r}.")
        for name in ("pass_rate_floor", "pass_rate_margin"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"{name} must be between 0 and 1, got {getattr(self, name)!r}.")
        if self.heldout_margin is not None and not 0 <= self.heldout_margin < float("inf"):
            raise InvalidInput(f"heldout_margin must be null or at least 0, got {self.heldout_margin!r}.")


@dataclass(frozen=True, kw_only=True)
class ReviewCount:
    """How many rows of one version set were reviewed, and how many were kept."""

    num_rows: int = 0
    num_kept: int = 0

    @property
    def pass_rate(self) -> float:
        return self.num_kept / self.num_rows if self.num_rows else 0.0

    def __str__(self) -> str:
        return f"{self.num_kept} of {self.num_rows} rows ({self.pass_rate:.0%})"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known about both sets. Losses are `None` unless both were measured on the same held-out tokens."""

    candidate: ReviewCount = field(default_factory=ReviewCount)
    stable: ReviewCount = field(default_factory=ReviewCount)
    heldout_candidate: float | None = None
    heldout_stable: float | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`reason` is one sentence with the figures that decided."""

    action: Literal["advance", "wait", "roll_back"]
    reason: str


def decide(evidence: Evidence, settings: GateSettings, *, num_rows_at_step: int = 0) -> Verdict:
    """The verdict on a candidate's present step.

    Args:
        num_rows_at_step: the candidate's reviewed rows when the step began; only rows after them count towards
            `min_rows`, while the pass rate is over all of them.
    """
    heldout = _heldout(evidence, settings)
    candidate, stable = evidence.candidate, evidence.stable
    num_fresh = candidate.num_rows - num_rows_at_step
    if heldout.action == "roll_back" and settings.heldout_early:
        return heldout
    if num_fresh < settings.min_rows:
        return Verdict(
            action="wait", reason=f"{num_fresh} of {settings.min_rows} reviewed rows in this step; {heldout.reason}"
        )
    if heldout.action == "roll_back":
        return Verdict(action="roll_back", reason=f"{heldout.reason}; review keeps {candidate}")
    if candidate.pass_rate < settings.pass_rate_floor:
        return Verdict(
            action="roll_back",
            reason=f"review keeps {candidate} of the candidate, the floor is {settings.pass_rate_floor:.0%}",
        )
    if stable.num_rows < settings.min_rows:
        compared = f"the stable set has only {stable.num_rows} reviewed rows to compare with"
    elif candidate.pass_rate < stable.pass_rate - settings.pass_rate_margin:
        return Verdict(
            action="roll_back",
            reason=f"review keeps {candidate} of the candidate and {stable} of the stable set, "
            f"more than {settings.pass_rate_margin:.0%} apart",
        )
    else:
        compared = f"{stable} of the stable set"
    return Verdict(action="advance", reason=f"review keeps {candidate} of the candidate; {compared}; {heldout.reason}")


def _heldout(evidence: Evidence, settings: GateSettings) -> Verdict:
    candidate, stable = evidence.heldout_candidate, evidence.heldout_stable
    if settings.heldout_margin is None:
        return Verdict(action="advance", reason="held-out loss is not judged")
    if candidate is None or stable is None:
        return Verdict(action="advance", reason="held-out losses cannot be compared")
    losses = f"held-out loss {candidate:.3f} against {stable:.3f} nats a token"
    # `not <=`: a loss that is not a number is no good loss.
    if not candidate <= stable + settings.heldout_margin:
        return Verdict(action="roll_back", reason=f"{losses}, more than {settings.heldout_margin:g} worse")
    return Verdict(action="advance", reason=losses)
