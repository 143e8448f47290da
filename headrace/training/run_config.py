"""`run.json`: everything that a rank needs to know, written by the run worker before any rank starts.

Frozen and complete: a rank reads no environment except torchrun's own, and looks up no newest version.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from headrace.store.objects import canonical_json
from headrace.store.small_objects import Record
from headrace.training.checkpoints import Checkpoint
from headrace.training.examples import ExamplesInput
from headrace.training.guard import Worker
from headrace.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Attributes:
    attempt: fences older attempts, which can publish nothing more.
    device: "cpu" or "cuda"; selects gloo or nccl.
    work_directory: this attempt's own: progress, phases, failures, logs, and the export before it is sealed.
    resume: the checkpoint to continue from; None: start from the base model.
    exact_masters: the optimizer's fp32 weights begin with the base's own bits, not with those of its half precision.
    """

    training_id: str
    attempt: int
    recipe: Recipe
    world_size: int
    device: str
    base_weights_digest: str
    store_url: str
    work_directory: str
    inputs: tuple[ExamplesInput, ...]
    worker: Worker
    started_at: float
    resume: Checkpoint | None = None
    exact_masters: bool = False

    @property
    def work(self) -> Path:
        return Path(self.work_directory)

    @property
    def loads_universal(self) -> bool:
        """Whether the checkpoint is read in the universal form; stage 0 divides nothing, and reads any as it is."""
        return bool(self.recipe.zero_stage and self.resume and not self.resume.is_made_by(self.world_size))

    @property
    def resumed_from_step(self) -> int:
        return self.resume.step if self.resume else 0

    @property
    def gradient_accumulation(self) -> int:
        return self.recipe.gradient_accumulation(self.world_size)

    def text(self) -> bytes:
        return canonical_json(asdict(self) | {"recipe": self.recipe.to_body()})

    def write(self, path: Path) -> Path:
        path.write_bytes(self.text())
        return path

    @classmethod
    def checked(cls, text: bytes | str) -> "RunConfig":
        return Record("Run's task", cls).checked(text)

    @classmethod
    def read(cls, path: Path) -> "RunConfig":
        return cls.checked(path.read_bytes())
