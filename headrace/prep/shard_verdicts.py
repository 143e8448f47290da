"""One shard's rows of what was decided over all shards; refused where that was made of anything else than is there now.

What a verdict is made of is told by content digests in its manifest, never by time or version number: the same content
under a new number is the same. Knows neither texts nor pictures.
"""

from collections.abc import Collection, Iterable, Sequence

import polars as pl

from headrace.errors import InvalidInput
from headrace.handoff.versions import Handoff, HandoffStore

# An attribute of what is decided over all shards: the digest of what the corpus file decides by.
CORPUS = "corpus"


def own_rows(
    found: Handoff,
    inputs: Sequence[Handoff],
    *,
    handoffs: HandoffStore,
    name: str,
    made_by: str,
    shards: Collection[str],
) -> pl.DataFrame:
    """Args:
        found: what was decided, with `shard` and `copy_of_shard`.
        inputs: what it was made of in the one shard.
        name, made_by, shards: the corpus's, as its file is now.

    Raises:
        InvalidInput: it was made by another corpus file; or of other inputs, of this shard or of one that holds an
            original of a copy here.
    """
    shard = inputs[0].partition
    refuse_stale(found, inputs)
    refuse_other_file([found], name=name, made_by=made_by)
    own = pl.DataFrame(found.table()).filter(pl.col("shard").cast(pl.String) == shard)
    others = set(own.get_column("copy_of_shard").cast(pl.String).drop_nulls().unique()) - {shard}
    if gone := sorted(others - set(shards)):
        raise InvalidInput(
            f"{found.label} drops rows of {shard} as copies of some in {gone[0]}, which {name} has no more. "
            f"Materialize {found.asset} again."
        )
    # Else rows would be dropped as copies of some that are no more.
    for other in sorted(others):
        refuse_stale(found, [now for one in inputs if (now := handoffs.newest(one.asset, other))])
    return own


def refuse_stale(handoff: Handoff, inputs: Iterable[Handoff]) -> None:
    """Raises: InvalidInput: it was made of another version of one of these."""
    for one in inputs:
        if not is_of(handoff, [one]):
            raise InvalidInput(
                f"{handoff.label} was not made of the newest {one.asset}[{one.partition}], v{one.version}: its rows "
                f"are of another version. Materialize {handoff.asset} again."
            )


def is_of(handoff: Handoff, inputs: Iterable[Handoff]) -> bool:
    stated = handoff.manifest.input_versions
    return all(stated.get(f"{one.asset}[{one.partition}]", "").split()[-1:] == [one.content_digest] for one in inputs)


def refuse_other_file(handoffs: Iterable[Handoff], *, name: str, made_by: str) -> None:
    """Raises: InvalidInput: one was made by another corpus file."""
    for one in handoffs:
        if one.attributes.get(CORPUS) != made_by:
            raise InvalidInput(
                f"{one.label} was made by another corpus file than the present one of {name}. Materialize {one.asset} "
                "again."
            )
