"""Copies in two shards of a corpus, and twins on two sides of the split: found over the whole corpus.

Loaded where the corpus file compares shards with each other (`dedup.over: corpus`, and more than one shard). A small
corpus is compared by one run, of `duplicates`; a large one by runs that sign a shard each, runs that compare a bucket
of keys each, and one that decides.
"""

from typing import Any

import dagster as dg
import pyarrow as pa

from assets.partitions import EMBEDDED, EMBEDDED_OF_ALL, corpus_shards, duplicate_bucket_keys
from headrace.handoff.schemas import DOCUMENT_SIGNATURES
from headrace.handoff.versions import Handoff
from headrace.prep import whole_corpus
from headrace.prep.embeddings import embeddings_of
from headrace.prep.labels import effective_labels
from headrace.prep.shard_verdicts import CORPUS
from headrace.prep.verdicts import CorpusShard
from headrace_dagster.assets.stages import Stage
from headrace_dagster.handoff_inputs import RecordBatches
from headrace_dagster.handoff_io import ATTRIBUTES, StoreResource
from headrace_dagster.handoff_lineage import sealed_already
from resources.corpus_resource import CorpusResource

_STAGE = Stage("data_prep")
_MADE_BY: dict[str, Any] = {"metadata": {ATTRIBUTES: (CORPUS,)}}
_BUCKETS_MADE_BY: dict[str, Any] = {"metadata": {ATTRIBUTES: (CORPUS, whole_corpus.NUM_BUCKETS)}}


@_STAGE.asset(corpus_shards, code_version="2", ins=EMBEDDED, **_MADE_BY)
def document_signatures(
    context: dg.AssetExecutionContext,
    corpus: CorpusResource,
    store: StoreResource,
    raw_documents: Handoff,
    labels: pa.Table,
    **embedded: Handoff,
) -> dg.MaterializeResult[Any]:
    """Keys under which one corpus shard's documents meet their copies, and the rule that drops each other document.

    Empty as long as the corpus, as far as it is read, has fewer bytes than `dedup.one_run_below`. Read by
    duplicate_buckets and duplicates, which refuse those of other documents, labels or corpus files than the newest.
    """
    settings = corpus.corpus()
    made_by = {CORPUS: settings.verdict_digest}
    needed = not whole_corpus.is_one_run(settings, store.handoffs())
    if sealed := sealed_already(context, store.handoffs(), corpus=settings.verdict_digest, needed=str(needed)):
        return dg.MaterializeResult(value=sealed, metadata=made_by)
    [vectors] = embeddings_of(settings, list(embedded.values())) or [None]
    shard = CorpusShard(
        key=context.partition_key,
        raw=raw_documents.table(),
        labels=effective_labels(labels, settings),
        embeddings=vectors,
    )
    batches = whole_corpus.signatures(settings, shard) if needed else iter(())
    return dg.MaterializeResult(
        value=RecordBatches(DOCUMENT_SIGNATURES, batches),
        metadata=made_by | {"num_rows_in": raw_documents.num_rows, "needed": needed},
    )


@_STAGE.asset(
    duplicate_bucket_keys,
    code_version="3",
    ins={"document_signatures": dg.AssetIn(partition_mapping=dg.AllPartitionMapping())},
    **_BUCKETS_MADE_BY,
)
def duplicate_buckets(
    context: dg.AssetExecutionContext,
    corpus: CorpusResource,
    store: StoreResource,
    document_signatures: dict[str, Handoff],
) -> dg.MaterializeResult[Any]:
    """Documents of all shards that share a key with another, for one range of keys.

    Saves duplicates time, in a corpus of `dedup.one_run_below` bytes or more: it compares the keys of a bucket itself
    that is missing, older than its signatures, or of another `num_buckets`. Empty where a bucket would compare fewer
    than 16 million keys (with 16 buckets, of 8 million documents in all): duplicates does that in seconds.
    """
    settings = corpus.corpus()
    made_by = whole_corpus.made_by_of_bucket(settings)
    if sealed := sealed_already(context, store.handoffs(), **made_by):
        return dg.MaterializeResult(value=sealed, metadata=made_by)
    table = whole_corpus.bucket(settings, context.partition_key, document_signatures)
    return dg.MaterializeResult(value=table, metadata=made_by)


@_STAGE.asset(None, code_version="2", deps=[document_signatures, duplicate_buckets], ins=EMBEDDED_OF_ALL, **_MADE_BY)
def duplicates(
    context: dg.AssetExecutionContext,
    corpus: CorpusResource,
    store: StoreResource,
    raw_documents: dict[str, Handoff],
    labels: dict[str, Handoff],
    **embedded: dict[str, Handoff],
) -> dg.MaterializeResult[Any]:
    """What is decided over all shards: which documents a rule drops, which are copies of which, which change sides.

    Of copies the longest stays, of equally long ones the first by file and line. A corpus below `dedup.one_run_below`
    is compared by this run alone; a larger one needs document_signatures. Read by clean_documents, of which only those
    shards are made again whose rows here changed.
    """
    settings = corpus.corpus()
    made_by = {CORPUS: settings.verdict_digest}
    if sealed := sealed_already(context, store.handoffs(), corpus=settings.verdict_digest):
        return dg.MaterializeResult(value=sealed, metadata=made_by)
    sealed_vectors = [one for of_all in embedded.values() for one in of_all.values()]
    vectors = dict(zip(raw_documents, embeddings_of(settings, sealed_vectors), strict=False))
    shards = [
        CorpusShard(
            key=key,
            raw=raw.table(),
            labels=effective_labels(labels[key].table(), settings),
            embeddings=vectors.get(key),
        )
        for key, raw in raw_documents.items()
    ]
    inputs = [*raw_documents.values(), *labels.values(), *sealed_vectors]
    found = whole_corpus.duplicates(settings, store.handoffs(), shards, inputs)
    num_rows_in = sum(shard.raw.num_rows for shard in shards)
    return dg.MaterializeResult(
        value=pa.concat_tables(found.of_shard.values()),
        metadata={**made_by, "num_rows_in": num_rows_in, **found.figures},
    )
