"""Training recipes: what a person writes down, checked before any process starts.

A recipe says what is trained, not where: `batch` is what one optimizer step sees over all ranks, so the same file gives
the same training on two CPU ranks and on eight GPUs. Gradient accumulation follows from it.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from headrace.errors import InvalidInput, InvalidTrainingRun
from headrace.keys import check_name, digest_text, model_recipe
from headrace.store.objects import canonical_json
from headrace.typed_mapping import from_mapping
from headrace.user_files.yaml_file import read_yaml

Precision = Literal["bf16", "fp32", "fp16"]

# Raised when the training code changes what a recipe trains: older results are then no longer reused.
CODE_VERSION = "1"
# Of those recipes alone that were once trained wrongly: stage 3 left out the weight decay and wrote tied weights twice,
# stage 0 in half precision took a step of its own before the first.
_CODE_VERSION_STAGE_3 = _CODE_VERSION_STAGE_0_HALF = "2"

# Where and how patiently a training runs; none of it changes a single weight at a given world size.
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
    """One model trained in one way; `key` is its Dagster partition.

    Attributes:
        base_model: directory or hub name; None: the project's base model.
        steps: optimizer steps.
        batch: packed sequences one optimizer step sees, over all ranks.
        micro_batch: packed sequences one rank holds at once; batch = ranks × micro_batch × gradient accumulation.
        learning_rate_end: the share of `learning_rate` that the schedule ends at.
        freeze: prefixes of parameter names that are not trained; they cost neither gradients nor optimizer state.
        clip_norm: global gradient norm above which gradients are scaled down; 0: never.
        ranks: None: one a GPU, or two where there is no GPU.
        memory_mib_per_rank: what a rank may fill; None: what this machine has free.
        start_timeout_seconds: until the first step of every rank; loaded machines take minutes to import the libraries.
        step_timeout_seconds: the longest wait for one step or checkpoint before the gang counts as hung.
    """

    name: str
    model: str
    steps: int
    batch: int
    learning_rate: float
    base_model: str | None = None
    micro_batch: int = 1
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 0
    learning_rate_end: float = 0.1
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    clip_norm: float = 1.0
    freeze: tuple[str, ...] = ()
    zero_stage: int = 2
    precision: Precision = "bf16"
    seed: int = 0
    checkpoint_every: int = 100
    checkpoints_kept: int = 2
    heldout_tokens_min: int = 10_000
    ranks: int | None = None
    memory_mib_per_rank: int | None = None
    start_timeout_seconds: int = 600
    step_timeout_seconds: int = 900

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_name("model", self.model)
        for field in ("steps", "batch", "micro_batch", "checkpoint_every", "checkpoints_kept"):
            self._must(field, getattr(self, field) >= 1, "be at least 1")
        for field in ("start_timeout_seconds", "step_timeout_seconds", "heldout_tokens_min"):
            self._must(field, getattr(self, field) >= 1, "be at least 1")
        for field in ("warmup_steps", "weight_decay", "clip_norm", "seed"):
            self._must(field, getattr(self, field) >= 0, "not be negative")
        for field in ("beta1", "beta2"):
            self._must(field, 0 <= getattr(self, field) < 1, "be in [0, 1)")
        self._must("learning_rate", self.learning_rate > 0, "be above 0")
        self._must("learning_rate_end", 0 <= self.learning_rate_end <= 1, "be between 0 and 1")
        self._must("zero_stage", self.zero_stage in (0, 1, 2, 3), "be 0, 1, 2 or 3")
        self._must("warmup_steps", self.warmup_steps <= self.steps, f"not be above steps={self.steps}")
        for field in ("ranks", "memory_mib_per_rank"):
            self._must(field, getattr(self, field) is None or getattr(self, field) >= 1, "be at least 1")

    def _must(self, field: str, holds: bool, wish: str) -> None:
        if not holds:
            raise InvalidTrainingRun(f"{field} must {wish}, got {field}={getattr(self, field)!r}.")

    @property
    def key(self) -> str:
        return model_recipe(self.model, self.name)

    def gradient_accumulation(self, world_size: int) -> int:
        """Micro-batches of one rank in one optimizer step.

        Raises:
            InvalidTrainingRun: the batch does not divide.
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
        return dataclasses.asdict(self) | {"freeze": list(self.freeze)}

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> "Recipe":
        return from_mapping(cls, body, "recipe")

    def training_id(self, base_weights_digest: str, examples: dict[str, str]) -> str:
        """Identity of what is trained: 32 hex characters over weights, data and the fields that matter.

        Args:
            examples: content digest by partition of `training_examples`.
        """
        trained = {key: value for key, value in self.to_body().items() if key not in _NOT_TRAINED}
        return digest_text(
            "training",
            self._code_version,
            base_weights_digest,
            canonical_json(sorted(examples.items())).decode(),
            canonical_json(trained).decode(),
        )[:32]


def load_recipes(directory: Path) -> dict[str, Recipe]:
    """Every `*.yaml` in `directory`, by partition key (`smollm2-135m.define`), sorted.

    Raises:
        InvalidTrainingRun: naming the file and the field.
    """
    if not directory.is_dir():
        raise InvalidTrainingRun(f"No directory of recipes at {directory}; make it, or set HEADRACE_RECIPES.")
    recipes: dict[str, Recipe] = {}
    for path in sorted(directory.glob("*.yaml")):
        recipe = load_recipe(path)
        if recipe.key in recipes:
            raise InvalidTrainingRun(f"{path} defines {recipe.key} a second time; give one of them another name.")
        recipes[recipe.key] = recipe
    return dict(sorted(recipes.items()))


def load_recipe(path: Path) -> Recipe:
    """Raises: InvalidTrainingRun: naming the file and the field."""
    try:
        return from_mapping(Recipe, read_yaml(path, "Recipe").content, str(path))
    except InvalidInput as error:
        raise InvalidTrainingRun(str(error)) from error
