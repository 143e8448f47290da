"""Error rates are held against simulations with fixed seeds; boundaries against closed forms and against paths."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.gates.looks import ours, simulate
from benchmarks.gates.peers import mann_whitney
from headrace.errors import InvalidInput
from headrace.rollout.sequential.boundaries import (
    HARM_SLOPE,
    line_boundary,
    line_crossing,
    line_intercept,
    mixture_boundary,
)
from headrace.rollout.sequential.designs import Design
from headrace.rollout.sequential.looks import confidence_band, look, paired_look
from headrace.rollout.sequential.samples import Sample

METHODS = ("group_sequential", "confidence_sequence")


def make_design(**changes: object) -> Design:
    settings = {
        "method": "group_sequential",
        "kind": "proportion",
        "worse": "higher",
        "margin": 0.02,
        "num_min": 50,
        "num_max": 4000,
    }
    return Design(**(settings | changes))  # pyright: ignore[reportArgumentType]


def test_a_line_is_crossed_as_often_as_its_closed_form_says() -> None:
    """Brownian motion on (0, 1], one row a run."""
    paths = np.random.default_rng(1).normal(0, math.sqrt(1 / 2000), (20_000, 2000)).cumsum(axis=1)
    times = np.arange(1, 2001) / 2000
    for slope in (0.0, 0.5, HARM_SLOPE, 4.0):
        intercept = line_intercept(0.05, slope)
        assert line_crossing(intercept, slope) == pytest.approx(0.05)
        crossed = (paths > intercept + slope * times).any(axis=1).mean()
        # A path that is looked at 2,000 times misses some crossings between two looks.
        assert 0.04 < crossed <= 0.052, f"slope {slope}"


def test_the_mixture_is_crossed_at_most_as_often_as_promised_over_any_stretch_of_time() -> None:
    times = np.geomspace(0.01, 100, 1500)
    steps = np.random.default_rng(2).normal(0, 1, (4000, len(times))) * np.sqrt(np.diff(times, prepend=0.0))
    boundary = np.array([mixture_boundary(share, 0.05) * math.sqrt(share) for share in times])
    assert (steps.cumsum(axis=1) > boundary).any(axis=1).mean() <= 0.05


def test_boundaries_come_down_as_information_comes_in_and_stay_at_the_horizon() -> None:
    shares = [0.01, 0.05, 0.2, 0.5, 1.0]
    lines = [line_boundary(share, 0.05, 1.0) for share in shares]
    assert lines == sorted(lines, reverse=True)
    assert line_boundary(1.3, 0.05, 1.0) == lines[-1]
    assert lines[0] > 10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("every", "ratio"), [(50, 1), (10, 1), (200, 1), (50, 9)])
def test_arms_as_good_as_each_other_are_rarely_rolled_back_however_often_one_looks(
    method: str, every: int, ratio: int
) -> None:
    test = ours(method, 4000, every)  # pyright: ignore[reportArgumentType]
    outcome = simulate(test, (0.05, 0.05), runs=300, num_rows=4000, every=every, ratio=ratio, seed=3)
    # 5% and three standard errors of 300 runs.
    assert outcome.harmful <= 0.088
    assert outcome.advanced >= 0.85


@pytest.mark.parametrize("method", METHODS)
def test_a_candidate_worse_by_the_margin_rarely_advances(method: str) -> None:
    test = ours(method, 4000, 50)  # pyright: ignore[reportArgumentType]
    outcome = simulate(test, (0.05, 0.07), runs=500, num_rows=4000, every=50, ratio=1, seed=4)
    assert outcome.advanced <= 0.08


@pytest.mark.parametrize("method", METHODS)
def test_a_worse_candidate_is_found_within_a_quarter_of_the_horizon(method: str) -> None:
    test = ours(method, 4000, 50)  # pyright: ignore[reportArgumentType]
    outcome = simulate(test, (0.05, 0.08), runs=300, num_rows=4000, every=50, ratio=1, seed=5)
    assert outcome.harmful >= 0.95
    assert outcome.median_harmful <= 1000


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.5, 0.99])
def test_rare_and_common_events_keep_the_error_rate(rate: float) -> None:
    outcome = simulate(
        ours("group_sequential", 2000, 50), (rate, rate), runs=300, num_rows=2000, every=50, ratio=1, seed=6
    )
    assert outcome.harmful <= 0.088


@pytest.mark.parametrize("method", METHODS)
def test_means_with_a_long_tail_keep_the_error_rate(method: str) -> None:
    """Latencies: lognormal with sigma 1, equal arms, a look every 50 units."""
    design = make_design(method=method, kind="mean", margin=0.5, num_min=100, num_max=2000)
    draws = np.random.default_rng(7)
    harmful = advanced = 0
    for _ in range(150):
        values = draws.lognormal(0, 1, (2, 2000))
        for num in range(100, 2001, 50):
            finding = look(design, *(Sample.of_values(arm[:num]) for arm in values))
            if finding.verdict != "undecided":
                harmful += finding.verdict == "harmful"
                advanced += finding.verdict == "not_inferior"
                break
    assert harmful / 150 <= 0.104
    assert advanced / 150 >= 0.85


def test_few_events_on_a_small_arm_keep_the_error_rate() -> None:
    """1% bad rows on a canary that gets 1% of the rows."""
    test = ours("group_sequential", 2000, 50)
    outcome = simulate(test, (0.01, 0.01), runs=400, num_rows=2000, every=50, ratio=99, seed=10)
    assert outcome.harmful <= 0.083


def test_a_small_arm_with_a_long_tail_does_not_advance_by_luck() -> None:
    """Lognormal latencies, sigma 1.5, one unit in ten on the candidate, which is worse by the whole margin."""
    draws = np.random.default_rng(11)
    design = make_design(kind="mean", margin=1.0, tolerated=1.0, num_min=100, num_max=1000)
    advanced = 0
    for _ in range(150):
        candidate, stable = draws.lognormal(0, 1.5, 900) + 1.0, draws.lognormal(0, 1.5, 8100)
        sums = [(arm.cumsum(), (arm**2).cumsum()) for arm in (candidate, stable)]
        for num in range(100, 901, 100):
            arms = [
                Sample(num=rows, total=total[rows - 1], total_squares=squares[rows - 1])
                for rows, (total, squares) in zip((num, 9 * num), sums, strict=True)
            ]
            if (finding := look(design, *arms)).verdict != "undecided":
                advanced += finding.verdict == "not_inferior"
                break
    assert advanced / 150 <= 0.104


def test_a_metric_that_is_better_when_higher_is_the_same_test_turned_round() -> None:
    bad = look(make_design(), Sample.of_counts(1000, 80), Sample.of_counts(1000, 40))
    good = look(make_design(worse="lower"), Sample.of_counts(1000, 920), Sample.of_counts(1000, 960))
    assert (bad.verdict, good.verdict) == ("harmful", "harmful")
    assert good.difference == pytest.approx(bad.difference) == pytest.approx(0.04)
    # Half an event more stands on the other side.
    assert good.lower == pytest.approx(bad.lower, abs=1e-3)


def test_nothing_is_said_before_either_side_has_enough() -> None:
    few, many = Sample.of_counts(49, 49), Sample.of_counts(4000, 0)
    for candidate, stable in ((few, many), (many, few), (Sample(), Sample())):
        finding = look(make_design(), candidate, stable)
        assert (finding.verdict, finding.upper) == ("undecided", math.inf)


def test_a_horizon_is_reached_by_information_not_by_the_larger_arm() -> None:
    assert not look(make_design(), Sample.of_counts(500, 25), Sample.of_counts(50_000, 2500)).at_horizon
    assert look(make_design(), Sample.of_counts(4000, 200), Sample.of_counts(4000, 200)).at_horizon


def test_rows_that_all_agree_are_no_proof_until_there_are_many() -> None:
    design = make_design(kind="mean", worse="lower", margin=0.1, num_min=10, num_max=400)
    assert paired_look(design, Sample(num=10)).verdict == "undecided"
    assert paired_look(design, Sample(num=200)).verdict == "not_inferior"


def test_the_same_prompts_decide_with_fewer_rows_than_two_samples() -> None:
    """McNemar's rows: 30 of 300 prompts get worse and 4 better; each arm alone varies far more."""
    paired = make_design(kind="mean", worse="lower", margin=0.1, num_min=50, num_max=1000)
    differences = Sample(num=300, total=4 - 30, total_squares=34)
    assert paired_look(paired, differences).verdict == "harmful"
    apart = make_design(worse="lower", margin=0.1, num_max=1000)
    assert look(apart, Sample.of_counts(300, 150 - 26), Sample.of_counts(300, 150)).verdict == "undecided"


def test_a_share_stays_in_its_band_at_every_look() -> None:
    draws = np.random.default_rng(8)
    missed = 0
    for _ in range(80):
        events = draws.random(1500) < 0.07
        bands = [
            confidence_band(make_design(), Sample.of_counts(num, int(events[:num].sum()))) for num in range(5, 1501, 10)
        ]
        missed += any(not low <= 0.07 <= high for low, high in bands)
    assert missed / 80 <= 0.12


def test_the_peer_in_the_benchmark_is_scipys_mann_whitney() -> None:
    """The closed form over counts decides as `mannwhitneyu` does over rows."""
    draws = np.random.default_rng(9)
    for _ in range(40):
        num, bad_candidate, bad_stable = 400, int(draws.binomial(400, 0.08)), int(draws.binomial(400, 0.05))
        candidate, stable = ([1] * bad + [0] * (num - bad) for bad in (bad_candidate, bad_stable))
        p = stats.mannwhitneyu(candidate, stable, alternative="greater", method="asymptotic").pvalue
        assert (mann_whitney(bad_candidate, num, bad_stable, num, False) == "harmful") == (p < 0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margin": 0.0}, r"A test's margin must be above 0, got 0\.0"),
        ({"alpha_harm": 0.6}, r"A test's alpha_harm must be above 0 and below 0\.5, got 0\.6"),
        ({"alpha_advance": 0.0}, r"A test's alpha_advance must be above 0 and below 0\.5, got 0\.0"),
        ({"num_min": 5000}, "A test needs 1 <= num_min <= num_max, got num_min=5000, num_max=4000"),
    ],
)
def test_a_test_that_means_nothing_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make_design(**changes)
