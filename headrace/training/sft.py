"""The objective of texts: a causal language model learns what carries loss in packed examples.

With `sft` these are completions, or the assistant's turns of conversations; with `pretrain` all of plain texts.
"""

from copy import copy
from pathlib import Path
from typing import Any, Literal

import numpy as np

from headrace.handoff.versions import HandoffStore
from headrace.store.objects import ObjectStore
from headrace.training.bad_rows import refuse_bad_rows
from headrace.training.engine import Gang, load_model
from headrace.training.examples import open_examples
from headrace.training.feeding import PACKED, Feeding, choose_feeding, summed_loss
from headrace.training.lora_export import export_trained
from headrace.training.run_config import RunConfig
from headrace.training.without_state import WithoutState


class SftObjective(WithoutState):
    """Every completion token has the same weight: losses are in nats a completion token."""

    def __init__(self, config: RunConfig, store: ObjectStore) -> None:
        self._config = config
        self._handoffs = HandoffStore(store)
        self._split: Literal["train", "heldout"] = "train"
        self._examples = open_examples(self._handoffs, config.inputs, self._split)
        self.feeding: Feeding = PACKED

    def __len__(self) -> int:
        return len(self._examples)

    def load_model(self, base: Path) -> Any:
        model = load_model(base, self._config)
        self._num_ids = model.get_input_embeddings().num_embeddings
        return model

    def begin(self, gang: Gang, engine: Any) -> str | None:
        # Measured on the weights that every attempt starts from, so that all attempts decide alike.
        self.feeding = choose_feeding(
            engine, self._examples, gang.accelerator.device, any_rank=lambda found: any(gang.gather(found))
        )
        if self.feeding == PACKED:
            return None
        return f"in a packed row the examples would see each other in this model: it is fed {self.feeding}"

    def weight(self, numbers: np.ndarray) -> int:
        return self._examples.num_loss_tokens(numbers)

    def num_tokens(self, numbers: np.ndarray) -> int:
        return self._examples.num_tokens(numbers)

    def summed_loss(self, model: Any, numbers: np.ndarray, draws: np.ndarray, device: Any) -> Any:
        passed = self._examples.take(numbers)
        refuse_bad_rows(
            passed,
            numbers,
            self._num_ids,
            handoffs=self._handoffs,
            inputs=self._config.inputs,
            split=self._split,
        )
        return summed_loss(model, passed, device, self.feeding)[0]

    def heldout(self) -> "SftObjective":
        other = copy(self)
        other._split = "heldout"
        other._examples = open_examples(self._handoffs, self._config.inputs, "heldout")
        return other

    def export(self, gang: Gang, engine: Any, base: Path, out: Path) -> None:
        export_trained(gang, engine, base, out, self._config)
