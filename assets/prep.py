"""Data prep: a user's files become packed training sequences, one corpus shard a run, on CPU."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pyarrow as pa

from assets.partitions import COMPARES_SHARDS, EMBEDDED, corpus_shards
from headrace.handoff.content_digest import digest_of
from headrace.handoff.versions import Handoff
from headrace.placement.demand import stage_tags
from headrace.prep.clean_shards import clean_shard
from headrace.prep.embeddings import embeddings_of
from headrace.prep.examples import build_examples, made_by
from headrace.prep.labels import effective_labels, label_shard
from headrace.prep.sources import read_shard
from headrace.prep.token_store import KeptTokens, tokens_digest
from headrace.prep.whole_corpus import own_verdict
from headrace_dagster.assets.stages import Stage
from headrace_dagster.failures import RETRIES, translated_errors
from headrace_dagster.handoff_io import StoreResource
from headrace_dagster.handoff_lineage import MAKE_AGAIN_TAG, sealed_already
from headrace_dagster.resources.engines import EnginesResource
from resources.corpus_resource import CorpusResource

_STAGE = Stage("data_prep")
_TAGS = stage_tags(_STAGE.name)


@dg.multi_asset(
    name="read_corpus_shard",
    outs={
        "quarantine": dg.AssetOut(
            description=(
                "What one corpus shard holds and nobody could read: file, line, reason, excerpt. For the owner of the "
                "files. Sealed also when there is so much of it that raw_documents fails."
            ),
            tags=_TAGS,
            code_version="1",
            is_required=False,
        ),
        "raw_documents": dg.AssetOut(
            description=(
                "One corpus shard as it was found: the columns that the corpus file maps, and where each document "
                "stood. Read by labels and clean_documents. As old as its last run: changed files are not noticed."
            ),
            tags=_TAGS,
            code_version="1",
            is_required=False,
        ),
    },
    # So that either can be launched alone.
    can_subset=True,
    partitions_def=corpus_shards,
    group_name=_STAGE.name,
    op_tags=_TAGS,
    retry_policy=RETRIES,
)
def read_corpus_shard(context: dg.AssetExecutionContext, corpus: CorpusResource) -> Iterator[dg.Output[pa.Table]]:
    """Reads the files of one shard."""
    with translated_errors():
        shard = read_shard(corpus.corpus(), context.partition_key, corpus.home_directory())
        metadata = shard.counts()
        if "quarantine" in context.selected_output_names:
            yield dg.Output(shard.quarantine, "quarantine", metadata=metadata)
        if "raw_documents" in context.selected_output_names:
            shard.refuse_if_exceeded()
            yield dg.Output(shard.documents, "raw_documents", metadata=metadata)


@_STAGE.asset(corpus_shards, code_version="1")
def labels(
    context: dg.AssetExecutionContext,
    corpus: CorpusResource,
    engines: EnginesResource,
    store: StoreResource,
    raw_documents: Handoff,
) -> dg.MaterializeResult[pa.Table]:
    """Labels of one corpus shard's documents, by source: people's file, a judge model, or both.

    Empty if the corpus file names no source. Read by clean_documents, which drops unwanted labels.
    """
    labelled = label_shard(
        corpus.corpus(),
        context.partition_key,
        raw_documents.table(),
        version=f"v{raw_documents.version:06d}",
        home=corpus.home_directory(),
        judge=corpus.judge(engines, store.objects()),
    )
    return dg.MaterializeResult(
        value=labelled.labels,
        metadata={
            "num_rows_in": raw_documents.num_rows,
            "num_judged": labelled.num_judged,
            "num_unanswered": labelled.num_unanswered,
        },
    )


# Only of `duplicates`' rows of its own shard is it made, so it looks for these itself: a run whose rows are the same
# returns what is sealed.
@_STAGE.asset(
    corpus_shards,
    code_version="4",
    deps=["duplicates"] if COMPARES_SHARDS else [],
    ins=EMBEDDED if not COMPARES_SHARDS else {},
)
def clean_documents(
    context: dg.AssetExecutionContext,
    corpus: CorpusResource,
    store: StoreResource,
    raw_documents: Handoff,
    labels: Handoff,
    **embedded: Handoff,
) -> dg.MaterializeResult[Any]:
    """One corpus shard, normalised, filtered, de-duplicated, and split into train and held-out by term.

    Copies are searched in all shards (by duplicates) or, with `dedup.over: shard`, in this one. Made once for the same
    documents, labels, copies and corpus file. Read by training_examples.
    """
    settings = corpus.corpus()
    is_made_of, verdict = {"corpus": settings.digest}, None
    if settings.compares_shards:
        verdict = own_verdict(settings, store.handoffs(), [raw_documents, labels])
        is_made_of["verdict"] = digest_of(verdict.select(["place", "rule", "split"]))
    if sealed := sealed_already(context, store.handoffs(), **is_made_of):
        return dg.MaterializeResult(value=sealed)
    [vectors] = embeddings_of(settings, list(embedded.values())) or [None]
    counting = effective_labels(labels.table(), settings)
    cleaned = clean_shard(settings, raw_documents.table(), counting, verdict, vectors)
    return dg.MaterializeResult(
        value=cleaned.documents,
        metadata={
            "num_rows_in": cleaned.num_rows_in,
            "num_rows_dropped": sum(cleaned.drops.values()),
            # The many that dropped nothing would hide the others and the preview; rule_shares lists them all.
            **{f"dropped/{rule}": num_rows for rule, num_rows in cleaned.drops.items() if num_rows},
            **{f"masked/{kind}": num_found for kind, num_found in cleaned.masked.items()},
            **cleaned.twins,
        },
    )


@_STAGE.asset(corpus_shards, code_version="3")
def training_examples(
    context: dg.AssetExecutionContext, corpus: CorpusResource, store: StoreResource, clean_documents: pa.Table
) -> dg.MaterializeResult[Any]:
    """One corpus shard as token sequences for the base model: packed chats, with loss on the assistant's words only, or
    packed plain texts.

    Each row is one sequence of `sequence_length` tokens, of train or held-out; of a corpus of preference pairs, one
    pair. Made once for the same documents, corpus file and tokenizer; ids of known texts come from what is sealed
    beside it, as tokenized_documents. Read by trained_model and evaluation.
    """
    settings, tokenizer = corpus.corpus(), corpus.tokenizer()
    if sealed := sealed_already(context, store.handoffs(), **made_by(settings, tokenizer)):
        return dg.MaterializeResult(value=sealed)
    kept = KeptTokens(store.handoffs(), context.partition_key, tokens_digest(settings, tokenizer))
    known = None if MAKE_AGAIN_TAG in context.run.tags else kept.known()
    examples = build_examples(settings, clean_documents, tokenizer, known)
    context.log.info(f"{examples.num_tokenized:,} of {examples.num_documents:,} documents had to be tokenized.")
    if examples.num_tokenized:
        kept.seal(examples.tokens, run_id=context.run.run_id)
    return dg.MaterializeResult(
        value=examples.sequences,
        metadata={
            "num_rows_in": examples.num_documents,
            "num_rows_dropped": sum(examples.drops.values()),
            "num_rows_kept": sum(counts.num_documents for counts in examples.counts.values()),
            "num_examples": sum(counts.num_examples for counts in examples.counts.values()),
            "padding_share": round(examples.padding_share, 6),
            **{f"dropped/{rule}": num_rows for rule, num_rows in examples.drops.items()},
            **{
                f"{split}/{name}": number
                for split, counts in examples.counts.items()
                for name, number in dataclasses.asdict(counts).items()
            },
        },
    )
