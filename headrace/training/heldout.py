"""Held-out loss, or a picture model's error: what measures it, and where a measurement is kept.

All language models use the same sequences, chosen only by the inputs and the wanted number of tokens. A measurement
depends on two digests and is made once: evaluations/<weights digest>/<held-out digest>.json.
"""

import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field

import numpy as np

from headrace.errors import ObjectMissing, TrainingFailed
from headrace.keys import HELDOUT_LOSS, digest_text
from headrace.store.objects import ObjectStore, canonical_json
from headrace.store.small_objects import Kind, Record, create_object, read_object
from headrace.training.examples import ExamplesInput, PackedExamples, inputs_of_split
from headrace.training.guard import Worker
from headrace.training.order import shuffled
from headrace.training.recipe import FLOW_MATCHING, PREFERENCE, SFT, ObjectiveName, Recipe

# Part of every held-out digest: raise it when the choice of sequences or the way of measuring changes.
_MEASURE = "1"
# The same for picture models, and for preferences.
_PICTURE_MEASURE = "1"
_PAIR_MEASURE = "1"
# Of an evaluating process that failed.
_LINES_TOLD = 12
# Separates prompt and answer of a sample.
SAMPLE_ARROW = " → "


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """`heldout_loss` in nats a completion token; `samples`: a few prompts with the model's greedy answers.

    `feeding`: how packed rows reached the model (`headrace.training.feeding`).
    `measure`: what `heldout_loss` is; of picture models the error on taught captions (`picture_measures`), over
    `heldout_tokens` denoisings, of preferences nats a pair; and `figures` are what else was measured, by name.
    """

    weights_digest: str
    heldout_digest: str
    heldout_loss: float
    heldout_tokens: int
    samples: tuple[str, ...]
    seconds: float
    feeding: str = "packed"
    measure: str = HELDOUT_LOSS
    figures: Mapping[str, float] = field(default_factory=dict)


EVALUATION = Kind(
    noun="Evaluation", shape=Evaluation, remedy="Delete it, and materialize evaluation again: it is then measured anew."
)


@dataclass(frozen=True, kw_only=True)
class PairMeasure:
    """How preferences are measured: the pairs' asset, and the weights that others are compared with."""

    asset: str
    reference: str
    beta: float
    label_smoothing: float

    @classmethod
    def of(cls, recipe: Recipe, base_weights_digest: str) -> "PairMeasure | None":
        """None: the recipe learns no preferences."""
        if recipe.objective != PREFERENCE:
            return None
        preference = recipe.preferences
        return cls(
            asset=recipe.examples_asset,
            reference=base_weights_digest,
            beta=preference.beta,
            label_smoothing=preference.label_smoothing,
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The evaluating process's task; it measures `weights` in order and publishes each result when it is done."""

    weights: tuple[str, ...]
    inputs: tuple[ExamplesInput, ...]
    heldout_tokens_min: int
    store_url: str
    device: str
    worker: Worker
    objective: ObjectiveName = SFT
    pairs: PairMeasure | None = None

    @property
    def heldout_digest(self) -> str:
        return evaluation_digest(self.inputs, self.heldout_tokens_min, self.objective, self.pairs)

    def to_json(self) -> str:
        return canonical_json(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> "EvaluationConfig":
        return Record("Evaluation's task", cls).checked(text)


def heldout_digest(inputs: Sequence[ExamplesInput], heldout_tokens_min: int) -> str:
    holding, rows = inputs_of_split(inputs, "heldout")
    contents = sorted((item.partition, item.content_digest) for item in holding)
    # Other sequences of the same contents: all of them.
    if rows is None:
        return digest_text("heldout_shards", _MEASURE, str(heldout_tokens_min), canonical_json(contents).decode())
    return digest_text("heldout", _MEASURE, str(heldout_tokens_min), canonical_json(contents).decode())


def evaluation_digest(
    inputs: Sequence[ExamplesInput],
    heldout_tokens_min: int,
    objective: ObjectiveName,
    pairs: PairMeasure | None = None,
) -> str:
    """What the measurements of an objective's models have in common: only then they may be compared."""
    if objective == FLOW_MATCHING:
        contents = sorted((item.partition, item.content_digest) for item in inputs)
        return digest_text("taught_pictures", _PICTURE_MEASURE, canonical_json(contents).decode())
    of_texts = heldout_digest(inputs, heldout_tokens_min)
    if pairs is None:
        return of_texts
    return digest_text("preference", _PAIR_MEASURE, canonical_json(asdict(pairs)).decode(), of_texts)


def choose_sequences(examples: PackedExamples, heldout_tokens_min: int) -> np.ndarray:
    """The fewest shuffled sequences with `heldout_tokens_min` completion tokens; all sequences, if they have fewer."""
    return chosen_numbers(len(examples), examples.num_loss_tokens, heldout_tokens_min)


def chosen_numbers(count: int, weight: Callable[[np.ndarray], int], weight_min: int) -> np.ndarray:
    """The fewest of 0 … count-1, shuffled, whose weights make `weight_min`; all, if they make less."""
    chosen: list[int] = []
    total = 0
    for number in shuffled(count, 0, 0):
        if total >= weight_min:
            break
        chosen.append(int(number))
        total += weight(np.array([number]))
    return np.array(chosen)


def find_evaluation(store: ObjectStore, weights_digest: str, heldout: str) -> Evaluation | None:
    """Raises: HandoffCorrupt: there is one, and it is damaged."""
    try:
        return read_object(store, evaluation_key(weights_digest, heldout), EVALUATION)
    except ObjectMissing:
        return None


def publish_evaluation(store: ObjectStore, evaluation: Evaluation) -> Evaluation:
    """Keeps the first measurement of a pair."""
    key = evaluation_key(evaluation.weights_digest, evaluation.heldout_digest)
    return create_object(store, key, EVALUATION, evaluation).value


def evaluate(
    store: ObjectStore,
    weights: Mapping[str, str],
    inputs: tuple[ExamplesInput, ...],
    *,
    heldout_tokens_min: int,
    objective: ObjectiveName = SFT,
    pairs: PairMeasure | None = None,
    device: str,
    environment: Mapping[str, str],
    say: Callable[[str], None] = print,
    make_room: Callable[[], None] = lambda: None,
) -> dict[str, Evaluation]:
    """Evaluations of `weights` (digest by name); one process makes the missing ones.

    Args: make_room: called before there is such a process, which needs memory.

    Raises:
        TrainingFailed: the process ended without them; with its last lines.
    """
    heldout = evaluation_digest(inputs, heldout_tokens_min, objective, pairs)
    missing = tuple(digest for digest in dict.fromkeys(weights.values()) if not find_evaluation(store, digest, heldout))
    if missing:
        config = EvaluationConfig(
            weights=missing,
            inputs=inputs,
            heldout_tokens_min=heldout_tokens_min,
            store_url=store.url,
            device=device,
            worker=Worker.this_process(),
            objective=objective,
            pairs=pairs,
        )
        make_room()
        _run(config, environment, say)
    found = {name: find_evaluation(store, digest, heldout) for name, digest in weights.items()}
    assert all(found.values())
    return {name: evaluation for name, evaluation in found.items() if evaluation}


def _run(config: EvaluationConfig, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
    lines: deque[str] = deque(maxlen=_LINES_TOLD)
    with _process(config, environment) as process:
        assert process.stdin
        assert process.stdout
        with suppress(BrokenPipeError):  # it has ended already, and its lines say why
            process.stdin.write(config.to_json())
            process.stdin.close()
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith("held-out "):
                say(line.rstrip())
        returncode = process.wait()
    if returncode:
        tail = "\n".join(f"    {line[:300]}" for line in lines)
        raise TrainingFailed(
            f"The evaluation of {', '.join(digest[:12] for digest in config.weights)} ended with code {returncode}"
            f"{' (killed, most often for lack of memory)' if returncode == -9 else ''}. Its last lines:\n{tail}",
            exit_code=returncode,
        )


@contextmanager
def _process(config: EvaluationConfig, environment: Mapping[str, str]) -> Iterator["subprocess.Popen[str]"]:
    ours = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace.training.evaluate"],
        env={**environment, **ours},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        yield process
    finally:
        # Also when the run is terminated: the process has nothing to unwind.
        process.kill()
        process.wait()


def evaluation_key(weights_digest: str, heldout: str) -> str:
    return f"evaluations/{weights_digest}/{heldout}.json"
