"""One training from request to result, in the run worker: checks, claims an attempt, finds a checkpoint, runs a gang.

Everything that is bound to fail is refused before the first process starts.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from headrace.clock import Clock
from headrace.errors import InvalidTrainingRun
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.store.leases import Leases
from headrace.store.objects import ObjectStore
from headrace.store.sealed_directory import open_directory
from headrace.training import checkpoints
from headrace.training.architecture import check_architecture
from headrace.training.attempts import TrainingResult, find_result, open_attempt
from headrace.training.devices import Devices
from headrace.training.elastic import describe_resume, why_fixed
from headrace.training.examples import ExamplesInput, check_is_packed, num_train_rows, open_examples
from headrace.training.gang import Rows, run_gang
from headrace.training.gang_runner import GangRunner, LocalRunner
from headrace.training.guard import Worker
from headrace.training.heldout import PairMeasure
from headrace.training.lora import check_base
from headrace.training.picture_widths import painter_shape
from headrace.training.preference_examples import check_pairs
from headrace.training.recipe import FLOW_MATCHING, PICTURES, PREFERENCE, PRETRAIN, TEXTS, Recipe
from headrace.training.recipe_checks import check_heldout_shards
from headrace.training.recipe_needs import refuse_conflicts, slow_precision
from headrace.training.run_config import RunConfig
from headrace.training.zero import ModelShape, check_fits, check_sequence_length, keeps_fp32, read_model_shape

# Of a result, what its run's metadata shows as it is.
_TOLD = (
    *("training_id", "weights_digest", "state_digest", "steps_applied", "train_loss_last", "tokens", "step_seconds"),
    *("heldout_loss_best", "best_step", "exported_step", "stopped"),
    *("attempt_tokens", "peak_rss_mb", "world_size", "ranks", "zero_stage", "feeding", "attempt", "resumed_from_step"),
)


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """`exact_masters`: the base's fp32 weights are the masters of a training in half precision (`training.masters`)."""

    recipe: Recipe
    base_weights_digest: str
    inputs: tuple[ExamplesInput, ...]
    exact_masters: bool = False

    @property
    def training_id(self) -> str:
        return self.recipe.training_id(
            self.base_weights_digest,
            {item.partition: item.content_digest for item in self.inputs},
            exact_masters=self.exact_masters,
        )

    @property
    def pair_measure(self) -> PairMeasure | None:
        return PairMeasure.of(self.recipe, self.base_weights_digest)


def request_for(
    recipe: Recipe, base_model: pa.Table, examples: Mapping[str, Handoff], store: ObjectStore
) -> TrainingRequest:
    """Builds a request from earlier stages' outputs; `examples` by partition of what the recipe's objective reads.

    Raises:
        InvalidTrainingRun: there is no such shard to hold out, or none but those.
    """
    check_heldout_shards(recipe, examples)
    base_weights_digest = base_model.column("weights_digest")[0].as_py()
    # Adapters begin in the recipe's precision, and the base beside them has no masters.
    is_rounded = recipe.precision != "fp32" and recipe.objective != FLOW_MATCHING and not recipe.lora
    return TrainingRequest(
        recipe=recipe,
        base_weights_digest=base_weights_digest,
        exact_masters=is_rounded and keeps_fp32(store, base_weights_digest),
        inputs=tuple(
            ExamplesInput(
                partition=partition,
                version=handoff.version,
                content_digest=handoff.content_digest,
                is_heldout=partition in recipe.heldout_shards,
            )
            for partition, handoff in sorted(examples.items())
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`reused`: the training had finished before; nothing was started.

    `passed_over`: checkpoints that could not be resumed, each with its reason. `slow_precision`: a sentence if the
    devices only emulate the recipe's precision.
    """

    result: TrainingResult
    reused: bool
    passed_over: tuple[str, ...] = ()
    slow_precision: str | None = None

    def figures(self) -> dict[str, str | int | float | bool]:
        """The run's own figures, in units, for its metadata; unknown ones are left out.

        `attempt_…` and `tokens_per_second` cover only the finishing attempt: its own steps, and all of its seconds.
        `tokens` and `step_seconds` cover all steps.
        """
        result = self.result
        speed = None if result.attempt_tokens is None else result.attempt_tokens / result.seconds
        figures = {
            "reused": self.reused,
            **{name: getattr(result, name) for name in _TOLD},
            "tokens_per_second": speed,
            "attempt_seconds": result.seconds,
            "attempt_rank_seconds": result.seconds * result.world_size,
            "checkpoints_passed_over": "; ".join(self.passed_over) or None,
            "slow_precision": self.slow_precision,
        }
        return {name: value for name, value in figures.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where a training runs and what it may use; `work_root` is scratch space, empty after a success.

    `runner`: who starts the ranks of a run's task, and where: on this machine, unless told otherwise.
    """

    store: ObjectStore
    work_root: Path
    devices: Devices
    environment: Mapping[str, str]
    clock: Clock
    run_id: str
    runner: Callable[[RunConfig, Mapping[str, str]], GangRunner] = LocalRunner.of


def train(
    request: TrainingRequest,
    place: Workplace,
    *,
    on_rows: Callable[[Rows], None] = lambda rows: None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Trains, resumes, or returns the existing result.

    Raises:
        InvalidTrainingRun: refused before anything started, or diverged.
        TrainingFailed: the gang died or hung; a retry resumes.
        AttemptSuperseded: another worker took over.
    """
    if result := find_result(place.store, request.training_id):
        return Outcome(result=result, reused=True)
    check(request, place)
    slow = slow_precision(request.recipe, place.devices)
    if slow:
        say(slow)
    # While this lease lives, no checkpoint of this training is collected.
    with Leases(place.store, place.clock).hold(request.training_id):
        return _trained(request, place, on_rows, say, slow)


def _trained(
    request: TrainingRequest,
    place: Workplace,
    on_rows: Callable[[Rows], None],
    say: Callable[[str], None],
    slow: str | None,
) -> Outcome:
    passed_over: list[str] = []
    config = _open(request, place, say, passed_over)
    run_gang(place.runner(config, place.environment), config, on_rows=on_rows, say=say)
    result = find_result(place.store, request.training_id)
    assert result is not None, "the gang ended well without a result"
    checkpoints.discard_all(place.store, request.training_id)
    shutil.rmtree(_training_directory(place, request), ignore_errors=True)
    return Outcome(result=result, reused=False, passed_over=tuple(passed_over), slow_precision=slow)


def check(request: TrainingRequest, place: Workplace) -> int:
    """MiB of model state that a rank will hold.

    Raises:
        InvalidTrainingRun: the batch does not divide, the sequences are too long, the model does not fit, or
            transformers has no causal language model of this architecture; of pictures, they cannot be cut into
            patches, or their captions were read by another model than the base.
    """
    recipe = request.recipe
    num_ranks = refuse_conflicts(recipe, place.devices)
    if not request.inputs:
        wanted = recipe.examples_asset
        raise InvalidTrainingRun(f"Recipe {recipe.key} has no training examples; materialize {wanted} first.")
    shape = _picture_model(request, place) if recipe.objective == FLOW_MATCHING else _language_model(request, place)
    _with_steps(request, place)
    memory = recipe.memory_mib_per_rank or place.devices.memory_mib_per_rank(num_ranks)
    return check_fits(recipe, shape, world_size=num_ranks, memory_mib_per_rank=memory)


def _with_steps(request: TrainingRequest, place: Workplace) -> Recipe:
    """The recipe with its epochs as steps. Raises: InvalidTrainingRun: these are fewer than the warm-up takes."""
    recipe = request.recipe
    if recipe.epochs is None:
        return recipe
    return recipe.with_steps(num_train_rows(HandoffStore(place.store), recipe.examples_asset, request.inputs))


def _language_model(request: TrainingRequest, place: Workplace) -> ModelShape:
    base = open_directory(place.store, request.base_weights_digest)
    check_base(request.recipe, base)
    shape = read_model_shape(base, request.recipe.freeze, request.recipe.lora)
    check_sequence_length(request.recipe, shape, _length_of_texts(request, HandoffStore(place.store), base))
    check_architecture(base)
    return shape


def _length_of_texts(request: TrainingRequest, handoffs: HandoffStore, base: Path) -> int:
    """Tokens of the longest row. Raises: InvalidTrainingRun: the examples are none of the recipe's objective."""
    recipe = request.recipe
    if recipe.objective == PREFERENCE:
        return check_pairs(handoffs, recipe.examples_asset, request.inputs, base)
    if recipe.objective == PRETRAIN:
        examples = open_examples(handoffs, request.inputs, "train")
        if not examples.is_plain():
            raise InvalidTrainingRun(
                f"Recipe {recipe.key} wants plain texts for objective: pretrain, and {TEXTS} has prompts, of which "
                "nothing is learnt. Set example: plain in the corpus file, or objective: sft in the recipe."
            )
    first = request.inputs[0]
    schema = handoffs.open(TEXTS, first.partition, first.version).schema
    check_is_packed(schema, first)
    return schema.field("input_ids").type.list_size


def _picture_model(request: TrainingRequest, place: Workplace) -> ModelShape:
    from headrace.training.picture_examples import check_caption_encoder, shape_of
    from headrace.training.picture_pipeline import check_shape

    handoffs, first = HandoffStore(place.store), request.inputs[0]
    check_caption_encoder(handoffs, request.inputs, request.base_weights_digest)
    shape = shape_of(handoffs.open(PICTURES, first.partition, first.version).schema)
    settings = request.recipe.picture_model
    check_shape(settings, shape, f"Recipe {request.recipe.key}")
    # By arithmetic: to build it, even without memory, would import torch and diffusers into the run's worker.
    return painter_shape(settings, shape)


def _open(request: TrainingRequest, place: Workplace, say: Callable[[str], None], passed_over: list[str]) -> RunConfig:
    def pass_over(step: int, reason: str) -> None:
        passed_over.append(f"behind step {step}: {reason}")
        say(f"checkpoint behind step {step} is passed over: {reason}")

    worker = Worker.this_process()
    started_at = place.clock.now()
    world_size = place.devices.num_ranks(request.recipe.ranks)
    attempt = open_attempt(
        place.store,
        request.training_id,
        worker=worker,
        run_id=place.run_id,
        clock=place.clock,
        recipe=request.recipe.key,
        say=say,
    )
    # Of attempts that were killed, or met a full disk, in the middle of a checkpoint: as much as a checkpoint each.
    checkpoints.drop_unnamed(place.store, request.training_id)
    resume = checkpoints.newest_whole(
        place.store,
        request.training_id,
        world_size=world_size,
        fixed_because=why_fixed(request.recipe),
        passed_over=pass_over,
        clock=place.clock,
    )
    recipe = _with_steps(request, place)
    if resume:
        say(f"attempt {attempt} resumes behind step {resume.step} of {recipe.steps}")
        if other := describe_resume(resume, world_size):
            say(other)
    work = _training_directory(place, request) / f"{attempt:06d}"
    # From a worker that took this number before the store was emptied.
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return RunConfig(
        training_id=request.training_id,
        attempt=attempt,
        recipe=recipe,
        world_size=world_size,
        device=place.devices.kind,
        base_weights_digest=request.base_weights_digest,
        store_url=place.store.url,
        work_directory=str(work),
        inputs=request.inputs,
        worker=worker,
        started_at=started_at,
        resume=resume,
        exact_masters=request.exact_masters,
    )


def _training_directory(place: Workplace, request: TrainingRequest) -> Path:
    return place.work_root / request.training_id
