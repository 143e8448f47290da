import re
from dataclasses import replace

import pytest

from headrace.errors import InvalidInput
from headrace.rollout.gates import MIRRORED_PASS_RATE, PASS_RATE, Evidence, GateSettings, TaughtErrors, decide
from headrace.rollout.sequential.samples import Sample

SETTINGS = GateSettings(min_rows=10, pass_rate_floor=0.5, pass_rate_margin=0.05, heldout_margin=0.02, horizon_rows=1000)


def make_evidence(
    candidate: tuple[int, int] = (0, 0),
    stable: tuple[int, int] = (0, 0),
    losses: tuple[float | None, float | None] = (3.0, 3.0),
) -> Evidence:
    return Evidence(
        metrics={PASS_RATE: (Sample.of_counts(candidate[1], candidate[0]), Sample.of_counts(stable[1], stable[0]))},
        heldout_candidate=losses[0],
        heldout_stable=losses[1],
    )


CASES = {
    "no row yet": (make_evidence(), "wait", "0 of 10 rows"),
    "too few rows, all bad": (make_evidence((0, 9)), "wait", "9 of 10 rows"),
    "enough rows, nothing to compare with": (
        make_evidence((9, 10)),
        "wait",
        "too few rows of both sets for share of rows",
    ),
    "as good as stable, on many rows": (make_evidence((450, 500), (450, 500)), "advance", "surely worse by less than"),
    "as good as stable, on few rows": (make_evidence((9, 10), (9, 10)), "wait", r"from .* to .* worse is possible"),
    "worse, beyond chance": (make_evidence((300, 400), (360, 400)), "roll_back", "surely worse by more than"),
    "worse, within chance": (make_evidence((86, 100), (90, 100)), "wait", "the margin is 0.05"),
    "surely below the floor": (make_evidence((4, 40)), "roll_back", "surely below the floor of 50%"),
    "below the floor, perhaps by chance": (make_evidence((4, 10)), "wait", "too few rows of both sets"),
    "undecided before the horizon": (make_evidence((430, 520), (450, 520)), "wait", "possible"),
    "undecided at the horizon": (make_evidence((780, 1000), (805, 1000)), "roll_back", "horizon of 1000 rows"),
    "a worse held-out loss before any row": (make_evidence(losses=(3.1, 3.0)), "roll_back", "3.100 against 3.000"),
    "a worse held-out loss, fine rows": (
        make_evidence((500, 500), (500, 500), losses=(3.1, 3.0)),
        "roll_back",
        "0.02 worse",
    ),
    "a held-out loss inside the margin": (
        make_evidence((500, 500), (500, 500), losses=(3.01, 3.0)),
        "advance",
        "held-out loss 3.010",
    ),
    "a better held-out loss does not excuse bad rows": (
        make_evidence((0, 30), losses=(1.0, 3.0)),
        "roll_back",
        "floor",
    ),
    "a held-out loss that is no number": (make_evidence(losses=(float("nan"), 3.0)), "roll_back", "nan"),
    "held-out losses on other tokens": (
        make_evidence((500, 500), (500, 500), losses=(None, None)),
        "advance",
        "cannot be compared",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_gate_decides_by_held_out_loss_then_by_kept_rows(case: str) -> None:
    evidence, action, reason = CASES[case]
    verdict = decide(evidence, SETTINGS)
    assert verdict.action == action, verdict.reason
    assert re.search(reason, verdict.reason)


def test_a_step_that_is_not_the_last_is_left_without_proof_but_never_with_harm() -> None:
    assert decide(make_evidence((9, 10)), SETTINGS, is_last_step=False).action == "advance"
    assert decide(make_evidence((300, 400), (360, 400)), SETTINGS, is_last_step=False).action == "roll_back"


def test_nothing_is_on_trial_for_ever() -> None:
    verdict = decide(make_evidence((5, 5)), SETTINGS, trial_seconds=SETTINGS.horizon_seconds)
    assert verdict.action == "roll_back"
    assert verdict.reason.startswith("undecided after 336 h on trial: 5 of 10 rows in this step")


def live(metric: str, candidate: Sample, stable: Sample) -> Evidence:
    return Evidence(metrics={metric: (candidate, stable)})


def test_live_metrics_are_judged_by_the_margins_that_the_plan_gives() -> None:
    settings = GateSettings(
        min_rows=50,
        pass_rate_margin=None,
        heldout_margin=None,
        margins={"error": 0.05, "latency_seconds": 0.5},
        method="confidence_sequence",
    )
    good = Sample.of_counts(2000, 20)
    slow, quick = Sample.of_values([2.0, 3.0] * 1000), Sample.of_values([1.0, 2.0] * 1000)
    barely = Sample.of_values([1.1, 2.1] * 1000)
    only_errors = live("error", good, good)
    assert "too few rows of both sets for seconds a unit" in decide(only_errors, settings).reason
    both = Evidence(metrics={"error": (good, good), "latency_seconds": (slow, quick)})
    harmful = decide(both, settings)
    assert harmful.action == "roll_back"
    assert harmful.reason.startswith("seconds a unit: 1 worse (2000 against 2000)")
    # A tenth of a second is surely lost, and does not matter: the plan allows half a second.
    fine = Evidence(metrics={"error": (good, good), "latency_seconds": (barely, quick)})
    assert decide(fine, settings).action == "advance"
    assert decide(fine, settings).findings.keys() == {"error", "latency_seconds"}


def test_the_same_prompts_on_both_sets_are_compared_row_by_row() -> None:
    settings = GateSettings(
        min_rows=20, pass_rate_margin=None, heldout_margin=None, margins={"mirrored_pass_rate": 0.1}, horizon_rows=400
    )
    assert decide(Evidence(paired={MIRRORED_PASS_RATE: Sample(num=10)}), settings).action == "wait"
    # 200 prompts: the candidate loses 60 that the stable set kept.
    lost = Evidence(paired={MIRRORED_PASS_RATE: Sample(num=200, total=-60, total_squares=60)})
    assert decide(lost, settings, num_rows_at_step=-200).action == "roll_back"


def test_each_step_is_judged_on_rows_of_its_own() -> None:
    step = {"num_rows_at_step": 14, "is_last_step": False}
    assert decide(make_evidence((23, 23)), SETTINGS, **step).action == "wait"
    assert decide(make_evidence((24, 24)), SETTINGS, **step).action == "advance"


def test_held_out_loss_can_be_left_out_of_the_gate() -> None:
    settings = GateSettings(min_rows=10, heldout_margin=None, pass_rate_margin=None)
    assert decide(make_evidence((10, 10), losses=(9.0, 3.0)), settings).action == "advance"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_rows": 0}, "min_rows must be at least 1, got 0"),
        ({"pass_rate_floor": 1.5}, r"pass_rate_floor must be between 0 and 1, got 1\.5"),
        ({"pass_rate_margin": -0.1}, r"pass_rate_margin must be null or above 0 and at most 1, got -0\.1"),
        ({"heldout_margin": -1.0}, r"heldout_margin must be null or at least 0, got -1\.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        GateSettings(**settings)


def test_a_worse_held_out_loss_can_wait_for_the_canaries_to_show_it() -> None:
    settings = GateSettings(min_rows=10, heldout_margin=0.02, heldout_early=False)

    before = decide(make_evidence(losses=(3.1, 3.0)), settings)
    after = decide(make_evidence((2, 10), losses=(3.1, 3.0)), settings)

    assert before.action == "wait"
    assert after.action == "roll_back"
    assert "3.100 against 3.000" in after.reason
    assert "2 of 10 rows" in after.reason


TAUGHT = {
    "a painter that knows less": (
        (0.081, 0.052),
        0.05,
        "roll_back",
        "painter: error on taught captions 0.0810 against",
    ),
    "one that knows more": ((0.04, 0.052), 0.05, "wait", "0 of 10 rows .* 0.0400 against 0.0520"),
    "one within the share": ((0.054, 0.052), 0.05, "wait", "0.0540"),
    "one that is no number": ((float("nan"), 0.052), 0.05, "roll_back", "more than 5% worse"),
    "what is not judged": ((0.081, 0.052), None, "wait", "0 of 10 rows"),
}


@pytest.mark.parametrize("case", TAUGHT)
def test_a_painter_is_judged_by_its_error_on_what_both_were_taught(case: str) -> None:
    (candidate, stable), margin, action, reason = TAUGHT[case]
    evidence = Evidence(taught=(TaughtErrors(role="painter", candidate=candidate, stable=stable),))
    verdict = decide(evidence, replace(SETTINGS, taught_error_margin=margin))
    assert verdict.action == action, verdict.reason
    assert re.search(reason, verdict.reason)
