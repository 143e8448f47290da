"""The first rows of a campaign's day before anything runs: the same ids and bytes as a run on the same file makes.

Of a campaign that paints or speaks, all steps are made, and pictures and recordings are files of a directory. Nothing
is sealed, registered or claimed. The version set is the one that the campaign's file asks for now. If the
rollout's stable set is another one, a run gives the file's set some partitions first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from headrace.engines.chain import Conversation
from headrace.engines.messages import messages_for
from headrace.engines.model_directory import model_directory
from headrace.engines.roles import newest_versions
from headrace.engines.rows import GenerationResult
from headrace.errors import InvalidInput
from headrace.generation.campaign import WRITER, Campaign
from headrace.generation.previewed_parts import MakingParts, PreviewedPart
from headrace.generation.requests import Row, prompts_of_day, rows_for
from headrace.generation.review import rejections
from headrace.generation.step_work import OpenMedia, OpenRows, PromptsAsTheyAre, generate_rows
from headrace.generation.steps import steps_of
from headrace.keys import ContentPartition
from headrace.registry.model_versions import ModelVersion
from headrace.rollout.states import RolloutState
from headrace.store.sealed_directory import digest_of_directory
from headrace.version_sets.sets import Member, VersionSet


@dataclass(frozen=True, kw_only=True)
class PreviewedRow:
    row_id: str
    prompt_id: str
    partition: str
    """The content partition in which a run would seal the row."""
    position: int
    prompt: str
    asked: str
    """The user turn of the first role: the prompt in the campaign's chat template."""
    output: str
    seed: int
    finish_reason: Literal["stop", "length", "error"]
    error: str | None
    num_output_tokens: int | None
    """null: unknown."""
    kept: bool
    rejected_by: tuple[str, ...]
    """Without rules that read pictures or recordings."""
    parts: tuple[PreviewedPart, ...] = ()
    """In the order of the chain."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Args: num_rows: of the whole day. unsealed: digest → directory of weights that the first run registers."""

    day: str
    version_set: VersionSet
    num_rows: int
    rows: tuple[PreviewedRow, ...]
    unsealed: Mapping[str, Path]


@dataclass(frozen=True, kw_only=True)
class WantedSet:
    """The set that a campaign's file asks for now; `unsealed` as in `Preview`."""

    version_set: VersionSet
    unsealed: Mapping[str, Path]


def check_registered(campaign: Campaign, models: Sequence[ModelVersion]) -> None:
    """Whether the campaign finds what it asks of the registry; weights that its file names are registered by itself.

    Args: models: the registered versions.

    Raises:
        InvalidInput: a model or its version is not registered.
    """
    if campaign.follows_model:
        if not _bases(campaign, models):
            raise InvalidInput(
                f"Campaign {campaign.name!r}: no base version of {campaign.model!r} is registered. Materialize "
                "registered_version, name the model's directory as weights, or, if a server or echo answers under "
                "that name, say registered: false and a version."
            )
        return
    asked = {name: role for name, role in campaign.parts.items() if not role.weights}
    newest_versions(asked, models, whose=_whose(campaign))


def wanted_set(
    campaign: Campaign,
    models: Sequence[ModelVersion],
    *,
    state: RolloutState | None,
    home: Path,
    version_of: Callable[[str, str], str],
) -> WantedSet:
    """The version set that the campaign's file asks for, with its weights' digests where they are not registered yet.

    Args:
        models: the registered versions.
        version_of: model and weights' digest → the version that registration would give it.

    Raises:
        InvalidInput: a model or its weights cannot be found.
    """
    stable = [one for one in models if state and one.weights_digest == state.stable_weights]
    if campaign.follows_model and (own := [one for one in stable if one.model_name == campaign.model]):
        return WantedSet(version_set=campaign.version_set({WRITER: own[0]}), unsealed={})
    check_registered(campaign, models)
    if campaign.follows_model:
        return WantedSet(version_set=campaign.version_set({WRITER: _bases(campaign, models)[0]}), unsealed={})
    unsealed: dict[str, Path] = {}
    known, bases = list(models), dict[str, str]()
    for label, role in campaign.parts.items():
        if not role.weights:
            continue
        directory = model_directory(role.weights, setting=f"{campaign.name}: weights of {label}", home=home)
        digest = bases[label] = digest_of_directory(directory)
        if not any(one.model_name == role.model and one.weights_digest == digest for one in known):
            # Roles register one after the other, each its own version.
            num_before = sum(one.model_name == role.model and one.weights_digest in unsealed for one in known)
            version = str(int(version_of(role.model, digest)) + num_before)
            unsealed[digest] = directory
            known.append(_unregistered(role.model, version, digest, directory))
    versions = newest_versions(campaign.parts, known, whose=_whose(campaign), bases=bases)
    return WantedSet(version_set=campaign.version_set(versions), unsealed=unsealed)


def preview(
    campaign: Campaign,
    wanted: WantedSet,
    *,
    day: str,
    home: Path,
    num_rows: int,
    open_engine: OpenRows,
    open_media: OpenMedia | None = None,
    media: Path | None = None,
    window: tuple[ContentPartition, pa.Table] | None = None,
) -> Preview:
    """Makes the day's first rows, or a window's.

    Args:
        window: of a campaign that takes events, the window and its prompts.
        open_media: as in `generate_partition`.
        media: a directory for pictures and recordings, named by number, row id and role; None: they are not kept.

    Raises:
        InvalidInput: the prompt files are missing or unusable, or a step has no `open_media`.
        EngineUnavailable: the engine cannot be loaded, or does not answer.
    """
    partitions = [ContentPartition.parse(key) for key in campaign.partition_keys(day)]
    of_day = [window] if window else zip(partitions, prompts_of_day(campaign, day, home), strict=True)
    version_set = wanted.version_set
    first, *later = steps_of(version_set)
    listed_prompts, rows = dict[str, Mapping[str, Any]](), dict[ContentPartition, list[Row]]()
    for partition, prompts in of_day:
        rows[partition] = rows_for(prompts, version_set.id, seeds_of=first.led_to_by)
        listed_prompts |= {one["prompt_id"]: one for one in prompts.to_pylist()} if later else {}
    # The day's list deals its prompts to the shards in turn.
    dealt = enumerate(rows.items())
    listed = sorted(((row.position, place), one, row) for place, (one, own) in dealt for row in own)
    chosen = [(partition, row) for _, partition, row in listed[:num_rows]]
    engine = open_engine(version_set) if first.roles else PromptsAsTheyAre()
    try:
        made = generate_rows(engine, [row for _, row in chosen], campaign.row_attempts)
    finally:
        engine.close()
    member = version_set.member(first.roles[0]) if first.roles else None
    results = [result for result, _ in made]
    making = MakingParts(
        version_set=version_set,
        rows=[row for _, row in chosen],
        texts=results,
        prompts=listed_prompts,
        row_attempts=campaign.row_attempts,
        open_media=open_media,
        directory=media,
    )
    by_step = [making.parts(step) for step in later]
    shown = [
        _previewed(partition, row, result, member, campaign, tuple(parts[place] for parts in by_step))
        for place, ((partition, row), result) in enumerate(zip(chosen, results, strict=True))
    ]
    return Preview(
        day=day,
        version_set=wanted.version_set,
        num_rows=sum(map(len, rows.values())),
        rows=tuple(shown),
        unsealed=wanted.unsealed,
    )


def _previewed(
    partition: ContentPartition,
    row: Row,
    result: GenerationResult,
    member: Member | None,
    campaign: Campaign,
    parts: tuple[PreviewedPart, ...],
) -> PreviewedRow:
    judged = {"prompt": row.prompt, "output": result.text, "finish_reason": result.finish_reason}
    # A prompt that is painted as it is was not written by anybody.
    broken = rejections(judged, campaign.review) if member else []
    for part in parts:
        if part.finish_reason in ("error", "refused"):
            broken.append(f"{part.role}.{'failed' if part.finish_reason == 'error' else part.finish_reason}")
    rejected_by = tuple(broken)
    return PreviewedRow(
        row_id=row.row_id,
        prompt_id=row.prompt_id,
        partition=partition.key,
        position=row.position,
        prompt=row.prompt,
        asked=messages_for(member, Conversation.of(row.prompt).messages)[-1].content if member else row.prompt,
        output=result.text,
        seed=row.seed,
        finish_reason=result.finish_reason,
        error=result.error,
        num_output_tokens=result.num_output_tokens,
        kept=not rejected_by,
        rejected_by=rejected_by,
        parts=parts,
    )


def _whose(campaign: Campaign) -> str:
    return f"Campaign {campaign.name!r}"


def _bases(campaign: Campaign, models: Sequence[ModelVersion]) -> list[ModelVersion]:
    """The base versions of the one model that the campaign follows, oldest first."""
    own = [one for one in models if one.model_name == campaign.model and one.kind == "base"]
    return sorted(own, key=lambda one: int(one.version))


def _unregistered(model: str, version: str, digest: str, directory: Path) -> ModelVersion:
    return ModelVersion(
        model_name=model,
        version=version,
        kind="base",
        weights_digest=digest,
        weights_uri=directory.resolve().as_uri(),
        heldout_loss=None,
        heldout_tokens=0,
        heldout_digest="",
        recipe="",
        zero_stage=0,
        mlflow_run_id="",
        registered_at=datetime.now(UTC).timestamp(),
    )
