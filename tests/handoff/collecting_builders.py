"""Sealed versions and what surrounds them, object by object: what a collector sees."""

from typing import Any

from headrace.handoff.manifest import Manifest, Part
from headrace.store.objects import ObjectStore, canonical_json

PREFIX = "handoff/docs/all"


def part_keys(nonce: str, num_parts: int = 2, prefix: str = PREFIX) -> list[str]:
    return [f"{prefix}/parts/{nonce}/part-{number:05d}.arrow" for number in range(num_parts)]


def manifest_key(version: int, prefix: str = PREFIX) -> str:
    return f"{prefix}/v{version:06d}/manifest.json"


def make_manifest(
    version: int, nonce: str, *, content: str | None = None, prefix: str = PREFIX, **given: Any
) -> Manifest:
    fields: dict[str, Any] = {
        "asset": prefix.split("/")[1],
        "partition": prefix.split("/")[2],
        "version": version,
        "num_rows": 1,
        "num_bytes": 20,
        "parts": tuple(
            Part(key=key, num_rows=1, columns=(-1,), sizes=(10,), digests=("0" * 32,))
            for key in part_keys(nonce, prefix=prefix)
        ),
        "arrow_schema": "",
        "schema_fingerprint": "f",
        "content_digest": content or nonce,
        "code_version": "1",
        "run_id": "r",
        "created_at": "2026-11-22T00:00:00Z",
        "write_seconds": 0.0,
        "nonce": nonce,
    }
    return Manifest(**fields | given)


def seal(objects: ObjectStore, version: int, nonce: str, *, prefix: str = PREFIX, **given: Any) -> None:
    for key in part_keys(nonce, prefix=prefix):
        objects.create(key, b"0123456789")
    manifest = make_manifest(version, nonce, prefix=prefix, **given)
    objects.create(manifest_key(version, prefix), canonical_json(manifest.to_body()))
