"""Carries out an erasure: everything follows from its entry, so a killed one goes on where the entry says.

The order is that of the data's way, so that each table names what is left of those before it:

1. attempts at rows of what is erased end, and committed batches with such rows are deleted;
2. partition by partition what is left is sealed, and the versions before it are deleted (`headrace.erasure.rewriting`);
   after prompts, what is sealed gets its claim on the prompts that are left (`headrace.erasure.claims`);
3. what killed writers left in these partitions is deleted;
4. calls, and files, batches and lines of OpenAI's Batch API go, wherever the store has them.

It is over once no version, no batch and no writer is left. What must be waited for (readers, writers, a gateway that
has not blanked its log yet) is told, and the same command goes on then.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from headrace.clock import Clock
from headrace.erasure.claims import carry_over, drop_batches, end_under_way
from headrace.erasure.rewriting import SAMPLES, Replaced, Rewriter, removed_notes
from headrace.erasure.scope import key_of, linked_versions, opened
from headrace.erasure.window_counts import recount
from headrace.errors import PublishConflict
from headrace.generation.sealed_tables import CLIPS, IMAGES, MIRRORED, PROMPT_PLACES, SPEECH
from headrace.handoff.erasures import ERASED_BY, ROOT, ErasedData, Erasure, data_of, scope_of
from headrace.handoff.manifest import Manifest
from headrace.handoff.manifests import read_manifest
from headrace.handoff.row_tables import CONTENT, PROMPTS, REFUSED_EVENTS, REVIEWED
from headrace.handoff.survey import names_nonce, survey
from headrace.handoff.versions import HandoffStore
from headrace.inbox.batches.erasing import erase_batches
from headrace.inbox.sealed import EVENTS_ASSET
from headrace.store.leases import CLOCK_SKEW_SECONDS, TTL_SECONDS
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore
from headrace.store.sealed_directory import WEIGHTS
from headrace.store.small_objects import Kind, PassedOver, create_object
from headrace.store.taking import take
from headrace.store.tombstones import Condemned
from headrace.training.attempts import ROOT as TRAINING
from headrace.training.heldout import evaluation_key
from headrace.voice.erasing import erase_calls
from headrace.voice.hours import AUDIO, ROWS
from headrace.voice.hours import MIRRORED as MIRRORED_CALLS

# The data's way; other tables follow, by name.
_ORDER = (
    *(EVENTS_ASSET, PROMPTS, PROMPT_PLACES, REFUSED_EVENTS, IMAGES, SPEECH, CONTENT, REVIEWED, CLIPS, MIRRORED),
    *(AUDIO, ROWS, MIRRORED_CALLS),
)
PAIRS, EVALUATION = "preference_pairs", "evaluation"
_NUM_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Writers:
    """Who may have begun to write before an erasure was decided. `files`: temporary ones of a store in a directory."""

    nonces: tuple[str, ...]
    files: tuple[str, ...] = ()


WRITERS = Kind(
    "Writers before an erasure",
    Writers,
    "Delete it while nothing is written to the store, and run `headrace erase` again with the same words.",
)


def writers_key(number: int) -> str:
    return f"{ROOT}/writers/{number:08d}.json"


@dataclass(frozen=True, kw_only=True)
class Carried:
    """How far it came.

    Attributes:
        held: versions that somebody reads.
        writers: nonces of who writes since before the entry, or may; or names of their temporary files. What they seal
            is looked at once they have ended.
    """

    held: tuple[Manifest, ...] = ()
    writers: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        return not (self.held or self.writers or self.damaged)


def carry_out(objects: ObjectStore, clock: Clock, erasure: Erasure) -> Carried:
    """Raises:
    HandoffCorrupt: a manifest, or what the entry names, is damaged.
    StoreUnavailable: the same call goes on later.
    """
    data, damaged = data_of(objects, erasure.number), PassedOver()
    # Before the versions are looked at: what these seal meanwhile is among them only if they have ended.
    writers = _writers_before(objects, clock, erasure, damaged)
    handoffs = HandoffStore(objects, clock)
    versions = linked_versions(handoffs)
    rewriter = Rewriter(
        handoffs=handoffs, clock=clock, number=erasure.number, data=data, replaced=Replaced.of(versions)
    )
    prompts = {(one.partition, one.version) for one in versions if one.asset == PROMPTS and rewriter.num_rows_in(one)}
    _end_attempts(objects, clock, erasure, data, prompts)
    for asset, partition in _in_order(versions):
        _rewrite(rewriter, asset, partition, erasure)
    _forget_samples(rewriter, erasure.number)
    # Again, for those that began on the old prompts meanwhile; from here on there are none to begin on.
    prompts |= {(one.partition, one.version) for one in removed_notes(objects, erasure.number, asset=PROMPTS)}
    _end_attempts(objects, clock, erasure, data, prompts)
    _end_leftovers(objects, clock, erasure, {one.asset for one in versions}, damaged)
    if erasure.num_calls:
        erase_calls(objects, data)
    # Once nobody works at them any more: files would go from under who does.
    if not writers and (erasure.num_files or erasure.num_batches or erasure.num_lines):
        erase_batches(objects, clock, data)
    return Carried(held=tuple(rewriter.held), writers=writers, damaged=tuple(damaged.sentences))


def _end_attempts(
    objects: ObjectStore, clock: Clock, erasure: Erasure, data: ErasedData, prompts: Collection[tuple[str, int]]
) -> None:
    end_under_way(objects, clock, prompts, erasure.number)
    drop_batches(objects, data)


def _in_order(versions: Sequence[Manifest]) -> list[tuple[str, str]]:
    ranks = {asset: rank for rank, asset in enumerate(_ORDER)}
    places = {(one.asset, one.partition) for one in versions}
    return sorted(places, key=lambda place: (ranks.get(place[0], len(ranks)), place))


def _rewrite(rewriter: Rewriter, asset: str, partition: str, erasure: Erasure) -> None:
    left = _tried(rewriter, asset, partition)
    if asset == EVENTS_ASSET and left:
        recount(rewriter.handoffs, left[-1])
    if asset == PROMPTS:
        for manifest in left:
            if manifest.attributes.get(ERASED_BY) == str(erasure.number):
                claims = carry_over(rewriter.handoffs.objects, rewriter.clock, manifest, erasure.number)
                rewriter.replaced.claims.update(claims)


def _tried(rewriter: Rewriter, asset: str, partition: str, also: Collection[str] = ()) -> list[Manifest]:
    for _ in range(_NUM_TRIES - 1):
        with suppress(PublishConflict):
            return rewriter.rewrite(asset, partition, also=also)
    return rewriter.rewrite(asset, partition, also=also)


def _forget_samples(rewriter: Rewriter, number: int) -> None:
    """Deletes what models answered to held-out questions, if these were of pairs that went: it shows the questions."""
    for manifest in measured_with(rewriter.handoffs, number):
        for weights, heldout in opened(rewriter.handoffs, manifest).polars(["weights_digest", "heldout_digest"]).rows():
            rewriter.handoffs.objects.delete(evaluation_key(weights, heldout))
        _tried(rewriter, manifest.asset, manifest.partition, also=[key_of(manifest)])


def measured_with(handoffs: HandoffStore, number: int) -> list[Manifest]:
    """Evaluations on pairs that an erasure deleted, which have samples of them."""
    gone = {note.content_digest for note in removed_notes(handoffs.objects, number, asset=PAIRS)}
    found = [
        manifest
        for partition in (handoffs.partitions(EVALUATION) if gone else ())
        for version in handoffs.versions(EVALUATION, partition)
        if (manifest := read_manifest(handoffs.objects, EVALUATION, partition, version))
    ]
    return [
        one
        for one in found
        if any(stated.rpartition(" ")[2] in gone for stated in one.input_versions.values())
        and any(opened(handoffs, one).table([SAMPLES])[SAMPLES].to_pylist())
    ]


def _writers_before(objects: ObjectStore, clock: Clock, erasure: Erasure, damaged: PassedOver) -> tuple[str, ...]:
    """Writers that had their lease, or a temporary file, when the entry was made, or soon after, and have it still."""
    found = survey(objects, clock, damaged=damaged).snapshot
    sealed = {one.nonce for one in found.versions}
    if found.leased - sealed:
        # Trainings, their checkpoints and weights have leases of their own, for days: none of them holds rows.
        sealed |= {part for root in (WEIGHTS, TRAINING) for key in objects.list(root) for part in key.split("/")}
    files = objects.temporary_files() if isinstance(objects, LocalStore) else {}
    known = Writers(nonces=tuple(sorted(found.leased - sealed)), files=tuple(sorted(files)))
    known = create_object(objects, writers_key(erasure.number), WRITERS, known).value
    writing = [nonce for nonce in known.nonces if nonce in found.leased and nonce not in sealed]
    for name in known.files:
        if files.get(name, 0) > TTL_SECONDS + CLOCK_SKEW_SECONDS:
            # Its writer, whose lease has run out since it wrote last, was killed.
            assert isinstance(objects, LocalStore)
            objects.drop_temporary_file(name)
        elif name in files:
            writing.append(name)
    return tuple(writing)


def _end_leftovers(
    objects: ObjectStore, clock: Clock, erasure: Erasure, assets: Collection[str], damaged: PassedOver
) -> None:
    """Deletes what killed writers left in the campaigns' partitions; a living one's lease protects it.

    Args: assets: whose rows name events, prompts or rows.
    """
    for parts in survey(objects, clock, damaged=damaged).snapshot.unnamed:
        if parts.asset in assets and set(scope_of(parts.asset, parts.partition)) <= set(erasure.campaigns):
            take(
                objects,
                clock,
                parts.nonce,
                Condemned(prefix=parts.prefix, clears=False),
                is_needed=lambda parts=parts: names_nonce(objects, parts.asset, parts.partition, parts.nonce, ()),
            )
