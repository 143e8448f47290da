"""Takes what was erased out of one partition: seals what is left as a new version, then deletes the versions with it.

A version never changes, so what is left gets a number of its own; its attributes name the content that it replaced and
the erasure. The other rows keep every byte. Rows are left out, except of a window's events, whose number others count:
there a blank row stays. What named the replaced content (its inputs, the claim, the prompts that a table lies beside)
names the new one.

A deleted version leaves the note that a collected one leaves, so that its number and its digest stay.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from headrace.clock import Clock
from headrace.erasure.scope import key_of, opened
from headrace.generation.mirroring import COMPARISON
from headrace.generation.sealed_tables import MEDIA_OF, TABLES_OF
from headrace.handoff.collecting import condemned
from headrace.handoff.erasures import ERASED_BY, ERASED_FROM, ErasedData, erased_contents, links_of
from headrace.handoff.layout import ROOT as HANDOFFS
from headrace.handoff.layout import asset_prefix, parts_prefix
from headrace.handoff.manifest import Manifest
from headrace.handoff.manifests import begun_versions, read_manifest
from headrace.handoff.media.index import MediaItem
from headrace.handoff.media.layout import is_media
from headrace.handoff.media.publishing import publish_media
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.notes import CollectedNote, read_note
from headrace.handoff.retention import FoundVersion
from headrace.handoff.row_tables import CONTENT, PROMPTS
from headrace.handoff.rows_left import without_rows
from headrace.handoff.sealed import Handoff
from headrace.handoff.versions import HandoffStore
from headrace.inbox.sealed import BLANK_EVENT, EVENT_COLUMNS, EVENTS_ASSET
from headrace.keys import partition_from_path
from headrace.store.objects import ObjectStore
from headrace.store.taking import take

# Tables of which a partition has a version for each claim that readers may ask for, not the newest alone.
_BY_CLAIM = frozenset({*TABLES_OF["mirror"], *MEDIA_OF["mirror"][0].values(), MEDIA_OF["mirror"][1], COMPARISON})
# Attributes whose value is the content digest of another table of the same partition, and that table.
_NAMES_CONTENT = {"prompts": PROMPTS, "published": CONTENT}
SAMPLES = "samples"
# Attributes that count rows; who wants to know counts them.
_COUNTS = frozenset({"num_kept"})
# By which of their attributes a mirror's tables are asked for.
_FOUND_BY = ("claim", "published", "review")


@dataclass
class Replaced:
    """What an erasure replaced so far.

    Attributes:
        versions: asset, partition and content digest → what is left of it. A mirror may have the content of what it
            mirrors, and empty tables are all alike.
        claims: partition and claim → the claim on the prompts that are left.
    """

    versions: dict[tuple[str, str, str], Manifest] = field(default_factory=dict)
    claims: dict[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def of(cls, versions: Sequence[Manifest]) -> "Replaced":
        """What these say that they replaced."""
        made = cls()
        for manifest in versions:
            made.note(manifest)
        return made

    def note(self, manifest: Manifest) -> None:
        for digest in erased_contents(manifest):
            self.versions[manifest.asset, manifest.partition, digest] = manifest

    def has(self, manifest: Manifest) -> bool:
        return (manifest.asset, manifest.partition, manifest.content_digest) in self.versions

    def inputs(self, stated: Mapping[str, str]) -> dict[str, str]:
        """The same inputs, by what is left of them."""
        found = dict(stated)
        for name, version in stated.items():
            asset, _, rest = name.partition("[")
            new = self.versions.get((asset, rest.removesuffix("]"), version.rpartition(" ")[2]))
            if new:
                found[name] = f"v{new.version} {new.content_digest}"
        return found

    def attributes(self, manifest: Manifest) -> dict[str, str]:
        found = {name: value for name, value in manifest.attributes.items() if name not in _COUNTS}
        for name, asset in _NAMES_CONTENT.items():
            if new := self.versions.get((asset, manifest.partition, found.get(name, ""))):
                found[name] = new.content_digest
        if claim := self.claims.get((manifest.partition, found.get("claim", ""))):
            found["claim"] = claim
        return found


@dataclass(frozen=True, kw_only=True)
class Rewriter:
    """One erasure's work on partitions; each may be done again after a kill, and then finds what is done.

    Attributes:
        handoffs: without leases of its own as a reader.
        held: versions that somebody reads; the next try takes them.
    """

    handoffs: HandoffStore
    clock: Clock
    number: int
    data: ErasedData
    replaced: Replaced
    held: list[Manifest] = field(default_factory=list)

    def rewrite(self, asset: str, partition: str, *, also: Collection[str] = ()) -> list[Manifest]:
        """Returns the versions that are there now, in the order of their numbers.

        Args:
            also: keys of versions that tell of what is erased in another way than by rows of it.

        Raises:
            PublishConflict: another writer sealed meanwhile; look again.
        """
        expected = self.handoffs.last_number(asset, partition)
        versions = self._versions(asset, partition)
        live = _live(versions)
        going = {key_of(one) for one in versions if self.num_rows_in(one)} | self._superseded(versions) | {*also}
        for manifest in versions:
            key = key_of(manifest)
            if key not in live or (key in going and self.replaced.has(manifest)):
                continue  # nobody asks for it, or what is left of it was sealed before a kill
            if key in going or self._names_replaced(manifest):
                going.add(key)
                expected = self._seal_rest(manifest, expected)
        for manifest in versions:
            if key_of(manifest) in going:
                self._delete(manifest)
        return self._versions(asset, partition)

    def num_rows_in(self, manifest: Manifest) -> int:
        return num_rows_of(self.handoffs, manifest, self.data)

    def _superseded(self, versions: Sequence[Manifest]) -> set[str]:
        """Keys of versions of which this erasure sealed the rest before a kill; some only name what was replaced."""
        ours = [one for one in versions if one.attributes.get(ERASED_BY) == str(self.number)]
        before = {erased_contents(one)[-1] for one in ours}
        return {key_of(one) for one in versions if one not in ours and one.content_digest in before}

    def _names_replaced(self, manifest: Manifest) -> bool:
        attributes = manifest.attributes
        return (manifest.partition, attributes.get("claim", "")) in self.replaced.claims or any(
            (asset, manifest.partition, attributes.get(name, "")) in self.replaced.versions
            for name, asset in _NAMES_CONTENT.items()
        )

    def _versions(self, asset: str, partition: str) -> list[Manifest]:
        objects = self.handoffs.objects
        read = (
            read_manifest(objects, asset, partition, number) for number in begun_versions(objects, asset, partition)
        )
        return [one for one in read if one]

    def _seal_rest(self, manifest: Manifest, expected: int) -> int:
        handoff = opened(self.handoffs, manifest)
        stated: dict[str, Any] = {
            "code_version": manifest.code_version,
            "run_id": manifest.run_id,
            "input_versions": self.replaced.inputs(manifest.input_versions),
            "attributes": self.replaced.attributes(manifest),
            # Once: whoever seals it again, after a kill, finds it. A mirror's may follow a version of newer inputs.
            "once": {ERASED_FROM: " ".join([*erased_contents(manifest), manifest.content_digest])}
            | {ERASED_BY: str(self.number)},
        }
        place = (manifest.asset, manifest.partition)
        if is_media(manifest):
            sealed = publish_media(self.handoffs, *place, self._items_left(handoff), **stated)
        else:
            sealed = self.handoffs.publish(
                *place, self._left(handoff), schema=handoff.schema, expected=expected, **stated
            )
        self.replaced.note(sealed.manifest)
        return max(expected, sealed.version)

    def _left(self, handoff: Handoff) -> pa.Table | Iterator[pa.RecordBatch]:
        if handoff.asset == EVENTS_ASSET:
            return self._blanked(handoff)
        if SAMPLES in handoff.schema.names:
            # Of a model that learned from it: what it answers to held-out questions, of which some are erased.
            rows = handoff.table(plain=True).to_pylist()
            return pa.Table.from_pylist([row | {SAMPLES: []} for row in rows], schema=handoff.table(plain=True).schema)
        return self._rows_left(handoff)

    def _rows_left(self, handoff: Handoff) -> Iterator[pa.RecordBatch]:
        for batch in handoff.batches():
            yield without_rows(batch, self.data.rows_in(handoff.asset, handoff.partition, batch))

    def _blanked(self, handoff: Handoff) -> pa.Table:
        table = handoff.table(plain=True)
        gone = self.data.rows_in(handoff.asset, handoff.partition, table)
        rows = [row | BLANK_EVENT if place in gone else row for place, row in enumerate(table.to_pylist())]
        return pa.Table.from_pylist(rows, schema=EVENT_COLUMNS)

    def _items_left(self, handoff: Handoff) -> Iterator[MediaItem]:
        for item, chunks in MediaSet.open(handoff).contents():
            if item.row_id is not None and self.data.has("row", item.row_id):
                continue
            facts = {name: value for name, value in vars(item).items() if name != "xxh3_128"}
            yield MediaItem(**facts, content=chunks)

    def _delete(self, manifest: Manifest) -> None:
        found = FoundVersion(
            asset=manifest.asset,
            partition=manifest.partition,
            version=manifest.version,
            manifest_key=key_of(manifest),
            sealed_at=0.0,
            nonce=manifest.nonce,
            prefix=parts_prefix(manifest.asset, manifest.partition, manifest.nonce),
            facts=manifest.facts(),
        )
        fate = take(
            self.handoffs.objects, self.clock, manifest.nonce, condemned(found, self.clock, by=collector(self.number))
        )
        if fate != "collected":
            self.held.append(manifest)


def collector(number: int) -> str:
    """How notes of deleted versions name an erasure."""
    return f"erasure {number}"


def removed_notes(objects: ObjectStore, number: int, *, asset: str | None = None) -> Iterator[CollectedNote]:
    """Notes of the versions that an erasure deleted, of one asset or of all. One listing, and a read for each note."""
    for key in objects.list(asset_prefix(asset) if asset else HANDOFFS):
        _, of_asset, partition, version, *name = [*key.split("/"), ""][:5]
        if name == ["collected.json"]:
            place = (partition_from_path(of_asset), partition_from_path(partition), int(version.removeprefix("v")))
            note = read_note(objects, *place)
            if note and note.collected_by == collector(number):
                yield note


def _live(versions: Sequence[Manifest]) -> set[str]:
    """Keys of the versions that readers may ask for."""
    if not versions:
        return set()
    live = {key_of(versions[-1])}
    if versions[-1].asset in _BY_CLAIM:
        by_claim = {tuple(one.attributes.get(name, "") for name in _FOUND_BY): key_of(one) for one in versions}
        live |= set(by_claim.values())
    return live


def num_rows_of(handoffs: HandoffStore, manifest: Manifest, data: ErasedData) -> int:
    """How many rows of a version belong to what is erased; reads the columns that tell."""
    columns = {name for _, names in links_of(manifest.asset, manifest.schema.names) for name in names}
    table = opened(handoffs, manifest).table(sorted(columns))
    return len(data.rows_in(manifest.asset, manifest.partition, table, names=manifest.schema.names))
