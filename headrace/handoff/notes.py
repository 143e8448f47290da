"""The note that a collected version leaves in its manifest's place, so that lineage still resolves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge

from headrace.errors import ObjectMissing
from headrace.handoff.layout import manifest_key, note_key
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind, read_object


@dataclass(frozen=True, kw_only=True)
class CollectedNote:
    asset: str
    partition: str
    version: Annotated[int, Ge(1)]
    collected_at: str
    collected_by: str
    nonce: str = ""
    content_digest: str = ""
    num_rows: Annotated[int, Ge(0)] = 0
    num_bytes: Annotated[int, Ge(0)] = 0
    code_version: str = ""
    run_id: str = ""
    input_versions: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    created_at: str = ""


NOTE = Kind(
    "Note of a collected version",
    CollectedNote,
    "Its number stays taken; what the version held can only be learnt from a backup of the store.",
)


def read_note(objects: ObjectStore, asset: str, partition: str, version: int) -> CollectedNote | None:
    """A collected version's note; None: it was not collected. Raises: HandoffCorrupt."""
    try:
        return read_object(objects, note_key(manifest_key(asset, partition, version)), NOTE)
    except ObjectMissing:
        return None
