"""A language model while it is measured: loaded once, asked by one process a core.

On a CPU the sequences are dealt to one process a core, each with one thread, all on one copy of the model. That is
twice as fast as threads inside a multiplication, and the result does not depend on the number of cores.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from headrace.adapters.loading import load_causal_model
from headrace.adapters.sealed import Opened
from headrace.parent_death import die_with_parent
from headrace.training.heldout import SAMPLE_ARROW

# Sequences in a pass. One on a CPU: a pass computes logits at every position where any of its sequences has a loss.
SEQUENCES_A_PASS = {"cpu": 1, "cuda": 16}
NUM_SAMPLES = 4
_SAMPLE_TOKENS = 32

Mapper = Callable[[str, Sequence[Any]], list[Any]]


class Loaded:
    """A model, or an adapter on its base, with its tokenizer, as it is measured."""

    def __init__(self, weights: Opened, device: str, *, computes_bf16: bool) -> None:
        import torch
        from transformers import AutoTokenizer

        # In the precision in which it was saved. Some CPUs only emulate that; the same numbers are five times as fast
        # in fp32 there.
        model = load_causal_model(weights, dtype="auto")
        if device == "cpu" and model.dtype == torch.bfloat16 and not computes_bf16:
            model = model.float()
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.model = model.to(device).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(weights.model, trust_remote_code=False)
        self._device = device

    def answer(self, prompt: np.ndarray) -> str:
        """Greedy."""
        import torch

        output = self.model.generate(
            torch.from_numpy(prompt).unsqueeze(0).to(self._device),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=self._device),
            max_new_tokens=_SAMPLE_TOKENS,
            do_sample=False,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        return self._tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True).strip()

    def samples(self, prompts: Sequence[np.ndarray], answers: Sequence[str]) -> list[str]:
        texts = [self._tokenizer.decode(prompt, skip_special_tokens=True) for prompt in prompts]
        return [f"{p}{SAMPLE_ARROW}{a}" for p, a in zip(distinctive_lines(texts), answers, strict=True)]


def distinctive_lines(texts: list[str]) -> list[str]:
    """The parts that distinguish the prompts: removes lines that all share, such as a system turn or role names."""
    shared = set.intersection(*(set(text.splitlines()) for text in texts)) if len(texts) > 1 else set()
    own = [" ".join(line for line in text.splitlines() if line not in shared and line.strip()) for text in texts]
    return [line or text.strip() for line, text in zip(own, texts, strict=True)]


@contextmanager
def spread(measure: object, device: str) -> Iterator[Mapper]:
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


_forked: object | None = None


def _call_forked(method: str, item: Any) -> Any:
    return getattr(_forked, method)(item)
