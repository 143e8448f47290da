"""The shards of a ZeRO checkpoint into safetensors, beside DeepSpeed's `zero_to_fp32`.

Checkpoints of two ranks in DeepSpeed's layout, stages 2 and 3, fp32, with Llama's shapes and random weights: 0.44 GB
and 2.2 GB of them (moments take no disk here: neither side reads them). Each side is a new process that imports
everything first; from then on its anonymous memory is sampled every 2 ms, and its time taken, with the files in the
page cache.
Files of at most 1 GB on both sides, so that the larger model is sharded and has an index. Every weight is compared.
"""

import hashlib
import shutil
from math import prod
from pathlib import Path
from typing import Any

from benchmarks.measuring import MB, at_most, in_turns, median, print_table, read_into_page_cache, rounded, run_child
from benchmarks.parts import Outcome
from benchmarks.training.parts import Given

SHARD_BYTES = 1_000_000_000
_MODELS = {"0.44 GB": (768, 12), "2.2 GB": (1536, 18)}
_VOCAB = 32_000
_WORLD_SIZE = 2
_STAGES = (2, 3)
_SLACK_MB = 64
_BAR_TIME = 1.2
Shapes = dict[str, tuple[int, ...]]


def run(given: Given, directory: Path) -> Outcome:
    body: dict[str, Any] = {}
    bars = {}
    for model, (hidden, layers) in _MODELS.items():
        shapes = _llama(hidden, layers)
        largest_mb = max(prod(shape) for shape in shapes.values()) * 4 / MB
        for stage in _STAGES:
            checkpoint = directory / "checkpoint"
            _write_checkpoint(checkpoint / "state", shapes, stage)
            read_into_page_cache(checkpoint)
            name = f"{model}, stage {stage}"
            sides = _sides(name, given.runs, checkpoint, directory)
            figures = {side: {key: median(run[key] for run in runs) for key in runs[0]} for side, runs in sides.items()}
            shutil.rmtree(checkpoint)
            ours, theirs = figures["ours"], figures["zero_to_fp32"]
            body[name] = figures | {"largest_tensor_mb": rounded(largest_mb)}
            key = f"{model.partition(' ')[0]}_{stage}"
            bars |= {
                f"consolidate_mb_{key}": at_most(rounded(ours["anonymous_mb"]), rounded(2 * largest_mb + _SLACK_MB)),
                f"consolidate_seconds_{key}": at_most(rounded(ours["seconds"] / theirs["seconds"]), _BAR_TIME),
                f"consolidate_differences_{key}": at_most(ours["differences"], 0),
            }
    print_table(
        f"ZeRO shards to safetensors, medians of {given.runs}",
        ["checkpoint", "largest tensor MB", "ours MB", "zero_to_fp32 MB", "ours s", "zero_to_fp32 s"],
        [
            [
                name,
                f"{figures['largest_tensor_mb']:.0f}",
                *(f"{figures[side]['anonymous_mb']:.0f}" for side in ("ours", "zero_to_fp32")),
                *(f"{figures[side]['seconds']:.2f}" for side in ("ours", "zero_to_fp32")),
            ]
            for name, figures in body.items()
        ],
        caption="Anonymous memory beyond what importing the libraries takes.",
    )
    return Outcome(body=body, bars=bars)


def _sides(name: str, runs: int, checkpoint: Path, directory: Path) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {"ours": [], "zero_to_fp32": []}
    digests: dict[str, dict[str, str]] = {}
    for _, side in in_turns(name, runs, list(found)):
        out = directory / side
        task = {"side": side, "checkpoint": str(checkpoint), "world_size": _WORLD_SIZE, "out": str(out)}
        body = run_child("benchmarks.training.consolidate_side", task, environment={"OMP_NUM_THREADS": "1"}).body
        digests[side] = digests.get(side) or _digests(out)
        shutil.rmtree(out)
        found[side].append(body)
    ours, theirs = digests["ours"], digests["zero_to_fp32"]
    differences = sum(ours.get(one) != theirs.get(one) for one in ours.keys() | theirs.keys())
    for body in found["ours"]:
        body["differences"] = differences
    return found


def _digests(directory: Path) -> dict[str, str]:
    """Of each weight; read by the library, through the index where there is one."""
    from safetensors import safe_open

    digests = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                tensor = file.get_tensor(name)
                digests[name] = f"{tensor.shape} {hashlib.sha256(tensor.data).hexdigest()}"
    return digests


def _llama(hidden: int, layers: int) -> Shapes:
    shapes: Shapes = {"model.embed_tokens.weight": (_VOCAB, hidden)}
    for layer in range(layers):
        of = f"model.layers.{layer}."
        shapes |= {f"{of}self_attn.{one}_proj.weight": (hidden, hidden) for one in "qkvo"}
        shapes |= {f"{of}mlp.{one}_proj.weight": (4 * hidden, hidden) for one in ("gate", "up")}
        shapes[f"{of}mlp.down_proj.weight"] = (hidden, 4 * hidden)
        shapes |= {f"{of}{one}_layernorm.weight": (hidden,) for one in ("input", "post_attention")}
    return shapes | {"model.norm.weight": (hidden,)}


def _write_checkpoint(state: Path, shapes: Shapes, stage: int) -> None:
    """Two ranks' files, matrices in one group and norms in another, as `headrace.training.optimizer` divides them."""
    import torch

    state.mkdir(parents=True)
    groups = [
        {name: torch.Size(shape) for name, shape in shapes.items() if (len(shape) > 1) == is_matrix}
        for is_matrix in (True, False)
    ]
    common = {"buffer_names": [], "module": {}, "param_shapes": groups, "shared_params": {}, "ds_version": "0.19.8"}
    if stage < 3:
        torch.save(common, state / "mp_rank_00_model_states.pt")
    for rank in range(_WORLD_SIZE):
        parts = [_part(group, stage, rank) for group in groups]
        moments = {
            number: {key: torch.zeros(1).expand(len(part)) for key in ("exp_avg", "exp_avg_sq")}
            for number, (part, _) in enumerate(parts)
        }
        optimizer: dict[str, Any] = {"zero_stage": stage, "partition_count": [_WORLD_SIZE] * len(groups)}
        if stage < 3:
            optimizer["single_partition_of_fp32_groups"] = [part for part, _ in parts]
            optimizer["param_slice_mappings"] = [places for _, places in parts]
            optimizer["base_optimizer_state"] = {"state": moments, "param_groups": []}
        else:
            optimizer["partition_count"] = _WORLD_SIZE
            optimizer["fp32_flat_groups"] = [part for part, _ in parts]
            optimizer["optimizer_state_dict"] = {"state": moments, "param_groups": []}
            torch.save(common, state / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        torch.save({"optimizer_state_dict": optimizer}, state / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        torch.save({}, state.parent / f"rank-{rank:05d}.pt")


def _part(group: dict[str, Any], stage: int, rank: int) -> tuple[Any, dict[str, Any]]:
    """One rank's flat part of a group, and where in it the parameters' pieces lie."""
    import torch
    from deepspeed.utils.tensor_fragment import fragment_address

    torch.manual_seed(rank)
    if stage == 3:
        return torch.randn(sum(-(-shape.numel() // _WORLD_SIZE) for shape in group.values())), {}
    total = sum(shape.numel() for shape in group.values())
    length = -(-total // _WORLD_SIZE)
    begin, end = rank * length, min((rank + 1) * length, total)
    places, offset = {}, 0
    for name, shape in group.items():
        start, stop = max(offset, begin), min(offset + shape.numel(), end)
        if start < stop:
            places[name] = fragment_address(numel=stop - start, start=start - begin)
        offset += shape.numel()
    return torch.randn(end - begin), places
