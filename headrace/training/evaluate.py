"""Measures held-out loss: `python -m headrace.training.evaluate`, with the task on standard input.

The loss is the training loop's own function on the held-out split: the same masking and the same tokens for every
model. `headrace.training.measured_model` holds the model and deals the sequences to processes.
Picture models are measured by `headrace.training.picture_evaluation`, preferences by
`headrace.training.preference_evaluation`.

Lines that begin with "held-out " go to the run's log.
"""

import math
import sys
import time
from collections.abc import Sequence

import numpy as np

from headrace.adapters.sealed import Opened, open_weights
from headrace.cycles import look_for_cycles_rarely
from headrace.training.devices import cpu_computes_bf16
from headrace.training.examples import NO_LOSS, PackedExamples, open_examples
from headrace.training.feeding import Feeding, choose_feeding, summed_loss
from headrace.training.guard import die_with
from headrace.training.heldout import Evaluation, EvaluationConfig, choose_sequences, publish_evaluation
from headrace.training.measured_model import NUM_SAMPLES, SEQUENCES_A_PASS, Loaded, spread
from headrace.training.recipe import FLOW_MATCHING, PREFERENCE

# Fewer tokens before the first learnt one ask nothing; then so many of the text's own are given.
_PROMPT_TOKENS_MIN = 4
_BEGINNING_TOKENS = 24


def evaluate_all(config: EvaluationConfig) -> list[Evaluation]:
    import torch

    from headrace.handoff.versions import HandoffStore
    from headrace.store.opening import open_store

    if config.device == "cpu":
        torch.set_num_threads(1)
    store = open_store(config.store_url)
    examples = open_examples(HandoffStore(store), config.inputs, "heldout")
    chosen = choose_sequences(examples, config.heldout_tokens_min)
    evaluations = []
    for digest in config.weights:
        started = time.monotonic()
        measure = Measure(open_weights(store, digest), examples, config.device, computes_bf16=cpu_computes_bf16())
        size = SEQUENCES_A_PASS[config.device]
        with spread(measure, config.device) as mapped:
            losses = mapped("loss", [chosen[start : start + size] for start in range(0, len(chosen), size)])
            answers = mapped("answer", chosen[:NUM_SAMPLES].tolist())
        num_tokens = examples.num_loss_tokens(chosen)
        evaluation = Evaluation(
            weights_digest=digest,
            heldout_digest=config.heldout_digest,
            heldout_loss=math.fsum(losses) / num_tokens,
            heldout_tokens=num_tokens,
            samples=tuple(measure.samples(chosen[:NUM_SAMPLES], answers)),
            seconds=time.monotonic() - started,
            feeding=measure.feeding,
        )
        evaluations.append(publish_evaluation(store, evaluation))
        print(
            f"held-out loss of {digest[:12]}: {evaluation.heldout_loss:.4f} nats a token over {num_tokens:,} tokens "
            f"({evaluation.seconds:.0f} s, {measure.dtype}, {evaluation.feeding})"
        )
    return evaluations


class Measure:
    """One model on the held-out sequences."""

    def __init__(self, weights: Opened, examples: PackedExamples, device: str, *, computes_bf16: bool = True) -> None:
        self._loaded = Loaded(weights, device, computes_bf16=computes_bf16)
        self.dtype = self._loaded.dtype
        self._examples = examples
        self._device = device
        self.feeding: Feeding = choose_feeding(self._loaded.model, examples, device)

    def loss(self, numbers: np.ndarray) -> float:
        """Nats, summed over these sequences' completion tokens."""
        import torch

        with torch.inference_mode():
            loss, _ = summed_loss(self._loaded.model, self._examples.take(numbers), self._device, self.feeding)
        return loss.item()

    def answer(self, number: int) -> str:
        """The greedy answer to a sequence's first prompt."""
        return self._loaded.answer(self._prompt(number))

    def samples(self, numbers: np.ndarray, answers: Sequence[str]) -> list[str]:
        return self._loaded.samples([self._prompt(number) for number in numbers], answers)

    def _prompt(self, number: int) -> np.ndarray:
        passed = self._examples.take([number])
        first_learnt = int((passed.labels_BT[0] != NO_LOSS).argmax())
        # Nothing is asked before a plain text: it is to be gone on with.
        return passed.input_ids_BT[0, : first_learnt if first_learnt >= _PROMPT_TOKENS_MIN else _BEGINNING_TOKENS]


def main() -> int:
    look_for_cycles_rarely()
    config = EvaluationConfig.from_json(sys.stdin.read())
    die_with(config.worker)
    if config.objective == FLOW_MATCHING:
        from headrace.training.picture_evaluation import evaluate_pictures

        evaluate_pictures(config)
    elif config.objective == PREFERENCE:
        from headrace.training.preference_evaluation import evaluate_preferences

        evaluate_preferences(config)
    else:
        evaluate_all(config)
    return 0


if __name__ == "__main__":
    sys.exit(main())
