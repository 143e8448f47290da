"""Verdicts over several clients: they stand without any one of them, and are an independent implementation's."""

from typing import Any

import numpy as np
import pytest

from headrace.rollout.sequential.clients import look_at_clients
from headrace.rollout.sequential.designs import Design
from headrace.rollout.sequential.looks import look, stratified_look
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.sequential.strata import ClientUnits, Stratum, num_without_largest
from tests.rollout.clients_oracle import Rule, ends

METHODS: list[Any] = ["confidence_sequence", "group_sequential"]
ALIKE, UNEQUAL = [1.0] * 5, [50.0, 25.0, 12.0, 8.0, 5.0]


def make_design(**changes: Any) -> Design:
    settings: dict[str, Any] = {"method": "confidence_sequence", "kind": "proportion", "worse": "higher"}
    return Design(**(settings | {"margin": 0.02, "num_min": 50, "num_max": 4000} | changes))


def make_client(name: str, *strata: tuple[int, int, int, int]) -> ClientUnits:
    """Strata of units and failed ones of the candidate, then of the stable set."""
    made = tuple(
        Stratum(candidate=Sample.of_counts(num, bad), stable=Sample.of_counts(num_stable, bad_stable))
        for num, bad, num_stable, bad_stable in strata
    )
    return ClientUnits(client=name, strata=made)


@pytest.mark.parametrize("method", METHODS)
def test_verdicts_and_horizons_are_those_of_an_independent_implementation(method: Any) -> None:
    draws = np.random.default_rng(1)
    verdicts = {"undecided": 0, "harmful": 1, "not_inferior": 2}
    seen: set[int] = set()
    for num_clients in (2, 3, 5, 8):
        sizes = draws.lognormal(6, 1.2, (120, num_clients, 1)).astype(int) + 1
        nums = draws.binomial(sizes, 0.5, (120, num_clients, 2))
        rates = draws.choice([0.0, 0.05, 0.5], (120, num_clients, 1)) + draws.choice([0, 0.1], (120, 1, 1)) * [1, 0]
        bad = draws.binomial(nums, rates)
        wanted = Rule(is_line=method == "group_sequential").verdicts(nums.astype(float), bad.astype(float))
        for trial, (verdict, share) in enumerate(zip(*wanted, strict=True)):
            counts = [(nums[trial, one], bad[trial, one]) for one in range(num_clients)]
            clients = [
                make_client(str(one), (int(n[0]), int(b[0]), int(n[1]), int(b[1]))) for one, (n, b) in enumerate(counts)
            ]
            if sum(one.information > 0 for one in clients) < 2:
                continue
            found = look_at_clients(make_design(method=method), clients)
            assert verdicts[found.verdict] == verdict
            assert found.share == pytest.approx(share)
            seen.add(verdict)
    assert seen == {0, 1, 2}


@pytest.mark.parametrize(
    ("honest", "is_line"), [(ALIKE, False), (UNEQUAL, False), (UNEQUAL, True)], ids=["alike", "unequal", "line"]
)
def test_a_client_that_could_choose_every_unit_s_set_would_decide_nothing(honest: list[float], is_line: bool) -> None:
    """Half of the traffic, its units failing on one set alone: beyond what the gateway lets a client do."""
    rule = Rule(is_line=is_line)
    # 5% and three standard errors of 200 runs.
    assert ends(rule, honest, (0.05, 0.05), (1.0, 1.0, 0.0), runs=200, seed=2)[0] <= 0.097
    assert ends(rule, honest, (0.07, 0.05), (1.0, 0.0, 1.0), runs=200, seed=3)[1] <= 0.097


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5], ids=["trivial", "alike", "noise"])
def test_a_client_that_drowns_what_others_show_does_not_keep_the_gate_from_deciding(rate: float) -> None:
    harmful, promoted = ends(Rule(), UNEQUAL, (0.05, 0.05), (1.0, rate, rate), runs=150, seed=4)
    assert harmful <= 0.06
    assert promoted >= 0.8
    assert ends(Rule(), UNEQUAL, (0.07, 0.05), (1.0, rate, rate), runs=150, seed=5)[1] <= 0.104


def test_one_client_alone_decides_as_before() -> None:
    clients = [make_client("ana", (1000, 80, 1000, 40)), make_client("idle", (0, 0, 7, 7))]
    alone = look(make_design(), Sample.of_counts(1000, 80), Sample.of_counts(1000, 40))
    assert look_at_clients(make_design(), clients) == alone
    assert alone.verdict == "harmful"


def test_what_one_client_alone_shows_is_told_with_its_name_and_decides_nothing() -> None:
    fine = [make_client(f"client-{number}", (1000, 500, 1000, 500)) for number in range(4)]
    found = look_at_clients(make_design(), [*fine, make_client("ben", (1000, 800, 1000, 200))])
    assert found.verdict == "undecided"
    assert found.sentence.endswith(", but not shown without client ben")


def test_a_client_with_most_of_the_units_is_the_service_and_is_not_left_out() -> None:
    most, few = make_client("most", (4000, 200, 4000, 200)), make_client("few", (300, 15, 300, 15))
    assert look_at_clients(make_design(), [most, few]).verdict == "not_inferior"
    assert num_without_largest([most, few]) == 4300
    assert num_without_largest([make_client("a", (50, 0, 0, 0)), make_client("b", (40, 0, 0, 0))]) == 40


def test_units_drawn_at_another_share_are_compared_with_their_like_alone() -> None:
    """9 of 10 on the stable set while nothing fails, then half of them while half fails: the sets are the same."""
    early, late = (100, 0, 900, 0), (500, 250, 500, 250)
    pooled = look(make_design(), Sample.of_counts(600, 250), Sample.of_counts(1400, 250))
    assert pooled.verdict == "harmful"
    apart = look_at_clients(make_design(), [make_client("ana", early, late)])
    assert (apart.verdict, apart.difference) == ("undecided", 0.0)


def test_means_are_compared_within_strata_too() -> None:
    design = make_design(kind="mean", margin=0.2)
    draws = np.random.default_rng(6)
    strata = [
        Stratum(
            candidate=Sample.of_values(draws.normal(mean, 1, num)), stable=Sample.of_values(draws.normal(mean, 1, 900))
        )
        for mean, num in ((1.0, 100), (5.0, 900))
    ]
    found = stratified_look(design, [(1.0, stratum) for stratum in strata])
    # By hand: weights are harmonic, the variance 1.
    information = [100 * 900 / 1000, 450]
    gaps = [stratum.candidate.mean - stratum.stable.mean for stratum in strata]
    assert found.difference == pytest.approx(np.average(gaps, weights=information))
    assert found.share == pytest.approx(2 * sum(information) / 4000)
    assert found.verdict == "not_inferior"
