"""One look at units of several clients, such that no one client decides.

A client may send what it likes: the verdict must stand without any one of them. Harm, and non-inferiority, are found
when all units together show it, and also what is left without each client in turn. Among these is what is left without
the one that means ill, so that a wrong verdict is no more likely than if it had not been there, whatever it sends and
however much. A client that makes most of the units is not left out: without it there is no service.

That it does not keep others from deciding either is a matter of weights, in every one of these sums:
- A client whose units vary more than the median client's counts less: what fails at random hides what others show.
- The largest of three or more counts for no more than the second, or half of all others, whichever is more.

Which units count at all is `headrace.serving.gateway.outcomes`'s; why these rules, docs/decisions/0018.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from headrace.rollout.sequential.designs import Design
from headrace.rollout.sequential.looks import Finding, common_variance, stratified_look
from headrace.rollout.sequential.strata import MAJORITY, ClientUnits

# The most that the largest of three or more clients may count for in a sum, as a part of what all others do together.
_PART_MAX = 0.5
# What is left without one client may have as much of the horizon's information when what is left without another one
# has all of it: no client that is left out has more than `MAJORITY`.
_HORIZONS = 1 / (1 - MAJORITY)
# How many horizons what is left without any one client must have before undecided means undecided. What holds beyond
# any horizon goes on a little longer, since several sums must come to one verdict.
_PATIENCE = {"group_sequential": 1.0, "confidence_sequence": 1.25}


def look_at_clients(design: Design, clients: Sequence[ClientUnits]) -> Finding:
    """Compare two arms over all clients; the figures are those of all, the verdict is what stands without any one."""
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
    # The horizon is reached when what is left without any one client has reached it.
    share = finding.share if finding.share >= _HORIZONS else share / _PATIENCE[design.method]
    return replace(finding, share=share)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Known:
    """A client with units on both sets. `variance`: of one of its units, whichever set it came to."""

    one: ClientUnits
    variance: float


def _weighed(design: Design, known: Sequence[_Known], majority: _Known | None) -> Finding:
    weights = _weights(design, known, is_cut=majority not in known and len(known) > 2)
    strata = [(weight, stratum) for each, weight in zip(known, weights, strict=True) for stratum in each.one.strata]
    return stratified_look(design, strata, horizons=_HORIZONS)


def _weights(design: Design, known: Sequence[_Known], *, is_cut: bool) -> list[float]:
    """Of one unit of each client."""
    typical = _typical(design, known)
    # Squared: beside others, one that varies k times as much then adds 1/k³ of what it would to the sum's variance.
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
    """The variance up to which a client counts in full: the median one, of those with enough units to tell.

    Of two nobody is the median: there it is what lets a client that is alone come to a verdict by the horizon.
    """
    least = design.num_min / len(known)
    told = sorted(each.variance for each in known if min(sample.num for sample in each.one.arms) >= least)
    if len(told) > 2:
        return told[(len(told) - 1) // 2]
    # Non-inferiority is shown by the horizon with a chance of nine in ten: some four standard errors in the margin.
    return design.margin**2 * design.num_max / (2 * 4.0**2)


def _most(counts: Sequence[float]) -> float:
    """The most that one client may count for beside the others."""
    first, second, *_ = sorted(counts, reverse=True)
    return max(second, _PART_MAX * (sum(counts) - first))
