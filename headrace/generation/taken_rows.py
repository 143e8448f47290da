"""What a claim need not make, since the store has it: texts, pictures and recordings of the same members and seeds.

Two sets that differ in their painter alone have the same texts. A claim on one of them takes those that a sealed
version of the other has, in content or a mirror, from the same prompts; and recordings, where these were asked for the
same. So a new painter costs no writer's work, and the two are compared on the same texts even where an engine writes
others each time. A set whose rows are sealed already is regenerated: then its rows are made anew. Rows with an error
are tried again.

A claim whose own content is sealed, and whose other parts are damaged, takes its own texts: pictures are painted anew
of the texts that readers have.

What is taken is committed as the claim's own, with 0 seconds and the version that it comes from.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from headrace.engines.media_bytes import MediaFacts
from headrace.engines.media_rows import MediaRequest, MediaResult
from headrace.engines.rows import GenerationResult
from headrace.errors import HandoffCorrupt, HandoffMissing, ObjectMissing
from headrace.generation.claim_objects import Claim
from headrace.generation.media_batches import item_id
from headrace.generation.sealed_tables import MEDIA_OF, MIRRORED, TABLES_OF
from headrace.generation.steps import Step, steps_of
from headrace.handoff.manifests import states_read
from headrace.handoff.media.reading import MediaSet, StoredItem
from headrace.handoff.row_tables import CONTENT
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.version_sets.sets import VersionSet, VersionSets

_TEXTS = ("row_id", "prompt_id", "seed", "output", "num_prompt_tokens", "num_output_tokens", "finish_reason", "error")


@dataclass(frozen=True, kw_only=True)
class TakenText:
    """`deterministic`: as in the record of its making. `source`: the version that it comes from."""

    result: GenerationResult
    deterministic: bool
    source: str


@dataclass(frozen=True, kw_only=True)
class TakenMedium:
    """As `TakenText`, of a picture or a recording."""

    result: MediaResult
    deterministic: bool
    source: str


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A sealed version with the same prompts. `is_own`: of the claim itself."""

    content: Handoff
    version_set: VersionSet
    is_own: bool

    @property
    def claim(self) -> str:
        return self.content.attributes.get("claim", "")

    @property
    def kind(self) -> str:
        return "content" if self.content.asset == CONTENT else "mirror"


@dataclass(frozen=True, kw_only=True)
class TakenRows:
    """What the store has of a claim's rows. Looked for at the first question, and once."""

    claim: Claim
    version_set: VersionSet
    handoffs: HandoffStore
    # The content digest of the claim's prompts.
    prompts_digest: str
    _media: dict[str, "_TakenMedia | None"] = field(default_factory=dict)

    def text(self, prompt_id: str, seed: int) -> TakenText | None:
        return self._texts.get((prompt_id, seed))

    def media(self, step: Step, requests: Sequence[MediaRequest]) -> dict[str, TakenMedium]:
        """Row id → what `step` made before of the same text from the same seed. Reads the bytes."""
        if step.role not in self._media:
            self._media[step.role] = self._media_of(step)
        taken = self._media[step.role]
        return taken.of(requests) if taken else {}

    @cached_property
    def _texts(self) -> Mapping[tuple[str, int], TakenText]:
        [step, *_] = steps_of(self.version_set)
        for source in self._sources if step.roles else ():
            if steps_of(source.version_set)[0] == step and (texts := self._texts_of(source)) is not None:
                return texts
        return {}

    def _texts_of(self, source: _Source) -> dict[tuple[str, int], TakenText] | None:
        content = source.content
        if not self.handoffs.is_intact(content):
            return None
        _, making = TABLES_OF[source.kind]
        execution = self.handoffs.find(making, content.partition, claim=source.claim)
        deterministic: dict[str, bool] = {}
        if execution is not None and self.handoffs.is_intact(execution):
            made = execution.table(["row_id", "deterministic"]).to_pydict()
            deterministic = dict(zip(made["row_id"], made["deterministic"], strict=True))
        elif not source.is_own:
            return None
        return {
            (row["prompt_id"], row["seed"]): TakenText(
                result=GenerationResult(
                    text=row["output"],
                    num_prompt_tokens=row["num_prompt_tokens"],
                    num_output_tokens=row["num_output_tokens"],
                    finish_reason=row["finish_reason"],
                    error=row["error"],
                ),
                deterministic=deterministic.get(row["row_id"], False),
                source=content.label,
            )
            for row in content.table(list(_TEXTS)).to_pylist()
            if source.is_own or row["finish_reason"] != "error"
        }

    def _media_of(self, step: Step) -> "_TakenMedia | None":
        for source in self._sources:
            if step not in steps_of(source.version_set):
                continue
            tables, making = MEDIA_OF[source.kind]
            index = self.handoffs.find(tables[step.kind], source.content.partition, claim=source.claim)
            execution = self.handoffs.find(making, source.content.partition, claim=source.claim)
            if index is None or execution is None:
                continue
            with suppress(HandoffCorrupt):
                rows = [one for one in execution.table().to_pylist() if one["role"] == step.role]
                return _TakenMedia(
                    media=MediaSet.open(index),
                    made={(one["asked"], one["seed"]): one for one in rows if one["finish_reason"] == "stop"},
                )
        return None

    @cached_property
    def _sources(self) -> tuple[_Source, ...]:
        """One's own first, then content, then mirrors, the newest first."""
        found = tuple(self._sealed())
        own = tuple(one for one in found if one.is_own)
        rows, _ = TABLES_OF[self.claim.kind]
        if any(one.version_set == self.version_set and one.content.asset == rows for one in found if not one.is_own):
            return own
        return own + tuple(one for one in found if one.version_set != self.version_set)

    def _sealed(self) -> Iterator[_Source]:
        sets, partition = VersionSets(self.handoffs.objects), self.claim.partition
        for asset in (CONTENT, MIRRORED):
            for number in reversed(self.handoffs.versions(asset, partition)):
                # What cannot be read is made again.
                with suppress(HandoffCorrupt, HandoffMissing, ObjectMissing):
                    content = self.handoffs.open(asset, partition, number)
                    stated = content.manifest.input_versions.get(f"prompts[{partition}]", "")
                    if states_read(stated, self.prompts_digest):
                        version_set = sets.get(content.attributes.get("version_set", ""))
                        is_own = content.attributes.get("claim") == self.claim.id
                        yield _Source(content=content, version_set=version_set, is_own=is_own)


@dataclass(frozen=True, kw_only=True)
class _TakenMedia:
    """One sealed table of pictures or recordings. `made`: by what was asked, and the seed."""

    media: MediaSet
    made: Mapping[tuple[str, int], Mapping[str, Any]]

    def of(self, requests: Sequence[MediaRequest]) -> dict[str, TakenMedium]:
        try:
            return self._of(requests)
        except HandoffCorrupt:
            # Its index is damaged: all of it is made again.
            return {}

    def _of(self, requests: Sequence[MediaRequest]) -> dict[str, TakenMedium]:
        found = {one.row_id: made for one in requests if (made := self.made.get((one.text, one.seed)))}
        items = {row: item_id(made["row_id"], made["role"]) for row, made in found.items()}
        items = {row: item for row, item in items.items() if item in self.media}
        try:
            contents = dict(zip(items, self.media.read_many(list(items.values())), strict=True))
        except HandoffCorrupt:
            contents = {row: content for row, item in items.items() if (content := self._read(item)) is not None}
        return {
            row: self._taken(self.media.item(items[row]), content, found[row]["deterministic"])
            for row, content in contents.items()
        }

    def _read(self, item: str) -> bytes | None:
        """None: it is damaged, and made again."""
        try:
            return self.media.read(item)
        except HandoffCorrupt:
            return None

    def _taken(self, item: StoredItem, content: bytes, deterministic: bool) -> TakenMedium:
        attributes = {name: value for name, value in item.attributes.items() if name not in ("role", "seed")}
        result = MediaResult(content=content, facts=_facts(item), finish_reason="stop", attributes=attributes)
        return TakenMedium(result=result, deterministic=deterministic, source=self.media.handoff.label)


def _facts(item: StoredItem) -> MediaFacts:
    return MediaFacts(
        media_type=item.media_type, width=item.width, height=item.height, duration_seconds=item.duration_seconds
    )
