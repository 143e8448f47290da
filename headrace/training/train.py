"""One rank of a gang: `python -m headrace.training.train --run-json run.json`, started by torchrun.

Each slow part's phase is reported before it begins, so that a hanging start shows where it hangs. The rank ends with
its run worker, whatever either is doing.
"""

import argparse
import dataclasses
import faulthandler
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from headrace.cycles import look_for_cycles_rarely
from headrace.errors import HeadraceError, InvalidTrainingRun, Transient
from headrace.training.attempts import AttemptSuperseded, TrainingResult, curve_key, curve_rows, publish_result
from headrace.training.elastic import describe_ranks
from headrace.training.failure_kinds import (
    EXCEPTION,
    WRONG_WORLD_SIZE,
    is_from_a_peer,
    kind_of_error,
    traceback_lines,
)
from headrace.training.guard import die_with
from headrace.training.memory_use import peak_resident_mb, resident_mb
from headrace.training.progress import (
    ProgressLog,
    RankFailure,
    RunLog,
    beats_of,
    open_run_log,
    report_failure,
    report_phase,
)
from headrace.training.run_config import RunConfig

# Of a traceback, so many lines are told with the failure; the rank's log has all.
_TRACEBACK_LINES = 8
# Between the seeds of a training's steps, where a change of ranks makes it draw anew.
_STEP_SEEDS = 7_368_787


def train(config: RunConfig, rank: int, log: RunLog) -> None:
    report_phase(config.work, rank, "importing libraries")
    from headrace.adapters.sealed import attributes_of, is_adapter
    from headrace.store.opening import open_store
    from headrace.store.sealed_directory import open_directory, seal_directory
    from headrace.training.best_weights import BestWeights
    from headrace.training.engine import join_gang, wrap
    from headrace.training.loop import train_steps
    from headrace.training.masters import restore_bits
    from headrace.training.objective import open_objective
    from headrace.training.snapshot import Snapshots, restore_snapshot, state_digest
    from headrace.training.universal import converted
    from headrace.training.watch import Watch

    import_libraries()
    imported_mb = resident_mb()
    report_phase(config.work, rank, "joining the group")
    gang = join_gang(config)

    recipe = config.recipe
    store = open_store(config.store_url)
    if config.loads_universal and config.resume and not config.resume.is_read_by(config.world_size):
        report_phase(config.work, rank, "converting the checkpoint")
        config = dataclasses.replace(config, resume=converted(gang, store, config))

    report_phase(config.work, rank, "building the engine")
    seed_everything(recipe.seed, rank)
    base = open_directory(store, config.base_weights_digest)
    objective = open_objective(config, store)
    engine, optimizer = wrap(gang, objective.load_model(base), config)
    if config.exact_masters and not config.resume:
        restore_bits(gang, engine, base)
    if told := objective.begin(gang, engine):
        log.say(told)
    best = BestWeights(objective) if recipe.keep == "best" else None
    kept = best or objective
    curve = restore_snapshot(gang, engine, kept, store, config.resume) if config.resume else b""
    snapshots = Snapshots(gang, engine, kept, store, config)
    watch = Watch(gang, engine, objective, recipe, rows=curve_rows(curve), best=best, say=log.say)
    tokens_before = curve_rows(curve)[-1]["tokens"] if curve else 0
    progress = ProgressLog(config.work / "progress.jsonl", curve) if rank == 0 else None
    if config.resume:
        log.say(f"resumed behind step {config.resume.step} of {recipe.steps}")
        if not config.resume.is_made_by(gang.world_size):
            # Not the numbers of the first steps once more: dropout would repeat itself.
            seed_everything(recipe.seed + config.resume.step * _STEP_SEEDS, rank)

    def each(row: dict) -> None:
        watch.look(row)
        if progress:
            progress.append(row | {"world_size": gang.world_size})
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
        veto=watch.veto,
        beat=beats_of(config, rank),
    ):
        if watch.why_stop():
            break
        # No checkpoint at the end: the result follows.
        if step % recipe.checkpoint_every == 0 and step < recipe.steps:
            read = progress.read() if progress else b""
            snapshots.save(step=step, curve=read)
    snapshots.wait()

    report_phase(config.work, rank, "sealing")
    digest = state_digest(gang, engine, objective)
    # Before the export, which needs memory of its own kind.
    peaks = gang.gather(peak_resident_mb())
    peaks_over_import = gang.gather(peak_resident_mb() - imported_mb)
    if best:
        best.put_back(gang, engine)
    stopped = watch.why_stop()
    if stopped:
        log.say(f"stopped early: {stopped}")
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
                steps=rows[-1]["step"],
                steps_applied=rows[-1]["step"] - engine.skipped_steps,
                tokens=rows[-1]["tokens"],
                attempt_tokens=rows[-1]["tokens"] - tokens_before,
                train_loss_last=rows[-1]["loss"],
                zero_stage=recipe.zero_stage,
                world_size=gang.world_size,
                resumed_from_step=config.resumed_from_step,
                seconds=time.time() - config.started_at,
                step_seconds=sum(row["seconds"] for row in rows),
                peak_rss_mb=sum(peaks),
                peak_mb_over_import=max(peaks_over_import),
                state_digest=digest,
                curve_key=curve_key(config.training_id, config.attempt),
                feeding=objective.feeding,
                heldout_loss_best=watch.losses.best_loss,
                best_step=watch.losses.best_step,
                exported_step=watch.losses.best_step if best else None,
                stopped=stopped,
                ranks=describe_ranks(rows),
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
    look_for_cycles_rarely()
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--run-json", type=Path, required=True)
    config = RunConfig.read(parser.parse_args().run_json)
    rank = int(os.environ["RANK"])
    die_with(config.worker)
    # A gang that is stuck is asked where each rank is; this answers inside a collective, too.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    report_phase(config.work, rank, "starting")
    try:
        check_world_size(config, int(os.environ["WORLD_SIZE"]))
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


def check_world_size(config: RunConfig, world_size: int) -> None:
    """Raises: InvalidTrainingRun: torchrun started another number of ranks than the run planned."""
    if world_size != config.world_size:
        raise InvalidTrainingRun(
            f"The gang of recipe {config.recipe.key} has {world_size} ranks, and was planned for {config.world_size}: "
            f"batch={config.recipe.batch} would be divided wrongly. Start it by the run alone.",
            kind=WRONG_WORLD_SIZE,
        )


def describe_failure(error: Exception, rank: int) -> RankFailure:
    ours = isinstance(error, HeadraceError)
    text = str(error).strip() or type(error).__name__
    kind = kind_of_error(error)
    # An error that every rank meets names the one that it came from.
    whose = error.culprits.get("rank", rank) if isinstance(error, HeadraceError) else rank
    return RankFailure(
        rank=rank,
        reason=text if ours else f"{type(error).__name__}: {text.splitlines()[0][:500]}",
        permanent=ours and (isinstance(error, AttemptSuperseded) or not isinstance(error, Transient)),
        # What is known by its kind is a cause, whatever words of the network its text has.
        secondary=whose != rank or (not ours and kind == EXCEPTION and is_from_a_peer(text)),
        at=time.time(),
        kind=kind,
        lines=traceback_lines(error, _TRACEBACK_LINES),
    )


if __name__ == "__main__":
    sys.exit(main())
