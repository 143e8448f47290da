"""Where each kind of object lies in a store, by asking the functions that make their keys, and what it holds."""

import inspect
from dataclasses import dataclass, is_dataclass
from typing import Any

from headrace.erasure import carrying_out, outcome
from headrace.generation import claim_objects
from headrace.handoff import erasures, layout, notes
from headrace.handoff.media import layout as media_layout
from headrace.inbox import erasing, finished, sealed, sealing
from headrace.inbox.batches import files, kept, outcomes, places
from headrace.rollout import aliases, caps, journal, live_evidence, preparation
from headrace.rollout.layout import rollout_prefix
from headrace.serving import sessions
from headrace.store import leases, sealed_directory, tombstones
from headrace.store.chain import GIVEN_UP, MARK
from headrace.store.small_objects import FORMAT, Kind
from headrace.store.tensors import neighbours
from headrace.store.tensors.index import INDEX, segment_key
from headrace.training import attempts, checkpoints, gang_store, heldout, reference
from headrace.user_files.json_schema import json_schema
from headrace.version_sets import sets
from headrace.voice import kept as kept_calls
from headrace.voice import segments
from pipelines.reference.markdown import code, page, prose, table
from pipelines.reference.yaml_keys import type_text

_NOWHERE: Any = None


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One kind of small object. `key`: of one of them; words in capitals stand for what varies."""

    kind: Kind[Any]
    key: str


def stored() -> list[Stored]:
    parts = media_layout.shard_key(layout.parts_prefix("ASSET", "PARTITION", "NONCE"), 0).rpartition("/")[0]
    manifest = layout.manifest_key("ASSET", "PARTITION", 1)
    weights = sealed_directory.manifest_key("weights", "DIGEST", 1)
    tombstone = tombstones.Tombstone(nonce="NONCE", collector="COLLECTOR")
    gang = gang_store.GangObjects(_NOWHERE, "TRAINING_ID", 1)
    tenant = places.tenant_prefix("SERVICE", "KEY_NAME")
    claims = claim_objects.claim_chain(_NOWHERE, "PARTITION", "DIGEST")
    of_kinds = [
        (claim_objects.CLAIM, claims.key(1)),
        (claim_objects.SETTLEMENT, claims.key(1, claim_objects.SETTLED)),
        (claim_objects.RUN_PIN, claim_objects.run_pin_key("PARTITION", "RUN_ID")),
        (attempts.ATTEMPT, attempts.attempt_chain(_NOWHERE, "TRAINING_ID").key(1)),
        (attempts.RESULT, attempts.result_key("TRAINING_ID", 1)),
        (gang_store.TASK, gang.key("task.json")),
        (gang_store.MEETING, gang.key("meeting.json")),
        (gang_store.WORKER_SAYS, gang.key("worker", "000001.json")),
        (gang_store.HOST_SAYS, gang.key("hosts", "HOST", "000001.json")),
        (gang_store.NOTICE, gang_store.notices(_NOWHERE, "HOST").key(1)),
        (checkpoints.CHECKPOINT, attempts.training_key("TRAINING_ID", checkpoints.MANIFESTS, "STEP-ATTEMPT.json")),
        (heldout.EVALUATION, heldout.evaluation_key("WEIGHTS_DIGEST", "HELDOUT_DIGEST")),
        (reference.REFERENCE, reference.reference_key("TRAINING_ID", "train", 1)),
        (journal.ENTRY, f"{rollout_prefix('NAME', 'journal')}/00000001.json"),
        (live_evidence.SNAPSHOT, f"{rollout_prefix('NAME', 'evidence', 1)}/GATEWAY/00000001.json"),
        (preparation.RECORD, preparation.record_key("NAME", 1, "NODE")),
        (aliases.PROJECTION, f"{rollout_prefix('NAME', 'aliases')}/00000001.json"),
        (caps.LEASE, f"{rollout_prefix('NAME', 'caps', 1)}/00000001.json"),
        (sessions.SESSION_PIN, f"{rollout_prefix('NAME', 'sessions')}/AB/SHA256/000001.json"),
        (kept_calls.KEPT_CALL, f"{rollout_prefix('NAME', 'calls')}/AB/SHA256/00000001.json"),
        (segments.SEGMENT, segments.segment_chain(_NOWHERE, "NAME", "WRITER").key(1)),
        (sealing.OWNER, sealing.owner_key("CAMPAIGN")),
        (sealed.WINDOW, sealed.windows_chain(_NOWHERE, "CAMPAIGN").key(1)),
        (files.KEPT_FILE, files.file_key(tenant, "FILE")),
        (kept.BATCH_STATE, kept.states_chain(_NOWHERE, tenant, "BATCH").key(1)),
        (outcomes.SETTLED, kept.settled_key(tenant, "BATCH", 0)),
        (finished.FINISHED, finished.finished_chain(_NOWHERE, "CAMPAIGN").key(1)),
        (erasures.SALT, erasures.SALT_KEY),
        (erasures.ERASURE, erasures.erasure_chain(_NOWHERE).key(1)),
        (carrying_out.WRITERS, carrying_out.writers_key(1)),
        (erasing.LOG_ERASED, erasing.log_erased_key("LOG", 1)),
        (erasing.CALLS_LOG, erasing.calls_log_key("LOG")),
        (outcome.OUTCOME, outcome.outcome_key(1)),
        (leases.HOLDER, f"{leases.ROOT}/NONCE/HOLDER-EXPIRES"),
        (tombstones.CONDEMNED, tombstone.key),
        (tombstones.DECIDED, tombstone.decision_key),
        (tombstones.NOTE, sealed_directory.collected_key(weights)),
        (sealed_directory.MANIFEST, weights),
        (INDEX, sealed_directory.index_key(sealed_directory.parts_prefix("weights", "NONCE"))),
        (neighbours.OFFER, f"{neighbours.offers_prefix('weights', 'DIGEST')}/000001.json"),
        (sets.VERSION_SET, sets.set_key("ID")),
        (media_layout.LAYOUT, media_layout.layout_key(parts)),
        (notes.NOTE, layout.note_key(manifest)),
    ]
    return [Stored(kind=kind, key=key) for kind, key in of_kinds]


def others() -> list[tuple[str, str]]:
    """What is no small object: files, manifests with a digest of their own form, marks."""
    parts = layout.parts_prefix("ASSET", "PARTITION", "NONCE")
    tenant = places.tenant_prefix("SERVICE", "KEY_NAME")
    return [
        (layout.manifest_key("ASSET", "PARTITION", 1), "A version's manifest: parts, schema, digests, inputs."),
        (f"{parts}/part-00000.arrow", "One record batch of a version, as an Arrow file."),
        (media_layout.shard_key(parts, 0), "Many media items of a version."),
        (f"{claim_objects.batches_prefix('CLAIM_ID')}/b00000.arrow", "The rows of one micro-batch, committed."),
        (f"{sealed_directory.parts_prefix('weights', 'NONCE')}/…", "The files of sealed weights, or their index."),
        (segment_key("weights", "NONCE"), "Tensors of weights, end to end, which versions share."),
        (attempts.training_key("TRAINING_ID", checkpoints.PARTS, "NONCE") + "/…", "The files of a checkpoint."),
        (attempts.curve_key("TRAINING_ID", 1), "The loss of each step, of the attempt that ended the training."),
        (files.part_key(tenant, "FILE-NONCE"), "The bytes of a file of OpenAI's Batch API."),
        (f"{places.open_prefix('SERVICE')}/KEY_NAME/BATCH", "A mark: this batch has not ended."),
        (erasures.digests_key("SHA256"), "Salted digests of what an erasure is of, 16 bytes each, sorted."),
        (f"…/00000001{MARK}", "A mark: this number of a chain was made (journals, windows, calls, batches, erasures)."),
        (f"…/00000001{GIVEN_UP}", "This number of a chain was lost, and a person said to go on."),
    ]


def store_page() -> str:
    return page(
        "Objects of a store",
        "Everything that Headrace keeps lies under these keys of one store, a directory or an S3 prefix. Words in "
        "capitals stand for what varies; numbers are padded, so that a listing is in order.",
        "## Files and manifests",
        table(["key", "holds"], [[code(key), prose(text)] for key, text in others()]),
        "## Small objects",
        "JSON objects that decide something. Each has three fields beside its own: `nonce` (its writer), `format` "
        f"(now {FORMAT}) and `sha256` over its key and content, so that a changed or copied object is found.",
        *map(_section, sorted(stored(), key=lambda one: one.key)),
    )


def _section(one: Stored) -> str:
    shape = one.kind.shape
    text = inspect.getdoc(shape) if is_dataclass(shape) and not (shape.__doc__ or "").startswith(shape.__name__) else ""
    rows = [["any", "", "any JSON value"]]
    if is_dataclass(shape):
        schema = json_schema(shape, one.kind.noun)
        rows = [[code(name), type_text(_plain(value)), ""] for name, value in schema.get("properties", {}).items()]
    remedy = f"If one is damaged: {prose(one.kind.remedy)}"
    fields = table(["field", "type"], [row[:2] for row in rows])
    return "\n\n".join(filter(None, [f"### {one.kind.noun}", code(one.key), prose(text or ""), fields, remedy]))


def _plain(schema: Any) -> Any:
    """A mapping inside of an object is named by its class: it has no section of its own here."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"const": schema["$ref"].rpartition("/")[2]}
    return {key: _plain(value) for key, value in schema.items()}
