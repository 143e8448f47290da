"""What a recipe says of low-rank adapters, and what they cost. Imports no library of models.

`headrace.training.lora` lays them onto a model and exports them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le, Lt

from headrace.errors import InvalidTrainingRun
from headrace.user_files.ranges import check_ranges

Quantized = Literal["nf4", "fp4"]

# Where a token becomes a vector and a vector a token: often one tied tensor, of which an adapter would see half.
_EMBEDDING = re.compile(r"(^|[._])(embed\w*|wte|wpe|lm_head|word_embeddings)($|\.)")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters: the base stays as it is, and small matrices beside its linear layers learn.

    Source: Hu et al. 2021, LoRA.
    """

    # peft's own name, too short to be near to ours.
    KEYS_ELSEWHERE: ClassVar = {"r": "did you mean 'rank'?"}

    rank: Annotated[int, Ge(1), Le(1024)] = 16
    """Width of an adapter's inner side: a layer of m × n learns rank × (m + n) numbers."""
    alpha: Annotated[int, Ge(1)] = 32
    """What an adapter adds is multiplied by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Names of the layers that get one, as they end: [q_proj, v_proj]; empty: every linear layer but the output layer.
    """
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of an adapter's inputs that a training step leaves out."""
    rslora: bool = False
    """Multiplied by alpha / √rank instead, so that a higher rank learns as fast."""
    quantize: Quantized | None = None
    """The base is held in 4 bits during training (QLoRA, by bitsandbytes), a quarter of bf16; needs a GPU. null: in the
    recipe's precision."""
    merge: bool = False
    """What is sealed is a whole model, the adapters added to its weights; false: the adapters alone, a few megabytes
    that name their base."""

    def __post_init__(self) -> None:
        check_ranges(self)
        object.__setattr__(self, "targets", tuple(self.targets))
        if not all(target.strip() for target in self.targets) or len(set(self.targets)) != len(self.targets):
            raise InvalidTrainingRun(
                f"targets must list names of layers, each once and none empty, got {list(self.targets)!r}."
            )
        if outer := [target for target in self.targets if _EMBEDDING.search(target)]:
            raise InvalidTrainingRun(
                f"targets must name layers between the embedding and the output layer, got {outer[0]!r}: those two are "
                "often one tensor, and an adapter would change one use of it. Take it out."
            )


def adapted(lora: Lora, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The base's matrices that get an adapter, by tensor's name; `shapes`: of all its tensors.

    Raises:
        InvalidTrainingRun: a target matches none.
    """
    matrices = {
        name: shape
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2 and not _EMBEDDING.search(name)
    }
    if not lora.targets:
        return matrices
    found: dict[str, tuple[int, ...]] = {}
    for target in lora.targets:
        own = {name: shape for name, shape in matrices.items() if f".{name}".endswith(f".{target}.weight")}
        if not own:
            ends = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in matrices})
            raise InvalidTrainingRun(
                f"lora.targets={target!r} matches no layer of the base model; there are {', '.join(ends) or 'none'}."
            )
        found |= own
    return found


def num_adapter_params(lora: Lora, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Raises: InvalidTrainingRun: a target matches no layer."""
    return sum(lora.rank * sum(shape) for shape in adapted(lora, shapes).values())
