"""How likely each answer was before the first step: what preferences are compared with.

Every attempt of a training begins with the same weights, so the model itself is measured before it takes a step or is
restored: no second model is held, and of an adapter, which changes nothing before its first step, this is its base.
Only the pairs that the steps will draw are measured, once each. The figures are sealed with the training, so that an
attempt on another machine, whose sums may end in other bits, goes on with the same ones.
"""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind, create_object, read_object
from headrace.training.attempts import training_key
from headrace.training.engine import Gang
from headrace.training.heldout import chosen_numbers
from headrace.training.order import SampleOrder
from headrace.training.preference_examples import Split
from headrace.training.progress import MEASURING, report_phase
from headrace.training.run_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Reference:
    """`logprobs`: float32, little endian, in base64: of each pair that is drawn, in the order of their numbers, the
    chosen answer's nats and the rejected one's."""

    training_id: str
    num_pairs: Annotated[int, Ge(1)]
    logprobs: str


REFERENCE = Kind(
    noun="Reference",
    shape=Reference,
    remedy="Delete it, and materialize trained_model again: it is then measured anew.",
)

Measure = Callable[[np.ndarray], np.ndarray]


def reference_for(
    config: RunConfig,
    store: ObjectStore,
    gang: Gang,
    engine: Any,
    *,
    split: Split,
    num_pairs: int,
    measure: Measure,
) -> tuple[np.ndarray, str]:
    """float32 [N, 2], NaN for pairs that nothing takes, and a line for the log; every rank calls it.

    Args:
        measure: of some pairs' numbers, float32 [2B] as `answer_logprobs`; every rank calls it as often as the others.

    Raises:
        HandoffCorrupt: what is sealed is damaged, or of other pairs.
    """
    recipe = config.recipe
    drawn = (
        drawn_numbers(config, num_pairs)
        if split == "train"
        else np.sort(chosen_numbers(num_pairs, len, recipe.heldout_tokens_min))
    )
    key = reference_key(config.training_id, split, len(drawn))
    [is_sealed, *_] = gang.gather(store.exists(key))
    if not is_sealed:
        parts = gang.gather(_measured(config, gang, engine, drawn, measure))
        if gang.rank == 0:
            _seal(store, key, config, np.concatenate(parts)[: len(drawn)])
        # Nobody reads it before it is there.
        gang.gather(None)
    logprobs_N2 = np.full((num_pairs, 2), np.nan, dtype=np.float32)  # noqa: N806 (shape letters)
    logprobs_N2[drawn] = _read(store, key, len(drawn))
    how = "read" if is_sealed else "measured"
    return logprobs_N2, f"how likely both answers were before the first step was {how} for {len(drawn):,} pairs"


def reference_key(training_id: str, split: Split, num_pairs: int) -> str:
    """By their number, too: how many held-out pairs are measured may change while a training is interrupted."""
    return training_key(training_id, f"reference-{split}-{num_pairs:08d}.json")


def drawn_numbers(config: RunConfig, num_pairs: int) -> np.ndarray:
    """The pairs that any step takes, in order."""
    recipe = config.recipe
    order = SampleOrder.of(recipe, num_sequences=num_pairs, world_size=config.world_size)
    if recipe.steps * recipe.batch >= num_pairs:
        return np.arange(num_pairs)
    return np.unique(np.concatenate([order.batch(step) for step in range(recipe.steps)]))


def _measured(config: RunConfig, gang: Gang, engine: Any, drawn: np.ndarray, measure: Measure) -> np.ndarray:
    """float32 [n, 2]: this rank's consecutive share of `drawn`, filled up so that all ranks measure as many."""
    import torch

    size = config.recipe.micro_batch
    num_passes = -(-len(drawn) // (size * gang.world_size))
    filled = np.resize(drawn, num_passes * size * gang.world_size)
    mine = filled.reshape(gang.world_size, num_passes, size)[gang.rank]
    with _evaluating(engine), torch.no_grad():
        found = []
        for numbers in mine:
            report_phase(config.work, gang.rank, MEASURING)
            found.append(measure(numbers))
    return np.concatenate(found).astype(np.float32).reshape(-1, 2)


@contextmanager
def _evaluating(engine: Any) -> Iterator[None]:
    """Without dropout, and without drawing a random number."""
    was_training = engine.training
    engine.eval()
    try:
        yield
    finally:
        engine.train(was_training)


def _seal(store: ObjectStore, key: str, config: RunConfig, logprobs_N2: np.ndarray) -> None:  # noqa: N803
    encoded = base64.b64encode(logprobs_N2.astype("<f4").tobytes()).decode()
    reference = Reference(training_id=config.training_id, num_pairs=len(logprobs_N2), logprobs=encoded)
    create_object(store, key, REFERENCE, reference)


def _read(store: ObjectStore, key: str, num_pairs: int) -> np.ndarray:
    try:
        found = read_object(store, key, REFERENCE)
    except ObjectMissing as error:
        raise HandoffCorrupt(f"Reference {store.uri(key)} is gone. {REFERENCE.remedy}", key=key) from error
    logprobs = np.frombuffer(base64.b64decode(found.logprobs), dtype="<f4")
    if len(logprobs) != 2 * num_pairs:
        raise HandoffCorrupt(
            f"Reference {store.uri(key)} is of {found.num_pairs:,} pairs, this training draws {num_pairs:,}. "
            f"{REFERENCE.remedy}",
            key=key,
        )
    return logprobs.reshape(-1, 2)
