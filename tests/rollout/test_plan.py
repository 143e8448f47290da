import pytest

from headrace.errors import InvalidInput
from headrace.rollout.gates import GateSettings
from headrace.rollout.plan import LivePlan, Plan, Step
from headrace.user_files.shapes import from_mapping
from tests.rollout.builders import steps


def parse(section: object, cls: type[Plan] = Plan) -> Plan:
    return from_mapping(cls, section, "rollout")


def test_a_step_may_say_how_long_how_many_and_whether_somebody_must_approve() -> None:
    section = {
        "steps": [{"weight": 0.05, "cap": 50}, {"weight": 0.5, "soak_seconds": 60, "cap": 100, "approval": True}]
    }
    assert parse(section).steps == (
        Step(weight=0.05, cap=50),
        Step(weight=0.5, soak_seconds=60.0, cap=100, approval=True),
    )


def test_an_empty_section_is_a_plan_of_defaults_salted_by_the_campaigns_name() -> None:
    assert parse({}).named("glossary") == Plan(salt="glossary")
    assert parse({"salt": ""}).named("glossary").ranking_salt == ""


def test_a_section_is_read_with_its_gate() -> None:
    plan = parse({"steps": [0.2, 1], "gate": {"min_rows": 14, "heldout_margin": None}})
    assert plan.steps == steps(0.2, 1.0)
    assert plan.gate == GateSettings(min_rows=14, heldout_margin=None)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"steps": []}, "steps must be one or more weights"),
        ({"steps": [0, 0.5]}, "steps must be one or more weights above 0"),
        ({"steps": [0.5, 1.5]}, r"steps\[1\]: weight must be between 0 and 1, got 1.5"),
        ({"steps": [0.5, 0.1]}, "steps must rise"),
        ({"steps": [0.5, 0.5]}, "steps must rise"),
        ({"step": [0.5]}, "unknown key 'step'; did you mean 'steps'"),
        ({"on_abort": "ignore"}, "on_abort must be one of repin, finish_unpublished, got 'ignore'"),
        ({"steps": [{"weight": 0.1, "soak": 5}]}, r"steps\[0\] has an unknown key 'soak'"),
        ({"steps": [{"weight": 0.1, "soak_seconds": -1}]}, "soak_seconds must be at least 0"),
        ({"steps": [{"weight": 0.1, "cap": 0}]}, "cap must be null or at least 1"),
        ({"steps": [{"weight": 0.1, "cap": 9}, {"weight": 0.2, "cap": 5}]}, "caps count all units"),
        ({"steps": [0.1, {"weight": 0.2, "cap": 5}]}, r"cannot have one: its units were not counted, got \[None, 5\]"),
        ({"quorum": 0}, "quorum must be at least 1"),
        ({"gate": {"margins": {"latency": 1.0}}}, "margins may name mirrored_pass_rate, error, latency_seconds"),
        ({"gate": {"margins": {"error": 0.0}}}, r"gate: margins.error must be above 0, got 0.0"),
        ({"gate": {"horizon_rows": 5}}, "horizon_rows must be at least min_rows=10"),
        ({"gate": {"false_rollback": 0.7}}, "false_rollback must be above 0 and below 0.5"),
        ({"verdict_timeout_seconds": -1}, "verdict_timeout_seconds must be at least 0"),
        ({"evidence_days": 0}, "evidence_days must be at least 1"),
        ({"gate": {"min_row": 3}}, "rollout: gate has an unknown key 'min_row'"),
        ({"gate": {"min_rows": 0}}, "rollout: gate: min_rows must be at least 1"),
    ],
)
def test_a_plan_that_cannot_run_is_refused_in_one_sentence(section: dict, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse(section)


def test_a_services_gate_has_other_defaults_key_by_key() -> None:
    gate = parse({"gate": {"min_rows": 7}}, LivePlan).gate
    assert (gate.min_rows, gate.horizon_rows, gate.method) == (7, 20_000, "confidence_sequence")
    assert (gate.judged(), gate.heldout_margin) == ({"error": 0.02}, None)
