"""The weights of a checkpoint as safetensors.

For a training that is not finished, or never will be: its newest whole checkpoint, or an earlier one, becomes a
directory that transformers, vLLM or diffusers load. One weight at a time is put together out of the ranks' files, which
are mapped; so a machine that could not train the model can do it. No gang and no GPU take part.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.errors import HeadraceError, InvalidInput
from headrace.store.objects import ObjectStore
from headrace.store.opening import open_store
from headrace.store.whole_files import made_when_whole
from headrace.text.terminal import say
from headrace.training.checkpoints import OF_RANKS, Checkpoint, checkpoints_of, damaged_files
from headrace.training.export import copy_beside
from headrace.training.lora import has_adapters
from headrace.training.safetensors_stream import DIFFUSERS, MAX_SHARD_BYTES, TRANSFORMERS, SafetensorsStream
from headrace.training.shards import MASTER, TAG, Shards, mapped

DTYPES = ("fp32", "bf16", "fp16")


def consolidate(
    directory: Path,
    world_size: int,
    out: Path,
    *,
    dtype: str | None = None,
    key: str = MASTER,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    stem: str = TRANSFORMERS,
) -> None:
    """Writes the safetensors files, and an index if there are several, into `out`.

    Holds about twice the largest weight. A tied weight is written once, under the name that its model file has.

    Args:
        directory: a checkpoint's own, of `world_size` ranks.
        dtype: of `DTYPES`, for weights of floating point; None: fp32 for what was trained, as it is for all else.
        key: what is written of a trained parameter: `MASTER`, or what an objective keeps (`moving_average`).

    Raises:
        InvalidInput: the checkpoint has no such `key`, or holds adapters without their base.
    """
    made = _weights(directory, world_size, key)
    if has_adapters(made):
        raise InvalidInput(
            "The checkpoint holds adapters without their base, which make no model. Let its training end: what that "
            "seals names its base, and `headrace model export --merged` makes a whole model of both."
        )
    out.mkdir(parents=True, exist_ok=True)
    dtypes = _torch_dtypes()
    described = {name: _of_dtype(empty, dtypes[dtype] if dtype else None) for name, (empty, _) in made.items()}
    with SafetensorsStream(out, described, max_shard_bytes=max_shard_bytes, stem=stem) as stream:
        for name in stream.names:
            stream.write(name, _of_dtype(made[name][1](), described[name].dtype))
        stream.close(num_parameters=sum(one.numel() for one in described.values()))


def _weights(directory: Path, world_size: int, key: str) -> Mapping[str, tuple[Any, Callable[[], Any]]]:
    """For each weight a tensor without content, and what makes it."""
    import torch

    if not list((directory / TAG).glob("*_optim_states.pt")):
        # Stage 0 divides nothing, and what its objective keeps has no parameters' names.
        if key != MASTER:
            raise InvalidInput(f"The checkpoint is of zero_stage 0, of which {MASTER!r} alone is written, got {key!r}.")
        states = mapped(directory / TAG / "mp_rank_00_model_states.pt")
        first: dict[int, str] = {}
        for name, weight in states["module"].items():
            first.setdefault(weight.data_ptr(), name)
        return {
            name: (weight.to("meta"), lambda weight=weight: weight)
            for name, weight in states["module"].items()
            if first[weight.data_ptr()] == name
        }
    shards = Shards(directory, world_size)
    there = [*shards.keys, *shards.kept_keys]
    if key not in there:
        raise InvalidInput(f"The checkpoint keeps no {key!r} of its parameters; it keeps {', '.join(there)}.")
    made = {
        name: (torch.empty(shape, device="meta"), lambda name=name: shards.whole(name, key))
        for name, shape in shards.shapes.items()
    }
    made |= {name: (empty, whole) for name, empty, whole in shards.frozen()}
    return made | {name: (value.to("meta"), lambda value=value: value) for name, value in shards.buffers.items()}


def _of_dtype(tensor: Any, dtype: Any) -> Any:
    return tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor


def _torch_dtypes() -> dict[str, Any]:
    import torch

    return dict(zip(DTYPES, (torch.float32, torch.bfloat16, torch.float16), strict=True))


def find_checkpoint(store: ObjectStore, training_id: str, *, step: int | None) -> Checkpoint:
    """The newest whole checkpoint that its ranks wrote, or that of `step`.

    Raises:
        InvalidInput: there is none; names the damaged ones.
    """
    reasons: list[str] = []
    for checkpoint in checkpoints_of(store, training_id, damaged=lambda error: reasons.append(str(error))):
        if checkpoint.form != OF_RANKS or step not in (None, checkpoint.step):
            continue
        if not (damaged := damaged_files(store, checkpoint)):
            return checkpoint
        reasons.append(f"step {checkpoint.step}: {'; '.join(damaged)}")
    which = "" if step is None else f" of step {step}"
    raise InvalidInput(
        f"Training {training_id} has no whole checkpoint{which} in {store.url}"
        + (f" ({'; '.join(reasons)})" if reasons else "")
        + ". Checkpoints go when a training has its result."
    )


_EXAMPLE = """example:
  python -m headrace.training.consolidate --store .headrace/store --training-id 7e2b95bf19987e6b1bf15aa9fa5eeb3a \\
    --out half-trained --base .headrace/models/smollm2-135m
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m headrace.training.consolidate",
        description=__doc__,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--store", required=True, help="the store's URL or directory; a project's own: .headrace/store")
    parser.add_argument(
        "--training-id",
        required=True,
        help="in the run's log (`training 7e2b…: 2 ranks on cpu`), and the names below training/ of the store",
    )
    parser.add_argument("--out", type=Path, required=True, help="the directory to write; must not exist")
    parser.add_argument("--step", type=int, help="of an earlier checkpoint; without it the newest whole one")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights; without it fp32")
    parser.add_argument("--key", default=MASTER, help="moving_average: of a picture model, what a training exports")
    parser.add_argument(
        "--base",
        type=Path,
        help="the base model's directory: its config and tokenizer are copied, without which nothing opens the weights",
    )
    parser.add_argument("--max-shard-bytes", type=int, default=MAX_SHARD_BYTES, help="of one file")
    parser.add_argument("--diffusers", action="store_true", help="name the files as diffusers does")
    given = parser.parse_args(argv)
    try:
        _consolidate(given)
    except HeadraceError as error:
        say(str(error), error=True)
        return 1
    return 0


def _consolidate(given: argparse.Namespace) -> None:
    if given.max_shard_bytes < 1:
        raise InvalidInput(f"--max-shard-bytes must be at least 1, got {given.max_shard_bytes}.")
    if given.base and not (given.base / "config.json").is_file():
        raise InvalidInput(f"--base must be the base model's directory, got {given.base}, which has no config.json.")
    store = open_store(given.store)
    with made_when_whole(given.out) as partial:
        checkpoint = find_checkpoint(store, given.training_id, step=given.step)
        consolidate(
            checkpoint.directory(store),
            checkpoint.world_size,
            partial,
            dtype=given.dtype,
            key=given.key,
            max_shard_bytes=given.max_shard_bytes,
            stem=DIFFUSERS if given.diffusers else TRANSFORMERS,
        )
        if given.base:
            for name in ("config.json", "generation_config.json"):
                if (given.base / name).is_file():
                    (partial / name).write_bytes((given.base / name).read_bytes())
            copy_beside(given.base, partial)
    say(f"wrote step {checkpoint.step} of training {given.training_id} to {given.out}")


if __name__ == "__main__":
    raise SystemExit(main())
