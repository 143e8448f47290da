"""The content of a checkpoint, and its way into the store and back.

DeepSpeed's own files (weights, partitioned optimizer state, its counters) go through a checkpoint engine that streams
into the store. Each rank adds its random state, which DeepSpeed forgets, and its part of what the objective keeps (a
moving average of the weights), and rank 0 the loss curve so far. There is no data cursor: the order of samples is a
function of the step (`order.py`).
"""

import hashlib
import random
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
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
    drop_older,
    publish,
    write_file,
)
from headrace.training.engine import Gang
from headrace.training.lora import untrained
from headrace.training.objective import Kept
from headrace.training.optimizer import base_optimizer, master_parameters
from headrace.training.run_config import RunConfig
from headrace.training.shards import TAG, rank_file
from headrace.training.universal import load

# Of a rank's files, as many are put on the disk at once.
_THREADS = 4


class Snapshots:
    """Writes the checkpoints of one training; every rank makes one.

    What is no longer needed beside a new checkpoint goes while training goes on: to find out, rank 0 reads the older
    ones again. It has gone before the next one is written, so that at most `checkpoints_kept` and one are there.
    """

    def __init__(self, gang: Gang, engine: Any, objective: Kept, store: ObjectStore, config: RunConfig) -> None:
        self._gang = gang
        self._engine = engine
        self._objective = objective
        self._store = store
        self._config = config
        self._threads = ThreadPoolExecutor(_THREADS)
        self._dropping: Future[None] | None = None

    def save(self, *, step: int, curve: bytes) -> None:
        """Writes and publishes the state after `step`; every rank calls it, and all return when it exists.

        Raises:
            AttemptSuperseded: a later attempt has begun.
        """
        gang, config = self._gang, self._config
        [(nonce, error), *_] = gang.gather((new_nonce(), _failure(self.wait)))
        if error:
            raise error
        prefix = training_key(config.training_id, PARTS, nonce)
        written = gang.gather(self._write(prefix, curve))
        if gang.rank == 0:
            checkpoint = Checkpoint(
                training_id=config.training_id,
                step=step,
                attempt=config.attempt,
                world_size=gang.world_size,
                prefix=prefix,
                files=tuple(sorted((file for of_rank in written for file in of_rank), key=lambda file: file.name)),
            )
            error = _failure(partial(self._publish, checkpoint))
        # The other ranks wait for the verdict.
        [error, *_] = gang.gather(error)
        if error:
            raise error

    def wait(self) -> None:
        """Until what was no longer needed is gone. Raises: OSError: it could not be deleted."""
        if self._dropping:
            self._dropping.result()
            self._dropping = None

    def _write(self, prefix: str, curve: bytes) -> list[CheckpointFile]:
        """This rank's files. Each is put on the disk while the next one is written."""
        import torch

        gang, engine, store, config = self._gang, self._engine, self._store, self._config
        files: list[CheckpointFile] = []
        sealing: list[Future[None]] = []

        def write(name: str, state: Any) -> None:
            with ExitStack() as stack:
                file = stack.enter_context(write_file(store, prefix, name, files.append))
                if isinstance(state, bytes):
                    file.write(state)
                else:
                    torch.save(state, cast(IO[bytes], file))
                sealing.append(self._threads.submit(stack.pop_all().close))

        # DeepSpeed copies recovery scripts beside its files; they stay in the attempt's own directory.
        scratch = config.work / "checkpoint"
        # DeepSpeed's own checkpoint engine, replaced by ours only for this call, so that nothing else in DeepSpeed sees
        # ours.
        left_out = untrained(engine) if config.recipe.lora else frozenset()
        ours = _store_checkpoint_engine(write, left_out)
        stock, engine.checkpoint_engine = engine.checkpoint_engine, ours
        try:
            engine.save_checkpoint(str(scratch), tag=TAG, save_latest=False, exclude_frozen_parameters=bool(left_out))
        finally:
            engine.checkpoint_engine = stock
        write(rank_file(gang.rank), _random_state() | self._objective.state())
        if gang.rank == 0:
            write(CURVE, curve)
        for sealed in sealing:
            sealed.result()
        return files

    def _publish(self, checkpoint: Checkpoint) -> None:
        if publish(self._store, checkpoint):
            kept = self._config.recipe.checkpoints_kept
            self._dropping = self._threads.submit(drop_older, self._store, checkpoint, kept=kept)


def _failure(call: Callable[[], None]) -> Exception | None:
    try:
        call()
    except Exception as error:  # noqa: BLE001 (whoever asks tells the other ranks)
        return error
    return None


def restore_snapshot(gang: Gang, engine: Any, objective: Kept, store: ObjectStore, checkpoint: Checkpoint) -> bytes:
    """Returns every rank to the state after `checkpoint.step`; returns the curve so far.

    Random states stay as they are if other ranks made the checkpoint: it has none for these.
    """
    import torch

    directory = checkpoint.directory(store)
    if checkpoint.form == UNIVERSAL:
        load(gang, engine, objective, directory)
        assert engine.global_steps == checkpoint.step
        return (directory / CURVE).read_bytes()
    # Adapters' checkpoints have no base, which was loaded already.
    path, _ = engine.load_checkpoint(str(directory), tag=TAG, load_module_strict=not untrained(engine))
    assert path is not None, "DeepSpeed found no checkpoint where the manifest has one"
    assert engine.global_steps == checkpoint.step
    own = checkpoint.is_made_by(gang.world_size)
    # We made this file, and every byte of it was digested, so unpickling is safe. Of other ranks' checkpoints only
    # stage 0's are read as they are; there all ranks have the same.
    state = torch.load(directory / rank_file(gang.rank if own else 0), weights_only=False)
    if own:
        _set_random_state(state)
    objective.restore(state)
    return (directory / CURVE).read_bytes()


def state_digest(gang: Gang, engine: Any, objective: Kept) -> str:
    """sha256 over fp32 parameters and optimizer moments, and what the objective keeps, each rank's part in rank order.

    These are DeepSpeed's partitions below the base optimizer: at the same world size, equal digests mean equal states.
    """
    import torch

    def _bytes(tensor: Any) -> Any:
        return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()

    digest = hashlib.sha256()
    states = base_optimizer(engine).state
    for parameter in master_parameters(engine):
        state = states[parameter]
        for tensor in (parameter, *(state[name] for name in sorted(state) if torch.is_tensor(state[name]))):
            digest.update(_bytes(tensor))
    for _, kept in sorted(objective.state().items()):
        for tensor in kept:
            digest.update(_bytes(tensor))
    return hashlib.sha256("".join(gang.gather(digest.hexdigest())).encode()).hexdigest()


def _store_checkpoint_engine(write: Callable[[str, Any], None], left_out: frozenset[str]) -> Any:
    """DeepSpeed's, which hands each file's name and content to `write`."""
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

    class StoreCheckpointEngine(TorchCheckpointEngine):
        def save(self, state_dict: Any, path: str) -> None:
            for tensor in left_out & (state_dict.get("module") or {}).keys():
                del state_dict["module"][tensor]
            write(f"{TAG}/{Path(path).name}", state_dict)

    return StoreCheckpointEngine()


def _random_state() -> dict[str, Any]:
    import numpy as np
    import torch

    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    import numpy as np
    import torch

    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
