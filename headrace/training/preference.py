"""The objective of preferences: of two answers to one prompt, the chosen one becomes likelier than the rejected one.

The loss of a pair is that of direct preference optimization: `-log sigmoid(margin)`, where the margin is beta times how
much more likely the chosen answer became than the rejected one since before the first step. With label smoothing s, a
share s of it is the loss of the pair turned round. How likely both were before the first step is measured once and
sealed (`headrace.training.reference`), so no second model is held.

Source: Rafailov et al. 2023, Direct Preference Optimization, equation 7; label smoothing as in the authors' code.

Shapes: N pairs in all, B of a pass, which are 2B rows, chosen before rejected; T tokens, K positions of answers, V
vocabulary.
"""

from pathlib import Path
from typing import Any

import numpy as np

from headrace.handoff.versions import HandoffStore
from headrace.store.objects import ObjectStore
from headrace.training.bad_rows import refuse_bad_rows
from headrace.training.engine import Gang, load_model
from headrace.training.examples import NO_LOSS, Pass
from headrace.training.feeding import ALONE, logits_at
from headrace.training.lora_export import export_trained
from headrace.training.preference_examples import Split, open_pairs
from headrace.training.preference_settings import Preference
from headrace.training.reference import reference_for
from headrace.training.run_config import RunConfig
from headrace.training.without_state import WithoutState

# How pairs reach the model.
FEEDING = "one answer a row"


class PreferenceObjective(WithoutState):
    """Every pair has the same weight: losses are in nats a pair."""

    feeding = FEEDING

    def __init__(self, config: RunConfig, store: ObjectStore, split: Split = "train") -> None:
        self._config = config
        self._store = store
        self._split: Split = split
        self._pairs = open_pairs(HandoffStore(store), config.recipe.examples_asset, config.inputs, split)
        self._heldout: PreferenceObjective | None = None
        self._reference_N2: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._pairs)

    def load_model(self, base: Path) -> Any:
        model = load_model(base, self._config)
        without_dropout(model)
        self._num_ids = model.get_input_embeddings().num_embeddings
        return model

    def begin(self, gang: Gang, engine: Any) -> str | None:
        if self._split == "train" and self._config.recipe.evaluate_every is not None:
            # Now, for what is measured later is not the model before its first step.
            self._heldout = PreferenceObjective(self._config, self._store, "heldout")
            self._heldout._num_ids = self._num_ids
            self._heldout.begin(gang, engine)
        device = gang.accelerator.device

        def measure(numbers: np.ndarray) -> np.ndarray:
            return answer_logprobs(engine, self._taken(numbers), device).cpu().numpy()

        self._reference_N2, told = reference_for(
            self._config, self._store, gang, engine, split=self._split, num_pairs=len(self._pairs), measure=measure
        )
        return told

    def heldout(self) -> "PreferenceObjective":
        assert self._heldout, "evaluate_every is given"
        return self._heldout

    def weight(self, numbers: np.ndarray) -> int:
        return len(numbers)

    def num_tokens(self, numbers: np.ndarray) -> int:
        return self._pairs.num_tokens(numbers)

    def summed_loss(self, model: Any, numbers: np.ndarray, draws: np.ndarray, device: Any) -> Any:
        import torch

        assert self._reference_N2 is not None
        preference = self._config.recipe.preferences
        logprobs_2B = answer_logprobs(model, self._taken(numbers), device)  # noqa: N806 (shape letters)
        reference_2B = torch.from_numpy(self._reference_N2[numbers].reshape(-1)).to(device)  # noqa: N806
        return pair_losses(margins(logprobs_2B, reference_2B, preference), preference).sum()

    def _taken(self, numbers: np.ndarray) -> Pass:
        """Raises: InvalidTrainingRun: a pair has ids that the model does not know."""
        passed = self._pairs.take(numbers)
        refuse_bad_rows(
            passed,
            # Both rows of a pair.
            numbers.repeat(2),
            self._num_ids,
            handoffs=HandoffStore(self._store),
            inputs=self._config.inputs,
            split=self._split,
            asset=self._config.recipe.examples_asset,
        )
        return passed

    def export(self, gang: Gang, engine: Any, base: Path, out: Path) -> None:
        export_trained(gang, engine, base, out, self._config)


def without_dropout(model: Any) -> None:
    """Sets every dropout to 0, as the authors' code does: it would move margins that nothing was learnt of."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def answer_logprobs(model: Any, passed: Pass, device: Any) -> Any:
    """float32 [2B]: nats of each row's answer, summed over its tokens."""
    import torch
    from torch.nn.functional import cross_entropy

    targets_BT = passed.labels_BT[:, 1:]  # noqa: N806 (shape letters)
    kept_K = np.flatnonzero((targets_BT != NO_LOSS).any(axis=0))  # noqa: N806
    logits_BKV = logits_at(model, passed, device, ALONE, kept_K)  # noqa: N806
    targets_BK = torch.from_numpy(targets_BT[:, kept_K]).to(device)  # noqa: N806
    logits, targets = logits_BKV.float().flatten(0, 1), targets_BK.flatten()
    losses_BK = cross_entropy(logits, targets, ignore_index=NO_LOSS, reduction="none").view_as(targets_BK)  # noqa: N806
    return -losses_BK.sum(-1)


def margins(logprobs_2B: Any, reference_2B: Any, preference: Preference) -> Any:  # noqa: N803
    """float32 [B]: beta times how much likelier the chosen answer became than the rejected one."""
    gains_B2 = (logprobs_2B - reference_2B).view(-1, 2)  # noqa: N806
    return preference.beta * (gains_B2[:, 0] - gains_B2[:, 1])


def pair_losses(margins_B: Any, preference: Preference) -> Any:  # noqa: N803
    """float32 [B], in nats a pair."""
    from torch.nn.functional import logsigmoid

    share = preference.label_smoothing
    return -(1 - share) * logsigmoid(margins_B) - share * logsigmoid(-margins_B)
