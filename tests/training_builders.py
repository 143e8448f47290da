"""Builders for the training room's tests: recipes, packed examples, a place to train in."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from tokenizers import Tokenizer

from headrace.clock import FixedClock
from headrace.handoff.schemas import training_examples_schema
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from headrace.training.devices import Devices
from headrace.training.examples import NO_LOSS, ExamplesInput
from headrace.training.guard import Worker
from headrace.training.recipe import Recipe
from headrace.training.run_config import RunConfig
from headrace.training.session import TrainingRequest, Workplace

COMPLETIONS = ["a wheel that water turns", "a channel", "a mill that grinds grain into flour", "quick; nimble"]


def make_recipe(**changes: Any) -> Recipe:
    return Recipe(**{"name": "test", "model": "tiny", "steps": 10, "batch": 2, "learning_rate": 1e-3} | changes)


def packed_rows(
    tokenizer: Path, *, num_sequences: int, sequence_length: int = 64, heldout_every: int = 5, seed: int = 0
) -> pa.Table:
    """Small packed sequences with real prompts and completions; every `heldout_every`th is held out."""
    encode = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode
    rng = random.Random(seed)
    rows = []
    for index in range(num_sequences):
        ids: list[int] = []
        labels: list[int] = []
        positions: list[int] = []
        num_examples = 0
        while True:
            prompt = encode(f"<|im_start|>user\nDefine {rng.randint(0, 999)}.<|im_end|>\n<|im_start|>assistant\n").ids
            completion = encode(f"{rng.choice(COMPLETIONS)}<|im_end|>").ids
            length = len(prompt) + len(completion)
            if len(ids) + length > sequence_length:
                break
            ids += prompt + completion
            labels += [NO_LOSS] * len(prompt) + completion
            positions += range(length)
            num_examples += 1
        padding = sequence_length - len(ids)
        rows.append(
            {
                "split": "heldout" if index % heldout_every == 0 else "train",
                "input_ids": ids + [0] * padding,
                "labels": labels + [NO_LOSS] * padding,
                "position_ids": positions + list(range(padding)),
                "num_examples": num_examples,
                "num_completion_tokens": sum(label != NO_LOSS for label in labels),
            }
        )
    return pa.Table.from_pylist(rows, schema=training_examples_schema(sequence_length))


def numbered_rows(splits: list[str], *, sequence_length: int = 4, first: int = 0) -> pa.Table:
    """Sequences whose tokens are all the row's own number, with one loss at their second position."""
    rows = [
        {
            "split": split,
            "input_ids": [first + number] * sequence_length,
            "labels": [NO_LOSS, first + number] + [NO_LOSS] * (sequence_length - 2),
            "position_ids": list(range(sequence_length)),
            "num_examples": 1,
            "num_completion_tokens": 1,
        }
        for number, split in enumerate(splits)
    ]
    return pa.Table.from_pylist(rows, schema=training_examples_schema(sequence_length))


@dataclass(frozen=True)
class Bench:
    """A store with a sealed base model and two partitions of examples."""

    store: LocalStore
    work_root: Path
    base_digest: str
    inputs: tuple[ExamplesInput, ...]

    def request(self, **recipe: Any) -> TrainingRequest:
        return TrainingRequest(recipe=make_recipe(**recipe), base_weights_digest=self.base_digest, inputs=self.inputs)

    def place(self, environment: dict[str, str], *, devices: Devices | None = None, run_id: str = "run-1") -> Workplace:
        return Workplace(
            store=self.store,
            work_root=self.work_root,
            devices=devices or Devices(num_gpus=0, memory_mib=None),
            environment=environment,
            clock=FixedClock(),
            run_id=run_id,
        )


def make_bench(directory: Path, model: Path) -> Bench:
    store = LocalStore(directory / "store")
    handoffs = HandoffStore(store)
    inputs = []
    for shard in range(2):
        rows = packed_rows(model, num_sequences=40, seed=shard)
        handoff = handoffs.publish("training_examples", f"shard-0{shard}", rows, code_version="1", run_id="test")
        inputs.append(
            ExamplesInput(partition=handoff.partition, version=handoff.version, content_digest=handoff.content_digest)
        )
    return Bench(store, directory / "work", seal_directory(store, model).digest, tuple(inputs))


def make_run_config(work: Path, **changes: Any) -> RunConfig:
    work.mkdir(parents=True, exist_ok=True)
    return RunConfig(
        **{
            "training_id": "t" * 32,
            "attempt": 1,
            "recipe": make_recipe(),
            "world_size": 2,
            "device": "cpu",
            "base_weights_digest": "b" * 64,
            "store_url": str(work / "store"),
            "work_directory": str(work),
            "inputs": (ExamplesInput(partition="shard-00", version=1, content_digest="c" * 64),),
            "worker": Worker.this_process(),
            "started_at": 0.0,
        }
        | changes
    )
