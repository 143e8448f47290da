"""Attempts at one training, and its result: who may write, and what was made.

Every worker that starts a gang first creates the next attempt; a higher number fences all lower ones: they may publish
neither checkpoints nor a result from then on. That alone keeps the record right. A live worker on this machine is not
fenced but reported, so that two runs of one partition do not take turns in killing each other's work.

Store keys, below `training/<training id>/`:
    attempts/000001.json                   who tries
    checkpoints/00000040-000001.json       step and attempt; what a checkpoint consists of
    parts/<nonce>/…                        the files of one checkpoint
    curves/000001.jsonl, result.json       what came out
"""

import json
import socket
from dataclasses import asdict, dataclass
from typing import Any

from headrace.clock import Clock, iso
from headrace.errors import HeadraceError, ObjectMissing, TrainingFailed
from headrace.store.objects import ObjectStore, create_json
from headrace.training.guard import Worker


class AttemptSuperseded(HeadraceError):
    """A later attempt at the same training has begun: this one must not publish anything more."""


def training_key(training_id: str, *segments: str) -> str:
    return "/".join(["training", training_id, *segments])


def open_attempt(
    store: ObjectStore, training_id: str, *, worker: Worker, run_id: str, clock: Clock, host: str | None = None
) -> int:
    """Takes the next attempt number for `worker`.

    Raises:
        TrainingFailed: another attempt's worker is alive on this machine.
    """
    host = host or socket.gethostname()
    while True:
        newest = newest_attempt(store, training_id)
        if newest:
            body = json.loads(store.read(_attempt_key(training_id, newest)))
            other = Worker(**body["worker"])
            if body["host"] == host and other != worker and other.is_alive():
                raise TrainingFailed(
                    f"Training {training_id} is under way in run {body['run_id']} (attempt {newest}, pid {other.pid} "
                    "on this machine). Wait for it or terminate that run; this one resumes where it stops."
                )
        body = {"worker": asdict(worker), "host": host, "run_id": run_id, "created_at": iso(clock.now())}
        if create_json(store, _attempt_key(training_id, newest + 1), body).won:
            return newest + 1


def newest_attempt(store: ObjectStore, training_id: str) -> int:
    """0: nobody tried yet."""
    names = store.children(training_key(training_id, "attempts"))
    return max((int(name.removesuffix(".json")) for name in names), default=0)


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
    """What a finished training made; `resumed_from_step` is 0 for a training that was never interrupted.

    Attributes:
        state_digest: sha256 over fp32 parameters and optimizer moments of all ranks: equal digests mean that two
            trainings ended bit for bit alike.
        seconds: wall time of the attempt that finished, start-up included.
        feeding: how packed rows reached the model (`headrace.training.feeding`).
    """

    training_id: str
    attempt: int
    weights_digest: str
    steps: int
    steps_applied: int
    tokens: int
    train_loss_last: float
    zero_stage: int
    world_size: int
    resumed_from_step: int
    seconds: float
    peak_rss_mb: float
    state_digest: str
    curve_key: str
    feeding: str = "packed"


def find_result(store: ObjectStore, training_id: str) -> TrainingResult | None:
    try:
        body = json.loads(store.read(training_key(training_id, "result.json")))
    except ObjectMissing:
        return None
    del body["nonce"]
    return TrainingResult(**body)


def publish_result(store: ObjectStore, result: TrainingResult, curve: bytes) -> TrainingResult:
    """The first result of a training stays: whoever comes second gets the first one's.

    Raises:
        AttemptSuperseded: `result` is of an attempt that a later one has fenced.
    """
    check_fence(store, result.training_id, result.attempt)
    store.create(result.curve_key, curve)
    body = create_json(store, training_key(result.training_id, "result.json"), asdict(result)).body
    return TrainingResult(**{key: value for key, value in body.items() if key != "nonce"})


def curve_key(training_id: str, attempt: int) -> str:
    return training_key(training_id, "curves", f"{attempt:06d}.jsonl")


def read_curve(store: ObjectStore, result: TrainingResult) -> list[dict[str, Any]]:
    """One row a step, 1 … steps."""
    return [json.loads(line) for line in store.read(result.curve_key).splitlines()]


def _attempt_key(training_id: str, attempt: int) -> str:
    return training_key(training_id, "attempts", f"{attempt:06d}.json")
