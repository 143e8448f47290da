"""The loss of preferences against one that torch and transformers compute by themselves, and its reference."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from headrace.errors import HandoffCorrupt, InvalidInput, InvalidTrainingRun
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from headrace.training.examples import ExamplesInput
from headrace.training.heldout import PairMeasure, evaluation_digest
from headrace.training.preference import PreferenceObjective, answer_logprobs, without_dropout
from headrace.training.preference_evaluation import measured
from headrace.training.preference_examples import PreferencePairs, check_pairs, open_pairs
from headrace.training.preference_settings import Preference, RowPairs
from headrace.training.recipe import PREFERENCE, Recipe
from headrace.training.reference import drawn_numbers, reference_for, reference_key
from headrace.training.run_config import RunConfig
from tests.pair_builders import token_pairs
from tests.training_builders import make_recipe, make_run_config


class AloneGang:
    """One rank, in this process."""

    rank = 0
    world_size = 1
    accelerator = SimpleNamespace(device="cpu")

    def gather(self, value: Any) -> list[Any]:
        return [value]


@dataclass
class Site:
    store: LocalStore
    config: RunConfig

    def objective(self, base: Path) -> PreferenceObjective:
        made = PreferenceObjective(self.config, self.store)
        made.load_model(base)
        return made


def make_site(directory: Path, *, num_pairs: int = 12, **recipe: Any) -> Site:
    store = LocalStore(directory / "store")
    splits = ["heldout" if number % 4 == 3 else "train" for number in range(num_pairs)]
    handoff = HandoffStore(store).publish(
        "training_examples", "shard-00", token_pairs(splits), code_version="1", run_id="test"
    )
    inputs = (ExamplesInput(partition="shard-00", version=1, content_digest=handoff.content_digest),)
    made = make_recipe(objective=PREFERENCE, **recipe)
    return Site(store, make_run_config(directory / "work", recipe=made, inputs=inputs, world_size=1))


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


def plain_logprob(model: Any, prompt: list[int], answer: list[int]) -> Any:
    """Without padding and batches: each token of the answer after those before it."""
    import torch

    ids = torch.tensor([[*prompt, *answer]])
    logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
    return sum(logprobs[place - 1, ids[0, place]] for place in range(len(prompt), ids.shape[1]))


def moved(model: Any) -> Any:
    """A model that has learnt something else meanwhile."""
    import copy

    import torch

    other = copy.deepcopy(model)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return other


def test_an_answers_likelihood_is_that_of_its_tokens_alone(model: Any) -> None:
    table = token_pairs(["train"] * 5)
    pairs = PreferencePairs([table], "train")
    found = answer_logprobs(model, pairs.take([4, 0, 2]), "cpu").tolist()
    rows = table.to_pylist()
    expected = [
        plain_logprob(model, rows[number]["prompt_ids"], rows[number][f"{side}_ids"]).item()
        for number in (4, 0, 2)
        for side in ("chosen", "rejected")
    ]
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("preference", [Preference(), Preference(beta=0.5, label_smoothing=0.1)])
def test_the_loss_and_its_gradient_are_those_of_the_formula(
    model: Any, tiny_model: Path, tmp_path: Path, preference: Preference
) -> None:
    import torch

    site = make_site(tmp_path, preference=preference, batch=3)
    objective = site.objective(tiny_model)
    objective.begin(AloneGang(), model)  # pyright: ignore[reportArgumentType]
    policy, numbers = moved(model), np.array([5, 1, 7])
    loss = objective.summed_loss(policy, numbers, numbers, "cpu")
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in policy.parameters()]
    policy.zero_grad()

    handoff = HandoffStore(site.store).open("training_examples", "shard-00").table().to_pylist()
    taught = [row for row in handoff if row["split"] == "train"]
    losses = []
    for row in (taught[number] for number in numbers):
        gains = []
        for side in ("chosen", "rejected"):
            with torch.no_grad():
                before = plain_logprob(model, row["prompt_ids"], row[f"{side}_ids"])
            gains.append(plain_logprob(policy, row["prompt_ids"], row[f"{side}_ids"]) - before)
        won = torch.sigmoid(preference.beta * (gains[0] - gains[1]))
        share = preference.label_smoothing
        losses.append(-(1 - share) * won.log() - share * (1 - won).log())
    expected = torch.stack(losses).sum()
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for found, parameter in zip(gradients, policy.parameters(), strict=True):
        assert torch.allclose(found, parameter.grad, atol=1e-5)
    assert objective.weight(numbers) == 3
    assert objective.num_tokens(numbers) == sum(
        2 * len(taught[n]["prompt_ids"]) + len(taught[n]["chosen_ids"]) + len(taught[n]["rejected_ids"])
        for n in numbers
    )


def test_what_preferences_are_compared_with_is_measured_once_without_dropout(model: Any, tmp_path: Path) -> None:
    import torch

    site = make_site(tmp_path, num_pairs=40, batch=2, steps=3)
    drawn = drawn_numbers(site.config, 30)
    assert len(drawn) == 6, "only what the steps will draw"
    asked: list[int] = []

    def measure(numbers: np.ndarray) -> np.ndarray:
        assert not model.training
        assert not torch.is_grad_enabled()
        asked.extend(numbers)
        return np.stack([numbers, -numbers], axis=1).reshape(-1).astype(np.float32)

    model.train()
    gang: Any = AloneGang()
    found, told = reference_for(site.config, site.store, gang, model, split="train", num_pairs=30, measure=measure)
    assert model.training
    model.eval()
    assert sorted(asked) == drawn.tolist()
    assert told.endswith("was measured for 6 pairs")
    assert found[drawn].tolist() == [[number, -number] for number in drawn]
    assert np.isnan(np.delete(found, drawn, axis=0)).all()

    again, told = reference_for(site.config, site.store, gang, model, split="train", num_pairs=30, measure=measure)
    assert len(asked) == 6
    assert told.endswith("was read for 6 pairs")
    np.testing.assert_array_equal(again, found)


def test_a_damaged_reference_is_refused_with_what_to_do(model: Any, tiny_model: Path, tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.objective(tiny_model).begin(AloneGang(), model)  # pyright: ignore[reportArgumentType]
    path = site.store.local_path(reference_key(site.config.training_id, "train", 9))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"num_pairs":9', b'"num_pairs":8'))
    with pytest.raises(HandoffCorrupt, match="Delete it, and materialize trained_model again"):
        site.objective(tiny_model).begin(AloneGang(), model)  # pyright: ignore[reportArgumentType]


def test_the_reference_itself_wins_half_of_the_pairs() -> None:
    reference = np.array([[-3.0, -2.0], [-4.0, -5.0]], dtype=np.float32)
    loss, figures = measured(reference, reference, Preference())
    assert loss == pytest.approx(math.log(2))
    assert (figures["win_share"], figures["margin"], figures["chosen_likelier_share"]) == (0.5, 0.0, 0.5)


def test_a_model_that_learnt_wins_by_its_margins() -> None:
    reference = np.array([[-3.0, -2.0], [-4.0, -5.0]], dtype=np.float32)
    loss, figures = measured(reference + np.array([2.0, -1.0], dtype=np.float32), reference, Preference(beta=0.5))
    assert loss == pytest.approx(math.log1p(math.exp(-1.5)))
    assert (figures["win_share"], figures["margin"]) == (1.0, 1.5)
    assert (figures["chosen_gain"], figures["rejected_gain"]) == (2.0, -1.0)


def test_dropout_is_off_however_the_model_has_it() -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(1, 1))
    model[1].attention_dropout = 0.1  # pyright: ignore[reportArgumentType]
    without_dropout(model)
    assert (model[0].p, model[1].attention_dropout) == (0.0, 0.0)


def test_a_pair_of_ids_that_the_model_does_not_know_is_named(tiny_model: Path, tmp_path: Path) -> None:
    site = make_site(tmp_path)
    table = token_pairs(["heldout", "train", "train"], vocab=600, seed=3)
    HandoffStore(site.store).publish("training_examples", "shard-00", table, code_version="1", run_id="test")
    pinned = (ExamplesInput(partition="shard-00", version=2, content_digest="c"),)
    objective = PreferenceObjective(replace(site.config, inputs=pinned), site.store)
    model = objective.load_model(tiny_model)
    with pytest.raises(InvalidTrainingRun, match=r"training_examples\[shard-00\] v2, row [12] \(from 0\), has token"):
        objective.begin(AloneGang(), model)  # pyright: ignore[reportArgumentType]


def test_measurements_are_compared_with_those_of_the_same_pairs_reference_and_beta_alone(tmp_path: Path) -> None:
    inputs = make_site(tmp_path).config.inputs
    recipe = make_recipe(objective=PREFERENCE)
    one = PairMeasure.of(recipe, "b" * 64)
    digests = {
        evaluation_digest(inputs, 100, PREFERENCE, measure)
        for measure in (
            one,
            PairMeasure.of(recipe, "c" * 64),
            PairMeasure.of(make_recipe(objective=PREFERENCE, preference=Preference(beta=0.2)), "b" * 64),
        )
    }
    assert len(digests) == 3
    assert PairMeasure.of(make_recipe(), "b" * 64) is None


def test_pairs_that_another_tokenizer_made_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    handoffs = HandoffStore(LocalStore(tmp_path))
    for made in ("e" * 64, ""):
        handoff = handoffs.publish(
            "preference_pairs",
            "tiny.test",
            token_pairs(["train", "heldout"]),
            code_version="1",
            run_id="test",
            attributes={"tokenizer": made} if made else {},
        )
        pinned = ExamplesInput(partition="tiny.test", version=handoff.version, content_digest=handoff.content_digest)
        if made:
            with pytest.raises(InvalidTrainingRun, match="was made with the tokenizer eeeeeeeeeeee, and the"):
                check_pairs(handoffs, "preference_pairs", [pinned], tiny_model)
        else:
            assert 6 <= check_pairs(handoffs, "preference_pairs", [pinned], tiny_model) <= 20


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_without_a_pair_to_learn_or_to_measure_nothing_starts(tmp_path: Path, split: Any) -> None:
    handoffs = HandoffStore(LocalStore(tmp_path))
    other = {"train": "heldout", "heldout": "train"}[split]
    handoff = handoffs.publish("training_examples", "shard-00", token_pairs([other]), code_version="1", run_id="test")
    pinned = ExamplesInput(partition="shard-00", version=1, content_digest=handoff.content_digest)
    with pytest.raises(InvalidTrainingRun, match=f"hold no preference pair of split '{split}', wanted at least one"):
        open_pairs(handoffs, "training_examples", [pinned], split)


ROWS = RowPairs(campaigns=("glossary",))


def test_what_older_recipes_said_is_their_body_still_and_which_rows_are_paired_changes_no_training() -> None:
    assert not {"objective", "preference", "base_recipe", "flow_matching"} & make_recipe().to_body().keys()
    assert "preference" not in make_recipe(objective="pretrain").to_body()
    one = make_recipe(objective=PREFERENCE, preference=Preference(rows=ROWS))
    other = make_recipe(objective=PREFERENCE, preference=Preference(rows=RowPairs(campaigns=("glossary", "other"))))
    assert one.training_id("b", {}) == other.training_id("b", {}) != make_recipe().training_id("b", {})
    assert one.training_id("b", {}) != make_recipe(objective=PREFERENCE, preference=Preference(beta=0.2)).training_id(
        "b", {}
    )
    assert (one.examples_asset, make_recipe(objective=PREFERENCE).examples_asset) == (
        "preference_pairs",
        "training_examples",
    )


REFUSALS: dict[str, tuple[Any, str]] = {
    "preferences of another objective": (
        lambda: make_recipe(preference=Preference()),
        "preference is of the objective preference, got it with objective='sft'",
    ),
    "no campaign": (lambda: RowPairs(campaigns=()), "campaigns must name at least one campaign, and each once"),
    "a day that is none": (lambda: RowPairs(campaigns=("a",), since="today"), "since must be a day such as"),
    "both bases": (lambda: make_recipe(base_model="x", base_recipe="tiny.other"), "Leave one of them out"),
    "itself as base": (lambda: make_recipe(base_recipe="tiny.test"), "must be another recipe as MODEL.NAME"),
    "half answers count alike": (lambda: Preference(label_smoothing=0.5), "label_smoothing must be .* below 0.5"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_recipe_that_cannot_be_meant_is_refused(case: str) -> None:
    made, sentence = REFUSALS[case]
    with pytest.raises(InvalidInput, match=sentence):
        made()


def test_a_recipe_reads_as_it_was_written(tmp_path: Path) -> None:
    recipe = make_recipe(objective=PREFERENCE, preference=Preference(rows=ROWS), base_recipe="tiny.other")
    config = make_run_config(tmp_path, recipe=recipe)
    read = RunConfig.read(config.write(tmp_path / "run.json")).recipe
    assert isinstance(read, Recipe)
    assert read == recipe


def test_another_number_of_measured_pairs_has_a_reference_of_its_own() -> None:
    """Without `keep: best`, `heldout_tokens_min` decides no weights, and may change while a training is interrupted."""
    assert reference_key("t", "heldout", 8) != reference_key("t", "heldout", 9)
