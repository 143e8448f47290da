"""How often a training that runs is shown, and what of it."""

from types import SimpleNamespace
from typing import Any

import dagster as dg

from headrace_dagster.training_observations import TrainingObservations


def row(step: int, **told: Any) -> dict[str, Any]:
    return {"step": step, "loss": 3.0 / step, "tokens": 10 * step, "tokens_per_second": 5.0, "left_seconds": 1.0} | told


def observed(rows: list[list[dict[str, Any]]], seconds_between: float) -> list[dict[str, Any]]:
    """What a run's context was told, of rows that came one list at a time."""
    told: list[dg.AssetObservation] = []
    context: Any = SimpleNamespace(
        asset_key=dg.AssetKey("trained_model"), partition_key="tiny.test", log_event=told.append
    )
    now = [0.0]
    live = TrainingObservations(context, monotonic=lambda: now[0])
    for arrived in rows:
        live.add_rows(arrived)
        now[0] += seconds_between
    assert {(one.asset_key.to_user_string(), one.partition) for one in told} <= {("trained_model", "tiny.test")}
    return [{name: value.value for name, value in one.metadata.items()} for one in told]


def test_the_first_step_is_shown_and_then_every_half_minute() -> None:
    shown = observed([[row(step)] for step in range(1, 11)], seconds_between=10.0)
    assert [one["step"] for one in shown] == [1, 4, 7, 10]


def test_the_newest_held_out_loss_stays_until_there_is_another() -> None:
    shown = observed([[row(1)], [row(2, heldout_loss=2.5), row(3)], [row(4)]], seconds_between=60.0)
    assert [one.get("heldout_loss") for one in shown] == [None, 2.5, 2.5]
    assert [one["step"] for one in shown] == [1, 3, 4]


def test_what_nobody_measured_is_not_shown() -> None:
    [first] = observed([[row(1, mfu=None, loss=float("inf"))]], seconds_between=1.0)
    assert "model_flops_utilization" not in first
    assert "train_loss" not in first
    assert first["loss"] == "no finite loss"


def test_numbers_are_shown_as_people_read_them() -> None:
    [first] = observed([[row(12_345, loss=3.0080952512625174, left_seconds=147.220415)]], seconds_between=1.0)
    assert (first["step"], first["train_loss"], first["seconds_left"]) == (12_345, 3.008, 147.2)


def test_without_rows_nothing_is_shown() -> None:
    assert observed([[], []], seconds_between=60.0) == []
