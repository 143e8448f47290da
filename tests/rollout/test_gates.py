import re

import pytest

from headrace.errors import InvalidInput
from headrace.rollout.gates import Evidence, GateSettings, ReviewCount, decide

SETTINGS = GateSettings(min_rows=10, pass_rate_floor=0.5, pass_rate_margin=0.1, heldout_margin=0.02)


def make_evidence(
    candidate: tuple[int, int] = (0, 0),
    stable: tuple[int, int] = (0, 0),
    losses: tuple[float | None, float | None] = (3.0, 3.0),
) -> Evidence:
    return Evidence(
        candidate=ReviewCount(num_kept=candidate[0], num_rows=candidate[1]),
        stable=ReviewCount(num_kept=stable[0], num_rows=stable[1]),
        heldout_candidate=losses[0],
        heldout_stable=losses[1],
    )


CASES = {
    "no row yet": (make_evidence(), "wait", "0 of 10 reviewed rows"),
    "too few rows, all bad": (make_evidence((0, 9)), "wait", "9 of 10 reviewed rows"),
    "enough rows, nothing to compare with": (make_evidence((9, 10)), "advance", "only 0 reviewed rows to compare"),
    "too few stable rows to compare with": (make_evidence((6, 10), (9, 9)), "advance", "only 9 reviewed rows"),
    "as good as stable": (make_evidence((9, 10), (90, 100)), "advance", r"90 of 100 rows \(90%\) of the stable set"),
    "worse, but at the margin": (make_evidence((80, 100), (90, 100)), "advance", "80 of 100"),
    "worse than the margin": (make_evidence((79, 100), (90, 100)), "roll_back", "more than 10% apart"),
    "below the floor, as stable is": (make_evidence((4, 10), (40, 100)), "roll_back", "the floor is 50%"),
    "at the floor": (make_evidence((5, 10)), "advance", r"5 of 10 rows \(50%\)"),
    "a worse held-out loss before any row": (make_evidence(losses=(3.1, 3.0)), "roll_back", "3.100 against 3.000"),
    "a worse held-out loss, fine rows": (make_evidence((10, 10), losses=(3.1, 3.0)), "roll_back", "0.02 worse"),
    "a held-out loss inside the margin": (
        make_evidence((10, 10), losses=(3.01, 3.0)),
        "advance",
        "held-out loss 3.010",
    ),
    "a better held-out loss does not excuse bad rows": (
        make_evidence((1, 10), losses=(1.0, 3.0)),
        "roll_back",
        "floor",
    ),
    "a held-out loss that is no number": (make_evidence(losses=(float("nan"), 3.0)), "roll_back", "nan"),
    "held-out losses on other tokens": (make_evidence((10, 10), losses=(None, None)), "advance", "cannot be compared"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_gate_decides_by_held_out_loss_then_by_kept_rows(case: str) -> None:
    evidence, action, reason = CASES[case]
    verdict = decide(evidence, SETTINGS)
    assert verdict.action == action
    assert re.search(reason, verdict.reason)


def test_each_step_is_judged_on_rows_of_its_own() -> None:
    assert decide(make_evidence((23, 23)), SETTINGS, num_rows_at_step=14).action == "wait"
    assert decide(make_evidence((24, 24)), SETTINGS, num_rows_at_step=14).action == "advance"


def test_held_out_loss_can_be_left_out_of_the_gate() -> None:
    settings = GateSettings(min_rows=10, heldout_margin=None)
    assert decide(make_evidence((10, 10), losses=(9.0, 3.0)), settings).action == "advance"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_rows": 0}, "min_rows must be at least 1, got 0"),
        ({"pass_rate_floor": 1.5}, r"pass_rate_floor must be between 0 and 1, got 1\.5"),
        ({"pass_rate_margin": -0.1}, r"pass_rate_margin must be between 0 and 1, got -0\.1"),
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
