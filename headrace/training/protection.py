"""Gives up objects of trainings: checkpoints of a training that has a result, or will never be resumed.

A training may be resumed until it has a result, or until another one of its recipe began after it (then its data or its
base changed). While it lives, the run that trains holds a lease on the training, and one on the checkpoint that it
resumes from. Attempts and results stay, since they tell how weights were made; the curve goes with collected weights.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

from headrace.clock import epoch_seconds
from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.store.listings import by_prefix, size_and_time
from headrace.store.objects import Entry, ObjectStore
from headrace.store.protection import Answer, Asked, Leaving
from headrace.store.tombstones import Condemned
from headrace.training.attempts import CURVES, ROOT, Attempt, attempt_chain, find_result, has_result, training_key
from headrace.training.checkpoints import MANIFESTS, PARTS, checkpoints_of

_CURVE = re.compile(rf"{ROOT}/[^/]+/{CURVES}/\d+\.jsonl")


@dataclass(frozen=True, kw_only=True)
class _Training:
    """`why`: why it will not be resumed; None: it may be. `stays`: in that case, why it stays."""

    id: str
    why: str | None = None
    stays: str = ""
    # Its result's weights were collected.
    is_past: bool = False


def protection(asked: Asked) -> Answer:
    return Answer(leavings=_leavings(asked))


def _leavings(asked: Asked) -> Iterator[Leaving]:
    trainings = by_prefix(asked.objects.entries(ROOT), depth=2)

    @cache
    def newest() -> dict[str, Attempt | None]:
        return {training_id: _newest_attempt(asked, training_id) for training_id in map(_name, trainings)}

    for prefix, entries in trainings.items():
        # Most trainings keep only the record of how their weights were made.
        if not any(entry.key.split("/")[2] in (MANIFESTS, PARTS, CURVES) for entry in entries):
            continue
        try:
            training = _judged(asked, _name(prefix), newest)
        except HandoffCorrupt as error:
            asked.damaged(error)
            continue
        yield from _parts(asked, training, entries)
        if training.is_past:
            yield from _curves(asked, training, entries)


def _judged(asked: Asked, training_id: str, newest: Callable[[], Mapping[str, Attempt | None]]) -> _Training:
    """Raises: HandoffCorrupt: a result cannot be read."""
    if find_result(asked.objects, training_id):
        return _Training(id=training_id, why="the training has its result")
    training = _Training(id=training_id, is_past=has_result(asked.objects, training_id))
    own = newest()[training_id]
    if own is None or not own.recipe:
        return replace(training, stays="it does not say of which recipe it is")
    later = [
        other.created_at
        for name, other in newest().items()
        if other and name != training_id and other.recipe == own.recipe and other.created_at > own.created_at
    ]
    if not later:
        return replace(training, stays=f"the newest training of {own.recipe}: it may be gone on with")
    age = asked.now - epoch_seconds(min(later))
    if age <= asked.grace_seconds:
        return replace(training, stays=f"superseded {age / 3600:.1f} h ago, less than the grace time")
    return replace(training, why=f"a later training of {own.recipe} has begun")


def _parts(asked: Asked, training: _Training, entries: Sequence[Entry]) -> Iterator[Leaving]:
    """Checkpoints, and files that no checkpoint names."""
    parts_root = training_key(training.id, PARTS)
    listed = by_prefix((entry for entry in entries if entry.key.startswith(f"{parts_root}/")), depth=4)
    sizes = {entry.key: entry.num_bytes for entry in entries}
    for checkpoint in checkpoints_of(asked.objects, training.id, damaged=asked.damaged):
        parts = listed.pop(checkpoint.prefix, [])
        yield Leaving(
            kind="checkpoint",
            label=f"checkpoint {training.id[:12]} step {checkpoint.step}",
            key=checkpoint.key,
            num_bytes=sum(entry.num_bytes for entry in parts) + sizes.get(checkpoint.key, 0),
            reason=training.why or training.stays,
            is_kept=training.why is None,
            nonce=checkpoint.nonce,
            also_leased=(training.id,),
            condemned=Condemned(prefix=checkpoint.prefix, clears=True, manifest_key=checkpoint.key),
        )
    for prefix, found in listed.items():
        num_bytes, written_at = size_and_time(found)
        age = asked.now - written_at
        is_young = age <= asked.grace_seconds
        yield Leaving(
            kind="orphan",
            label=f"checkpoint parts {_name(prefix)[:8]} of {training.id[:12]}",
            key=prefix,
            num_bytes=num_bytes,
            reason=f"written {age / 3600:.1f} h ago, less than the grace time"
            if is_young
            else f"no checkpoint names it, last written {age / 3600:.1f} h ago",
            is_kept=is_young,
            nonce=_name(prefix),
            also_leased=(training.id,),
            is_needed=partial(_is_named, asked.objects, training.id, prefix),
            condemned=Condemned(prefix=prefix, clears=False),
        )


def _curves(asked: Asked, training: _Training, entries: Sequence[Entry]) -> Iterator[Leaving]:
    for entry in entries:
        if _CURVE.fullmatch(entry.key) and asked.now - entry.modified_at > asked.grace_seconds:
            label = f"curve of training {training.id[:12]}"
            yield Leaving.of_object(entry, kind="evidence", label=label, reason="its weights were collected")


def _newest_attempt(asked: Asked, training_id: str) -> Attempt | None:
    try:
        last = attempt_chain(asked.objects, training_id).last()
    except (HandoffCorrupt, ObjectMissing) as error:
        if isinstance(error, HandoffCorrupt):
            asked.damaged(error)
        return None
    return last[1] if last else None


def _is_named(objects: ObjectStore, training_id: str, prefix: str) -> bool:
    """Whether a checkpoint names these files; an unreadable one counts as naming them."""
    unread: list[HandoffCorrupt] = []
    named = {checkpoint.prefix for checkpoint in checkpoints_of(objects, training_id, damaged=unread.append)}
    return bool(unread) or prefix in named


def _name(prefix: str) -> str:
    return prefix.rpartition("/")[2]
