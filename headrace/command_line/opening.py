"""Which store a command works on, and which of its versions is meant."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from headrace.errors import HandoffMissing, InvalidInput

if TYPE_CHECKING:
    from headrace.handoff.versions import Handoff, HandoffStore
    from headrace.store.objects import ObjectStore

STORE_VARIABLE = "HEADRACE_STORE"
HOME_VARIABLE = "HEADRACE_HOME"
CACHE_VARIABLE = "HEADRACE_CACHE"
STORE_HELP = (
    "Store: a directory, file:///DIRECTORY or s3://BUCKET/PREFIX. "
    "Default: $HEADRACE_STORE, else $HEADRACE_HOME/store, else ./.headrace/store."
)

_REFERENCE = re.compile(r"(?P<asset>[^\[\]]+?)(?:\[(?P<partition>.*)\])?(?:@(?P<version>v?\d+|newest))?")
_NEWEST = {"newest", "latest"}


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the environment and the options before the command say. None: nothing."""

    store: str | None = None
    home: str | None = None
    cache: str | None = None
    dagster_home: str | None = None

    @property
    def store_url(self) -> str:
        return self.store or str(Path(self.home or ".headrace") / "store")

    @property
    def cache_directory(self) -> Path | None:
        return Path(self.cache) if self.cache else None


def surroundings_of(context: typer.Context, store: str | None = None) -> Surroundings:
    """`store`: what the command's own option says, which goes first."""
    from dataclasses import replace

    found = context.find_object(Surroundings) or Surroundings()
    return replace(found, store=store) if store else found


def open_handoffs(context: typer.Context, store: str | None) -> "HandoffStore":
    """Raises: InvalidInput: no store has such a URL, or there is no such directory."""
    from headrace.handoff.versions import HandoffStore

    return HandoffStore(open_objects(context, store))


def open_objects(context: typer.Context, store: str | None) -> "ObjectStore":
    """The store alone, for what needs no Arrow.

    Raises:
        InvalidInput: no store has such a URL, or there is no such directory.
    """
    from headrace.store.local import LocalStore
    from headrace.store.opening import open_store

    around = surroundings_of(context, store)
    objects = open_store(around.store_url, cache=around.cache_directory)
    if isinstance(objects, LocalStore) and not objects.directory.is_dir():
        raise InvalidInput(
            f"There is no store at {objects.directory}. Pass --store URL or set {STORE_VARIABLE}; the first "
            "materialization makes a store."
        )
    return objects


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What somebody typed: an asset, perhaps a partition, perhaps a version (None: the newest)."""

    asset: str
    partition: str | None = None
    version: int | None = None

    @classmethod
    def parse(cls, words: Sequence[str], *, assets: Iterable[str] = ()) -> "Reference":
        """`ASSET [PARTITION [VERSION]]`, or one word `asset[partition]@v7`.

        Raises:
            InvalidInput: more or fewer words, or a version that is no number.
        """
        if not 1 <= len(words) <= 3:
            raise InvalidInput(
                f"A handoff is ASSET [PARTITION [VERSION]] or asset[partition]@v7, got {' '.join(words)!r}."
            )
        match = None if words[0] in assets else _REFERENCE.fullmatch(words[0])
        if match is None:
            return cls(asset=words[0], partition=_at(words, 1), version=_version(_at(words, 2)))
        rest = list(words[1:])
        partition = match["partition"] if match["partition"] is not None else (rest.pop(0) if rest else None)
        version = match["version"] or (rest.pop(0) if rest else None)
        if rest:
            raise InvalidInput(f"{words[0]!r} names a partition or version already: {rest[0]!r} is one word too many.")
        return cls(asset=match["asset"], partition=partition, version=_version(version))


def known_asset(handoffs: "HandoffStore", asset: str) -> str:
    """Raises: HandoffMissing: naming what it may have been meant to be."""
    from headrace.handoff.layout import ROOT

    assets = handoffs.assets()
    if asset in assets:
        return asset
    uri = handoffs.objects.uri(ROOT)
    if not assets:
        raise HandoffMissing(
            f"There is no handoff in {uri} yet. Materialize an asset, or pass --store URL of another store."
        )
    raise HandoffMissing(f"There is no asset {asset!r} in {uri}.{nearest(asset, assets)}")


def known_partition(handoffs: "HandoffStore", asset: str, partition: str | None) -> str:
    """The partition; without one the asset's only one.

    Raises:
        HandoffMissing: naming what it may have been meant to be. InvalidInput: none was given, and there are several.
    """
    from headrace.handoff.layout import asset_prefix, partition_prefix
    from headrace.keys import partition_from_path

    # A look at one key, where there are thousands of partitions.
    if partition is not None and handoffs.objects.children(partition_prefix(asset, partition)):
        return partition
    there = sorted(map(partition_from_path, handoffs.objects.children(asset_prefix(asset))))
    if partition is not None:
        raise HandoffMissing(f"{asset} has no partition {partition!r}.{nearest(partition, there)}")
    if len(there) == 1:
        return there[0]
    raise InvalidInput(f"{asset} has {len(there)} partitions, so say which: {_some(there)}.")


def open_reference(handoffs: "HandoffStore", reference: Reference) -> "Handoff":
    """Raises: HandoffMissing, HandoffCorrupt, InvalidInput."""
    asset = known_asset(handoffs, reference.asset)
    return handoffs.open(asset, known_partition(handoffs, asset, reference.partition), reference.version)


def suggest_columns(handoff: "Handoff", columns: Sequence[str]) -> None:
    """Raises: InvalidInput: a column that is not there, naming what it may have been meant to be."""
    names = handoff.schema.names
    for column in columns:
        if column not in names:
            raise InvalidInput(f"{handoff.label} has no column {column!r}.{nearest(column, names)}")


def split_columns(columns: str | None) -> list[str] | None:
    """`a,b` as a list. Raises: InvalidInput: it holds no name."""
    if columns is None:
        return None
    names = [name.strip() for name in columns.split(",") if name.strip()]
    if not names:
        raise InvalidInput(f"--columns must be names with commas between them, such as term,text, got {columns!r}.")
    return names


def nearest(word: str, words: Sequence[str]) -> str:
    """The end of a sentence about a word that is not among `words`: what it may have been meant to be."""
    near = difflib.get_close_matches(word, words, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(near)}?" if near else f" There are: {_some(words)}."


def _some(words: Sequence[str], count: int = 8) -> str:
    more = f" and {len(words) - count} more" if len(words) > count else ""
    return (", ".join(words[:count]) or "none") + more


def _at(words: Sequence[str], index: int) -> str | None:
    return words[index] if index < len(words) else None


def _version(word: str | None) -> int | None:
    if word is None or word in _NEWEST:
        return None
    match = re.fullmatch(r"v?(\d{1,12})", word)
    if not match:
        raise InvalidInput(f"A version is a number such as 7 or v7, or newest, got {word!r}.")
    return int(match[1])
