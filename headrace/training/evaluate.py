"""Measures held-out loss: `python -m headrace.training.evaluate`, with the task on standard input.

The loss is the training loop's own function on the held-out split: the same masking and the same tokens for every
model. On a CPU the sequences are dealt to one process a core, each with one thread, all on one copy of the model. That
is twice as fast as threads inside a multiplication, and the result does not depend on the number of cores.

Picture models are measured by `headrace.training.picture_evaluation`.

Lines that begin with "held-out " go to the run's log.
"""

import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headrace.adapters.sealed import Opened, open_weights
from headrace.training.devices import cpu_computes_bf16
from headrace.training.examples import NO_LOSS, PackedExamples, open_examples
from headrace.training.feeding import Feeding, choose_feeding, summed_loss
from headrace.training.guard import die_with, die_with_parent
from headrace.training.heldout import SAMPLE_ARROW, Evaluation, EvaluationConfig, choose_sequences, publish_evaluation
from headrace.training.recipe import FLOW_MATCHING

# Sequences in a pass. One on a CPU: a pass computes logits at every position where any of its sequences has a loss.
_SEQUENCES_A_PASS = {"cpu": 1, "cuda": 16}
_SAMPLES = 4
_SAMPLE_TOKENS = 32

Mapper = Callable[[str, Sequence[Any]], list[Any]]


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
        weights = open_weights(store, digest)
        measure = Measure(
            weights.directory, examples, config.device, computes_bf16=cpu_computes_bf16(), base=weights.base
        )
        size = _SEQUENCES_A_PASS[config.device]
        with _spread(measure, config.device) as mapped:
            losses = mapped("loss", [chosen[start : start + size] for start in range(0, len(chosen), size)])
            answers = mapped("answer", chosen[:_SAMPLES].tolist())
        num_tokens = examples.num_loss_tokens(chosen)
        evaluation = Evaluation(
            weights_digest=digest,
            heldout_digest=config.heldout_digest,
            heldout_loss=math.fsum(losses) / num_tokens,
            heldout_tokens=num_tokens,
            samples=tuple(measure.samples(chosen[:_SAMPLES], answers)),
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
    """One model on the held-out sequences. `base`: of weights that are an adapter."""

    def __init__(
        self,
        weights: Path,
        examples: PackedExamples,
        device: str,
        *,
        computes_bf16: bool = True,
        base: Path | None = None,
    ) -> None:
        import torch
        from transformers import AutoTokenizer

        from headrace.adapters.loading import load_causal_model

        opened = Opened(directory=weights, base=base)

        # In the precision in which it was saved. Some CPUs only emulate that; the same numbers are five times as fast
        # in fp32 there.
        model = load_causal_model(opened, dtype="auto")
        if device == "cpu" and model.dtype == torch.bfloat16 and not computes_bf16:
            model = model.float()
        self.dtype = str(model.dtype).removeprefix("torch.")
        self._model = model.to(device).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(opened.model, trust_remote_code=False)
        self._examples = examples
        self._device = device
        self.feeding: Feeding = choose_feeding(self._model, examples, device)

    def loss(self, numbers: np.ndarray) -> float:
        """Nats, summed over these sequences' completion tokens."""
        import torch

        with torch.inference_mode():
            loss, _ = summed_loss(self._model, self._examples.take(numbers), self._device, self.feeding)
        return loss.item()

    def answer(self, number: int) -> str:
        """The greedy answer to a sequence's first prompt."""
        import torch

        prompt = self._prompt(number)
        output = self._model.generate(
            torch.from_numpy(prompt).unsqueeze(0).to(self._device),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=self._device),
            max_new_tokens=_SAMPLE_TOKENS,
            do_sample=False,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        return self._tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True).strip()

    def samples(self, numbers: np.ndarray, answers: Sequence[str]) -> list[str]:
        prompts = [self._tokenizer.decode(self._prompt(number), skip_special_tokens=True) for number in numbers]
        return [f"{p}{SAMPLE_ARROW}{a}" for p, a in zip(distinctive_lines(prompts), answers, strict=True)]

    def _prompt(self, number: int) -> np.ndarray:
        passed = self._examples.take([number])
        return passed.input_ids_BT[0, : int((passed.labels_BT[0] != NO_LOSS).argmax())]


def distinctive_lines(texts: list[str]) -> list[str]:
    """The parts that distinguish the prompts: removes lines that all share, such as a system turn or role names."""
    shared = set.intersection(*(set(text.splitlines()) for text in texts)) if len(texts) > 1 else set()
    own = [" ".join(line for line in text.splitlines() if line not in shared and line.strip()) for text in texts]
    return [line or text.strip() for line, text in zip(own, texts, strict=True)]


@contextmanager
def _spread(measure: Measure, device: str) -> Iterator[Mapper]:
    """On a CPU uses forked processes, which share the model's pages; a GPU computes alone.

    Yields:
        `map(method name, items)` over the methods of `measure`.
    """
    if device != "cpu":
        yield lambda method, items: [getattr(measure, method)(item) for item in items]
        return
    # By its name and through a global: a bound method would be pickled together with the model.
    global _forked
    _forked = measure
    # Not multiprocessing's own pool, which waits forever for a killed worker's item.
    with ProcessPoolExecutor(
        len(os.sched_getaffinity(0)),
        mp_context=multiprocessing.get_context("fork"),
        initializer=die_with_parent,
        initargs=(os.getpid(),),
    ) as pool:
        yield lambda method, items: list(pool.map(partial(_call_forked, method), items))


_forked: Measure | None = None


def _call_forked(method: str, item: Any) -> Any:
    return getattr(_forked, method)(item)


def main() -> int:
    config = EvaluationConfig.from_json(sys.stdin.read())
    die_with(config.worker)
    if config.objective == FLOW_MATCHING:
        from headrace.training.picture_evaluation import evaluate_pictures

        evaluate_pictures(config)
    else:
        evaluate_all(config)
    return 0


if __name__ == "__main__":
    sys.exit(main())
