"""One look at the units of several clients, in which no single client decides.

A client may send anything: the verdict must hold without any one of them. Harm or non-inferiority counts only if all
units together show it, and also the units left after removing each client in turn. One of these remainders lacks a
hostile client, so a wrong verdict is no more likely than without it, whatever and however much it sends. A client
with most of the units is never removed: without it there is no service.

Weights, in each of these sums, keep a client from blocking the others' verdict:
- A client whose units vary more than the median client's counts less, since random failures hide what others show.
- The largest of three or more counts at most as much as the second, or as half of all others, whichever is more.

`headrace.serving.gateway.outcomes` decides which units count at all; docs/decisions/0018 explains these rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from headrace.rollout.sequential.designs import Design
from headrace.rollout.sequential.looks import Finding, common_variance, stratified_look
from headrace.rollout.sequential.strata import MAJORITY, ClientUnits

# The largest of three or more clients counts at most for this part of what all others count for.
_PART_MAX = 0.5
# The information, in horizons, that a remainder may have when another remainder has one horizon: no client that may be
# removed has more than `MAJORITY`.
_HORIZONS = 1 / (1 - MAJORITY)
# How many horizons every remainder needs before "undecided" is final. A test without a horizon goes on a little longer,
# since several sums must agree.
_PATIENCE = {"group_sequential": 1.0, "confidence_sequence": 1.25}


def look_at_clients(design: Design, clients: Sequence[ClientUnits]) -> Finding:
    """Compares two arms over all clients. The figures cover all; the verdict holds without any single client."""
    known = [_Known(one=one, variance=_variance_of(design, one)) for one in clients if one.information]
    if len(known) < 2:
        return stratified_look(design, [(1.0, stratum) for each in known for stratum in each.one.strata])
    total = sum(each.one.information for each in known)
    majority = next((each for each in known if each.one.information >= MAJORITY * total), None)
    finding = _weighed(design, known, majority)
    share = finding.share
    for each in known:
        if each is majority:
            continue
        rest = _weighed(design, [other for other in known if other is not each], majority)
        share = min(share, rest.share)
        if rest.verdict != finding.verdict != "undecided":
            sentence = f"{finding.sentence}, but not shown without client {each.one.client}"
            finding = replace(finding, verdict="undecided", sentence=sentence)
    # The horizon is reached when every remainder has reached it.
    share = finding.share if finding.share >= _HORIZONS else share / _PATIENCE[design.method]
    return replace(finding, share=share)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Known:
    """A client with units on both sets. `variance`: of one of its units, whichever set it got."""

    one: ClientUnits
    variance: float


def _weighed(design: Design, known: Sequence[_Known], majority: _Known | None) -> Finding:
    weights = _weights(design, known, is_cut=majority not in known and len(known) > 2)
    strata = [(weight, stratum) for each, weight in zip(known, weights, strict=True) for stratum in each.one.strata]
    return stratified_look(design, strata, horizons=_HORIZONS)


def _weights(design: Design, known: Sequence[_Known], *, is_cut: bool) -> list[float]:
    """The weight of one unit of each client."""
    typical = _typical(design, known)
    # Squared: a client that varies k times as much then adds 1/k³ of a typical client's part to the sum's variance.
    counts = [min(1.0, typical / each.variance) ** 2 * each.one.information for each in known]
    if is_cut:
        most = _most(counts)
        counts = [min(count, most) for count in counts]
    return [count / each.one.information for count, each in zip(counts, known, strict=True)]


def _variance_of(design: Design, one: ClientUnits) -> float:
    candidate, stable = one.arms
    if design.kind == "mean":
        return common_variance(candidate, stable)
    rate = (candidate.total + stable.total + 0.5) / (candidate.num + stable.num + 1)
    return rate * (1 - rate)


def _typical(design: Design, known: Sequence[_Known]) -> float:
    """The variance up to which a client counts in full: the median of clients with enough units.

    Two clients have no median: there it is the variance with which a single client reaches a verdict by the horizon.
    """
    least = design.num_min / len(known)
    told = sorted(each.variance for each in known if min(sample.num for sample in each.one.arms) >= least)
    if len(told) > 2:
        return told[(len(told) - 1) // 2]
    # By the horizon non-inferiority is shown with probability 0.9: about four standard errors in the margin.
    return design.margin**2 * design.num_max / (2 * 4.0**2)


def _most(counts: Sequence[float]) -> float:
    """The most that one client may count for, given the others."""
    first, second, *_ = sorted(counts, reverse=True)
    return max(second, _PART_MAX * (sum(counts) - first))
