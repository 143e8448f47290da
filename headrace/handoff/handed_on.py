"""Finds the weights that versions hand on: one with a column `weights_digest` names these weights while it exists.

Such assets are base_model, trained_model, evaluation and registered_version. An unreadable version of such an asset may
name any weights; so may one of an asset without a readable version.
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from headrace.errors import HandoffCorrupt, HandoffMissing
from headrace.handoff.manifest import Manifest
from headrace.handoff.retention import FoundVersion
from headrace.handoff.versions import HandoffStore
from headrace.store.objects import ObjectStore
from headrace.store.protection import Named, all_weights
from headrace.store.sealed_directory import directory_key
from headrace.store.small_objects import Damaged

_COLUMN = "weights_digest"


def hands_on_weights(manifest: Manifest) -> bool:
    try:
        return _COLUMN in manifest.schema.names
    except (pa.ArrowException, OSError, ValueError):
        return True  # opening it will tell


def weights_handed_on(objects: ObjectStore, versions: Sequence[FoundVersion], *, damaged: Damaged) -> Iterator[Named]:
    handoffs = HandoffStore(objects, verification="off", leased=False)
    others = {found.asset for found in versions if not found.damage and not found.hands_on_weights}
    for found in versions:
        if not (found.hands_on_weights or (found.damage and found.asset not in others)):
            continue
        try:
            handoff = handoffs.open(found.asset, found.partition, found.version)
            digests = set(handoff.table([_COLUMN])[_COLUMN].to_pylist())
        except HandoffMissing:
            continue  # collected meanwhile
        except (HandoffCorrupt, pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, HandoffCorrupt):
                damaged(error)
            yield all_weights(f"{found.label} cannot be read")
            continue
        yield from (Named(key=directory_key(digest), reason=f"in {found.label}") for digest in digests if digest)
