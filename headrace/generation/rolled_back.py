"""After a rollback: finds exactly which published rows the bad set made, and which partitions must be made again.

A version's manifest names the single set that made it, so partitions are found without reading a row. A partition must
be made again while its newest version, which readers get, comes from a rolled-back set. Rows in older versions are
named too, for people who read them then.

A collected version's note gives the number of its rows, but not which. A list that was sealed earlier still names them,
so the list is made soon after a rollback (`pipelines.sensors.after_rollbacks`).
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from headrace.errors import HandoffCollected, HandoffCorrupt, HandoffMissing, InvalidInput
from headrace.generation.campaign import GENERATION_CODE_VERSION
from headrace.generation.claim_objects import Claim
from headrace.generation.claims import Claims, unsettled
from headrace.handoff.layout import asset_prefix, partition_prefix, version_numbers
from headrace.handoff.notes import read_note
from headrace.handoff.row_tables import CONTENT, REVIEWED
from headrace.handoff.schemas import ROLLED_BACK_ROWS
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import ContentPartition, digest_text, partition_from_path
from headrace.rollout.states import RolloutState, fold
from headrace.store.small_objects import Damaged, PassedOver

ROWS = "rolled_back_rows"

_READERS = 16


@dataclass(frozen=True, kw_only=True)
class BadVersion:
    """A sealed version of generated_content from a rolled-back set. `content` is None if it was collected."""

    partition: str
    version: int
    version_set: str
    num_rows: int
    superseded: bool
    content: Handoff | None


@dataclass(frozen=True, kw_only=True)
class RolledBack:
    """The figures of the sealed list of a campaign's rolled-back rows.

    `num_rows_unnamed`: rows in versions that were collected before any list was made.
    """

    table: Handoff
    num_rows: int
    num_rows_unnamed: int
    num_rows_published: int
    num_partitions: int
    to_regenerate: tuple[str, ...]
    # Keys of unreadable objects; their rows may be missing here.
    damaged: tuple[str, ...] = ()

    def figures(self) -> dict[str, int | str]:
        return {
            "num_rolled_back_rows": self.num_rows,
            "num_rows_unnamed": self.num_rows_unnamed,
            "num_rows_still_published": self.num_rows_published,
            "num_partitions": self.num_partitions,
            "num_partitions_to_regenerate": len(self.to_regenerate),
            "partitions_to_regenerate": ", ".join(self.to_regenerate),
            **({"damaged_objects": ", ".join(self.damaged)} if self.damaged else {}),
        }


def bad_versions(
    handoffs: HandoffStore,
    version_sets: Collection[str],
    *,
    campaign: str | None = None,
    damaged: Damaged | None = None,
) -> list[BadVersion]:
    """Every sealed version that these sets made, collected ones too, by partition and version.

    Reads one manifest for each version, in parallel.

    Args:
        damaged: called for unreadable manifests, which do not show what made their rows.

    Raises:
        HandoffCorrupt: a manifest cannot be read, and `damaged` is None.
    """
    version_sets = frozenset(version_sets)
    if not version_sets:
        return []
    with ThreadPoolExecutor(_READERS) as readers:
        found = readers.map(
            lambda key: _bad_versions_of(handoffs, key, version_sets, damaged), _keys(handoffs, campaign)
        )
        return [bad for versions in found for bad in versions]


def rows_made_by(
    handoffs: HandoffStore, version_sets: str | Collection[str], *, campaign: str | None = None
) -> pa.Table:
    """Every published row that these sets made and that the store still has, as ROLLED_BACK_ROWS.

    Raises:
        HandoffCorrupt: a manifest, or a column that is read, is damaged.
    """
    sets = {version_sets} if isinstance(version_sets, str) else version_sets
    found = bad_versions(handoffs, sets, campaign=campaign)
    return pa.Table.from_batches(_rows(found), schema=ROLLED_BACK_ROWS)


def partitions_to_regenerate(
    handoffs: HandoffStore, aborted: Collection[str], *, campaign: str | None = None
) -> dict[str, Handoff]:
    """Partition → its newest version, if a rolled-back set made it. Reads one manifest each.

    Leaves out a partition whose newest manifest is damaged: its schema check reports that.
    """
    if not aborted:
        return {}
    keys = _keys(handoffs, campaign)
    with ThreadPoolExecutor(_READERS) as readers:
        newest = readers.map(lambda key: _newest(handoffs, CONTENT, key), keys)
        return {
            key: content
            for key, content in zip(keys, newest, strict=True)
            if content is not None and content.attributes.get("version_set") in aborted
        }


def rows_still_published(
    handoffs: HandoffStore, asset: str, aborted: Collection[str], *, campaign: str | None = None
) -> dict[str, int]:
    """Partition → number of rows from rolled-back sets in the newest version of `asset`, if any.

    Args:
        asset: generated_content; or reviewed_content, only where generated_content ever came from such a set.
    """
    if asset == CONTENT:
        found = partitions_to_regenerate(handoffs, aborted, campaign=campaign)
        return {key: content.num_rows for key, content in found.items() if content.num_rows}
    if asset != REVIEWED:
        raise InvalidInput(f"asset must be {CONTENT} or {REVIEWED}, got {asset!r}.")
    counts = {}
    for key in dict.fromkeys(bad.partition for bad in bad_versions(handoffs, aborted, campaign=campaign)):
        reviewed = _newest(handoffs, REVIEWED, key)
        sets = reviewed.table(["version_set"])["version_set"].to_pylist() if reviewed else []
        if num_rows := sum(one in aborted for one in sets):
            counts[key] = num_rows
    return counts


def void_unsealed(
    claims: Claims, campaign: str, *, about_to_abort: str | None = None, damaged: Damaged | None = None
) -> list[Claim]:
    """Ends every running attempt and mirror on a rolled-back set, before its worker notices by itself.

    A worker whose store hangs between its last look at the journal and the settlement then loses that race. It also
    ends an attempt that the plan lets finish unpublished; its worker continues, but if it is killed nobody resumes it.
    Costs one listing, and one read for each running attempt.

    Args:
        about_to_abort: a set that is about to be rolled back. If this runs before the abort is appended, attempts that
            were claimed by then cannot be sealed afterwards. If the abort then fails, they are made again.
        damaged: called for unreadable claims. They are ended as well: one may be on the rolled-back set, and nobody
            could resume it.

    Raises:
        HandoffCorrupt: a claim of this campaign is damaged, and `damaged` is None.
    """
    voided = []
    aborted = aborted_sets(fold(claims.journal.entries()))

    def end(error: HandoffCorrupt) -> None:
        assert damaged is not None
        damaged(error)
        if error.key and (aborted or about_to_abort):
            claims.end_unreadable(error.key, "its claim cannot be read, and a version set was rolled back")

    for claim in unsettled(claims.objects, campaign, damaged=end if damaged else None):
        reason = claims.abort_of(claim)
        if claim.version_set == about_to_abort:
            reason = f"version set {claim.version_set[:12]} is being rolled back"
        if reason and claims.settle(claim, "void", reason).outcome == "void":
            if claim.on_abort == "repin":
                claims.drop_batches(claim)
            voided.append(claim)
    return voided


def seal_rolled_back_rows(handoffs: HandoffStore, claims: Claims, campaign: str, *, run_id: str) -> RolledBack:
    """Seals the list of a campaign's rows of all sets that were ever rolled back; an equal list is sealed once.

    Rows stay in the list if an earlier list named them and their version was collected since. Unreadable claims and
    manifests are named.

    Raises:
        PublishConflict: another list was sealed meanwhile; make it again.
        HandoffCorrupt: a column that is read is damaged.
    """
    damaged = PassedOver()
    void_unsealed(claims, campaign, damaged=damaged)
    # Before the journal is read: of two concurrent lists, the one with fewer rollbacks is refused.
    expected = handoffs.last_number(ROWS, campaign)
    aborted = aborted_sets(fold(claims.journal.entries()))
    found = bad_versions(handoffs, aborted, campaign=campaign, damaged=damaged)
    listed = _listed_before(handoffs, campaign, found)
    table = handoffs.publish(
        ROWS,
        campaign,
        _rows(found, listed),
        schema=ROLLED_BACK_ROWS,
        code_version=GENERATION_CODE_VERSION,
        run_id=run_id,
        attributes={"version_sets": sets_digest(aborted)},
        expected=expected,
    )
    unnamed = [bad for bad in found if bad.content is None and (bad.partition, bad.version) not in listed]
    published = [bad for bad in found if not bad.superseded]
    return RolledBack(
        table=table,
        num_rows=table.num_rows,
        num_rows_unnamed=sum(bad.num_rows for bad in unnamed),
        num_rows_published=sum(bad.num_rows for bad in published),
        num_partitions=len({bad.partition for bad in found}),
        to_regenerate=tuple(bad.partition for bad in published),
        damaged=tuple(damaged.keys),
    )


def aborted_sets(state: RolloutState | None) -> frozenset[str]:
    return state.aborted if state else frozenset()


def sets_digest(version_sets: Collection[str]) -> str:
    """Identifies the rollbacks that a list covers."""
    return digest_text("rolled back", *sorted(version_sets))


def _bad_versions_of(
    handoffs: HandoffStore, key: str, version_sets: frozenset[str], damaged: Damaged | None
) -> list[BadVersion]:
    found: list[tuple[int, str, int, Handoff | None]] = []
    numbers = version_numbers(handoffs.objects.children(partition_prefix(CONTENT, key)))
    newest = 0
    for number in numbers:
        try:
            content = handoffs.open(CONTENT, key, number)
            found.append((number, content.attributes.get("version_set", ""), content.num_rows, content))
        except HandoffCollected:
            if note := read_note(handoffs.objects, CONTENT, key, number):
                found.append((number, note.attributes.get("version_set", ""), note.num_rows, None))
        except HandoffMissing:
            continue  # a writer was killed before it sealed this one
        except HandoffCorrupt as error:
            if damaged is None:
                raise
            damaged(error)
        newest = number
    return [
        BadVersion(
            partition=key,
            version=number,
            version_set=version_set,
            num_rows=num_rows,
            superseded=number != newest,
            content=content,
        )
        for number, version_set, num_rows, content in found
        if version_set in version_sets
    ]


def _rows(
    found: Sequence[BadVersion], listed: Mapping[tuple[str, int], pa.RecordBatch] | None = None
) -> Iterator[pa.RecordBatch]:
    """One partition's rows at a time."""
    for bad in found:
        if bad.content is None:
            if batch := (listed or {}).get((bad.partition, bad.version)):
                yield batch
            continue
        rows = bad.content.table(["row_id", "prompt_id", "version_set"]).to_pydict()
        num_rows = len(rows["row_id"])
        constant = {
            "campaign": ContentPartition.parse(bad.partition).campaign,
            "partition": bad.partition,
            "version": bad.version,
            "superseded": bad.superseded,
        }
        columns = rows | {name: [value] * num_rows for name, value in constant.items()}
        yield from pa.table(columns, schema=ROLLED_BACK_ROWS).to_batches()


def _listed_before(
    handoffs: HandoffStore, campaign: str, found: Sequence[BadVersion]
) -> dict[tuple[str, int], pa.RecordBatch]:
    """Rows of collected versions, as named by the newest list."""
    collected = {(bad.partition, bad.version) for bad in found if bad.content is None}
    before = handoffs.newest(ROWS, campaign) if collected else None
    rows: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for batch in before.table().to_batches() if before else ():
        for row in batch.to_pylist():
            if (row["partition"], row["version"]) in collected:
                rows[row["partition"], row["version"]].append(row | {"superseded": True})
    return {name: pa.RecordBatch.from_pylist(listed, schema=ROLLED_BACK_ROWS) for name, listed in rows.items()}


def _keys(handoffs: HandoffStore, campaign: str | None) -> list[str]:
    """Content partitions of one campaign, or of all."""
    keys = sorted(map(partition_from_path, handoffs.objects.children(asset_prefix(CONTENT))))
    partitions = {key: partition for key in keys if (partition := ContentPartition.find(key))}
    return [key for key, partition in partitions.items() if campaign is None or partition.campaign == campaign]


def _newest(handoffs: HandoffStore, asset: str, key: str) -> Handoff | None:
    try:
        return handoffs.newest(asset, key)
    except HandoffCorrupt:
        return None
