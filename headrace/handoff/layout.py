"""The keys of a version's objects: `handoff/<asset>/<partition>/v000007/…`, its parts below `…/parts/<nonce>`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from headrace.keys import partition_from_path, partition_path

ROOT = "handoff"

_VERSION = re.compile(r"v(\d{6,})")
_MANIFEST = re.compile(rf"({ROOT}/([^/]+)/([^/]+))/v(\d{{6,}})/manifest\.json")
_PARTS = re.compile(rf"({ROOT}/([^/]+)/([^/]+))/parts/([^/]+)/.+")


@dataclass(frozen=True)
class Place:
    """The place of a manifest, or of one writer's parts: its partition's prefix, and `of`, which of them it is.

    `partition` comes from the path, which shortens long keys.
    """

    prefix: str
    asset: str
    partition: str
    of: str


def asset_prefix(asset: str) -> str:
    return f"{ROOT}/{partition_path(asset)}"


def partition_prefix(asset: str, partition: str) -> str:
    return f"{asset_prefix(asset)}/{partition_path(partition)}"


def parts_prefix(asset: str, partition: str, nonce: str) -> str:
    return parts_below(partition_prefix(asset, partition), nonce)


def parts_below(partition: str, nonce: str) -> str:
    """The prefix of a writer's parts, when only the partition's prefix is known."""
    return f"{partition}/parts/{nonce}"


def manifest_key(asset: str, partition: str, version: int) -> str:
    return f"{partition_prefix(asset, partition)}/v{version:06d}/manifest.json"


def note_key(manifest: str) -> str:
    """The key of a collected version's note, in its manifest's place, so that its number is never used again."""
    return f"{manifest.rpartition('/')[0]}/collected.json"


def version_numbers(names: Iterable[str]) -> list[int]:
    """Version numbers in a partition's listing, ascending: sealed, collected, or begun by a killed writer."""
    return sorted(int(match[1]) for match in map(_VERSION.fullmatch, names) if match)


def manifest_place(key: str) -> Place | None:
    """`of` is the version's number. None: the key is not a manifest's."""
    return _place(_MANIFEST.fullmatch(key))


def parts_place(key: str) -> Place | None:
    """`of` is the writer's nonce. None: the key is not a part's."""
    return _place(_PARTS.fullmatch(key))


def _place(match: re.Match[str] | None) -> Place | None:
    if match is None:
        return None
    return Place(match[1], partition_from_path(match[2]), partition_from_path(match[3]), match[4])
