"""Vectors of documents, by which semantic duplicates are found. Loaded where the corpus file asks for these."""

from typing import Any

import dagster as dg

from assets.partitions import SEMANTIC_DUPLICATES, corpus_shards
from headrace.handoff.versions import Handoff
from headrace.prep import embeddings
from headrace.prep.labels import effective_labels
from headrace.prep.verdicts import CorpusShard
from headrace_dagster.assets.stages import Stage
from headrace_dagster.handoff_io import ATTRIBUTES, StoreResource
from headrace_dagster.handoff_lineage import MAKE_AGAIN_TAG, sealed_already
from headrace_dagster.resources.engines import EnginesResource
from resources.corpus_resource import CorpusResource

_IN_PROCESS = SEMANTIC_DUPLICATES is not None and SEMANTIC_DUPLICATES.engine == "transformers"
_MADE_BY: dict[str, Any] = {"metadata": {ATTRIBUTES: (embeddings.MODEL_SETTINGS, embeddings.MODEL)}}


@Stage("data_prep").asset(corpus_shards, code_version="1", gpus=1 if _IN_PROCESS else 0, **_MADE_BY)
def document_embeddings(
    context: dg.AssetExecutionContext,
    corpus: CorpusResource,
    store: StoreResource,
    engines: EnginesResource,
    raw_documents: Handoff,
    labels: Handoff,
) -> dg.MaterializeResult[Any]:
    """A vector for each document of one corpus shard that no rule drops, of its text with personal data masked.

    Texts that the newest version of the same model has are not embedded again. Read by document_signatures and
    duplicates, or by clean_documents, which refuse those of other texts or models than the newest.
    """
    settings, handoffs = corpus.corpus(), store.handoffs()
    embedder = corpus.embedder(engines, store.objects())
    try:
        made_by = {embeddings.MODEL: embedder.key}
        assert settings.semantic_duplicates
        made_by[embeddings.MODEL_SETTINGS] = embeddings.model_settings_digest(settings.semantic_duplicates)
        if sealed := sealed_already(context, handoffs, corpus=settings.verdict_digest, **made_by):
            return dg.MaterializeResult(value=sealed, metadata=made_by)
        is_again = MAKE_AGAIN_TAG in context.run.tags
        known = None if is_again else embeddings.known_embeddings(handoffs, context.partition_key, embedder.key)
        raw, given = raw_documents.table(), effective_labels(labels.table(), settings)
        shard = CorpusShard(key=context.partition_key, raw=raw, labels=given)
        found = embeddings.embed_shard(settings, shard, embedder, known)
    finally:
        embedder.close()
    context.log.info(f"{found.num_embedded:,} texts had to be embedded; {found.num_known:,} were known.")
    return dg.MaterializeResult(
        value=found.table,
        metadata={
            **made_by,
            "num_rows_in": raw.num_rows,
            "num_rows_embedded": found.table.num_rows - found.table.column("vector").null_count,
            "num_rows_truncated": found.num_truncated,
            "dimension": found.dimension,
        },
    )
