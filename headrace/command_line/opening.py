"""Finds the store that a command works on, and the version that it means."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from headrace.errors import HandoffMissing, InvalidInput

if TYPE_CHECKING:
    from headrace.handoff.export import Rows
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
    """Values from the environment and from the options before the command. None: not given."""

    store: str | None = None
    home: str | None = None
    cache: str | None = None
    dagster_home: str | None = None

    @property
    def store_url(self) -> str:
        if self.store:
            return self.store if "://" in self.store else str(Path(self.store).expanduser())
        return str(self.home_directory / "store")

    @property
    def home_directory(self) -> Path:
        """The project's state: logs, reports, the services' lock."""
        return Path(self.home or ".headrace").expanduser()

    @property
    def cache_directory(self) -> Path | None:
        return Path(self.cache) if self.cache else None


def surroundings_of(context: typer.Context, store: str | None = None) -> Surroundings:
    """`store`: the command's own option, which takes precedence."""
    from dataclasses import replace

    found = context.find_object(Surroundings) or Surroundings()
    return replace(found, store=store) if store else found


def open_handoffs(context: typer.Context, store: str | None) -> "HandoffStore":
    """Raises: InvalidInput: no store has such a URL, or the directory does not exist."""
    from headrace.handoff.versions import HandoffStore

    return HandoffStore(open_objects(context, store))


def open_objects(context: typer.Context, store: str | None) -> "ObjectStore":
    """Opens the store alone, for code without Arrow.

    Raises:
        InvalidInput: no store has such a URL, or the directory does not exist.
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
    """A typed reference: an asset, perhaps a partition, perhaps a version (None: the newest)."""

    asset: str
    partition: str | None = None
    version: int | None = None

    @classmethod
    def parse(cls, words: Sequence[str], *, assets: Iterable[str] = ()) -> "Reference":
        """`ASSET [PARTITION [VERSION]]`, or one word `asset[partition]@v7`.

        Raises:
            InvalidInput: too many or too few words, or a version that is not a number.
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
    """Raises: HandoffMissing: the asset does not exist; suggests a similar one."""
    from headrace.handoff.layout import ROOT

    assets = handoffs.assets()
    if asset in assets:
        return asset
    uri = handoffs.objects.uri(ROOT)
    if not assets:
        raise HandoffMissing(
            f"There is no handoff in {uri} yet. Materialize an asset, or pass --store URL of another store."
        )
    raise HandoffMissing(f"There is no asset {asset!r} in {uri}.{nearest(asset, assets)}", asset=asset)


def known_partition(handoffs: "HandoffStore", asset: str, partition: str | None) -> str:
    """Returns the partition, or the asset's only one if none is given.

    Raises:
        HandoffMissing: it does not exist; suggests a similar one. InvalidInput: none is given, and there are several.
    """
    from headrace.handoff.layout import asset_prefix, partition_prefix
    from headrace.keys import partition_from_path

    # Looks at one key only, since there may be thousands of partitions.
    if partition is not None and handoffs.objects.children(partition_prefix(asset, partition)):
        return partition
    there = sorted(map(partition_from_path, handoffs.objects.children(asset_prefix(asset))))
    if partition is not None:
        raise HandoffMissing(
            f"{asset} has no partition {partition!r}.{nearest(partition, there)}", asset=asset, partition=partition
        )
    if len(there) == 1:
        return there[0]
    raise InvalidInput(f"{asset} has {len(there)} partitions, so say which: {_some(there)}.")


def open_reference(handoffs: "HandoffStore", reference: Reference) -> "Handoff":
    """Raises: HandoffMissing, HandoffCorrupt, InvalidInput."""
    asset = known_asset(handoffs, reference.asset)
    return handoffs.open(asset, known_partition(handoffs, asset, reference.partition), reference.version)


def suggest_columns(handoff: "Rows", columns: Sequence[str]) -> None:
    """Raises: InvalidInput: a column does not exist; suggests a similar one."""
    names = handoff.schema.names
    for column in columns:
        if column not in names:
            raise InvalidInput(f"{handoff.label} has no column {column!r}.{nearest(column, names)}")


def split_columns(columns: str | None) -> list[str] | None:
    """Splits `a,b` into a list. Raises: InvalidInput: it has no name."""
    if columns is None:
        return None
    names = [name.strip() for name in columns.split(",") if name.strip()]
    if not names:
        raise InvalidInput(f"--columns must be names with commas between them, such as term,text, got {columns!r}.")
    if len(set(names)) < len(names):
        raise InvalidInput(f"--columns must name each column once, got {columns!r}.")
    return names


def nearest(word: str, words: Sequence[str]) -> str:
    """The end of a sentence about an unknown word: suggests a similar one of `words`."""
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
