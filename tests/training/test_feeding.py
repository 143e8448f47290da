"""How a row reaches a model: what is measured, what is chosen, and what either costs in numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.packing_leaks.compared import packed_examples
from headrace.errors import InvalidTrainingRun
from headrace.training.architecture import check_architecture
from headrace.training.examples import NO_LOSS, PackedExamples, Pass
from headrace.training.feeding import ALONE, BOUNDARIES, PACKED, choose_feeding, one_example_a_row, summed_loss
from tests.training_builders import numbered_rows


class RunningMean(torch.nn.Module):
    """A causal model with a state along the row, which begins anew where `seq_idx` says so."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(128, 16)

    def forward(self, input_ids: Any, position_ids: Any = None, seq_idx: Any = None, **_: Any) -> Any:
        states_BTH = self.embedding(input_ids)  # noqa: N806 (shape letters)
        examples_BT = torch.zeros_like(input_ids) if seq_idx is None else seq_idx  # noqa: N806
        same_BTT = (examples_BT[:, :, None] == examples_BT[:, None, :]).float().tril()  # noqa: N806
        means_BTH = same_BTT @ states_BTH / same_BTT.sum(-1, keepdim=True)  # noqa: N806
        return type("Output", (), {"logits": means_BTH @ self.embedding.weight.T})


def row(*examples: tuple[list[int], list[int]]) -> tuple[list[int], list[int], list[int]]:
    ids = [token for tokens, _ in examples for token in tokens]
    labels = [label for _, wanted in examples for label in wanted]
    return ids, labels, [place for tokens, _ in examples for place in range(len(tokens))]


def passed(*rows: tuple[list[int], list[int], list[int]]) -> Pass:
    return Pass(*(np.array(column) for column in zip(*rows, strict=True)))


def test_examples_of_a_row_become_rows_and_what_bears_no_loss_goes() -> None:
    packed = passed(row(([5, 6, 7], [NO_LOSS, 6, 7]), ([8, 9], [NO_LOSS, 9]), ([0, 0], [NO_LOSS] * 2)))

    alone = one_example_a_row(packed)

    assert alone.input_ids_BT.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert alone.labels_BT.tolist() == [[NO_LOSS, 6, 7], [NO_LOSS, 9, NO_LOSS]]
    assert alone.position_ids_BT.tolist() == [[0, 1, 2], [0, 1, 2]]


def test_a_state_whose_kernel_takes_boundaries_is_given_them() -> None:
    model, examples = RunningMean(), packed_examples()
    both = examples.take([0, 1])

    assert choose_feeding(model, examples, "cpu") == BOUNDARIES
    loss, num_tokens = summed_loss(model, both, "cpu", BOUNDARIES)
    alone, num_alone = summed_loss(model, both, "cpu", ALONE)
    leaking, _ = summed_loss(model, both, "cpu", PACKED)
    assert num_tokens == num_alone == examples.num_loss_tokens([0, 1])
    assert loss.item() == pytest.approx(alone.item(), rel=1e-6)
    assert leaking.item() != pytest.approx(alone.item(), rel=1e-3)


def test_every_rank_is_asked_before_each_step_of_the_choice() -> None:
    asked: list[bool] = []

    def any_rank(found: bool) -> bool:
        asked.append(found)
        return found

    assert choose_feeding(RunningMean(), packed_examples(), "cpu", any_rank=any_rank) == BOUNDARIES
    # Each rank asks as often as the others, or they would wait for one another.
    assert len(asked) == 3


def test_choosing_leaves_the_models_mode_as_it_was() -> None:
    model = RunningMean().train()
    choose_feeding(model, packed_examples(), "cpu")
    assert model.training


def test_rows_of_one_example_each_need_no_trial() -> None:
    lonely = PackedExamples([numbered_rows(["train", "train"])], "train")
    assert choose_feeding(None, lonely, "cpu") == PACKED


def model_directory(directory: Path, **config: Any) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("model_type", ["gpt_oss", "gemma2", "mamba", "gptj", "bloom", "mpt", "rwkv"])
def test_an_architecture_without_sdpa_is_no_reason_to_refuse(model_type: str, tmp_path: Path) -> None:
    assert "For" in check_architecture(model_directory(tmp_path / "model", model_type=model_type))


def test_an_architecture_that_generates_no_text_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InvalidTrainingRun, match=r"is a 'vit', of which transformers has no causal language model"):
        check_architecture(model_directory(tmp_path / "model", model_type="vit"))


def test_code_that_comes_with_a_model_is_refused_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question="": asked.append(question) or "y")
    model = model_directory(
        tmp_path / "model", model_type="own", auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.M"}
    )
    (model / "code.py").write_text("raise SystemExit('this ran')")

    with pytest.raises(InvalidTrainingRun, match="Code that comes with a model is never run"):
        check_architecture(model)
    assert asked == []
