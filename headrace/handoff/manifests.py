"""Finds sealed versions by their manifests alone, without Arrow: for who asks what there is, and reads no row."""

from headrace.errors import ManifestDamaged, ObjectMissing
from headrace.handoff.layout import manifest_key, partition_prefix, version_numbers
from headrace.handoff.manifest import Manifest
from headrace.store.objects import ObjectStore


def newest_manifest(objects: ObjectStore, asset: str, partition: str) -> Manifest | None:
    """The manifest of the version that readers get; None: none is sealed.

    Raises:
        HandoffCorrupt: it is damaged, or of another format.
    """
    for version in reversed(begun_versions(objects, asset, partition)):
        if manifest := read_manifest(objects, asset, partition, version):
            return manifest
    return None


def begun_versions(objects: ObjectStore, asset: str, partition: str) -> list[int]:
    """Numbers that writers began, ascending; a killed writer's has no manifest."""
    return version_numbers(objects.children(partition_prefix(asset, partition)))


def read_manifest(objects: ObjectStore, asset: str, partition: str, version: int) -> Manifest | None:
    """None: that version is not sealed, or was collected.

    Raises:
        HandoffCorrupt: as `newest_manifest`.
    """
    key = manifest_key(asset, partition, version)
    try:
        text = objects.read(key)
    except ObjectMissing:
        return None
    manifest = Manifest.from_bytes(text, uri=objects.uri(key))
    # Compared by key: a listing shortens long partition keys.
    if manifest_key(manifest.asset, manifest.partition, manifest.version) != key:
        raise ManifestDamaged(
            f"Manifest {objects.uri(key)} is the one of {manifest.label}: somebody moved files in the store. "
            f"Materialize {asset}[{partition}] again: that seals a new version.",
            handoff=manifest.label,
            key=key,
        )
    return manifest


def states_read(stated: str, content_digest: str) -> bool:
    """Whether what a manifest states of one input ("v3 DIGEST") names this content, under whichever version number."""
    return bool(content_digest) and stated.rpartition(" ")[2] == content_digest
