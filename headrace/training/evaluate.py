"""Measures held-out loss: `python -m headrace.training.evaluate`, told on standard input what to measure.

The loss is the training loop's own function on the held-out split: the same masking, the same tokens for every model.
Lines that begin with "held-out " are for the run's log.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from headrace.training.examples import NO_LOSS, PackedExamples, open_examples
from headrace.training.guard import die_with
from headrace.training.heldout import SAMPLE_ARROW, Evaluation, EvaluationConfig, choose_sequences, publish_evaluation

# Sequences a pass. On a CPU one: the logits of a pass cover every position where any of its sequences has a loss.
_SEQUENCES_A_PASS = {"cpu": 1, "cuda": 16}
_SAMPLES = 4
_SAMPLE_TOKENS = 32


def evaluate_all(config: EvaluationConfig) -> list[Evaluation]:
    from headrace.handoff.versions import HandoffStore
    from headrace.store.local import LocalStore
    from headrace.store.sealed_directory import open_directory

    store = LocalStore(Path(config.store_directory))
    examples = open_examples(HandoffStore(store), config.inputs, "heldout")
    chosen = choose_sequences(examples, config.heldout_tokens_min)
    evaluations = []
    for digest in config.weights:
        started = time.monotonic()
        model, tokenizer = load(open_directory(store, digest), config.device)
        loss, num_tokens = heldout_loss(model, examples, chosen, config.device)
        evaluation = Evaluation(
            weights_digest=digest,
            heldout_digest=config.heldout_digest,
            heldout_loss=loss,
            heldout_tokens=num_tokens,
            samples=tuple(samples(model, tokenizer, examples, chosen[:_SAMPLES], config.device)),
            seconds=time.monotonic() - started,
        )
        evaluations.append(publish_evaluation(store, evaluation))
        print(
            f"held-out loss of {digest[:12]}: {loss:.4f} nats a token over {num_tokens:,} tokens "
            f"({evaluation.seconds:.0f} s)"
        )
    return evaluations


def load(weights: Path, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # In the precision it was saved in: what is measured is what will generate.
    model: Any = AutoModelForCausalLM.from_pretrained(weights, dtype="auto", attn_implementation="sdpa")
    return model.to(device).eval(), AutoTokenizer.from_pretrained(weights)


def heldout_loss(model: Any, examples: PackedExamples, chosen: np.ndarray, device: str) -> tuple[float, int]:
    """Nats a completion token, and the number of tokens."""
    import torch

    from headrace.training.loop import summed_loss

    total, num_tokens = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(chosen), size := _SEQUENCES_A_PASS[device]):
            loss, num_here = summed_loss(model, examples.take(chosen[start : start + size]), device)
            total += loss.item()
            num_tokens += num_here
    return total / num_tokens, num_tokens


def samples(model: Any, tokenizer: Any, examples: PackedExamples, chosen: np.ndarray, device: str) -> list[str]:
    """`prompt → answer` for the first example of each chosen sequence, decoded greedily."""
    import torch

    prompts = []
    for number in chosen:
        passed = examples.take([number])
        prompts.append(passed.input_ids_BT[0, : int((passed.labels_BT[0] != NO_LOSS).argmax())])
    texts = [tokenizer.decode(prompt, skip_special_tokens=True) for prompt in prompts]
    answers = []
    for prompt in prompts:
        output = model.generate(
            torch.from_numpy(prompt).unsqueeze(0).to(device),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=device),
            max_new_tokens=_SAMPLE_TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
        answers.append(tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True).strip())
    return [f"{prompt}{SAMPLE_ARROW}{answer}" for prompt, answer in zip(distinctive_lines(texts), answers, strict=True)]


def distinctive_lines(texts: list[str]) -> list[str]:
    """What tells the prompts apart: without the lines that all share, such as a system turn or the roles' names."""
    shared = set.intersection(*(set(text.splitlines()) for text in texts)) if len(texts) > 1 else set()
    own = [" ".join(line for line in text.splitlines() if line not in shared and line.strip()) for text in texts]
    return [line or text.strip() for line, text in zip(own, texts, strict=True)]


def main() -> int:
    config = EvaluationConfig.from_json(sys.stdin.read())
    die_with(config.worker)
    evaluate_all(config)
    return 0


if __name__ == "__main__":
    sys.exit(main())
