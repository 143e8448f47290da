"""Mirrored calls: the spoken turns of sealed hours once more, on the candidate and on the stable set, side by side.

Both sets hear the same samples in the same process, one right after the other and in turns the first, so that neither
machine nor load favours one. A transcript is compared with the turn's reference: what a person says was said, or, where
nobody did, what the set of the call heard. What is compared is sealed as `mirrored_calls`, a row a turn, for the
rollout's gate; nothing is played to anybody.

A turn that the stable set fails tells nothing of the candidate, and is left out. One that the candidate alone fails has
all its words wrong. A set that answers no turn at all is away, and nothing is sealed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
from pydantic_core import from_json

from headrace.engines.base import Message
from headrace.engines.media_bytes import sound_of
from headrace.errors import EngineUnavailable, HandoffCorrupt, InvalidInput
from headrace.handoff.layout import asset_prefix
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.schemas import MIRRORED_CALLS
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import CallHour, digest_text, partition_from_path
from headrace.rollout.gates import MIRRORED_FIRST_AUDIO, MIRRORED_WORD_ERRORS
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.states import RolloutState
from headrace.store.small_objects import Damaged
from headrace.text.word_errors import word_errors
from headrace.version_sets.sets import VersionSet, VersionSets
from headrace.voice.hours import AUDIO, MIRRORED, ROWS
from headrace.voice.replaying import Asked, Replayed, Replaying

_CODE_VERSION = "1"
# Of a set whose first turns all fail: it is away, and need not fail a whole hour.
_NUM_FAILED_MAX = 5

OpenSets = Callable[[Sequence[VersionSet]], Replaying]


@dataclass(frozen=True, kw_only=True)
class WantedMirror:
    """`calls`: content digest of the hour's rows."""

    partition: str
    version_set: str
    calls: str


@dataclass(frozen=True, kw_only=True)
class MirroredHour:
    """A sealed comparison of one hour's turns."""

    rows: Handoff
    num_left_out: int

    def figures(self) -> dict[str, int | float | str]:
        """A run's figures, by name and unit."""
        differences = _differences(self.rows)
        table = self.rows.table(["num_words", "stable_word_errors", "candidate_word_errors"])
        num_words = sum(table["num_words"].to_pylist())
        rates = {
            f"{side}_word_error_rate": sum(table[f"{side}_word_errors"].to_pylist()) / max(num_words, 1)
            for side in ("stable", "candidate")
        }
        return {
            "version_set": self.rows.attributes["version_set"],
            "stable_set": self.rows.attributes["stable_set"],
            "num_turns_compared": self.rows.num_rows,
            "num_turns_left_out": self.num_left_out,
            **{name: round(rate, 6) for name, rate in rates.items()},
            "first_audio_seconds_difference": round(differences[MIRRORED_FIRST_AUDIO].mean, 6),
        }


def mirror_hour(
    handoffs: HandoffStore,
    hour: CallHour,
    wanted: str,
    state: RolloutState | None,
    *,
    open_sets: OpenSets,
    run_id: str,
    references: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda done, num: None,
) -> MirroredHour:
    """Makes the spoken turns of an hour again; returns the comparison if it is sealed. A killed one begins anew.

    Args:
        wanted: `candidate` (on trial, or proposed), a version set's id or the beginning of one.
        references: row id → what was said, where a person has listened.

    Raises:
        HandoffMissing: the hour is not sealed.
        InvalidInput: `wanted` names no set, or one that was rolled back; or no set is stable.
        EngineUnavailable: a set answers no turn.
    """
    calls = handoffs.open(ROWS, hour.key)
    if state is None:
        raise InvalidInput(f"Nothing of {hour.service} is rolled out yet, so there is no set to compare with.")
    sets = VersionSets(handoffs.objects)
    candidate = sets.get(_wanted(sets, state, wanted))
    stable = sets.get(state.stable)
    turns, said = list(_spoken_turns(handoffs, calls)), references or {}
    listened = [(row, said[row]) for turn in turns if (row := turn.row["row_id"]) in said]
    once = {"version_set": candidate.id, "stable_set": stable.id, "calls": calls.content_digest}
    once |= {"references": digest_text(*chain.from_iterable(listened))} if listened else {}
    rows = handoffs.find(MIRRORED, hour.key, **once)
    if rows is None:
        made = _compared(turns, candidate, stable, open_sets, said, progress) if turns else []
        rows = handoffs.publish(
            MIRRORED,
            hour.key,
            pa.Table.from_pylist(made, schema=MIRRORED_CALLS),
            code_version=_CODE_VERSION,
            run_id=run_id,
            input_versions={f"{ROWS}[{hour.key}]": f"v{calls.version} {calls.content_digest}"},
            once=once,
        )
    return MirroredHour(rows=rows, num_left_out=len(turns) - rows.num_rows)


def hours_to_mirror(
    handoffs: HandoffStore, service: str, state: RolloutState | None, *, num: int, damaged: Damaged
) -> list[WantedMirror]:
    """Of a service's newest sealed hours those that are not compared yet. Args: num: how many hours in all."""
    wanted = (state.candidate or state.proposed) if state else None
    if state is None or wanted is None or num == 0:
        return []
    found: list[WantedMirror] = []
    for hour in list(reversed(sealed_hours(handoffs, service)))[:num]:
        try:
            calls = handoffs.newest(ROWS, hour.key)
        except HandoffCorrupt as error:
            damaged(error)
            continue
        if calls is None:
            continue
        once = {"version_set": wanted, "stable_set": state.stable, "calls": calls.content_digest}
        if handoffs.find(MIRRORED, hour.key, **once) is None:
            found.append(WantedMirror(partition=hour.key, version_set=wanted, calls=calls.content_digest))
    return found


def sealed_hours(handoffs: HandoffStore, service: str, asset: str = ROWS) -> list[CallHour]:
    """The hours and late parts of a service of which this asset was begun, oldest first. One listing."""
    keys = map(partition_from_path, handoffs.objects.children(asset_prefix(asset)))
    hours = [hour for hour in map(CallHour.find, keys) if hour and hour.service == service]
    return sorted(hours, key=lambda hour: (hour.day, hour.hour, hour.late_part))


def mirrored_evidence(
    handoffs: HandoffStore, service: str, candidate: str, stable: str, *, damaged: Damaged, num_days: int | None = None
) -> dict[str, Sample]:
    """Metric → candidate minus stable set, turn by turn, from the newest comparison of each hour.

    Args: num_days: only the newest days with any; None: all.
    """
    hours = sealed_hours(handoffs, service, MIRRORED)
    days = sorted({hour.day for hour in hours})
    counted = set(days if num_days is None else days[-num_days:])
    total = {MIRRORED_WORD_ERRORS: Sample(), MIRRORED_FIRST_AUDIO: Sample()}
    for hour in hours:
        if hour.day not in counted:
            continue
        try:
            found = handoffs.find(MIRRORED, hour.key, version_set=candidate, stable_set=stable)
            of_hour = _differences(found) if found else {}
        except HandoffCorrupt as error:
            damaged(error)
            continue
        for metric, sample in of_hour.items():
            total[metric] += sample
    return {metric: sample for metric, sample in total.items() if sample.num}


def _wanted(sets: VersionSets, state: RolloutState, wanted: str) -> str:
    if wanted == "candidate":
        found = state.candidate or state.proposed
        if found is None:
            raise InvalidInput("There is no candidate now: name a version set by its id, or by its beginning.")
    else:
        found = sets.find(wanted, besides=", or candidate")
    if found in state.aborted:
        raise InvalidInput(f"Version set {found[:12]} was rolled back: nothing is mirrored on it any more.")
    return found


@dataclass(frozen=True, kw_only=True)
class _Turn:
    row: Mapping[str, Any]
    asked: Asked


def _spoken_turns(handoffs: HandoffStore, calls: Handoff) -> Iterator[_Turn]:
    """The turns of which there is audio, with what was said before them in their calls in this hour."""
    rows = calls.table().to_pylist()
    if not any(row["asked_item"] for row in rows):
        return
    media = MediaSet.open(handoffs.open(AUDIO, calls.partition))
    before: dict[str, list[Message]] = {}
    for row in sorted(rows, key=lambda row: (row["call"], row["epoch"], row["turn"])):
        said = before.setdefault(row["call"], [])
        said += [Message(role=one["by"], content=one["text"]) for one in from_json(row["noted"])]
        if row["asked_item"] is not None:
            first = [Message(role="system", content=row["instructions"])] if row["instructions"] else []
            sound = sound_of(media.read(row["asked_item"]))
            asked = Asked(
                unit=f"mirror/{row['row_id'][:16]}",
                pcm=bytes(sound.data),
                context=(*first, *said),
                seed=row["seed"] or 0,
            )
            yield _Turn(row=row, asked=asked)
        said += [Message(role="user", content=row["said"])] if row["said"] else []
        said += [Message(role="assistant", content=row["answer"])] if row["answer"] else []


def _compared(
    turns: Sequence[_Turn],
    candidate: VersionSet,
    stable: VersionSet,
    open_sets: OpenSets,
    references: Mapping[str, str],
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    replaying = open_sets([stable, candidate])
    sides = {"stable": stable.id, "candidate": candidate.id}
    num_failed = dict.fromkeys(sides, 0)
    found: list[dict[str, Any]] = []
    try:
        # The first turn a model answers is slower than all others.
        for version_set in sides.values():
            replaying.replay(version_set, turns[0].asked)
        for place, turn in enumerate(turns):
            order = [*sides] if place % 2 else [*reversed(sides)]
            made = {side: replaying.replay(sides[side], turn.asked) for side in order}
            for side, one in made.items():
                num_failed[side] += one.error is not None
                if num_failed[side] == place + 1 == min(_NUM_FAILED_MAX, len(turns)):
                    raise EngineUnavailable(f"The {side} set {sides[side][:12]} answers no turn: {one.error}")
            if made["stable"].error is None:
                found.append(_row(turn.row, references.get(turn.row["row_id"]), **made))
            progress(place + 1, len(turns))
    finally:
        replaying.close()
    return found


def _row(row: Mapping[str, Any], reference: str | None, *, stable: Replayed, candidate: Replayed) -> dict[str, Any]:
    said = row["said"] if reference is None else reference
    stable_errors, num_words = word_errors(said, stable.heard)
    candidate_errors, _ = word_errors(said, candidate.heard if candidate.error is None else "")
    return {
        "row_id": row["row_id"],
        "prompt_id": row["prompt_id"],
        "reference": said,
        "is_listened": reference is not None,
        "num_words": num_words,
        "stable_said": stable.heard,
        "candidate_said": candidate.heard,
        "stable_word_errors": stable_errors,
        "candidate_word_errors": candidate_errors,
        "stable_first_sentence": stable.first_sentence,
        "candidate_first_sentence": candidate.first_sentence,
        "stable_first_audio_seconds": stable.first_audio_seconds,
        "candidate_first_audio_seconds": candidate.first_audio_seconds,
        "candidate_error": candidate.error,
    }


def _differences(rows: Handoff) -> dict[str, Sample]:
    """Of turns in which both sets said something, the delay; of those with words, the word error rate."""
    errors: list[float] = []
    delays: list[float] = []
    columns = [f"{side}_{what}" for side in ("stable", "candidate") for what in ("word_errors", "first_audio_seconds")]
    for row in rows.table(["num_words", *columns]).to_pylist():
        if row["num_words"]:
            errors.append((row["candidate_word_errors"] - row["stable_word_errors"]) / row["num_words"])
        if None not in (before := row["stable_first_audio_seconds"], after := row["candidate_first_audio_seconds"]):
            delays.append(after - before)
    return {MIRRORED_WORD_ERRORS: Sample.of_values(errors), MIRRORED_FIRST_AUDIO: Sample.of_values(delays)}
