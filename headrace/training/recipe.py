"""Training recipes: written by people, checked before any process starts.

A recipe says what is trained, not where. `batch` is the number of sequences in one optimizer step over all ranks, so
the same file gives the same training on two CPU ranks and on eight GPUs. Gradient accumulation follows from it.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from headrace.errors import InvalidTrainingRun
from headrace.keys import check_name, digest_text, model_recipe
from headrace.store.objects import canonical_json
from headrace.training.flow_matching_settings import FlowMatching
from headrace.training.lora_settings import Lora
from headrace.user_files.directory import Described, from_directory
from headrace.user_files.ranges import Because, check_ranges
from headrace.user_files.shapes import from_file

Precision = Literal["bf16", "fp32", "fp16"]
# What is learnt: `sft`: to continue texts, `flow_matching`: to paint pictures.
ObjectiveName = Literal["sft", "flow_matching"]
SFT: ObjectiveName = "sft"
FLOW_MATCHING: ObjectiveName = "flow_matching"

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
    "checkpoint_every",
    "checkpoints_kept",
    "heldout_tokens_min",
    "ranks",
    "memory_mib_per_rank",
    "start_timeout_seconds",
    "step_timeout_seconds",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One model trained in one way; `key` is its Dagster partition."""

    name: str
    """With the model's name, the partition of the training assets."""
    model: str
    """The name under which the result is registered."""
    steps: Annotated[int, Ge(1)]
    """Optimizer steps."""
    batch: Annotated[int, Ge(1)]
    """Packed sequences, or pictures, in one optimizer step, over all ranks."""
    learning_rate: Annotated[float, Gt(0), Le(1), Because("Adam moves every weight by about so much a step")]
    """The highest learning rate, after the warm-up."""
    base_model: str | None = None
    """Directory (absolute, or relative to HEADRACE_HOME) or hub name; null: the project's base model. With
    `flow_matching`, which starts from random weights, the model that reads captions: the images file's
    `caption_encoder`."""
    objective: ObjectiveName = SFT
    """`sft`: a language model learns the examples' completions; `flow_matching`: a picture model learns captioned
    pictures."""
    flow_matching: FlowMatching | None = None
    """The picture model and how it learns; of `flow_matching` alone. null: all its defaults."""
    micro_batch: Annotated[int, Ge(1)] = 1
    """Packed sequences, or pictures, that one rank holds at once; batch = ranks × micro_batch × gradient accumulation.
    """
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes on after the warm-up."""
    warmup_steps: Annotated[int, Ge(0)] = 0
    """Steps in which the learning rate rises to its highest."""
    learning_rate_end: Annotated[float, Ge(0), Le(1)] = 0.1
    """The schedule's end, as a share of `learning_rate`."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Of AdamW, for matrices and embeddings."""
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Of AdamW."""
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.95
    """Of AdamW."""
    clip_norm: Annotated[float, Ge(0)] = 1.0
    """Gradients with a larger global norm are scaled down; 0: never."""
    freeze: tuple[str, ...] = ()
    """Prefixes of parameter names that are not trained; they need neither gradients nor optimizer state."""
    lora: Lora | None = None
    """Adapters are trained beside the base, which stays as it is; of `sft` alone. null: the base's own weights are."""
    zero_stage: Annotated[int, Ge(0), Le(3)] = 2
    """What DeepSpeed divides among the ranks: 1 optimizer state, 2 gradients too, 3 parameters too; 0 nothing."""
    precision: Precision = "bf16"
    """bf16 for GPUs, and for CPUs with avx512_bf16; fp32 elsewhere."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the order of the examples, and of dropout."""
    checkpoint_every: Annotated[int, Ge(1)] = 100
    """Steps between two checkpoints; a killed rank costs the steps since the last one."""
    checkpoints_kept: Annotated[int, Ge(1)] = 2
    """How many of the newest checkpoints stay."""
    heldout_tokens_min: Annotated[int, Ge(1)] = 10_000
    """How many completion tokens the held-out loss is measured on, at least; of texts."""
    ranks: Annotated[int, Ge(1)] | None = None
    """null: one for each GPU, or two without a GPU."""
    memory_mib_per_rank: Annotated[int, Ge(1)] | None = None
    """Memory that a rank may fill; null: this machine's free memory."""
    start_timeout_seconds: Annotated[int, Ge(1)] = 600
    """Until every rank's first step; loaded machines take minutes to import the libraries."""
    step_timeout_seconds: Annotated[int, Ge(1)] = 900
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
        if self.warmup_steps > self.steps:
            raise InvalidTrainingRun(
                f"warmup_steps must not be above steps={self.steps}, got warmup_steps={self.warmup_steps}."
            )
        self._check_lora()
        self._check_objective()

    def _check_lora(self) -> None:
        if self.lora is None:
            return
        if self.objective == FLOW_MATCHING:
            raise InvalidTrainingRun(
                "lora is for a language model on its base, got it with objective: flow_matching, whose weights start "
                "at random. Leave it out."
            )
        if self.freeze:
            raise InvalidTrainingRun(
                f"freeze must be empty with lora, which trains nothing of the base, got {list(self.freeze)!r}: name "
                "in lora.targets which layers get an adapter."
            )
        if self.lora.quantize and (self.zero_stage == 3 or self.precision == "fp32"):
            raise InvalidTrainingRun(
                f"lora.quantize={self.lora.quantize!r} needs zero_stage 0 to 2, since stage 3 would divide the packed "
                f"weights, and precision bf16 or fp16, got zero_stage={self.zero_stage} and {self.precision}."
            )

    def _check_objective(self) -> None:
        if self.objective == SFT:
            if self.flow_matching:
                raise InvalidTrainingRun(
                    "flow_matching is of the objective flow_matching, got it with objective='sft'. Leave it out, or "
                    "set objective: flow_matching."
                )
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

    @property
    def picture_model(self) -> FlowMatching:
        assert self.objective == FLOW_MATCHING
        return self.flow_matching or FlowMatching()

    @property
    def key(self) -> str:
        return model_recipe(self.model, self.name)

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
        """Without `lora` where there is none, and `objective` where it is `sft`: the bodies, and training ids, of older
        recipes stay."""
        body: dict[str, Any] = dataclasses.asdict(self) | {"freeze": list(self.freeze)}
        if self.lora:
            body["lora"] = dataclasses.asdict(self.lora) | {"targets": list(self.lora.targets)}
        else:
            del body["lora"]
        if self.objective == SFT:
            return {key: value for key, value in body.items() if key not in ("objective", "flow_matching")}
        return body | {"flow_matching": dataclasses.asdict(self.picture_model)}

    def training_id(self, base_weights_digest: str, examples: dict[str, str]) -> str:
        """Identifies what is trained: 32 hex characters over weights, data and the fields that matter.

        Args:
            examples: content digest by partition of `training_examples`, or of `picture_examples`.
        """
        trained = {key: value for key, value in self.to_body().items() if key not in _NOT_TRAINED}
        return digest_text(
            "training",
            self._code_version,
            base_weights_digest,
            canonical_json(sorted(examples.items())).decode(),
            canonical_json(trained).decode(),
        )[:32]


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
