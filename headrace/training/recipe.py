"""Training recipes: written by people, checked before any process starts.

A recipe says what is trained, not where. `batch` is the number of sequences in one optimizer step over all ranks, so
the same file gives the same training on two CPU ranks and on eight GPUs. Gradient accumulation follows from it.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from headrace.errors import InvalidTrainingRun
from headrace.keys import check_name, digest_text, model_recipe
from headrace.store.objects import canonical_json
from headrace.training.flow_matching_settings import FlowMatching
from headrace.training.lora_settings import Lora
from headrace.training.preference_settings import Preference, RowPairs
from headrace.training.recipe_checks import check_settings
from headrace.training.recipe_parts import (
    PLAIN_ADAMW,
    Attention,
    EarlyStop,
    Guards,
    Offload,
    Optimizer,
    OptimizerName,
    ScheduleName,
    ScheduleShape,
    ZeroPlusPlus,
    spelt,
)
from headrace.user_files.directory import Described, from_directory
from headrace.user_files.ranges import Because, check_ranges
from headrace.user_files.shapes import Before, from_file

Precision = Literal["bf16", "fp32", "fp16"]
# What is learnt: `sft`: to answer, `pretrain`: to continue plain texts, `preference`: which of two answers is better,
# `flow_matching`: to paint pictures.
ObjectiveName = Literal["sft", "pretrain", "preference", "flow_matching"]
SFT: ObjectiveName = "sft"
PRETRAIN: ObjectiveName = "pretrain"
PREFERENCE: ObjectiveName = "preference"
FLOW_MATCHING: ObjectiveName = "flow_matching"
# The assets that recipes read.
TEXTS, PICTURES, ROW_PAIRS = "training_examples", "picture_examples", "preference_pairs"

# Longer waits than anybody's; torch counts a time-out in microseconds, of which 64 bits hold less than files can say.
YEAR_SECONDS = 365 * 24 * 3600

# Raised when the training code changes what a recipe trains: older results are then not reused.
CODE_VERSION = "1"
# Only for recipes that were once trained wrongly: stage 3 left out the weight decay and wrote tied weights twice; stage
# 0 in half precision took a step of its own before the first.
_CODE_VERSION_STAGE_3 = _CODE_VERSION_STAGE_0_HALF = "2"

# Where and how patiently a training runs; these change no weight at a given world size.
_NOT_TRAINED = {
    "name",
    "model",
    "base_model",  # the digest of its weights counts instead
    "base_recipe",
    "checkpoint_every",
    "checkpoints_kept",
    "heldout_tokens_min",
    "ranks",
    "memory_mib_per_rank",
    "start_timeout_seconds",
    "step_timeout_seconds",
}
# Added after recipes had training ids: not spelt in a body where they say nothing new.
_ADDED = (
    *("epochs", "optimizer", "schedule_shape", "neftune_noise_alpha", "attention", "gradient_checkpointing"),
    *("offload", "zero_plus_plus", "heldout_shards", "evaluate_every", "keep", "early_stop", "guards", "base_recipe"),
    "lora",
)


def _named(value: Any) -> Any:
    """A file may say `optimizer: sgd`."""
    return {"name": value} if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One model trained in one way; `key` is its Dagster partition."""

    KEYS_ELSEWHERE: ClassVar = {
        **dict.fromkeys(
            ("sequence_length", "max_length", "max_seq_length"),
            "how long sequences are is said by sequence_length of the corpus file, or of preference.rows.",
        ),
        "gradient_accumulation_steps": "it follows from batch, micro_batch and the number of ranks.",
        "lr": "did you mean 'learning_rate'?",
    }

    name: str
    """With the model's name, the partition of the training assets."""
    model: str
    """The name under which the result is registered."""
    batch: Annotated[int, Ge(1)]
    """Packed sequences, pairs or pictures in one optimizer step, over all ranks."""
    learning_rate: Annotated[float, Gt(0), Le(1), Because("Adam moves every weight by about so much a step")]
    """The highest learning rate, after the warm-up."""
    steps: Annotated[int, Ge(0)] = 0
    """Optimizer steps; 0, the default: as `epochs` says."""
    epochs: Annotated[float, Gt(0)] | None = None
    """Instead of `steps`: how often each example is seen; the last batch goes on into the next epoch."""
    base_model: str | None = None
    """Directory (absolute, or relative to HEADRACE_HOME) or hub name; null: the project's base model. With
    `flow_matching`, which starts from random weights, the model that reads captions: the images file's
    `caption_encoder`."""
    base_recipe: str | None = None
    """A recipe, MODEL.NAME, to start from the weights that it trained last; in place of `base_model`."""
    objective: ObjectiveName = SFT
    """`sft`: a language model learns the examples' completions, or the assistant's turns; `pretrain`: every token of
    plain texts; `preference`: of two answers to one prompt the better one; `flow_matching`: a picture model learns
    captioned pictures."""
    preference: Preference | None = None
    """How far pairs move the model, and which pairs; of `preference` alone. null: all its defaults."""
    flow_matching: FlowMatching | None = None
    """The picture model and how it learns; of `flow_matching` alone. null: all its defaults."""
    micro_batch: Annotated[int, Ge(1)] = 1
    """Packed sequences, pairs or pictures that one rank holds at once; batch = ranks × micro_batch × gradient
    accumulation."""
    optimizer: Annotated[Optimizer, Before(_named, accepts=OptimizerName)] = PLAIN_ADAMW
    """One of torch's, by its name alone or with its options; null options are torch's defaults."""
    schedule: ScheduleName = "cosine"
    """How the learning rate goes on after the warm-up."""
    schedule_shape: ScheduleShape | None = None
    """What some schedules take besides; null: their defaults."""
    warmup_steps: Annotated[int, Ge(0)] = 0
    """Steps in which the learning rate rises to its highest."""
    learning_rate_end: Annotated[float, Ge(0), Le(1)] = 0.1
    """The schedule's end, as a share of `learning_rate`."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Of the optimizer, for matrices and embeddings."""
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Of AdamW, and of its kin: adam, adamax, nadam, radam."""
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.95
    """The same."""
    clip_norm: Annotated[float, Ge(0)] = 1.0
    """Gradients with a larger global norm are scaled down; 0: never."""
    freeze: tuple[str, ...] = ()
    """Prefixes of parameter names that are not trained; they need neither gradients nor optimizer state."""
    lora: Lora | None = None
    """Adapters are trained beside the base, which stays as it is; of language models. null: the base's own weights are.
    """
    neftune_noise_alpha: Annotated[float, Gt(0)] | None = None
    """NEFTune: uniform noise on the embeddings while training, of this strength, mostly 5 to 15; null: none."""
    attention: Attention | None = None
    """transformers' implementation; null: sdpa where the architecture has it."""
    gradient_checkpointing: bool = False
    """Activations are computed again in the backward pass: less memory for a third more time."""
    zero_stage: Annotated[int, Ge(0), Le(3)] = 2
    """What DeepSpeed divides among the ranks: 1 optimizer state, 2 gradients too, 3 parameters too; 0 nothing."""
    offload: Offload | None = None
    """ZeRO-Offload, on GPUs."""
    zero_plus_plus: ZeroPlusPlus | None = None
    """ZeRO++, of stage 3 on several GPUs."""
    precision: Precision = "bf16"
    """bf16 for GPUs, and for CPUs with avx512_bf16; fp32 elsewhere."""
    seed: Annotated[int, Ge(0), Le(10**13), Because("torch takes 64 bits, and each rank and step has its own")] = 0
    """Of the order of the examples, and of dropout."""
    checkpoint_every: Annotated[int, Ge(1)] = 100
    """Steps between two checkpoints; a killed rank costs the steps since the last one."""
    checkpoints_kept: Annotated[int, Ge(1)] = 2
    """How many of the newest checkpoints stay."""
    heldout_tokens_min: Annotated[int, Ge(1)] = 10_000
    """How many completion tokens, or preference pairs, the held-out loss is measured on, at least; of texts."""
    heldout_shards: tuple[str, ...] = ()
    """Partitions of `training_examples` that are held out whole, and alone: a held-out set of one's own. Empty: the
    terms that data prep held out in each shard."""
    evaluate_every: Annotated[int, Ge(1)] | None = None
    """Steps between two measurements of the held-out loss while training, and one at the end; null: none."""
    keep: Literal["last", "best"] = "last"
    """The weights that are exported: behind the last step, or behind the step with the lowest held-out loss."""
    early_stop: EarlyStop | None = None
    """null: all steps are taken."""
    guards: Guards | None = None
    """null: only losses and gradients that are not finite, and time-outs, end a training."""
    ranks: Annotated[int, Ge(1)] | None = None
    """null: one for each GPU, or two without a GPU."""
    memory_mib_per_rank: Annotated[int, Ge(1)] | None = None
    """Memory that a rank may fill; null: this machine's free memory."""
    start_timeout_seconds: Annotated[int, Ge(1), Le(YEAR_SECONDS)] = 600
    """Until every rank's first step; loaded machines take minutes to import the libraries."""
    step_timeout_seconds: Annotated[int, Ge(1), Le(YEAR_SECONDS)] = 900
    """The longest wait for one step or checkpoint before the gang counts as hung."""

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_name("model", self.model)
        check_ranges(self)
        if not all(prefix.strip() for prefix in self.freeze):
            raise InvalidTrainingRun(
                f"freeze must list prefixes of parameters' names, and no empty one, which freezes all, got "
                f"{list(self.freeze)!r}."
            )
        check_settings(self)
        self._check_objective()

    def _check_objective(self) -> None:
        for name, settings in ((FLOW_MATCHING, self.flow_matching), (PREFERENCE, self.preference)):
            if settings and self.objective != name:
                raise InvalidTrainingRun(
                    f"{name} is of the objective {name}, got it with objective={self.objective!r}. Leave it out, or "
                    f"set objective: {name}."
                )
        self._check_base()
        if self.objective != FLOW_MATCHING:
            return
        if self.base_model is None:
            raise InvalidTrainingRun(
                "objective: flow_matching needs base_model, the model that reads captions; name the images file's "
                "caption_encoder."
            )
        if self.freeze:
            raise InvalidTrainingRun(
                f"freeze must be empty with objective: flow_matching, whose weights start at random, got "
                f"{list(self.freeze)!r}."
            )
        # DeepSpeed hands out a whole fp32 weight, by which the average is gathered, at these alone: stage 3 was tried
        # and waits for ever.
        if self.zero_stage == 3 or (self.zero_stage == 0 and self.precision != "fp32"):
            raise InvalidTrainingRun(
                f"objective: flow_matching in {self.precision} needs zero_stage 1 or 2 (in fp32 also 0), from which "
                f"the moving average can be gathered, got zero_stage={self.zero_stage}."
            )
        if self.precision == "fp16":
            raise InvalidTrainingRun(
                "objective: flow_matching wants precision bf16 or fp32, got 'fp16', whose range its weighted errors "
                "leave."
            )

    def _check_base(self) -> None:
        if self.base_recipe is None:
            return
        if self.base_model is not None or self.objective == FLOW_MATCHING:
            raise InvalidTrainingRun(
                f"base_recipe names what a language model starts from, in place of base_model, got base_recipe="
                f"{self.base_recipe!r} with base_model={self.base_model!r} and objective={self.objective!r}. Leave one "
                "of them out."
            )
        model, dot, name = self.base_recipe.partition(".")
        if not (model and dot and name) or self.base_recipe == self.key:
            raise InvalidTrainingRun(
                f"base_recipe must be another recipe as MODEL.NAME, such as smollm2-135m.define, got "
                f"{self.base_recipe!r}."
            )

    @property
    def examples_asset(self) -> str:
        """The asset whose partitions it learns: all of `training_examples` or `picture_examples`, its own of
        `preference_pairs`."""
        if self.objective == FLOW_MATCHING:
            return PICTURES
        return ROW_PAIRS if self.row_pairs else TEXTS

    @property
    def has_base(self) -> bool:
        """Whether the weights that it starts from are a model of its kind, which can be measured and registered."""
        return self.objective != FLOW_MATCHING

    @property
    def preferences(self) -> Preference:
        assert self.objective == PREFERENCE
        return self.preference or Preference()

    @property
    def row_pairs(self) -> RowPairs | None:
        return self.preferences.rows if self.objective == PREFERENCE else None

    @property
    def picture_model(self) -> FlowMatching:
        assert self.objective == FLOW_MATCHING
        return self.flow_matching or FlowMatching()

    @property
    def key(self) -> str:
        return model_recipe(self.model, self.name)

    def with_steps(self, num_examples: int) -> "Recipe":
        """Its epochs as steps, of so many examples to train on.

        Raises:
            InvalidTrainingRun: these are fewer steps than the warm-up takes.
        """
        if self.epochs is None:
            return self
        steps = max(1, math.ceil(self.epochs * num_examples / self.batch))
        return dataclasses.replace(self, steps=steps, epochs=None)

    def gradient_accumulation(self, world_size: int) -> int:
        """One rank's micro-batches in one optimizer step.

        Raises:
            InvalidTrainingRun: the batch cannot be divided evenly.
        """
        passes, rest = divmod(self.batch, world_size * self.micro_batch)
        if rest or not passes:
            raise InvalidTrainingRun(
                f"Recipe {self.key}: batch={self.batch} does not divide into {world_size} ranks × "
                f"micro_batch={self.micro_batch}; set batch to a multiple of {world_size * self.micro_batch}."
            )
        return passes

    @property
    def _code_version(self) -> str:
        if self.zero_stage == 3:
            return _CODE_VERSION_STAGE_3
        if self.zero_stage == 0 and self.precision != "fp32":
            return _CODE_VERSION_STAGE_0_HALF
        return CODE_VERSION

    def to_body(self) -> dict[str, Any]:
        """Without what older recipes did not have, where it says nothing new: their bodies and training ids stay."""
        body = dataclasses.asdict(self) | {"freeze": list(self.freeze)}
        values = {field.name: (getattr(self, field.name), field.default) for field in dataclasses.fields(self)}
        told = {name: spelt(values[name][0]) for name in _ADDED if values[name][0] != values[name][1]}
        body = {key: value for key, value in body.items() if key not in _ADDED} | told
        settings = {
            FLOW_MATCHING: lambda: dataclasses.asdict(self.picture_model),
            PREFERENCE: lambda: dataclasses.asdict(self.preferences),
        }
        of_objective = {name: made() for name, made in settings.items() if name == self.objective}
        others = [*settings, *(["objective"] if self.objective == SFT else [])]
        return {key: value for key, value in body.items() if key not in others} | of_objective

    def training_id(self, base_weights_digest: str, examples: dict[str, str], *, exact_masters: bool = False) -> str:
        """Identifies what is trained: 32 hex characters over weights, data and the fields that matter.

        Args:
            examples: content digest by partition of `examples_asset`.
        """
        return digest_text(
            "training",
            self._code_version,
            base_weights_digest,
            canonical_json(sorted(examples.items())).decode(),
            canonical_json(self._trained_body()).decode(),
            # Not told where it is not so: those ids are older.
            *(["exact masters"] if exact_masters else []),
        )[:32]

    def _trained_body(self) -> dict[str, Any]:
        """What decides the weights."""
        ignored = set(_NOT_TRAINED)
        if self.keep == "best" or self.early_stop:
            ignored.discard("heldout_tokens_min")  # it decides which evaluation is the best
        else:
            ignored.add("evaluate_every")
        if not (self.guards and self.guards.loss_spike and self.guards.loss_spike.action == "skip"):
            ignored.add("guards")
        body = {key: value for key, value in self.to_body().items() if key not in ignored}
        if self.objective == PREFERENCE:
            # Of which rows pairs are made, the pairs' own digest says.
            body[PREFERENCE] = {key: value for key, value in body[PREFERENCE].items() if key != "rows"}
        if "guards" in body:
            body["guards"] = {"loss_spike": body["guards"]["loss_spike"]}
        return body


def load_recipes(directory: Path) -> Described[Recipe]:
    """The recipes of a directory, by partition key (`smollm2-135m.define`); a broken file costs its own alone."""
    return from_directory(
        directory,
        load_recipe,
        "recipe",
        InvalidTrainingRun,
        named_by=("model", "name"),
        wanted_in="HEADRACE_RECIPES",
    )


def load_recipe(path: Path) -> Recipe:
    """Raises: InvalidTrainingRun: names the file and the field."""
    return from_file(Recipe, path, "Recipe", refusal=InvalidTrainingRun)
