"""What bulk generation needs of a store: versions that claims and runs pin, and the weights of attempts' sets.

What `headrace trace` tells of rows stays with them: the record of their making, their prompts, where these stood, and
their review. It also gives up the micro-batches of claims whose rows are published, or never will be.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.generation.claim_objects import BATCHES
from headrace.generation.claim_pins import ClaimPins, SettledClaim, read_claim_pins
from headrace.generation.sealed_tables import (
    EXECUTION,
    IMAGES,
    MEDIA_EXECUTION,
    MEDIA_OF,
    MIRROR_EXECUTION,
    MIRROR_MEDIA_EXECUTION,
    MIRRORED,
    MIRRORED_IMAGES,
    MIRRORED_SPEECH,
    PROMPT_PLACES,
    SPEECH,
    TABLES_OF,
    UNPUBLISHED,
    UNPUBLISHED_IMAGES,
    UNPUBLISHED_MEDIA_EXECUTION,
    UNPUBLISHED_SPEECH,
)
from headrace.generation.steps import media_kinds, steps_of
from headrace.handoff.layout import ROOT, manifest_key, partition_prefix, version_numbers
from headrace.handoff.manifests import states_read
from headrace.handoff.notes import read_note
from headrace.handoff.row_tables import CONTENT, PROMPTS, REFUSED_EVENTS, REVIEWED
from headrace.handoff.versions import HandoffStore
from headrace.rollout.protection import weights_of
from headrace.store.listings import by_prefix, size_and_time
from headrace.store.objects import ObjectStore
from headrace.store.protection import Answer, Asked, Belonging, Leaving, Named
from headrace.store.small_objects import Damaged
from headrace.store.tombstones import Condemned
from headrace.version_sets.sets import VersionSets


def _is_of_claim(making: Mapping[str, Any], rows: Mapping[str, Any]) -> bool:
    claim = rows["attributes"].get("claim")
    return claim is not None and making["attributes"].get("claim") == claim


def _was_read(read: Mapping[str, Any], made: Mapping[str, Any]) -> bool:
    return any(states_read(stated, read["content_digest"]) for stated in made["input_versions"].values())


# What lies beside prompts follows them, and so comes after them.
_BELONGINGS = (
    Belonging(asset=EXECUTION, of=CONTENT, belongs=_is_of_claim),
    Belonging(asset=MIRROR_EXECUTION, of=MIRRORED, belongs=_is_of_claim),
    *(Belonging(asset=one, of=CONTENT, belongs=_is_of_claim) for one in (IMAGES, SPEECH, MEDIA_EXECUTION)),
    *(
        Belonging(asset=one, of=MIRRORED, belongs=_is_of_claim)
        for one in (MIRRORED_IMAGES, MIRRORED_SPEECH, MIRROR_MEDIA_EXECUTION)
    ),
    *(
        Belonging(asset=one, of=UNPUBLISHED, belongs=_is_of_claim)
        for one in (UNPUBLISHED_IMAGES, UNPUBLISHED_SPEECH, UNPUBLISHED_MEDIA_EXECUTION)
    ),
    Belonging(asset=REVIEWED, of=CONTENT, belongs=lambda review, rows: _was_read(rows, review)),
    Belonging(asset=PROMPTS, of=CONTENT, belongs=_was_read),
    Belonging(asset=PROMPTS, of=MIRRORED, belongs=_was_read),
    *(
        Belonging(
            asset=one,
            of=PROMPTS,
            belongs=lambda beside, prompts: beside["attributes"].get("prompts") == prompts["content_digest"],
        )
        for one in (PROMPT_PLACES, REFUSED_EVENTS)
    ),
)


def protection(asked: Asked) -> Answer:
    # A claim that is settled after this read counts as running.
    pins = read_claim_pins(asked.objects, damaged=asked.damaged)
    return Answer(named=_named(asked, pins), leavings=_batches(asked, pins), belongings=_BELONGINGS)


def _named(asked: Asked, pins: ClaimPins) -> Iterator[Named]:
    for (asset, partition, version), who in pins.in_use.items():
        yield Named(key=manifest_key(asset, partition, version), reason=f"pinned by {who}")
    for (asset, partition, version), who in pins.finished.items():
        reason = f"pinned by {who}, and still what the newest versions hold"
        yield Named(key=manifest_key(asset, partition, version), reason=reason, while_newest=True)
    for partition, key in pins.unread.items():
        for asset in asked.objects.children(ROOT) if pins.unread else ():
            yield Named(key=f"{ROOT}/{asset}/{partition}/", reason=f"{key} cannot be read, and may pin it")
    for version_set, who in pins.version_sets.items():
        yield from weights_of(asked, version_set, who)


def _batches(asked: Asked, pins: ClaimPins) -> Iterator[Leaving]:
    settled = {claim.batches_prefix: claim for claim in pins.settled}
    # One for all, which reads each set once.
    sets = VersionSets(asked.objects)
    for prefix, listed in by_prefix(asked.objects.entries(BATCHES), depth=2).items():
        num_bytes, written_at = size_and_time(listed)
        claim = settled.get(prefix)
        if claim is None or asked.now - written_at <= asked.grace_seconds:
            continue
        # Settled does not mean published: the next process that opens the claim publishes its micro-batches.
        if claim.is_sealed and not _is_published(asked.objects, sets, claim, asked.damaged):
            continue
        reason = "the claim's rows are published" if claim.is_sealed else "the claim is void"
        condemned = Condemned(prefix=prefix, clears=True)
        yield Leaving(
            kind="micro-batches", label=prefix, key=prefix, num_bytes=num_bytes, reason=reason, condemned=condemned
        )


def _is_published(objects: ObjectStore, sets: VersionSets, claim: SettledClaim, damaged: Damaged) -> bool:
    """Whether all of its tables were sealed, even if they were collected since."""
    kind = "mirror" if claim.is_mirror else "content"
    try:
        media = media_kinds(steps_of(sets.get(claim.version_set)))
    except ObjectMissing:
        return False  # nobody can tell which tables it has
    except HandoffCorrupt as error:
        damaged(error)
        return False
    tables, making = MEDIA_OF[kind]
    assets = (*TABLES_OF[kind], *(tables[one] for one in media), *([making] if media else ()))
    handoffs = HandoffStore(objects, leased=False)
    return all(
        handoffs.find(asset, claim.partition, claim=claim.id) or _was_collected(objects, asset, claim, damaged)
        for asset in assets
    )


def _was_collected(objects: ObjectStore, asset: str, claim: SettledClaim, damaged: Damaged) -> bool:
    for number in version_numbers(objects.children(partition_prefix(asset, claim.partition))):
        try:
            note = read_note(objects, asset, claim.partition, number)
        except HandoffCorrupt as error:
            damaged(error)
            continue
        if note and note.attributes.get("claim") == claim.id:
            return True
    return False
