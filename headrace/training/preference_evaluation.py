"""Measures preferences, in the evaluating process: the loss on held-out pairs, and how many of them a model gets right.

The loss is the training's own, of the margins by which a model prefers the chosen answers more than the reference does.
The reference itself has margins of 0: its loss is log 2, and it wins half of the pairs. What it likes without such a
comparison is told beside it, since longer answers are less likely in any model.
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.adapters.sealed import Opened, open_weights
from headrace.handoff.versions import HandoffStore
from headrace.keys import PREFERENCE_LOSS
from headrace.store.opening import open_store
from headrace.training.devices import cpu_computes_bf16
from headrace.training.heldout import Evaluation, EvaluationConfig, chosen_numbers, publish_evaluation
from headrace.training.measured_model import NUM_SAMPLES, SEQUENCES_A_PASS, Loaded, spread
from headrace.training.preference import FEEDING, answer_logprobs, margins, pair_losses
from headrace.training.preference_examples import PreferencePairs, open_pairs
from headrace.training.preference_settings import Preference


def evaluate_preferences(config: EvaluationConfig) -> list[Evaluation]:
    import torch

    assert config.pairs
    if config.device == "cpu":
        torch.set_num_threads(1)
    store = open_store(config.store_url)
    pairs = open_pairs(HandoffStore(store), config.pairs.asset, config.inputs, "heldout")
    chosen = chosen_numbers(len(pairs), len, config.heldout_tokens_min)
    preference = Preference(beta=config.pairs.beta, label_smoothing=config.pairs.label_smoothing)
    reference_N2: np.ndarray | None = None  # noqa: N806 (shape letters)
    evaluations = []
    # The reference first: all others are compared with it.
    for digest in dict.fromkeys([config.pairs.reference, *config.weights]):
        started = time.monotonic()
        measure = PairMeasure(open_weights(store, digest), pairs, config.device)
        logprobs_N2 = measure.logprobs_of(chosen)  # noqa: N806
        reference_N2 = logprobs_N2 if reference_N2 is None else reference_N2  # noqa: N806
        if digest not in config.weights:
            continue
        loss, figures = measured(logprobs_N2, reference_N2, preference)
        evaluation = Evaluation(
            weights_digest=digest,
            heldout_digest=config.heldout_digest,
            heldout_loss=loss,
            heldout_tokens=pairs.num_loss_tokens(chosen),
            samples=tuple(measure.samples(chosen[:NUM_SAMPLES])),
            seconds=time.monotonic() - started,
            feeding=FEEDING,
            measure=PREFERENCE_LOSS,
            figures=figures,
        )
        evaluations.append(publish_evaluation(store, evaluation))
        print(
            f"held-out {PREFERENCE_LOSS} of {digest[:12]}: {loss:.4f} nats a pair over {len(chosen):,} pairs, of which "
            f"it wins {figures['win_share']:.0%}, by {figures['margin']:.3f} on average ({evaluation.seconds:.0f} s)"
        )
    return evaluations


def measured(
    logprobs_N2: np.ndarray,  # noqa: N803
    reference_N2: np.ndarray,  # noqa: N803
    preference: Preference,
) -> tuple[float, dict[str, float]]:
    """Nats a pair, and the figures by name.

    `win_share`: of pairs, those whose chosen answer became likelier than the rejected one; a tie is half a win.
    `margin`: beta times by how much, on average. `chosen_likelier_share`: of pairs, those whose chosen answer is the
    likelier one, whatever the reference. `chosen_gain` and `rejected_gain`: nats by which either became likelier.
    """
    import torch

    logprobs, reference = (torch.from_numpy(one.reshape(-1)) for one in (logprobs_N2, reference_N2))
    margins_N = margins(logprobs, reference, preference)  # noqa: N806 (shape letters)
    losses = pair_losses(margins_N, preference).tolist()
    wins_N = (margins_N > 0).float() + (margins_N == 0).float() / 2  # noqa: N806
    likelier_N = logprobs_N2[:, 0] > logprobs_N2[:, 1]  # noqa: N806
    gains_2 = (logprobs_N2 - reference_N2).mean(axis=0)
    return math.fsum(losses) / len(losses), {
        "win_share": float(wins_N.mean()),
        "margin": float(margins_N.mean()),
        "chosen_likelier_share": float(likelier_N.mean()),
        "chosen_gain": float(gains_2[0]),
        "rejected_gain": float(gains_2[1]),
        "num_pairs": float(len(losses)),
    }


class PairMeasure:
    """One model on held-out pairs."""

    def __init__(self, weights: Opened, pairs: PreferencePairs, device: str) -> None:
        self._loaded = Loaded(weights, device, computes_bf16=cpu_computes_bf16())
        self._pairs = pairs
        self._device = device

    def logprobs_of(self, numbers: np.ndarray) -> np.ndarray:
        """float32 [N, 2]: nats of the chosen and of the rejected answer."""
        size = SEQUENCES_A_PASS[self._device]
        with spread(self, self._device) as mapped:
            found = mapped("logprobs", [numbers[start : start + size] for start in range(0, len(numbers), size)])
        return np.concatenate(found).reshape(-1, 2)

    def samples(self, numbers: np.ndarray) -> list[str]:
        """The prompts of these pairs with the model's greedy answers."""
        with spread(self, self._device) as mapped:
            answers = mapped("answer", numbers.tolist())
        return self._loaded.samples([self._pairs.prompt_ids(number) for number in numbers], answers)

    def logprobs(self, numbers: Sequence[int] | np.ndarray) -> Any:
        import torch

        with torch.inference_mode():
            return answer_logprobs(self._loaded.model, self._pairs.take(numbers), self._device).cpu().numpy()

    def answer(self, number: int) -> str:
        return self._loaded.answer(self._pairs.prompt_ids(number).astype(np.int64))
