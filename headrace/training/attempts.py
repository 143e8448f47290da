"""Attempts at one training, and its result: who may write, and what was made.

Every worker creates the next attempt before it starts a gang. A higher number fences all lower ones: from then on they
may publish neither checkpoints nor a result. That alone keeps the record right. If another attempt's worker is alive on
this machine, it is reported and not fenced, so that two runs of one partition do not keep killing each other's work.

Store keys, below `training/<training id>/`:
    attempts/000001.json                   the worker that tries
    checkpoints/00000040-000001.json       step and attempt; lists a checkpoint's files
    parts/<nonce>/…                        the files of one checkpoint
    curves/000001.jsonl, result.json       the outcome
    results/000002.json                    … of training again, after garbage collection deleted its weights
"""

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge

from headrace.clock import Clock, iso
from headrace.errors import HandoffCorrupt, HeadraceError, ObjectMissing, TrainingFailed
from headrace.store.chain import Chain
from headrace.store.objects import ObjectStore
from headrace.store.sealed_directory import was_collected
from headrace.store.small_objects import Kind, create_object, read_object
from headrace.training.guard import Worker


class AttemptSuperseded(HeadraceError):
    """A later attempt at the same training has begun: this one must not publish anything more."""


ROOT, CURVES = "training", "curves"


def training_key(training_id: str, *segments: str) -> str:
    return "/".join([ROOT, training_id, *segments])


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A worker that tries: a process of a machine, for a Dagster run. `recipe`: its key; "" from earlier releases."""

    worker: Worker
    host: str
    run_id: str
    created_at: str
    recipe: str = ""


ATTEMPT = Kind(noun="Training attempt", shape=Attempt, remedy="The next attempt fences it off all the same.")


def open_attempt(
    store: ObjectStore,
    training_id: str,
    *,
    worker: Worker,
    run_id: str,
    clock: Clock,
    recipe: str = "",
    host: str | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Takes the next attempt number for `worker`; `say` reports a damaged attempt, whose worker is unknown.

    Raises:
        TrainingFailed: another attempt's worker is alive on this machine.
        ChainBroken: an attempt is missing from the store.
        FormatTooNew: a newer Headrace trains it.
    """
    host = host or socket.gethostname()
    attempts = attempt_chain(store, training_id)
    while True:
        newest = attempts.head()
        if newest.damage:
            say(str(newest.damage))
        other = newest.value
        if other and other.host == host and other.worker != worker and other.worker.is_alive():
            raise TrainingFailed(
                f"Training {training_id} is under way in run {other.run_id} (attempt {newest.number}, pid "
                f"{other.worker.pid} on this machine). Wait for it or terminate that run; this one resumes where it "
                "stops.",
                training_id=training_id,
                run_id=other.run_id,
                pid=other.worker.pid,
            )
        own = Attempt(worker=worker, host=host, run_id=run_id, created_at=iso(clock.now()), recipe=recipe)
        if attempts.create(newest.number + 1, own, is_listed=True).won:
            return newest.number + 1


def newest_attempt(store: ObjectStore, training_id: str) -> int:
    """0: there is no attempt. Raises: ChainBroken: an attempt is missing from the store."""
    return attempt_chain(store, training_id).newest()


def check_fence(store: ObjectStore, training_id: str, attempt: int) -> None:
    """Raises: AttemptSuperseded: a later attempt exists."""
    newest = newest_attempt(store, training_id)
    if newest != attempt:
        raise AttemptSuperseded(
            f"Attempt {attempt} at training {training_id} was superseded by attempt {newest}; it stops here and "
            "leaves the rest to that one."
        )


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The outcome of a finished training; `resumed_from_step` is 0 if it was never interrupted.

    Attributes:
        state_digest: sha256 over fp32 parameters and optimizer moments of all ranks: equal digests mean that two
            trainings ended bit for bit alike.
        tokens: of all steps in all attempts, without padding (results from before `attempt_tokens` include padding).
        attempt_tokens: of the finishing attempt's own steps.
        seconds: wall time of the finishing attempt, start-up included.
        feeding: how packed rows reached the model (`headrace.training.feeding`).
        step_seconds: of all steps in all attempts, without start-ups and checkpoints.
        heldout_loss_best, best_step: the lowest of the held-out losses that were measured meanwhile, and behind which
            step; None: none was.
        exported_step: behind which step the weights are, if not behind the last one (`keep: best`).
        stopped: why it ended before its last step.
        peak_mb_over_import: the most resident memory of a rank, before its export, beyond that with its libraries
            imported: what `headrace.training.memory_estimate` foretells.
        ranks: which numbers of ranks took which steps; None: `world_size` took them all.
    """

    training_id: str
    attempt: int
    weights_digest: str
    steps: int
    steps_applied: int
    tokens: Annotated[int, Ge(0)]
    train_loss_last: float
    zero_stage: int
    world_size: Annotated[int, Ge(1)]
    resumed_from_step: int
    seconds: Annotated[float, Ge(0)]
    peak_rss_mb: float
    """Of all ranks together."""
    state_digest: str
    curve_key: str
    feeding: str = "packed"
    attempt_tokens: Annotated[int, Ge(0)] | None = None
    step_seconds: Annotated[float, Ge(0)] | None = None
    heldout_loss_best: float | None = None
    best_step: int | None = None
    exported_step: int | None = None
    stopped: str | None = None
    peak_mb_over_import: float | None = None
    ranks: str | None = None


RESULT = Kind(
    noun="Training result",
    shape=TrainingResult,
    remedy="Delete it, and materialize trained_model again: the training is then run once more.",
)


def find_result(store: ObjectStore, training_id: str) -> TrainingResult | None:
    """None: there is none, or garbage collection deleted its weights.

    Raises:
        HandoffCorrupt: there is one, and it is damaged.
    """
    return _newest_result(store, training_id)[1]


def has_result(store: ObjectStore, training_id: str) -> bool:
    """Whether the training ever finished; reads nothing."""
    return store.exists(result_key(training_id, 1))


def publish_result(store: ObjectStore, result: TrainingResult, curve: bytes) -> TrainingResult:
    """A training's first result stays while its weights exist: a later writer gets the first one back.

    Raises:
        AttemptSuperseded: a later attempt has fenced the one of `result`.
    """
    check_fence(store, result.training_id, result.attempt)
    store.create(result.curve_key, curve)
    number, there = _newest_result(store, result.training_id)
    if there and there.weights_digest == result.weights_digest:
        # Collected and sealed again: the curve was deleted with the weights, and returns with them.
        store.create(there.curve_key, curve)
    return there or create_object(store, result_key(result.training_id, number), RESULT, result).value


def _newest_result(store: ObjectStore, training_id: str) -> tuple[int, TrainingResult | None]:
    """The newest result with its number, or None with the next number. Results are never deleted."""
    number = 1
    while True:
        try:
            result = read_object(store, result_key(training_id, number), RESULT)
        except ObjectMissing:
            return number, None
        if not was_collected(store, result.weights_digest):
            return number, result
        number += 1


def result_key(training_id: str, number: int) -> str:
    return training_key(training_id, *(("result.json",) if number == 1 else ("results", f"{number:06d}.json")))


def curve_key(training_id: str, attempt: int) -> str:
    return training_key(training_id, CURVES, f"{attempt:06d}.jsonl")


def read_curve(store: ObjectStore, result: TrainingResult) -> list[dict[str, Any]]:
    """One row for each step, 1 … steps; none if the curve is gone, since only pictures need it.

    Raises:
        HandoffCorrupt: the curve is damaged.
    """
    try:
        return curve_rows(store.read(result.curve_key))
    except ObjectMissing:
        return []
    except (ValueError, RecursionError) as error:
        raise HandoffCorrupt(
            f"The curve of training {result.training_id}, {store.uri(result.curve_key)}, is damaged: {error}. Delete "
            "it, and materialize trained_model again: its weights are shown without a curve then.",
            key=result.curve_key,
        ) from error


def curve_rows(text: bytes) -> list[dict[str, Any]]:
    """Raises: ValueError: `text` is not a curve."""
    return [json.loads(line) for line in text.splitlines()]


def attempt_chain(store: ObjectStore, training_id: str) -> Chain[Attempt]:
    """The chain of attempts, marked: a vanished attempt would stop fencing earlier ones."""
    prefix = training_key(training_id, "attempts")
    return Chain(
        store=store,
        prefix=prefix,
        kind=ATTEMPT,
        digits=6,
        is_marked=True,
        remedy="Put it back; or end every run of this training, then delete that directory: the checkpoints stay, and "
        "the next attempt resumes from them.",
    )
