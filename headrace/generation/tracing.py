"""One row's whole origin: prompt, file and line, models and their training, seed, run, review, what replaced it.

Of a chain also each picture's and recording's: what was asked, from which seed, in which run, and the bytes' digest.

Everything is read from what is sealed, and the prompt file only to see if it changed; nothing is asked of Dagster or
MLflow. Rows have no index: their ids are searched in the newest versions first, in older ones only if no newest version
has the row, and in mirrors only if nothing published has it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from headrace.errors import HandoffCollected, HandoffCorrupt, HandoffMissing, InvalidInput, ObjectMissing
from headrace.generation.media_batches import item_id
from headrace.generation.mirroring import COMPARISON
from headrace.generation.prompt_places import TracedPlace, place_of
from headrace.generation.sealed_tables import MEDIA_OF, MIRRORED, TABLES_OF
from headrace.handoff.manifests import states_read
from headrace.handoff.row_tables import CONTENT, PROMPTS, REVIEWED
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import ContentPartition
from headrace.registry.model_versions import ModelVersion
from headrace.registry.registered import registered_models
from headrace.store.small_objects import Damaged
from headrace.version_sets.sets import Member, VersionSet, VersionSets

PREFIX_CHARACTERS_MIN = 6
_NUM_SEARCHERS = 8
_NUM_NAMED_MAX = 4


@dataclass(frozen=True, kw_only=True)
class TracedModel:
    """A member of the row's version set. `registered`: None for a server's own model, or one whose record is gone.

    `training_inputs`: what its recipe was trained on, `asset[partition]` to version; empty for a base model.
    """

    member: Member
    registered: ModelVersion | None
    training_inputs: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class TracedPart:
    """A picture or a recording of the row, or why there is none.

    Attributes:
        making: its row of MEDIA_EXECUTION.
        item: its row of MEDIA_INDEX; None: nothing was made, or it is gone.
        media: the version that has the item.
    """

    role: str
    making: Mapping[str, Any]
    item: Mapping[str, Any] | None
    media: Handoff | None


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A row and everything that it was made from; None: the record is not in the store (any more).

    Attributes:
        content: the version that the row was found in.
        review: of these rows; a mirror's row has none.
        comparison: of a mirror's row with the published one, and both verdicts.
        parts: what was painted and spoken of its text, in the order of the chain.
        replaced_by: the newest version of the row's partition, if it does not have the row any more.
    """

    row: Mapping[str, Any]
    content: Handoff
    prompt: Mapping[str, Any] | None
    prompts: Handoff | None
    place: TracedPlace | None
    execution: Mapping[str, Any] | None
    review: Mapping[str, Any] | None
    comparison: Mapping[str, Any] | None
    version_set: VersionSet | None
    models: tuple[TracedModel, ...]
    parts: tuple[TracedPart, ...]
    replaced_by: Handoff | None
    # None: the newest version of its partition cannot be read.
    is_in_newest: bool | None

    @property
    def is_mirrored(self) -> bool:
        """Whether it was made to compare, and never published."""
        return self.content.asset == MIRRORED


def trace(handoffs: HandoffStore, row_id: str, *, partition: str | None = None, home: Path, damaged: Damaged) -> Trace:
    """The origin of the row with this id, or of the only one whose id begins so.

    Args:
        partition: searches there alone.
        home: where relative prompt files start.
        damaged: called for what cannot be read, which is left out.

    Raises:
        InvalidInput: several rows begin so, or it is too short.
        HandoffMissing: no row that is still in the store has this id.
    """
    row_id = row_id.lower()  # as some tables show hexadecimal
    if len(row_id) < PREFIX_CHARACTERS_MIN or not set(row_id) <= set("0123456789abcdef"):
        raise InvalidInput(
            f"A row is named by its row_id, or by at least {PREFIX_CHARACTERS_MIN} characters of its beginning, in "
            f"hexadecimal, got {row_id!r}."
        )
    content, row = _find(handoffs, row_id, partition, damaged)
    newest = _newest(handoffs, content.asset, content.partition, damaged)
    is_in_newest = _has(newest, row["row_id"]) if newest else None
    made_from = _read(handoffs, content, PROMPTS, damaged)
    version_set = _version_set(handoffs, row["version_set"], damaged)
    claim = content.attributes.get("claim")
    making = dict(TABLES_OF.values())[content.asset]
    execution = handoffs.find(making, content.partition, claim=claim) if claim else None
    comparison = handoffs.find(COMPARISON, content.partition, claim=claim) if claim else None
    prompt = _row_of(made_from, "prompt_id", row["prompt_id"])
    return Trace(
        row=row,
        content=content,
        prompt=prompt,
        prompts=made_from,
        place=place_of(handoffs, made_from, prompt["position"], home) if made_from and prompt else None,
        execution=_row_of(execution, "row_id", row["row_id"]),
        review=_review(handoffs, content, row["row_id"], damaged) if content.asset == CONTENT else None,
        comparison=_row_of(comparison, "mirrored_row_id", row["row_id"]),
        version_set=version_set,
        models=tuple(_models(handoffs, version_set, damaged)) if version_set else (),
        parts=tuple(_parts(handoffs, content, row["row_id"], damaged)),
        replaced_by=newest if is_in_newest is False else None,
        is_in_newest=is_in_newest,
    )


def _find(
    handoffs: HandoffStore, beginning: str, partition: str | None, damaged: Damaged
) -> tuple[Handoff, Mapping[str, Any]]:
    # Whole versions are not verified for a search: what is found is opened again, and verified.
    searched = HandoffStore(handoffs.objects, handoffs.clock, verification="off", leased=False)
    keys = {
        asset: [partition]
        if partition
        # Most questions are about recent rows.
        else sorted(filter(ContentPartition.find, handoffs.partitions(asset)), reverse=True)
        for asset in (CONTENT, MIRRORED)
    }
    for asset, places in _places(handoffs, keys):
        found = _search(searched, beginning, asset, places, damaged)
        ids = sorted({row_id for _, row_ids in found for row_id in row_ids})
        if len(ids) > 1:
            named = ", ".join(one[:16] for one in ids[:_NUM_NAMED_MAX])
            raise InvalidInput(f"{len(ids)} rows begin with {beginning!r}, such as {named}. Give more characters.")
        if ids:
            content = handoffs.open(asset, found[0][0].partition, found[0][0].version)
            row = _row_of(content, "row_id", ids[0])
            assert row is not None, "a sealed version never changes"
            return content, row
    if handoffs.erasures.all().has("row", beginning):
        raise HandoffMissing(f"Row {beginning} was erased for good; `headrace erase --list` shows when and why.")
    where = f"partition {partition}" if partition else f"any of {len(keys[CONTENT])} partitions"
    raise HandoffMissing(
        f"No row with id {beginning!r} is in {where} of {CONTENT} in this store, nor in a mirror. Rows of a collected "
        "version are gone; `headrace handoff ls` shows what is there."
    )


def _places(
    handoffs: HandoffStore, keys: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, Iterable[tuple[str, int | None]]]]:
    """Asset, and partitions with version, in the order of their search; None: the newest version."""
    for asset, own in keys.items():
        yield asset, ((key, None) for key in own)
        yield asset, ((key, number) for key in own for number in reversed(handoffs.versions(asset, key)[:-1]))


def _search(
    handoffs: HandoffStore, beginning: str, asset: str, places: Iterable[tuple[str, int | None]], damaged: Damaged
) -> list[tuple[Handoff, list[str]]]:
    def look(place: tuple[str, int | None]) -> tuple[Handoff, list[str]] | None:
        try:
            handoff = handoffs.open(asset, *place)
            ids = pl.Series("row_id", handoff.table(["row_id"])["row_id"])
            found = ids.filter(ids.str.starts_with(beginning)).to_list()
        except (HandoffMissing, HandoffCollected):
            return None
        except HandoffCorrupt as error:
            damaged(error)
            return None
        return (handoff, found) if found else None

    with ThreadPoolExecutor(_NUM_SEARCHERS) as searchers:
        return [found for found in searchers.map(look, places) if found]


def _models(handoffs: HandoffStore, version_set: VersionSet, damaged: Damaged) -> Iterator[TracedModel]:
    known = registered_models(handoffs, damaged=damaged)
    for member in version_set.members:
        own = [
            one for one in known if (one.model_name, one.weights_digest) == (member.model_name, member.weights_digest)
        ]
        registered = own[0] if own else None
        inputs: Mapping[str, str] = {}
        if registered and registered.kind == "trained":
            trained = _newest(handoffs, "trained_model", f"{registered.model_name}.{registered.recipe}", damaged)
            if trained and _row_of(trained, "weights_digest", member.weights_digest):
                inputs = trained.manifest.input_versions
        yield TracedModel(member=member, registered=registered, training_inputs=inputs)


def _parts(handoffs: HandoffStore, content: Handoff, row_id: str, damaged: Damaged) -> Iterator[TracedPart]:
    """Those of the claim that made the row."""
    if not (claim := content.attributes.get("claim")):
        return
    tables, making = MEDIA_OF["mirror" if content.asset == MIRRORED else "content"]
    execution = handoffs.find(making, content.partition, claim=claim)
    media = {kind: handoffs.find(asset, content.partition, claim=claim) for kind, asset in tables.items()}
    if execution is None:
        return
    try:
        of_row = execution.lazy().filter(pl.col("row_id") == row_id).collect()
    except HandoffCorrupt as error:
        damaged(error)
        return
    for made in of_row.iter_rows(named=True):
        item, found = None, None
        for one in media.values():
            try:
                item = item or _row_of(one, "item_id", item_id(row_id, made["role"]))
                found = found or (one if item else None)
            except HandoffCorrupt as error:
                damaged(error)
        yield TracedPart(role=made["role"], making=made, item=item, media=found)


def _version_set(handoffs: HandoffStore, version_set: str, damaged: Damaged) -> VersionSet | None:
    try:
        return VersionSets(handoffs.objects).get(version_set)
    except ObjectMissing:
        return None
    except HandoffCorrupt as error:
        damaged(error)
        return None


def _read(handoffs: HandoffStore, made: Handoff, asset: str, damaged: Damaged) -> Handoff | None:
    """The content of `asset` that `made` was made from, under whichever version number it is still there."""
    stated = made.manifest.input_versions.get(f"{asset}[{made.partition}]", "")
    versions = _versions(handoffs, asset, made.partition, damaged)
    return next((one for one in versions if states_read(stated, one.content_digest)), None)


def _review(handoffs: HandoffStore, content: Handoff, row_id: str, damaged: Damaged) -> dict[str, Any] | None:
    """The row's verdict in the newest review of these rows, or in one that does not say of which rows it is."""
    for review in _versions(handoffs, REVIEWED, content.partition, damaged):
        stated = review.manifest.input_versions.get(f"{CONTENT}[{content.partition}]")
        if stated is None or states_read(stated, content.content_digest):
            return _row_of(review, "row_id", row_id)
    return None


def _versions(handoffs: HandoffStore, asset: str, partition: str, damaged: Damaged) -> Iterator[Handoff]:
    """The newest first."""
    for number in reversed(handoffs.versions(asset, partition)):
        try:
            yield handoffs.open(asset, partition, number)
        except HandoffMissing:
            continue  # collected meanwhile
        except HandoffCorrupt as error:
            damaged(error)


def _newest(handoffs: HandoffStore, asset: str, partition: str, damaged: Damaged) -> Handoff | None:
    try:
        return handoffs.newest(asset, partition)
    except HandoffCorrupt as error:
        damaged(error)
        return None


def _has(handoff: Handoff, row_id: str) -> bool:
    return _row_of(handoff, "row_id", row_id) is not None


def _row_of(handoff: Handoff | None, column: str, value: str) -> dict[str, Any] | None:
    if handoff is None:
        return None
    found = handoff.lazy().filter(pl.col(column) == value).collect()
    return found.row(0, named=True) if found.height else None
