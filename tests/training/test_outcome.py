"""What a training leaves for others: tables, pictures, MLflow's record, evaluations."""

import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.errors import HandoffCorrupt, RegistryUnavailable, TrainingFailed
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from headrace.training.curves import curves_png, loss_sparkline
from headrace.training.examples import ExamplesInput, PackedExamples
from headrace.training.guard import Worker
from headrace.training.heldout import (
    Evaluation,
    EvaluationConfig,
    choose_sequences,
    evaluate,
    find_evaluation,
    heldout_digest,
    publish_evaluation,
)
from headrace.training.measured_model import distinctive_lines
from headrace.training.session import Outcome
from headrace.training.tables import (
    TRAINED_MODEL,
    base_model_table,
    evaluation_table,
    samples_markdown,
    trained_model_table,
)
from headrace.training.tracking import TrainingTrack
from tests.training.test_attempts import make_result
from tests.training_builders import numbered_rows

INPUTS = (ExamplesInput(partition="shard-00", version=1, content_digest="c"),)
EVALUATION = Evaluation(
    weights_digest="w",
    heldout_digest="h",
    heldout_loss=2.5,
    heldout_tokens=100,
    samples=tuple(f'Define "{"x" * 90}". → {"long | answer " * 20}' for _ in range(4)),
    seconds=1.0,
)


def make_rows(count: int) -> list[dict]:
    return [
        {
            "step": step,
            "loss": 5.0 / step,
            "learning_rate": 1e-3,
            "gradient_norm": {2: float("inf"), 3: None}.get(step, 1.0),
            "tokens_per_second": 100.0,
            "applied": step != 2,
        }
        for step in range(1, count + 1)
    ]


def test_base_and_trained_weights_have_one_table_form(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    weights = seal_directory(store, tmp_path / "model")
    [base] = base_model_table(weights).to_pylist()
    trained_table = trained_model_table(store, make_result(1, weights_digest=weights.digest), mlflow_run_id="run")
    [trained] = trained_table.to_pylist()
    assert trained_table.schema == TRAINED_MODEL
    assert base["weights_digest"] == trained["weights_digest"] == weights.digest
    assert (base["training_id"], trained["training_id"]) == ("", "a" * 32)


def test_a_resumed_training_tells_its_own_steps_and_seconds_apart_from_the_whole(tmp_path: Path) -> None:
    """Steps 56 … 60 of 60 in 60 s, 256 tokens a step: 21 tokens/s, though 256 × 60 tokens were seen in all."""
    result = make_result(
        3, steps=60, tokens=15_360, attempt_tokens=1_280, seconds=60.0, step_seconds=240.0, resumed_from_step=55
    )
    figures = Outcome(
        result=result,
        reused=False,
        passed_over=("behind step 58: torn", "behind step 57: torn"),
        slow_precision="slow in bf16",
    ).figures()
    assert figures["tokens_per_second"] == pytest.approx(21.33, abs=0.01)
    assert (figures["attempt_tokens"], figures["attempt_seconds"], figures["attempt_rank_seconds"]) == (1_280, 60, 120)
    assert (figures["tokens"], figures["step_seconds"]) == (15_360, 240)
    assert figures["checkpoints_passed_over"] == "behind step 58: torn; behind step 57: torn"
    assert figures["slow_precision"] == "slow in bf16"


def test_what_an_older_result_does_not_tell_is_left_out() -> None:
    figures = Outcome(result=make_result(1), reused=True).figures()
    assert not {
        "tokens_per_second",
        "attempt_tokens",
        "step_seconds",
        "checkpoints_passed_over",
        "slow_precision",
    } & set(figures)
    assert figures["attempt_seconds"] == 3.0


def test_tokens_and_seconds_of_the_table_are_of_the_same_steps(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    digest = seal_directory(store, tmp_path / "model").digest
    result = make_result(2, weights_digest=digest, tokens=1000, attempt_tokens=10, seconds=3.0, step_seconds=50.0)
    [row] = trained_model_table(store, result, mlflow_run_id="").to_pylist()
    assert row["tokens"] / row["seconds"] == 20.0


def test_an_evaluation_has_a_row_a_model() -> None:
    table = evaluation_table({"base": EVALUATION, "trained": replace(EVALUATION, heldout_loss=2.0)})
    assert table.column("model").to_pylist() == ["base", "trained"]
    assert table.column("heldout_loss").to_pylist() == [2.5, 2.0]


def test_what_the_ui_shows_inline_stays_below_its_limit() -> None:
    assert len(samples_markdown(EVALUATION, EVALUATION)) < 1000
    for count in (1, 60, 10_000):
        assert len(loss_sparkline(make_rows(count))) < 1000


def test_curves_are_drawn_around_values_that_are_missing_or_not_finite() -> None:
    assert curves_png(make_rows(3), title="tiny.test").startswith(b"\x89PNG")


def test_held_out_sequences_are_as_few_as_hold_the_wanted_tokens() -> None:
    examples = PackedExamples([numbered_rows(["heldout"] * 20)], "heldout")
    chosen = choose_sequences(examples, 7)
    assert len(chosen) == 7
    assert chosen.tolist() == choose_sequences(examples, 20).tolist()[:7]
    assert len(choose_sequences(examples, 1000)) == 20


def test_the_held_out_digest_is_of_contents_not_of_versions() -> None:
    again = (replace(INPUTS[0], version=2),)
    other = (replace(INPUTS[0], content_digest="d"),)
    assert heldout_digest(again, 10) == heldout_digest(INPUTS, 10)
    assert heldout_digest(other, 10) != heldout_digest(INPUTS, 10)
    assert heldout_digest(INPUTS, 11) != heldout_digest(INPUTS, 10)


def test_the_first_measurement_of_two_digests_stays(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert find_evaluation(store, "w", "h") is None
    publish_evaluation(store, EVALUATION)
    assert publish_evaluation(store, replace(EVALUATION, heldout_loss=9.0)) == EVALUATION
    assert find_evaluation(store, "w", "h") == EVALUATION


def test_a_damaged_measurement_is_refused_with_what_to_do(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    publish_evaluation(store, EVALUATION)
    path = store.local_path("evaluations/w/h.json")
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"2.5", b"1.5"))
    with pytest.raises(HandoffCorrupt, match=r"h\.json is damaged.*Delete it, and materialize evaluation again"):
        find_evaluation(store, "w", "h")


def test_an_evaluation_config_survives_its_way_through_a_pipe() -> None:
    config = EvaluationConfig(
        weights=("w",),
        inputs=INPUTS,
        heldout_tokens_min=5,
        store_url="/s",
        device="cpu",
        worker=Worker.this_process(),
    )
    assert EvaluationConfig.from_json(config.to_json()) == config


def test_an_evaluation_that_ends_before_it_reads_its_task_is_told_by_its_own_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec <&-\nprintf 'no module \\377\\n'\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    # More than a pipe holds: the task is still being written when nobody reads it any more.
    inputs = tuple(ExamplesInput(partition=f"{n:0200d}", version=1, content_digest="c") for n in range(1000))
    with pytest.raises(TrainingFailed, match=r"ended with code 3\. Its last lines:\n +no module \ufffd"):
        evaluate(
            LocalStore(tmp_path / "store"),
            {"base": "d" * 64},
            inputs,
            heldout_tokens_min=1,
            device="cpu",
            environment=os.environ,
        )


def test_prompts_are_told_apart_by_the_lines_that_differ() -> None:
    chats = [f"system\nBe short.\nuser\nDefine {word}.\nassistant\n" for word in ("mill", "wheel")]
    assert distinctive_lines(chats) == ["Define mill.", "Define wheel."]
    assert distinctive_lines(chats[:1]) == [chats[0].replace("\n", " ").strip()]


class RecordingRegistry:
    """Stands for MLflow; `down` makes every call fail as a stopped server does."""

    def __init__(self) -> None:
        self.down = False
        self.curve: dict[int, Mapping[str, float]] = {}
        self.metrics: dict[str, float] = {}
        self.figures: list[str] = []
        self.finished: list[bool] = []

    def _answer(self) -> None:
        if self.down:
            raise RegistryUnavailable("MLflow at http://x does not answer: refused.")

    def ensure_run(self, key: str, params: Mapping[str, object], *, name: str | None = None) -> str:
        self._answer()
        return f"run-{key}"

    def finish_run(self, run_id: str, *, failed: bool = False) -> None:
        self._answer()
        self.finished.append(failed)

    def log_curve(self, run_id: str, rows: Sequence[Mapping[str, float]]) -> int:
        self._answer()
        self.curve |= {int(row["step"]): row for row in rows}
        return len(rows)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int = 0) -> None:
        self._answer()
        self.metrics |= metrics

    def log_figure(self, run_id: str, name: str, body: bytes) -> None:
        self._answer()
        self.figures.append(name)


def make_track(registry: RecordingRegistry, said: list[str], clock: list[float]) -> TrainingTrack:
    return TrainingTrack(registry, "id", {}, name="tiny.test", say=said.append, monotonic=lambda: clock[0])


def test_rows_reach_mlflow_live_but_not_one_by_one() -> None:
    registry, clock = RecordingRegistry(), [0.0]
    rows = make_rows(4)
    with make_track(registry, [], clock) as track:
        track.add_rows(rows[:1])
        track.add_rows(rows[1:3])
        assert list(registry.curve) == [1]
        clock[0] = 6.0
        track.add_rows(rows[3:])
    assert list(registry.curve) == [1, 2, 3, 4]
    assert "gradient_norm" not in registry.curve[2], "MLflow stores no infinity"
    assert "gradient_norm" not in registry.curve[3], "what nobody measured is no 0"
    assert registry.curve[4]["gradient_norm"] == 1.0


def test_a_stopped_mlflow_is_said_once_and_costs_only_the_record() -> None:
    registry, said, clock = RecordingRegistry(), [], [0.0]
    registry.down = True
    rows = make_rows(3)
    with make_track(registry, said, clock) as track:
        for row in rows:
            clock[0] += 10
            track.add_rows([row])
        assert len(said) == 1
        assert track.run_id == ""
        registry.down = False
        assert track.finish(make_result(1), rows) == "run-id"
    assert list(registry.curve) == [1, 2, 3]
    assert registry.figures == ["curves.png"]
    assert registry.metrics["attempt_seconds"] == 3.0
    assert "step_seconds" not in registry.metrics
    assert registry.finished == [False]


def test_rows_that_a_stopped_mlflow_will_not_take_are_not_held() -> None:
    class Row(dict[str, Any]):
        """One that can be watched."""

    registry = RecordingRegistry()
    registry.down = True
    with make_track(registry, [], [0.0]) as track:
        rows = [Row(row) for row in make_rows(3)]
        watched = [weakref.ref(row) for row in rows]
        track.add_rows(rows[:1])
        track.add_rows(rows[1:])
        rows.clear()
        assert [one() for one in watched] == [None] * 3


def test_a_training_that_raises_is_marked_failed() -> None:
    registry = RecordingRegistry()
    with suppress(ZeroDivisionError), make_track(registry, [], [0.0]) as track:
        track.add_rows(make_rows(1))
        raise ZeroDivisionError
    assert registry.finished == [True]


def test_numbers_of_sequences_may_be_numpys() -> None:
    examples = PackedExamples([numbered_rows(["heldout"] * 3)], "heldout")
    assert examples.num_loss_tokens(np.array([0, 2])) == 2
