"""The objective of pictures: its loss beside one that was written anew, and what is random about it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headrace.errors import InvalidTrainingRun
from headrace.training.devices import Devices
from headrace.training.flow_matching import FlowMatchingObjective
from headrace.training.flow_matching_settings import FlowMatching
from headrace.training.heldout import HELDOUT_LOSS, evaluation_digest, heldout_digest
from headrace.training.moving_average import MovingAverage
from headrace.training.order import SampleOrder
from headrace.training.picture_examples import PictureShape
from headrace.training.picture_measures import errors_by_share, mean_colours, measured_captions, retrieval
from headrace.training.picture_pipeline import build_transformer
from headrace.training.picture_widths import painter_shape
from headrace.training.session import check
from tests.picture_builders import SIDE, TINY, build_caption_encoder, make_picture_bench, picture_recipe
from tests.training_builders import Bench, make_recipe, make_run_config

CPU = Devices(num_gpus=0, memory_mib=8000)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    directory = tmp_path_factory.mktemp("pictures")
    return make_picture_bench(directory, build_caption_encoder(directory))


@pytest.fixture
def objective(bench: Bench, tmp_path: Path) -> FlowMatchingObjective:
    config = make_run_config(tmp_path, recipe=make_recipe(**picture_recipe()), inputs=bench.inputs)
    return FlowMatchingObjective(config, bench.store)


def disturbed(objective: FlowMatchingObjective) -> Any:
    """A model whose output depends on its input: a new one gives zeros."""
    model = objective.load_model(Path())
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def test_a_new_model_predicts_grey_and_is_the_same_for_the_same_seed(objective: FlowMatchingObjective) -> None:
    model, again = objective.load_model(Path()), objective.load_model(Path())
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))
    seen = model(torch.randn(2, 3, SIDE, SIDE), torch.tensor([0.2, 0.9]), torch.randn(2, 8, 32), None).sample
    assert not seen.any()


def test_the_loss_is_the_error_of_the_velocity(objective: FlowMatchingObjective) -> None:
    model, numbers = disturbed(objective), np.array([2, 7])
    loss = objective.summed_loss(model, numbers, np.array([40, 41]), "cpu")
    expected = 0.0
    passed = objective._pictures.take(numbers)
    for row, draw in enumerate((40, 41)):
        share, is_dropped, noise = objective._drawn(draw)
        states, mask = passed.states_BTD[row : row + 1], passed.mask_BT[row : row + 1]
        if is_dropped:
            states, mask = objective._no_caption.states_BTD, objective._no_caption.mask_BT
        x = passed.pixels_BCHW[row : row + 1]
        mixed = x * (1 - share) + noise * share
        seen = model(mixed, share[None], states, mask).sample
        # The velocity from the picture to the noise, as predicted and as it is.
        velocity, true_velocity = (mixed - seen) / share, noise - x
        assert share > TINY.noise_floor
        expected += ((velocity - true_velocity) ** 2).mean().item()
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_what_is_random_follows_from_a_samples_number_on_any_rank(objective: FlowMatchingObjective) -> None:
    shares = torch.stack([objective._drawn(number)[0] for number in range(400)])
    dropped = torch.stack([objective._drawn(number)[1] for number in range(400)]).float().mean()
    assert torch.equal(objective._drawn(17)[2], objective._drawn(17)[2])
    assert torch.logit(shares).mean().item() == pytest.approx(0.3, abs=0.15)
    assert dropped.item() == pytest.approx(0.1, abs=0.05)
    alone = SampleOrder(seed=1, num_sequences=15, batch=4, world_size=1, micro_batch=4)
    two = SampleOrder(seed=1, num_sequences=15, batch=4, world_size=2, micro_batch=1)
    for step in (0, 9):
        pairs = [
            [
                (int(a), int(b))
                for rows, draws in zip(o.micro_batches(step, r), o.draws(step, r), strict=True)
                for a, b in zip(rows, draws, strict=True)
            ]
            for o, r in ((alone, 0), (two, 0), (two, 1))
        ]
        assert pairs[0] == pairs[1] + pairs[2]


def test_the_average_is_kept_in_the_state_and_restored() -> None:
    class Engine:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.tensor([0.0, 2.0]))], lr=1)

    [parameter] = Engine.optimizer.param_groups[0]["params"]
    average = MovingAverage(Engine, 0.75)
    parameter.data += 4
    average.update(Engine)
    [mean] = average.state()["moving_average"]
    assert mean.tolist() == [1.0, 3.0]
    other = MovingAverage(Engine, 0.75)
    other.restore(average.state())
    assert other.state()["moving_average"][0].tolist() == [1.0, 3.0]


def test_errors_and_ranks_tell_a_model_that_knows_its_pictures(objective: FlowMatchingObjective) -> None:
    pictures = objective._pictures
    numbers = measured_captions(pictures)
    errors = errors_by_share(disturbed(objective), pictures, numbers, "cpu")
    assert errors == errors_by_share(disturbed(objective), pictures, numbers, "cpu")
    assert all(error > 0.1 for error in errors.values())
    true = pictures.take(range(len(pictures))).pixels_BCHW.permute(0, 2, 3, 1).numpy() / 2 + 0.5
    by_caption = dict(zip(pictures.captions, true, strict=True))
    own, wrong, ranks = retrieval(pictures, numbers, lambda captions: [by_caption[caption] for caption in captions])
    assert (own, set(ranks)) == (1.0, {1})
    assert wrong < 1.0
    rotated = dict(zip(pictures.captions, np.roll(true, 7, axis=0), strict=True))
    assert retrieval(pictures, numbers, lambda captions: [rotated[caption] for caption in captions])[0] < 0.5


def test_mean_colours_are_those_of_fields() -> None:
    pictures = np.random.default_rng(1).random((2, 16, 16, 3))
    fields = pictures.reshape(2, 8, 2, 8, 2, 3).mean((2, 4)).reshape(2, -1)
    assert np.allclose(mean_colours(pictures), fields)


def test_measurements_of_texts_keep_their_digest(bench: Bench) -> None:
    assert HELDOUT_LOSS == "heldout_loss"
    assert evaluation_digest(bench.inputs, 10, "sft") == heldout_digest(bench.inputs, 10)
    assert evaluation_digest(bench.inputs, 10, "flow_matching") != heldout_digest(bench.inputs, 10)


REFUSALS = {
    "patches that do not fit": (
        {"flow_matching": TINY.__class__(patch_pixels=5, hidden_size=32, heads=2)},
        "pictures of 16x16 pixels cannot be cut into patches of 5",
    ),
    "a batch that does not divide": ({"batch": 3}, "batch=3 does not divide into 2 ranks"),
    "too little memory": (
        {"flow_matching": TINY.__class__(), "memory_mib_per_rank": 9},
        "need at least",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_run_is_refused_before_any_process_starts(bench: Bench, case: str) -> None:
    changes, text = REFUSALS[case]
    with pytest.raises(InvalidTrainingRun) as refusal:
        check(bench.request(**picture_recipe(**changes)), bench.place({}, devices=CPU))
    assert text in str(refusal.value)


def test_captions_that_another_model_read_are_refused(bench: Bench, tmp_path: Path) -> None:
    from headrace.store.sealed_directory import seal_directory

    (tmp_path / "config.json").write_text("{}")
    other = Bench(bench.store, bench.work_root, seal_directory(bench.store, tmp_path).digest, bench.inputs)
    with pytest.raises(InvalidTrainingRun, match="has captions as the model .* reads them"):
        check(other.request(**picture_recipe()), other.place({}, devices=CPU))


def test_a_painters_size_follows_from_its_settings_as_diffusers_builds_it() -> None:
    for settings in (FlowMatching(), FlowMatching(hidden_size=64, heads=4, depth=3, mlp_ratio=2.5, patch_pixels=4)):
        shape = PictureShape(side=32, tokens=8, width=48)
        built = build_transformer(settings, shape, seed=0)
        assert painter_shape(settings, shape).num_params == sum(one.numel() for one in built.parameters())
