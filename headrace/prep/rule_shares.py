"""What each rule took of a corpus, beside what it may take, and whose rule it is: for the check in Dagster.

A rule that drops half of a corpus is seldom right about it: it was made for another kind of text. That is a question to
a person, so it fails a check and no partition; beyond `dropped_share_max` the partition fails.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headrace.handoff.versions import HandoffStore
from headrace.prep.cleaning import rule_sources
from headrace.prep.corpus import Corpus
from headrace.prep.dedup import NEAR_DUPLICATE
from headrace.prep.dropped_documents import sealed_shard
from headrace.prep.quality import first_rule, quality_rules
from headrace.prep.rule_sets import Source
from headrace.prep.semantic import SEMANTIC_DUPLICATE
from headrace.prep.verdicts import CorpusShard
from headrace.text.markdown import fitting_table

_EXCERPT_CHARACTERS = 80
# Dagster's UI shows a check's table after a click, its sentence at once.
_RULES_TOLD = 6


@dataclass(frozen=True, kw_only=True)
class RuleShare:
    """`limit`: what the corpus file says of the rule; `share_max`: None: any share is right."""

    rule: str
    source: Source
    limit: float | str | None
    num_dropped: int
    num_documents: int
    share_max: float | None

    @property
    def share(self) -> float:
        return self.num_dropped / max(1, self.num_documents)

    @property
    def is_too_large(self) -> bool:
        return self.share_max is not None and self.num_dropped > self.share_max * self.num_documents


def rule_shares(corpus: Corpus, drops: Iterable[Mapping[str, int]], num_documents: int) -> tuple[RuleShare, ...]:
    """Args: drops: rule → how many documents it dropped, of several shards; `num_documents`: of all of them."""
    counts = Counter[str]()
    for one in drops:
        counts.update(one)
    limits = {rule.name: rule.limit for rule in quality_rules(corpus)}
    # How much of a corpus are copies says nothing of a rule.
    most = dict.fromkeys(limits, corpus.rules.share_max) | corpus.rules.shares_max
    if corpus.near_duplicates:
        limits[NEAR_DUPLICATE] = corpus.near_duplicates.jaccard
    if corpus.semantic_duplicates:
        limits[SEMANTIC_DUPLICATE] = corpus.semantic_duplicates.cosine
    return tuple(
        RuleShare(
            rule=rule,
            source=source,
            limit=limits.get(rule),
            num_dropped=counts[rule],
            num_documents=num_documents,
            share_max=most.get(rule),
        )
        for rule, source in rule_sources(corpus).items()
    )


def markdown(shares: Sequence[RuleShare]) -> str:
    """The rules that dropped most come first, since a long table is cut."""
    rows = [
        [
            one.rule,
            one.source,
            _shown(one.limit),
            f"{one.num_dropped:,}",
            f"{one.share:.2%}",
            "" if one.share_max is None else f"{one.share_max:.0%}",
        ]
        for one in sorted(shares, key=lambda one: -one.num_dropped)
    ]
    headers = ["rule", "source", "limit", "dropped", "share", "at most"]
    return fitting_table(headers, rows, right=headers[3:], cell_chars_max=_EXCERPT_CHARACTERS)


def summary(shares: Sequence[RuleShare], shards: Sequence[str]) -> str:
    """Which shards, how many of their documents were dropped, and by which rules, the first few."""
    dropping = sorted((one for one in shares if one.num_dropped), key=lambda one: -one.num_dropped)
    where = shards[0] if len(shards) == 1 else f"{len(shards)} shards"
    num_dropped = sum(one.num_dropped for one in dropping)
    if not num_dropped:
        return f"{where}: none of {shares[0].num_documents:,} documents was dropped."
    told = [f"{one.rule} {one.num_dropped:,}" for one in dropping[:_RULES_TOLD]]
    if len(dropping) > _RULES_TOLD:
        told.append(f"other rules {sum(one.num_dropped for one in dropping[_RULES_TOLD:]):,}")
    share = num_dropped / dropping[0].num_documents
    documents = f"{num_dropped:,} of {dropping[0].num_documents:,} documents"
    return f"{where}: {documents} ({share:.1%}) were dropped: {', '.join(told)}."


def refusal(corpus: Corpus, handoffs: HandoffStore, of_shard: Mapping[str, Sequence[RuleShare]]) -> str | None:
    """Of the rules that took too much of a shard the worst in a sentence, with a document that it dropped.

    None: none did. Each shard is judged by itself, since the others may hide what a rule took of it.

    Args:
        of_shard: shard → what each rule took of it.
    """
    too_large = [(one.share, shard, one) for shard, shares in of_shard.items() for one in shares if one.is_too_large]
    if not too_large:
        return None
    _, shard, worst = max(too_large, key=lambda found: found[0])
    num_failed = len({shard for _, shard, _ in too_large})
    where = f"{shard}, the worst of {num_failed} shards" if num_failed > 1 else shard
    limit = f", limit {_shown(worst.limit)}" if worst.limit is not None else ""
    example = _example(corpus, sealed_shard(corpus, handoffs, shard), worst.rule)
    key = f"shares_max.{worst.rule}" if worst.rule in corpus.rules.shares_max else "share_max"
    return (
        f"{worst.rule} ({worst.source}{limit}) dropped {worst.share:.1%} of {worst.num_documents:,} documents of "
        f"{where}{example}"
        f", where rules.{key} allows {worst.share_max:.1%}. Choose the rule set for this kind of text, correct the "
        f"rule's limit, or allow more in rules.shares_max.{worst.rule}."
    )


def _example(corpus: Corpus, shard: CorpusShard, rule: str) -> str:
    """The first document that a quality rule drops: its text's beginning, file and line."""
    for _, documents in shard.prepared(corpus):
        dropped = documents.filter(first_rule(documents, corpus) == rule)
        for row in dropped.head(1).iter_rows(named=True):
            text = row["text"][:_EXCERPT_CHARACTERS]
            return f", such as {text!r} in {row['source_file']} line {row['source_line']}"
    return ""


def _shown(limit: float | str | None) -> str:
    return "" if limit is None else limit if isinstance(limit, str) else f"{limit:g}"
