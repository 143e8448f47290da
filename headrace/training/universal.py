"""A checkpoint of some ranks, for any number of ranks: DeepSpeed's universal form, and the way back from it.

In this form each parameter has a directory with its whole fp32 weights and moments; DeepSpeed's `load_universal` cuts
each rank's part out of them. Rank 0 writes it straight into the store, a tensor at a time, as another checkpoint of the
same step: digested, published whole or not at all, found and checked by a retry as every checkpoint is. DeepSpeed's
converter (`ds_to_universal`) would first write all fragments beside it, read whole shards into memory, sync nothing,
and know Adam's moments alone; a test compares the two.

Loading corrects faults of DeepSpeed, which tests/upstream pins: under stage 3 all groups get the first one's settings,
so that norms would decay, and all groups count their steps in one tensor; no stage loads buffers, or what an optimizer
counts besides its steps.
"""

from pathlib import Path
from typing import IO, Any, cast

from headrace.store.objects import ObjectStore, new_nonce
from headrace.training.attempts import training_key
from headrace.training.checkpoints import (
    CURVE,
    PARTS,
    UNIVERSAL,
    Checkpoint,
    CheckpointFile,
    publish_beside,
    write_file,
)
from headrace.training.engine import Gang
from headrace.training.objective import Kept
from headrace.training.optimizer import base_optimizer, master_parameters
from headrace.training.run_config import RunConfig
from headrace.training.shards import TAG, Shards, mapped

# The file of what DeepSpeed's form has no place for.
_KEPT = "kept.pt"
# Of DeepSpeed's optimizers, what is the same on all ranks and for all parameters.
_GLOBAL = ("zero_stage", "loss_scaler", "dynamic_loss_scale", "overflow", "clip_grad", "ds_version", "partition_count")


def converted(gang: Gang, store: ObjectStore, config: RunConfig) -> Checkpoint:
    """`config.resume` in the universal form; every rank calls it, rank 0 writes. Returns when it is published.

    Raises:
        AttemptSuperseded: a later attempt has begun.
        OSError: the disk is full; nothing was published, and what was written is gone.
    """
    found: Checkpoint | None = None
    error: Exception | None = None
    if gang.rank == 0:
        try:
            found = convert(store, _resumed(config), attempt=config.attempt)
        except Exception as failure:  # noqa: BLE001 (the other ranks wait for the verdict)
            error = failure
    [(found, error), *_] = gang.gather((found, error))
    if error:
        raise error
    assert found
    return found


def convert(store: ObjectStore, source: Checkpoint, *, attempt: int) -> Checkpoint:
    """Writes and publishes `source` in the universal form; `source` was verified, and stays."""
    prefix = training_key(source.training_id, PARTS, new_nonce())
    files: list[CheckpointFile] = []
    try:
        _write(store, source, prefix, files)
        universal = Checkpoint(
            training_id=source.training_id,
            step=source.step,
            attempt=attempt,
            world_size=source.world_size,
            prefix=prefix,
            files=tuple(sorted(files, key=lambda file: file.name)),
            form=UNIVERSAL,
        )
        return publish_beside(store, universal)
    except BaseException:
        store.delete_prefix(prefix)
        raise


def _write(store: ObjectStore, source: Checkpoint, prefix: str, files: list[CheckpointFile]) -> None:
    import torch

    def save(name: str, value: Any) -> None:
        with write_file(store, prefix, f"{TAG}/{name}", files.append) as file:
            torch.save(value, cast(IO[bytes], file))

    directory = source.directory(store)
    shards = Shards(directory, source.world_size)
    files_of = {key: key for key in shards.keys} | {key: f"kept-{n}" for n, key in enumerate(shards.kept_keys)}
    scalars = {key: value.clone() if torch.is_tensor(value) else value for key, value in shards.scalars.items()}
    for name in shards.shapes:
        for key, file in files_of.items():
            save(f"zero/{name}/{file}.pt", {"param": _alone(shards.whole(name, key)), "cat_dim": 0})
        if "step" in scalars:
            save(f"zero/{name}/step.pt", scalars["step"])
    save("zero/optimizer_state.pt", _settings(shards, scalars))
    kept = {files_of[key]: key for key in shards.kept_keys}
    save(_KEPT, {"scalars": scalars, "divided": kept, "whole": dict(shards.kept_whole)})
    # The weights are in the directories; frozen ones are the base model's.
    states = dict(shards.model_states) | {"module": shards.buffers, "frozen_param_fragments": None}
    save(_model_states(shards.stage), states)
    with write_file(store, prefix, CURVE, files.append) as file:
        file.write((directory / CURVE).read_bytes())


def _alone(tensor: Any) -> Any:
    """torch writes a view with all that it is a view of."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _settings(shards: Shards, scalars: dict[str, Any]) -> dict[str, Any]:
    """What is not divided among ranks: the loss scale, and, where DeepSpeed looks for them, settings and steps."""
    saved = shards.optimizer
    kept = {key: value for key, value in saved.items() if key in _GLOBAL}
    if shards.stage < 3:
        return kept | {"param_groups": saved["base_optimizer_state"]["param_groups"]}
    optimizer = saved["optimizer_state_dict"]
    return kept | {"optimizer_state_dict": {"state": {0: scalars}, "param_groups": optimizer["param_groups"]}}


def load(gang: Gang, engine: Any, objective: Kept, directory: Path) -> None:
    """Gives this rank its part of everything but the random state, which belongs to ranks that are no more."""
    import torch

    base = base_optimizer(engine)
    settings = [{key: value for key, value in group.items() if key != "params"} for group in base.param_groups]
    path, _ = engine.load_checkpoint(str(directory), tag=TAG)
    assert path is not None, "DeepSpeed found no checkpoint where the manifest has one"
    for group, own in zip(base.param_groups, settings, strict=True):
        group.update(own)
    kept = mapped(directory / TAG / _KEPT)
    parameters = master_parameters(engine)
    for parameter in parameters:
        for key, value in kept["scalars"].items():
            base.state[parameter][key] = value.to(parameter.device, copy=True) if torch.is_tensor(value) else value
    divided = {key: [base.state[one].pop(file) for one in parameters] for file, key in kept["divided"].items()}
    for parameter in engine.module.parameters():
        # DeepSpeed's views of them, which would keep them in memory.
        if divided and (mapping := getattr(parameter, "_hp_mapping", None)):
            mapping.optim_fragment = {
                key: value for key, value in mapping.optim_fragment.items() if key not in kept["divided"]
            }
    # What is not divided is rank 0's alone.
    whole = {key: value if gang.rank == 0 else type(value)() for key, value in kept["whole"].items()}
    objective.restore(divided | whole)
    buffers = mapped(directory / TAG / _model_states(engine.zero_optimization_stage()))["module"]
    engine.module.load_state_dict(buffers, strict=False)


def _model_states(stage: int) -> str:
    return "zero_pp_rank_0_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"


def _resumed(config: RunConfig) -> Checkpoint:
    assert config.resume
    return config.resume
