"""Which pictures of a corpus which rule drops, with what it measured: judged anew from the sealed signatures.

By the images file as it is, so a changed rule shows what it would drop, also before a run. All shards that are read are
judged together, as image_verdicts does it.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from headrace.errors import HandoffMissing
from headrace.handoff.versions import HandoffStore
from headrace.prep.dropped_documents import DroppedOfShard
from headrace.prep.drops import DroppedDocument
from headrace.prep.images.corpus import ImageCorpus
from headrace.prep.images.judging import judged, num_dropped

_EXCERPT_CHARACTERS = 80


def dropped_images(corpus: ImageCorpus, handoffs: HandoffStore, *, rule: str | None = None) -> list[DroppedOfShard]:
    """Each shard that is read, in order.

    Args:
        rule: the only rule whose pictures are listed; all are counted.

    Raises:
        HandoffMissing: no shard's pictures were read yet.
    """
    read = {shard: handoffs.newest("image_signatures", shard) for shard in corpus.shard_keys}
    tables = {shard: handoff.table() for shard, handoff in read.items() if handoff}
    if not tables:
        raise HandoffMissing(
            f"No image_signatures of {', '.join(corpus.shard_keys)} are sealed: materialize raw_images first."
        )
    pictures = judged(corpus, tables)
    copied = pictures.get_column("copy_of").drop_nulls().unique().implode()
    kept = pictures.filter(pl.col("image_id").is_in(copied)).rows_by_key("image_id", named=True, unique=True)
    return [
        _of_shard(corpus, handoffs, shard, pictures.filter(pl.col("shard") == shard), kept, rule) for shard in tables
    ]


def _of_shard(
    corpus: ImageCorpus,
    handoffs: HandoffStore,
    shard: str,
    pictures: pl.DataFrame,
    originals: Mapping[str, Mapping[str, Any]],
    rule: str | None,
) -> DroppedOfShard:
    clean = handoffs.newest("clean_images", shard)
    kept = set(pictures.filter(pl.col("rule").is_null())["image_id", "caption"].rows())
    same = clean is not None and kept == set(pl.DataFrame(clean.table(["item_id", "caption"])).rows())
    wanted = pl.col("rule").is_not_null() if rule is None else pl.col("rule") == rule
    return DroppedOfShard(
        shard=shard,
        num_documents=pictures.height,
        counts=num_dropped(corpus, pictures),
        documents=tuple(
            _dropped(shard, row, originals.get(row["copy_of"])) for row in pictures.filter(wanted).iter_rows(named=True)
        ),
        clean=clean,
        sealed="none yet" if clean is None else "these" if same else "others",
    )


def _dropped(shard: str, row: Mapping[str, Any], original: Mapping[str, Any] | None) -> DroppedDocument:
    return DroppedDocument(
        shard=shard,
        document_id=row["image_id"],
        file=_file(row),
        line=row["source_line"],
        excerpt=(row["caption"] or "")[:_EXCERPT_CHARACTERS],
        rule=row["rule"],
        measured=row["measured"],
        limit=row["limit"],
        copy_of=row["copy_of"],
        copy_of_shard=row["copy_of_shard"],
        copy_of_file=_file(original) if original else None,
        copy_of_line=original["source_line"] if original else None,
    )


def _file(row: Mapping[str, Any]) -> str:
    return row["source_file"] if row["member"] is None else f"{row['source_file']} {row['member']}"
