"""One look at two arms: harmful, not inferior, or undecided; with bounds that hold at every look.

Two one-sided tests run side by side. Harm: the candidate's mean is worse than the stable set's by more than the
tolerance. Non-inferiority: it is worse by less than the margin. Earlier looks are not needed: the boundaries depend on
the information alone.

For proportions each hypothesis implies the variance (pooled for harm; shifted by the margin for non-inferiority, after
Farrington and Manning 1990), which keeps the error rates correct while events are few. Means rely on the central limit
theorem: `num_min` must be large enough for the metric's tail.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.optimize import brentq
from scipy.special import betaln

from headrace.rollout.sequential.boundaries import (
    ADVANCE_SLOPE,
    HARM_SLOPE,
    line_boundary,
    mixture_boundary,
)
from headrace.rollout.sequential.designs import Design
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.sequential.strata import Stratum


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of a look. Positive differences are worse, in the metric's unit, whichever direction is bad.

    `lower` and `upper` bound the true difference at this look and every other: harmful means `lower > tolerated`, not
    inferior `upper < margin`, up to the choice of variance.
    """

    verdict: Literal["harmful", "not_inferior", "undecided"]
    difference: float
    lower: float
    upper: float
    margin: float
    num_candidate: int
    num_stable: int
    # Share of the horizon's information so far.
    share: float
    sentence: str

    @property
    def at_horizon(self) -> bool:
        return self.share >= 1.0


def look(design: Design, candidate: Sample, stable: Sample) -> Finding:
    """Compares two arms of any sizes by the present data."""
    return stratified_look(design, [(1.0, Stratum(candidate=candidate, stable=stable))])


def stratified_look(design: Design, strata: Sequence[tuple[float, Stratum]], *, horizons: float = 1.0) -> Finding:
    """Compares two arms within each stratum, and sums the differences by information and weight.

    So differences between strata (whose prompts, at which share of the traffic) do not bias the comparison: the
    estimator of Mantel and Haenszel 1959 for a difference, with the variance that each hypothesis implies.

    Args:
        strata: each with the weight of its units relative to other strata's.
        horizons: how many times the horizon's information the looks may reach.
    """
    num_candidate = sum(stratum.candidate.num for _, stratum in strata)
    num_stable = sum(stratum.stable.num for _, stratum in strata)
    # Each stratum with its total weight.
    counted = [(weight * stratum.information, stratum) for weight, stratum in strata if stratum.information]
    total = sum(count for count, _ in counted)
    if not total:
        return _undecided(design, 0.0, num_candidate, num_stable, 0.0)
    means = sum(count * (stratum.candidate.mean - stratum.stable.mean) for count, stratum in counted) / total
    difference = design.sign * means
    # The number of equally weighted units with the same information.
    share = 2 * total**2 / sum(count**2 / stratum.information for count, stratum in counted) / design.num_max
    if min(num_candidate, num_stable) < design.num_min:
        return _undecided(design, difference, num_candidate, num_stable, share)
    if design.kind == "proportion":
        spread_harm, spread_advance, skewness = _proportion_spreads(design, counted, total)
    else:
        spread_harm = spread_advance = _mean_spread(counted, total)
        skewness = 0.0
    return _judged(
        design, difference, spread_harm, spread_advance, num_candidate, num_stable, share, skewness, horizons
    )


def paired_look(design: Design, differences: Sample) -> Finding:
    """Compares row by row: values are candidate minus stable set, for the same prompts (0/1 rows: McNemar's test)."""
    num = differences.num
    share = num / design.num_max
    difference = design.sign * differences.mean
    if num < design.num_min:
        return _undecided(design, difference, num, num, share)
    # One more differing row than observed: if all rows agree, that does not prove that none would ever differ.
    spread = math.sqrt((differences.variance * (num - 1) + 1.0) / num / num)
    return _judged(design, difference, spread, spread, num, num, share)


def confidence_band(design: Design, sample: Sample) -> tuple[float, float]:
    """Bounds of one arm's mean, valid at all looks together; exact for proportions (a beta mixture; Robbins 1970)."""
    if not sample.num:
        return (0.0, 1.0) if design.kind == "proportion" else (-math.inf, math.inf)
    if design.kind == "proportion":
        return _proportion_band(sample.num, sample.total, design.alpha_harm)
    share = sample.num / design.num_max
    reach = mixture_boundary(share, design.alpha_harm / 2) * math.sqrt(_variance(sample) / sample.num)
    return (sample.mean - reach, sample.mean + reach)


def _judged(
    design: Design,
    difference: float,
    spread_harm: float,
    spread_advance: float,
    num_candidate: int,
    num_stable: int,
    share: float,
    skewness: float = 0.0,
    horizons: float = 1.0,
) -> Finding:
    if design.method == "group_sequential":
        bound_harm = line_boundary(share, design.alpha_harm, HARM_SLOPE, horizons)
        bound_advance = line_boundary(share, design.alpha_advance, ADVANCE_SLOPE, horizons)
    else:
        bound_harm = mixture_boundary(share, design.alpha_harm)
        bound_advance = mixture_boundary(share, design.alpha_advance)
    # Cornish and Fisher's first term: few events on the smaller arm stray farther up than a normal score.
    bound_harm += max(skewness, 0.0) / 6 * (bound_harm**2 - 1)
    reach_down, reach_up = bound_harm * spread_harm, bound_advance * spread_advance
    # Harm takes precedence: a proven loss does not advance because it is small.
    verdict = "undecided"
    if difference - reach_down > design.tolerated:
        verdict = "harmful"
    elif difference + reach_up < design.margin:
        verdict = "not_inferior"
    return _finding(design, verdict, difference, reach_down, reach_up, num_candidate, num_stable, share)


def _undecided(design: Design, difference: float, num_candidate: int, num_stable: int, share: float) -> Finding:
    return _finding(design, "undecided", difference, math.inf, math.inf, num_candidate, num_stable, share)


def _finding(
    design: Design,
    verdict: Literal["harmful", "not_inferior", "undecided"],
    difference: float,
    reach_down: float,
    reach_up: float,
    num_candidate: int,
    num_stable: int,
    share: float,
) -> Finding:
    lower, upper = difference - reach_down, difference + reach_up
    worse = f"{abs(difference):.3g} {'worse' if difference > 0 else 'better'}"
    known = f"({num_candidate} against {num_stable})"
    words = {
        "harmful": f"{worse} {known}, surely worse by more than {max(lower, 0.0):.3g}",
        "not_inferior": f"{worse} {known}, surely worse by less than the margin of {design.margin:g}",
        "undecided": f"{worse} {known}, anything from {_signed(lower)} to {_signed(upper)} worse is possible, "
        f"the margin is {design.margin:g}",
    }
    return Finding(
        verdict=verdict,
        difference=difference,
        lower=lower,
        upper=upper,
        margin=design.margin,
        num_candidate=num_candidate,
        num_stable=num_stable,
        share=share,
        sentence=words[verdict],
    )


def _proportion_spreads(
    design: Design, counted: Sequence[tuple[float, Stratum]], total: float
) -> tuple[float, float, float]:
    """Standard errors of the difference if there were none, and if the candidate were worse by the margin; and the
    first's skewness, 0 for arms of equal size."""
    num_all = sum(stratum.candidate.num + stratum.stable.num for _, stratum in counted)
    shift = design.sign * design.margin
    least, most = max(0.0, -shift), 1.0 - max(0.0, shift)
    harm = advance = third = 0.0
    for count, stratum in counted:
        candidate, stable = stratum.candidate, stratum.stable
        num = candidate.num + stable.num
        # Adds half an event and half a non-event over all strata, so that no variance is zero before the first event.
        part = num / num_all
        pooled = (candidate.total + stable.total + 0.5 * part) / (num + part)
        # With several strata, corrects small ones: values vary less around their own mean than around the true one.
        single = pooled * (1 - pooled) * (num / max(1, num - 1) if len(counted) > 1 else 1.0)
        base = min(max(pooled - shift * candidate.num / num, least), most)
        shifted = min(max(base + shift, 0.0), 1.0)
        harm += count**2 * single / stratum.information
        advance += count**2 * (shifted * (1 - shifted) / candidate.num + base * (1 - base) / stable.num)
        third += count**3 * single * (1 - 2 * pooled) * (1 / candidate.num**2 - 1 / stable.num**2)
    return math.sqrt(harm) / total, math.sqrt(max(advance / total**2, 1e-12)), design.sign * third / harm**1.5


def _mean_spread(counted: Sequence[tuple[float, Stratum]], total: float) -> float:
    """Standard error of a difference of means: in each stratum the larger of Welch's and the common-variance one.

    In a small arm of skewed values a low mean and a low variance come together, so Welch's alone would accept too many
    small candidates.
    """
    spread = 0.0
    for count, stratum in counted:
        candidate, stable = stratum.candidate, stratum.stable
        apart = _variance(candidate) / candidate.num + _variance(stable) / stable.num
        spread += count**2 * max(apart, common_variance(candidate, stable) / stratum.information)
    return math.sqrt(spread) / total


def common_variance(candidate: Sample, stable: Sample) -> float:
    """Variance of one value, if it is the same in both arms."""
    freedom = max(1, candidate.num + stable.num - 2)
    return ((candidate.num - 1) * _variance(candidate) + (stable.num - 1) * _variance(stable)) / freedom


def _variance(sample: Sample) -> float:
    """Variance of one value. A constant metric gets a small one, or the first look would be certain of it."""
    return max(sample.variance, 1e-12 + 1e-6 * sample.mean**2)


def _proportion_band(num: int, total: float, alpha: float) -> tuple[float, float]:
    # Shares that the data make at least 1/alpha times less likely than the mixture of all shares lie outside the band.
    floor = float(betaln(total + 1, num - total + 1)) + math.log(alpha)

    def plausible(share: float) -> float:
        return total * math.log(share) + (num - total) * math.log1p(-share) - floor

    mean, edge = total / num, 1e-12
    inside = min(max(mean, edge), 1 - edge)
    lower = 0.0 if total == 0 else float(brentq(plausible, edge, inside))  # pyright: ignore[reportArgumentType]
    upper = 1.0 if total == num else float(brentq(plausible, inside, 1 - edge))  # pyright: ignore[reportArgumentType]
    return lower, upper


def _signed(value: float) -> str:
    return f"{value:+.3g}"
