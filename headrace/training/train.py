"""One rank of a gang: `python -m headrace.training.train --run-json run.json`, started by torchrun.

Each slow part's phase is reported before it begins, so that a hanging start shows where it hangs. The rank ends with
its run worker, whatever either is doing.
"""

import argparse
import os
import resource
import shutil
import sys
import time
import traceback
from pathlib import Path

from headrace.errors import HeadraceError, Transient
from headrace.training.attempts import AttemptSuperseded, TrainingResult, curve_key, curve_rows, publish_result
from headrace.training.guard import die_with
from headrace.training.progress import (
    ProgressLog,
    RankFailure,
    RunLog,
    open_run_log,
    report_failure,
    report_phase,
)
from headrace.training.run_config import RunConfig

# What peers see when a rank dies: their own failure is not the cause.
_SEEN_FROM_A_PEER = ("connection closed by peer", "connection reset", "gloo", "nccl", "socket", "broken pipe")


def train(config: RunConfig, rank: int, log: RunLog) -> None:
    report_phase(config.work, rank, "importing libraries")
    from headrace.adapters.sealed import attributes_of, is_adapter
    from headrace.store.opening import open_store
    from headrace.store.sealed_directory import open_directory, seal_directory
    from headrace.training.engine import join_gang, wrap
    from headrace.training.loop import train_steps
    from headrace.training.objective import open_objective
    from headrace.training.snapshot import restore_snapshot, save_snapshot, state_digest

    import_libraries()
    report_phase(config.work, rank, "joining the group")
    gang = join_gang(config)

    report_phase(config.work, rank, "building the engine")
    recipe = config.recipe
    seed_everything(recipe.seed, rank)
    store = open_store(config.store_url)
    base = open_directory(store, config.base_weights_digest)
    objective = open_objective(config, store)
    engine, optimizer = wrap(gang, objective.load_model(base), config)
    if told := objective.begin(gang, engine):
        log.say(told)
    curve = restore_snapshot(gang, engine, objective, store, config.resume) if config.resume else b""
    tokens_before = curve_rows(curve)[-1]["tokens"] if curve else 0
    progress = ProgressLog(config.work / "progress.jsonl", curve) if rank == 0 else None
    if config.resume:
        log.say(f"resumed behind step {config.resume.step} of {recipe.steps}")

    def each(row: dict) -> None:
        if progress:
            progress.append(row)
            log.step(row, steps=recipe.steps)

    report_phase(config.work, rank, "training")
    for step in train_steps(
        gang,
        engine,
        optimizer,
        objective,
        recipe,
        begin=config.resumed_from_step,
        tokens_before=tokens_before,
        each=each,
    ):
        # No checkpoint at the end: the result follows.
        if step % recipe.checkpoint_every == 0 and step < recipe.steps:
            read = progress.read() if progress else b""
            save_snapshot(gang, engine, objective, store, config, step=step, curve=read)

    report_phase(config.work, rank, "sealing")
    digest = state_digest(gang, engine, objective)
    peaks = gang.gather(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    export = config.work / "export"
    objective.export(gang, engine, base, export)
    if progress:
        attributes = {"training_id": config.training_id, "model": recipe.model, "recipe": recipe.name}
        if is_adapter(export):
            attributes |= attributes_of(config.base_weights_digest)
        weights = seal_directory(store, export, attributes=attributes)
        shutil.rmtree(export)
        rows = curve_rows(progress.read())
        publish_result(
            store,
            TrainingResult(
                training_id=config.training_id,
                attempt=config.attempt,
                weights_digest=weights.digest,
                steps=recipe.steps,
                steps_applied=recipe.steps - engine.skipped_steps,
                tokens=rows[-1]["tokens"],
                attempt_tokens=rows[-1]["tokens"] - tokens_before,
                train_loss_last=rows[-1]["loss"],
                zero_stage=recipe.zero_stage,
                world_size=gang.world_size,
                resumed_from_step=config.resumed_from_step,
                seconds=time.time() - config.started_at,
                step_seconds=sum(row["seconds"] for row in rows),
                peak_rss_mb=sum(peaks),
                state_digest=digest,
                curve_key=curve_key(config.training_id, config.attempt),
                feeding=objective.feeding,
            ),
            progress.read(),
        )
        log.say(f"sealed weights {weights.digest[:12]}, {weights.num_bytes / 1e6:,.0f} MB")
    report_phase(config.work, rank, "finished")
    # No rank leaves while rank 0 still seals: torchrun would report its exit as the gang's.
    gang.gather(None)


def import_libraries() -> None:
    """Takes half of a start; as its own phase, it tells a slow disk from a hung rendezvous.

    DeepSpeed's autotuner, which nobody uses here, would import MLflow, with pandas: 1.5 CPU seconds a rank
    (tests/upstream/test_deepspeed.py).
    """
    sys.modules.setdefault("mlflow", None)  # pyright: ignore[reportArgumentType] (None: not to be imported)
    import accelerate  # noqa: F401
    import deepspeed  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    if sys.modules["mlflow"] is None:
        del sys.modules["mlflow"]


def seed_everything(seed: int, rank: int) -> None:
    """Dropout differs between ranks, but repeats between runs."""
    import random

    import numpy as np
    import torch

    own = seed * 1_000_003 + rank
    random.seed(own)
    np.random.seed(own % 2**32)
    torch.manual_seed(own)


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--run-json", type=Path, required=True)
    config = RunConfig.read(parser.parse_args().run_json)
    rank = int(os.environ["RANK"])
    die_with(config.worker)
    report_phase(config.work, rank, "starting")
    try:
        with open_run_log(rank) as log:
            train(config, rank, log)
    except Exception as error:  # noqa: BLE001 (the process edge: the worker reads what is written here)
        traceback.print_exc()
        report_failure(config.work, describe_failure(error, rank))
        return 1
    # Skips the interpreter's shutdown: destructors of a process group wait for peers that are gone.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def describe_failure(error: Exception, rank: int) -> RankFailure:
    ours = isinstance(error, HeadraceError)
    text = str(error).strip() or type(error).__name__
    return RankFailure(
        rank=rank,
        reason=text if ours else f"{type(error).__name__}: {text.splitlines()[0][:500]}",
        permanent=ours and (isinstance(error, AttemptSuperseded) or not isinstance(error, Transient)),
        secondary=not ours and any(sign in text.lower() for sign in _SEEN_FROM_A_PEER),
        at=time.time(),
    )


if __name__ == "__main__":
    sys.exit(main())
