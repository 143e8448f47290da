"""What the parts train: a small random language model and packed rows, in a store of their own, and a gang for them."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.measuring import ChildFailed
from headrace.handoff.schemas import training_examples_schema
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from headrace.training.examples import NO_LOSS, ExamplesInput
from headrace.training.export import drop_library_versions
from headrace.training.guard import Worker
from headrace.training.launch_plan import plan_launch
from headrace.training.recipe import Recipe
from headrace.training.run_config import RunConfig
from simulation.tiny_model import tiny_tokenizer

_VOCAB = 512
_POSITIONS_MAX = 1024


@dataclass(frozen=True, kw_only=True)
class Site:
    """A store with a sealed base model and one partition of examples, half of each row with loss."""

    store: LocalStore
    directory: Path
    base_digest: str
    inputs: tuple[ExamplesInput, ...]

    def config(self, recipe: Recipe, *, world_size: int) -> RunConfig:
        work = self.directory / "work"
        work.mkdir(parents=True, exist_ok=True)
        return RunConfig(
            training_id=recipe.training_id(
                self.base_digest, {one.partition: one.content_digest for one in self.inputs}
            ),
            attempt=0,
            recipe=recipe,
            world_size=world_size,
            device="cpu",
            base_weights_digest=self.base_digest,
            store_url=self.store.url,
            work_directory=str(work),
            inputs=self.inputs,
            worker=Worker.this_process(),
            started_at=0.0,
        )


def make_site(
    directory: Path,
    *,
    hidden: int,
    layers: int,
    sequence_length: int,
    num_sequences: int,
    seed: int = 0,
    vocabulary: int = _VOCAB,
    queries_a_key: int = 1,
    dropout: float = 0.0,
) -> Site:
    """Args: vocabulary: ids that the model knows; rows have those of the tokenizer alone."""
    store = LocalStore(directory / "store")
    model = _build_model(
        directory / "model",
        hidden=hidden,
        layers=layers,
        vocabulary=vocabulary,
        queries_a_key=queries_a_key,
        dropout=dropout,
    )
    rows = _random_rows(num_sequences, sequence_length, seed)
    handoff = HandoffStore(store).publish("training_examples", "shard-00", rows, code_version="1", run_id="benchmark")
    of_examples = ExamplesInput(
        partition=handoff.partition, version=handoff.version, content_digest=handoff.content_digest
    )
    return Site(
        store=store, directory=directory, base_digest=seal_directory(store, model).digest, inputs=(of_examples,)
    )


def run_ranks(module: str, config: RunConfig, *arguments: str, seconds_max: float = 1800) -> None:
    """Runs `python -m MODULE --run-json … ARGUMENTS` as the ranks of a gang, as a training's own are run.

    Raises:
        ChildFailed: a rank failed; with its last lines.
    """
    run_json = config.write(config.work / "run.json")
    plan = plan_launch(
        run_json=run_json,
        world_size=config.world_size,
        device=config.device,
        work_directory=config.work,
        marker="benchmark",
        environment=os.environ,
        module=module,
    )
    done = subprocess.run(
        [*plan.argv, *arguments],
        env=plan.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds_max,
        check=False,
    )
    if done.returncode:
        logs = [path.read_text(errors="replace")[-3000:] for path in sorted(plan.logs.rglob("stderr.log"))]
        raise ChildFailed(f"{module} ended with {done.returncode}:\n" + "\n".join([done.stdout[-2000:], *logs]))


def _build_model(
    directory: Path, *, hidden: int, layers: int, vocabulary: int, queries_a_key: int, dropout: float
) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer(
        {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}, vocab=_VOCAB, num_positions=_POSITIONS_MAX
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model: Any = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=hidden,
                intermediate_size=3 * hidden,
                num_hidden_layers=layers,
                num_attention_heads=hidden // 32,
                num_key_value_heads=hidden // 32 // queries_a_key,
                max_position_embeddings=_POSITIONS_MAX,
                attention_dropout=dropout,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    drop_library_versions(directory)
    return directory


def _random_rows(num_sequences: int, length: int, seed: int) -> pa.Table:
    """Rows of two examples each, whose second halves carry the loss; every tenth row is held out."""
    draw = np.random.default_rng(seed)
    half = length // 2
    rows = []
    for number in range(num_sequences):
        ids = draw.integers(3, _VOCAB, length)
        has_loss = np.arange(length) % half >= half // 2
        rows.append(
            {
                "split": "heldout" if number % 10 == 9 else "train",
                "input_ids": ids.tolist(),
                "labels": np.where(has_loss, ids, NO_LOSS).tolist(),
                "position_ids": (np.arange(length) % half).tolist(),
                "num_examples": 2,
                "num_completion_tokens": int(has_loss.sum()),
            }
        )
    return pa.Table.from_pylist(rows, schema=training_examples_schema(length))
