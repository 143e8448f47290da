"""What the ranks' files of one checkpoint hold of each parameter, put together one tensor at a time.

The files are mapped, not read: a process holds the one tensor that it asked for, whatever the model's size. DeepSpeed's
own tools (`zero_to_fp32`, `ds_to_universal`) read whole files, and `tests/training/test_shards.py` compares with them.

Of ZeRO stages 1 to 3, data parallel alone. Only ranks import this.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# DeepSpeed insists on this one level of directory.
TAG = "state"
MASTER = "fp32"
"""The key of the weights that the optimizer steps; its moments have the keys that torch gives them."""
# What `headrace.training.snapshot` keeps of a rank beside what its objective keeps.
RANDOM = ("python", "numpy", "torch", "cuda")


def rank_file(rank: int) -> str:
    """Of one rank's random state, and of what its objective keeps."""
    return f"rank-{rank:05d}.pt"


def mapped(path: Path) -> Any:
    """The file's content, its tensors mapped. Unpickles: only for files that we wrote, with their digests checked."""
    import torch

    return torch.load(path, map_location="cpu", mmap=True, weights_only=False)


@dataclass(frozen=True)
class _Rank:
    """One rank's flat partitions, one a group, by key.

    `places`: (group, start, length) of each parameter's piece; `divided`, `whole`: what the objective keeps in such
    partitions, and what it keeps otherwise.
    """

    places: Mapping[str, tuple[int, int, int]]
    flats: Mapping[str, list[Any]]
    optimizer: Mapping[str, Any]
    divided: Mapping[str, list[Any]]
    whole: Mapping[str, Any]


class Shards:
    """The trained parameters of a checkpoint of stage 1, 2 or 3; `directory` is the checkpoint's own."""

    def __init__(self, directory: Path, world_size: int) -> None:
        self._state = directory / TAG
        self.model_states = mapped(self._model_file(0))
        groups: list[Mapping[str, Any]] = self.model_states["param_shapes"]
        self.shapes: dict[str, tuple[int, ...]] = {
            name: tuple(shape) for group in groups for name, shape in group.items()
        }
        self._ranks = [self._rank(directory, rank, world_size) for rank in range(world_size)]

    @property
    def stage(self) -> int:
        return int(self.optimizer["zero_stage"])

    @property
    def optimizer(self) -> Mapping[str, Any]:
        """What rank 0's optimizer saved, as DeepSpeed laid it out."""
        return self._ranks[0].optimizer

    @property
    def keys(self) -> list[str]:
        """`MASTER` and the optimizer's moments."""
        return list(self._ranks[0].flats)

    @property
    def kept_keys(self) -> list[str]:
        """What the objective keeps of each parameter, divided among the ranks as the moments are."""
        return list(self._ranks[0].divided)

    @property
    def kept_whole(self) -> Mapping[str, Any]:
        """What rank 0's objective keeps otherwise."""
        return self._ranks[0].whole

    def whole(self, name: str, key: str = MASTER) -> Any:
        """One parameter's tensor of this key, fp32, in its own shape: a view of the files where one rank has it all."""
        import torch

        pieces = [
            (rank.flats.get(key) or rank.divided[key])[group].narrow(0, start, length)
            for rank in self._ranks
            if name in rank.places
            for group, start, length in [rank.places[name]]
        ]
        flat = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return flat.view(self.shapes[name])

    @property
    def scalars(self) -> dict[str, Any]:
        """What the optimizer counts: its steps. The same for all parameters, since it steps them all at once."""
        return {key: value for key, value in _moments_of(self.optimizer).get(0, {}).items() if not _is_flat(value)}

    @property
    def buffers(self) -> dict[str, Any]:
        names = self.model_states["buffer_names"]
        return {name: self.model_states["module"][name] for name in names if name in self.model_states["module"]}

    def frozen(self) -> Iterator[tuple[str, Any, Callable[[], Any]]]:
        """Of each parameter that is not trained its name, a tensor without content, and what makes the tensor."""
        import torch

        shapes = self.model_states.get("frozen_param_shapes") or {}
        if self.stage < 3:
            module = self.model_states["module"]
            names = [name for name in module if name not in self.shapes and name not in self.buffers]
            shared = self.model_states["shared_params"]
            for name in (name for name in names if name not in shared):
                yield name, module[name].to("meta"), lambda name=name: module[name]
            return
        if not shapes:
            return
        ranks = [mapped(self._model_file(rank))["frozen_param_fragments"] for rank in range(len(self._ranks))]
        for name, shape in shapes.items():

            def whole(name: str = name, shape: Any = shape) -> Any:
                return torch.cat([rank[name].flatten() for rank in ranks])[: shape.numel()].view(shape)

            yield name, torch.empty(shape, dtype=ranks[0][name].dtype, device="meta"), whole

    def _rank(self, directory: Path, rank: int, world_size: int) -> _Rank:
        [path] = self._state.glob(f"*zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        optimizer = mapped(path)["optimizer_state_dict"]
        flats: dict[str, list[Any]]
        if optimizer["zero_stage"] < 3:
            flats = {MASTER: list(optimizer["single_partition_of_fp32_groups"])}
            places = {
                name: (group, place.start, place.numel)
                for group, slices in enumerate(optimizer["param_slice_mappings"])
                for name, place in slices.items()
            }
        else:
            flats = {MASTER: list(optimizer["fp32_flat_groups"])}
            places = self._stage_3_places(rank, world_size)
        moments = _moments_of(optimizer)
        for key, value in moments.get(0, {}).items():
            if _is_flat(value):
                flats[key] = [moments[group][key] for group in range(len(flats[MASTER]))]
        kept = {key: value for key, value in mapped(directory / rank_file(rank)).items() if key not in RANDOM}
        lengths = {key: [getattr(one, "shape", None) for one in value] for key, value in kept.items()}
        # Of the weights, DeepSpeed leaves out what it fills up each rank's part with; objectives do not.
        paddings = optimizer.get("group_paddings") or [0] * len(flats[MASTER])
        padded = [(len(flat) + padding,) for flat, padding in zip(flats[MASTER], paddings, strict=True)]
        divided = {key: value for key, value in kept.items() if lengths[key] == padded}
        whole = {key: value for key, value in kept.items() if key not in divided}
        return _Rank(places, flats, optimizer, divided, whole)

    def _stage_3_places(self, rank: int, world_size: int) -> dict[str, tuple[int, int, int]]:
        """Stage 3 divides each parameter among all ranks; the last ones' parts are padded to the same length."""
        places: dict[str, tuple[int, int, int]] = {}
        for group, shapes in enumerate(self.model_states["param_shapes"]):
            start = 0
            for name, shape in shapes.items():
                length = -(-shape.numel() // world_size)
                places[name] = (group, start, max(0, min(length, shape.numel() - rank * length)))
                start += length
        return places

    def _model_file(self, rank: int) -> Path:
        whole = self._state / "mp_rank_00_model_states.pt"
        if whole.exists():
            return whole
        [path] = self._state.glob(f"*zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        return path


def _moments_of(optimizer: Mapping[str, Any]) -> Mapping[int, Mapping[str, Any]]:
    """The state of torch's optimizer, by number of the group."""
    key = "base_optimizer_state" if optimizer["zero_stage"] < 3 else "optimizer_state_dict"
    return optimizer[key]["state"]


def _is_flat(value: Any) -> bool:
    import torch

    return torch.is_tensor(value) and value.dim() > 0
