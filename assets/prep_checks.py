"""Checks of data prep: columns, row counts that add up, nothing on both sides of the split, labels that agree.

In a run of one shard, columns and bytes are checked for that shard; alone, for every sealed shard. All else always
covers all sealed shards: a leak between two shards shows in neither alone, and Dagster shows a check's last result,
under which another shard's fault would be lost. That reads the whole corpus's terms and texts twice a run, about
2 CPU s for the demo's. Descriptions are Markdown in the UI.
"""

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from assets.partitions import corpus_shards
from headrace.errors import HandoffCorrupt, InvalidInput
from headrace.handoff.schemas import check_schema
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.prep.agreement import agreement_markdown
from headrace.prep.cleaning import rule_names
from headrace.prep.identities import COLUMNS as ID_COLUMNS
from headrace.prep.identities import find_repeated_ids
from headrace.prep.label_identity import find_unknown_labels
from headrace.prep.labels import agreement
from headrace.prep.leaks import COLUMNS, find_leaks
from headrace.prep.rule_shares import markdown, summary
from headrace.prep.rule_shares import refusal as refusal_of_rules
from headrace.prep.rule_shares import rule_shares as shares_of_rules
from headrace.prep.split import heldout_share_of
from headrace.text.markdown import inline
from headrace_dagster.assets.stages import asset_check
from headrace_dagster.handoff_io import StoreResource
from headrace_dagster.handoff_names import UNPARTITIONED
from resources.corpus_resource import CorpusResource

_ASSETS = ("raw_documents", "quarantine", "labels", "clean_documents", "training_examples")
# The outcomes of an incoming row, by asset: names of counts in the asset's metadata.
_ACCOUNTS = {
    "raw_documents": ("num_rows", "num_rows_quarantined"),
    "clean_documents": ("num_rows", "num_rows_dropped"),
    "training_examples": ("num_rows_kept", "num_rows_dropped"),
}


def schema_check(asset: str, shards: dg.PartitionsDefinition | None) -> dg.AssetChecksDefinition:
    """For an asset by shards; None: without partitions."""

    @asset_check(
        asset=asset,
        name="schema",
        description=f"What is sealed of {asset} has the columns that its readers expect, and undamaged bytes.",
    )
    def check(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
        handoffs = list(newest_handoffs(store.handoffs(), asset, _keys(context, shards) or [UNPARTITIONED]))
        faults = []
        for handoff in handoffs:
            try:
                check_schema(asset, handoff.table())
            except (HandoffCorrupt, InvalidInput) as error:
                faults.append(f"{handoff.partition}: {error}")
        return dg.AssetCheckResult(
            passed=not faults,
            description="\n".join(map(inline, faults[:3])) or None,
            metadata={"num_shards": len(handoffs), "num_shards_failed": len(faults)},
        )

    return check


def rows_check(asset: str, outcomes: Sequence[str], shards: dg.PartitionsDefinition | None) -> dg.AssetChecksDefinition:
    """For an asset by shards; None: without partitions."""

    @asset_check(
        asset=asset,
        name="rows_add_up",
        description=f"Every row that came into any shard of {asset} is accounted for: {' + '.join(outcomes)} = "
        "num_rows_in.",
    )
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        totals = dict.fromkeys(("num_rows_in", *outcomes), 0)
        faults = []
        for shard in shards.get_partition_keys() if shards else [None]:
            counts = _counts(context.instance, asset, shard)
            num_accounted = sum(counts.get(name, 0) for name in outcomes)
            if num_accounted != counts.get("num_rows_in", 0):
                faults.append(
                    f"{shard or asset}: {counts.get('num_rows_in', 0):,} rows in, {num_accounted:,} accounted for"
                )
            totals = {name: total + counts.get(name, 0) for name, total in totals.items()}
        return dg.AssetCheckResult(passed=not faults, description="\n".join(faults[:3]) or None, metadata=totals)

    return check


@asset_check(asset="clean_documents")
def rule_shares(
    context: dg.AssetCheckExecutionContext, corpus: CorpusResource, store: StoreResource
) -> dg.AssetCheckResult:
    """In no sealed shard did a rule drop more of the documents than the corpus file allows (`rules.share_max`); what
    each one dropped of all shards."""
    settings = corpus.corpus()
    counts = {
        shard: _counts(context.instance, "clean_documents", shard) for shard in corpus_shards.get_partition_keys()
    }
    sealed = {shard: found for shard, found in counts.items() if "num_rows_in" in found}
    drops = {
        shard: {rule: found.get(f"dropped/{rule}", 0) for rule in rule_names(settings)}
        for shard, found in sealed.items()
    }
    of_shard = {shard: shares_of_rules(settings, [drops[shard]], sealed[shard]["num_rows_in"]) for shard in sealed}
    refusal = refusal_of_rules(settings, store.handoffs(), of_shard)
    shares = shares_of_rules(settings, drops.values(), sum(found["num_rows_in"] for found in sealed.values()))
    return dg.AssetCheckResult(
        passed=refusal is None,
        description=inline(refusal or summary(shares, list(sealed))),
        metadata={
            "num_rows_in": shares[0].num_documents,
            "num_shards": len(sealed),
            "rules": dg.MetadataValue.md(markdown(shares)),
        },
    )


@asset_check(asset="clean_documents")
def no_leak(corpus: CorpusResource, store: StoreResource) -> dg.AssetCheckResult:
    """Over all sealed shards together, no term, no text and no twin of a text is in both train and held-out.

    Every held-out document is compared with every training document that can overlap with it by `twins_jaccard`: none
    is missed. The split itself finds twins by a sketch, 98% or more: as few as it misses by chance, of the least
    similar, are a warning. With `twins_jaccard: null` and `duplicate_columns` beyond the text, equal texts are counted
    (`num_texts_on_both_sides`), and fail nothing.
    """
    settings = corpus.corpus()
    shards = list(newest_handoffs(store.handoffs(), "clean_documents", corpus_shards.get_partition_keys()))
    leaks = find_leaks(settings, [handoff.table(COLUMNS) for handoff in shards])
    return dg.AssetCheckResult(
        passed=not leaks.found,
        severity=dg.AssetCheckSeverity.ERROR if leaks.is_certain else dg.AssetCheckSeverity.WARN,
        description=inline(leaks.told(len(shards))),
        metadata={
            "num_rows": leaks.num_documents,
            "num_heldout": leaks.num_heldout,
            "num_terms_on_both_sides": leaks.num_terms,
            "num_texts_on_both_sides": leaks.num_texts,
            "num_shards": len(shards),
            "num_heldout_with_twin_in_training": leaks.num_twins,
            "most_similar": round(leaks.most_similar, 6),
        },
    )


@asset_check(asset="clean_documents")
def heldout_share_is_met(
    context: dg.AssetCheckExecutionContext, corpus: CorpusResource, store: StoreResource
) -> dg.AssetCheckResult:
    """Over all sealed shards together, the held-out documents are about the share that the corpus file wants.

    Twins stand on one side together, so one large group of them, as of a template, moves the share. It tells the
    largest group.
    """
    wanted = corpus.corpus().heldout_share
    sealed = newest_handoffs(store.handoffs(), "clean_documents", corpus_shards.get_partition_keys())
    found = heldout_share_of(handoff.table(["split"]) for handoff in sealed)
    figures = [_counts(context.instance, "clean_documents", shard) for shard in corpus_shards.get_partition_keys()]
    figures.append(_counts(context.instance, "duplicates", None))
    largest = max(one.get("num_largest_twins", 0) for one in figures)
    return dg.AssetCheckResult(
        passed=found.is_near(wanted),
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"{found.num_heldout:,} of {found.num_documents:,} documents are held out, {found.share:.2%} where "
            f"heldout_share wants {wanted:.2%}: {'as near as' if found.is_near(wanted) else 'farther than'} chance and "
            f"twins explain. The largest group of twins has {largest:,} documents."
        ),
        metadata={
            "heldout_share": round(found.share, 6),
            "num_rows": found.num_documents,
            "num_largest_twins": largest,
        },
    )


@asset_check(asset="raw_documents")
def ids_are_unique(corpus: CorpusResource, store: StoreResource) -> dg.AssetCheckResult:
    """Over all sealed shards together, one document id stands for one document, so no label decides over another."""
    shards = newest_handoffs(store.handoffs(), "raw_documents", corpus_shards.get_partition_keys())
    repeated = find_repeated_ids([handoff.table(ID_COLUMNS) for handoff in shards])
    # Without labels, no decision depends on an id.
    severity = dg.AssetCheckSeverity.ERROR if corpus.corpus().labels else dg.AssetCheckSeverity.WARN
    return dg.AssetCheckResult(
        passed=not repeated.num_ids,
        severity=severity,
        description=inline(f"For example {'; '.join(repeated.samples)}.") if repeated.num_ids else None,
        metadata={"num_rows": repeated.num_documents, "num_ids_repeated": repeated.num_ids},
    )


@asset_check(asset="labels")
def labels_agree(corpus: CorpusResource, store: StoreResource) -> dg.AssetCheckResult:
    """Over all sealed shards together, people's labels and the judge's agree beyond chance (Cohen's kappa).

    Where no document has both, there is nothing to compare, and the check passes.
    """
    settings = corpus.corpus().labels
    if not (settings and settings.file and settings.judge):
        return dg.AssetCheckResult(passed=True, description="Fewer than two sources of labels: nothing to compare.")
    shards = newest_handoffs(store.handoffs(), "labels", corpus_shards.get_partition_keys())
    found = agreement((handoff.table() for handoff in shards), settings.file.source, settings.judge.source)
    if not found.num_both:
        return dg.AssetCheckResult(
            passed=True,
            description=f"No document has labels of both {settings.file.source} and {settings.judge.source}: nothing "
            "to compare.",
            metadata={"num_rows": 0},
        )
    return dg.AssetCheckResult(
        passed=found.kappa >= settings.kappa_min,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"Kappa is {found.kappa:.2f} over {found.num_both:,} documents that both sources labelled, "
            f"labels.kappa_min wants {settings.kappa_min:.2f}."
        ),
        metadata={
            "kappa": round(found.kappa, 6),
            "equal_share": round(found.equal_share, 6),
            "num_rows": found.num_both,
            "by_label": dg.MetadataValue.md(agreement_markdown(found, settings.file.source, settings.judge.source)),
        },
    )


@asset_check(asset="labels")
def labels_have_documents(corpus: CorpusResource, store: StoreResource) -> dg.AssetCheckResult:
    """Over all sealed shards together, every row of the label files has a document's id, so no label is lost."""
    shards = list(newest_handoffs(store.handoffs(), "raw_documents", corpus_shards.get_partition_keys()))
    ids = {one.partition: one.table(["document_id"]).column("document_id").to_pylist() for one in shards}
    found = find_unknown_labels(corpus.corpus(), corpus.home_directory(), ids)
    num_unread = len(corpus_shards.get_partition_keys()) - len(shards)
    # A few may be of documents that were taken out; if no row has a document, the column is the wrong one.
    lost_all = found.num_unknown == found.num_labels and not num_unread
    return dg.AssetCheckResult(
        passed=not found.num_unknown,
        severity=dg.AssetCheckSeverity.ERROR if lost_all else dg.AssetCheckSeverity.WARN,
        description=found.told(num_unread) if found.num_unknown else None,
        metadata={"num_rows": found.num_labels, "num_rows_unknown": found.num_unknown, "num_shards": len(shards)},
    )


def _keys(context: dg.AssetCheckExecutionContext, shards: dg.PartitionsDefinition | None) -> Sequence[str]:
    """The shards to check; nothing of an asset without partitions."""
    if shards is None:
        return []
    return [context.partition_key] if context.has_partition_key else shards.get_partition_keys()


def newest_handoffs(handoffs: HandoffStore, asset: str, shards: Sequence[str]) -> Iterator[Handoff]:
    """Of each shard that is sealed."""
    newest = (handoffs.newest(asset, shard) for shard in shards)
    return (handoff for handoff in newest if handoff)


def _counts(instance: dg.DagsterInstance, asset: str, shard: str | None) -> Mapping[str, int]:
    """The whole numbers in the metadata of a shard's latest materialization; empty before the first."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[shard] if shard else None), limit=1
    ).records
    materialization = records[0].asset_materialization if records else None
    metadata = materialization.metadata if materialization else {}
    return {name: value.value for name, value in metadata.items() if isinstance(value.value, int)}


CHECKS = [
    *(schema_check(asset, corpus_shards) for asset in _ASSETS),
    *(rows_check(asset, outcomes, corpus_shards) for asset, outcomes in _ACCOUNTS.items()),
    ids_are_unique,
    rule_shares,
    no_leak,
    heldout_share_is_met,
    labels_agree,
    labels_have_documents,
]
