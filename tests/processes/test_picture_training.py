"""A picture model through real gangs: killed and resumed, exported, opened by plain diffusers, measured."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from headrace.store.sealed_directory import open_directory
from headrace.training.attempts import find_result, read_curve
from headrace.training.flow_matching import FlowMatchingObjective
from headrace.training.heldout import evaluate
from headrace.training.order import SampleOrder
from headrace.training.picture_measures import TAUGHT_ERROR
from headrace.training.schedule import learning_rate_at
from headrace.training.session import train
from tests.picture_builders import TINY, build_caption_encoder, make_picture_bench, picture_recipe
from tests.processes.killed_training import run_until_checkpoint
from tests.training_builders import Bench, make_run_config

pytestmark = [pytest.mark.process, pytest.mark.timeout(1800)]

STEPS, CHECKPOINT_EVERY = 24, 6
RECIPE = picture_recipe(
    steps=STEPS, learning_rate=5e-3, checkpoint_every=CHECKPOINT_EVERY, ranks=2, micro_batch=1, step_timeout_seconds=120
)

# Opens the directory with nothing of ours, and paints a picture.
PLAIN = """
import sys
import torch
from diffusers import PRXPixelPipeline
pipeline = PRXPixelPipeline.from_pretrained(sys.argv[1])
picture = pipeline(
    "red wheel", height=16, width=16, num_inference_steps=2, guidance_scale=2.0, use_resolution_binning=False,
    generator=torch.Generator().manual_seed(1),
).images[0]
assert not any(name.split(".")[0].startswith("headrace") for name in sys.modules)
print(picture.size, pipeline.tokenizer.padding_side, sum(p.numel() for p in pipeline.transformer.parameters()))
"""

# The worker of a training: a process that a test can kill.
WORKER = """
import os, sys
from pathlib import Path
sys.path.insert(0, {checkout!r})
from headrace.training.session import train
from tests.picture_builders import make_picture_bench
from tests.processes.test_picture_training import RECIPE

bench = make_picture_bench(Path({directory!r}), Path({encoder!r}))
train(bench.request(**RECIPE), bench.place(dict(os.environ)))
"""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_caption_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def straight(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = make_picture_bench(tmp_path_factory.mktemp("straight"), encoder)
    train(bench.request(**RECIPE), bench.place(dict(os.environ)))
    return bench


def kill_worker_in_the_middle(directory: Path, encoder: Path) -> None:
    script = WORKER.format(checkout=str(Path(__file__).parents[2]), directory=str(directory), encoder=str(encoder))
    run_until_checkpoint(script, directory)


def test_a_picture_training_that_is_killed_and_resumed_ends_bit_for_bit_like_one_that_was_not(
    straight: Bench, encoder: Path, tmp_path: Path
) -> None:
    kill_worker_in_the_middle(tmp_path, encoder)
    bench = make_picture_bench(tmp_path, encoder)
    request = bench.request(**RECIPE)
    outcome = train(request, bench.place(dict(os.environ)))
    undisturbed = find_result(straight.store, request.training_id)
    assert undisturbed is not None, "the two trainings have different ids"
    assert outcome.result.resumed_from_step >= CHECKPOINT_EVERY
    assert outcome.result.state_digest == undisturbed.state_digest
    assert outcome.result.weights_digest == undisturbed.weights_digest
    losses = [row["loss"] for row in read_curve(bench.store, outcome.result)]
    assert losses == [row["loss"] for row in read_curve(straight.store, undisturbed)]
    assert len(losses) == STEPS
    assert undisturbed.tokens == STEPS * 4 * 16, "a picture of 16 pixels has 16 patches of 4"


def test_what_is_exported_is_the_moving_average_that_a_plain_loop_computes(straight: Bench, tmp_path: Path) -> None:
    request = straight.request(**RECIPE)
    recipe, result = request.recipe, find_result(straight.store, request.training_id)
    assert result
    config = make_run_config(tmp_path, recipe=recipe, inputs=request.inputs)
    objective = FlowMatchingObjective(config, straight.store)
    model = objective.load_model(Path())
    start = {name: one.detach().clone() for name, one in model.named_parameters()}
    averages = {name: one.clone() for name, one in start.items()}
    optimizer = torch.optim.AdamW(model.parameters(), betas=(recipe.beta1, recipe.beta2), weight_decay=0.0)
    order = SampleOrder(seed=recipe.seed, num_sequences=len(objective), batch=4, world_size=1, micro_batch=4)
    for step in range(STEPS):
        [numbers], [draws] = order.micro_batches(step, 0), order.draws(step, 0)
        optimizer.param_groups[0]["lr"] = learning_rate_at(recipe, step)
        optimizer.zero_grad()
        (objective.summed_loss(model, numbers, draws, "cpu") / 4).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        for name, one in model.named_parameters():
            averages[name] += (one.detach() - averages[name]) * (1 - TINY.ema_decay)
    weights = load_file(
        open_directory(straight.store, result.weights_digest) / "transformer/diffusion_pytorch_model.safetensors"
    )
    assert weights.keys() == averages.keys()
    moved = sum(((averages[name] - start[name]) ** 2).sum().item() for name in weights)
    apart = sum(((averages[name] - weights[name]) ** 2).sum().item() for name in weights)
    assert (apart / moved) ** 0.5 < 1e-3, "rounding, of the distance that the weights moved"


def test_the_directory_opens_and_paints_with_plain_diffusers(straight: Bench, tmp_path: Path) -> None:
    result = find_result(straight.store, straight.request(**RECIPE).training_id)
    assert result
    weights = open_directory(straight.store, result.weights_digest)
    told = subprocess.run(
        [sys.executable, "-P", "-c", PLAIN, str(weights)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert told.stdout.startswith("(16, 16) right ")
    parts = {path.relative_to(weights).parts[0] for path in weights.rglob("*") if path.is_file()}
    assert parts == {"README.md", "model_index.json", "scheduler", "text_encoder", "tokenizer", "transformer"}


def test_a_picture_model_is_measured_on_what_it_was_taught(straight: Bench) -> None:
    request = straight.request(**RECIPE)
    result = find_result(straight.store, request.training_id)
    assert result
    found = evaluate(
        straight.store,
        {"trained": result.weights_digest},
        request.inputs,
        heldout_tokens_min=1,
        objective="flow_matching",
        device="cpu",
        environment=os.environ,
    )["trained"]
    assert (found.measure, found.heldout_tokens) == (TAUGHT_ERROR, 15 * 4)
    by_share = [value for name, value in found.figures.items() if name.startswith("taught_error_at_")]
    assert found.heldout_loss == pytest.approx(sum(by_share) / 4)
    assert 0 < found.heldout_loss < 2
    assert {"top5_own", "top5_wrong", "heldout_error_at_0.95"} <= found.figures.keys()
