"""One rank of `loop_overhead`: our loop and a bare one take turns on one DeepSpeed engine."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from headrace.store.opening import open_store
from headrace.store.sealed_directory import open_directory
from headrace.training.checkpoints import discard_all
from headrace.training.engine import Gang, join_gang, wrap
from headrace.training.examples import NO_LOSS
from headrace.training.guard import die_with
from headrace.training.loop import train_steps
from headrace.training.objective import open_objective
from headrace.training.order import SampleOrder
from headrace.training.progress import ProgressLog, RunLog
from headrace.training.run_config import RunConfig
from headrace.training.snapshot import Snapshots
from headrace.training.train import import_libraries, seed_everything

_WARM_UPS = 1


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--run-json", type=Path, required=True)
    parser.add_argument("--turns", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    given = parser.parse_args()
    config = RunConfig.read(given.run_json)
    die_with(config.worker)
    import_libraries()
    gang = join_gang(config)
    seed_everything(config.recipe.seed, gang.rank)
    store = open_store(config.store_url)
    objective = open_objective(config, store)
    engine, optimizer = wrap(gang, objective.load_model(open_directory(store, config.base_weights_digest)), config)
    objective.begin(gang, engine)
    snapshots = Snapshots(gang, engine, objective, store, config)
    progress = ProgressLog(config.work / "progress.jsonl") if gang.rank == 0 else None
    log, tensors, steps = RunLog(), _Tensors(config, objective), count(1)

    def each(row: dict[str, Any]) -> None:
        if progress:
            progress.append(row)
            log.step(row, steps=config.recipe.steps)

    def ours(begin: int) -> None:
        recipe = replace(config.recipe, steps=begin + given.steps)
        for _ in train_steps(gang, engine, optimizer, objective, recipe, begin=begin, tokens_before=0, each=each):
            pass

    def bare(begin: int) -> None:
        _bare_steps(gang, engine, optimizer, config, tensors.of(begin, given.steps, gang.rank))

    def snapshot() -> None:
        snapshots.save(step=next(steps), curve=b"")

    def stock() -> None:
        _save_stock(gang, engine, config.work / "stock" / str(next(steps)))

    turns = []
    for turn in range(-_WARM_UPS, given.turns):
        begin = (turn + _WARM_UPS) * given.steps
        tensors.of(begin, given.steps, gang.rank)
        sides = [("ours", ours), ("bare", bare)]
        cost = {name: _cpu_seconds(gang, side, begin) / given.steps for name, side in _order(sides, turn)}
        cost |= {
            name: _wall_seconds(gang, side)
            for name, side in _order([("snapshot", snapshot), ("save_checkpoint", stock)], turn)
        }
        if turn >= 0:
            cost["checkpoint_mb"] = _num_bytes(config.work / "stock") / 1e6 / (turn + _WARM_UPS + 1)
            turns.append(cost)
    snapshots.wait()
    discard_all(store, config.training_id)
    if gang.rank == 0:
        (config.work / "turns.json").write_text(json.dumps(turns))
    gang.gather(None)
    sys.stdout.flush()
    os._exit(0)


def _order(sides: list[Any], turn: int) -> Iterator[Any]:
    """Who goes first changes, or one would always follow the other's rest."""
    yield from sides if turn % 2 else reversed(sides)


def _cpu_seconds(gang: Gang, side: Callable[[int], None], begin: int) -> float:
    """Of all ranks together."""
    gang.gather(None)
    started = time.process_time()
    side(begin)
    return sum(gang.gather(time.process_time() - started))


def _wall_seconds(gang: Gang, side: Callable[[], None]) -> float:
    gang.gather(None)
    started = time.monotonic()
    side()
    return max(gang.gather(time.monotonic() - started))


class _Tensors:
    """What the bare loop feeds its model, made before anything is measured."""

    def __init__(self, config: RunConfig, objective: Any) -> None:
        self._examples = objective._examples  # its own rows; a bare loop would have them from elsewhere
        self._order = SampleOrder.of(config.recipe, num_sequences=len(objective), world_size=config.world_size)
        self._made: dict[int, Any] = {}

    def of(self, begin: int, steps: int, rank: int) -> list[Any]:
        if begin not in self._made:
            self._made = {begin: [self._step(step, rank) for step in range(begin, begin + steps)]}
        return self._made[begin]

    def _step(self, step: int, rank: int) -> tuple[int, list[Any]]:
        import torch

        passes = []
        for numbers in self._order.micro_batches(step, rank):
            passed = self._examples.take(numbers)
            targets_BT = passed.labels_BT[:, 1:]  # noqa: N806 (shape letters)
            kept_K = np.flatnonzero((targets_BT != NO_LOSS).any(axis=0))  # noqa: N806
            passes.append(
                tuple(
                    torch.from_numpy(one)
                    for one in (passed.input_ids_BT, passed.position_ids_BT, kept_K, targets_BT[:, kept_K])
                )
            )
        return self._examples.num_loss_tokens(self._order.batch(step)), passes


def _bare_steps(gang: Gang, engine: Any, optimizer: Any, config: RunConfig, steps: list[Any]) -> None:
    from torch.nn.functional import cross_entropy

    for weight, passes in steps:
        for group in optimizer.param_groups:
            group["lr"] = config.recipe.learning_rate
        for number, (ids, positions, kept, targets) in enumerate(passes):
            logits = engine(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=kept).logits
            loss = cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=NO_LOSS, reduction="sum")
            engine.set_gradient_accumulation_boundary(number == len(passes) - 1)
            engine.backward(loss * (gang.world_size * len(passes) / weight))
            loss.item()
        engine.step()


def _save_stock(gang: Gang, engine: Any, directory: Path) -> None:
    engine.save_checkpoint(str(directory), tag="state", save_latest=False)
    gang.gather(None)
    # What it wrote may still be in memory alone: a checkpoint that a power cut takes away is none.
    files = sorted(path for path in directory.rglob("*.pt") if path.is_file())
    for path in files[gang.rank :: gang.world_size]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _num_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*.pt"))


if __name__ == "__main__":
    sys.exit(main())
