"""What a stage of data prep may drop: an empty result would be sealed, and every later stage would be green."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.errors import InvalidInput

if TYPE_CHECKING:
    from headrace.prep.corpus import Corpus

# A number, or the words that a rule found or names; None: the rule has none.
Measured = float | int | str | None

# The rule that drops what does not fit into a sequence.
OVERLONG = "overlong"


class TooMuchDropped(InvalidInput):
    """A stage would drop more of a corpus shard than the corpus allows."""


@dataclass(frozen=True, kw_only=True)
class DroppedDocument:
    """One document that is left out."""

    shard: str
    document_id: str
    file: str
    line: int
    """In Parquet, its row."""
    excerpt: str
    """The first characters of its text, normalised."""
    rule: str
    measured: Measured
    """A number, or what the rule found; of a near duplicate its similarity; null: the rule measures nothing."""
    limit: Measured
    """What the corpus file says of the rule; null: it has no limit."""
    copy_of: str | None
    """Of a duplicate: the id of the document that is kept."""
    copy_of_shard: str | None
    """The shard of that document."""
    copy_of_file: str | None
    """The file of that document."""
    copy_of_line: int | None
    """Its line there; in Parquet, its row."""


def refuse_if_too_much_dropped(corpus: "Corpus", drops: Mapping[str, int], num_documents: int) -> None:
    """Args:
        drops: rule → how many documents it dropped, of `num_documents`.

    Raises:
        TooMuchDropped: more than `dropped_share_max`; the text names the worst rule.
    """
    num_dropped = sum(drops.values())
    if num_dropped <= corpus.dropped_share_max * num_documents:
        return
    worst = max(drops, key=lambda rule: drops[rule])
    remedy = "sequence_length" if worst == OVERLONG else "the rules"
    raise TooMuchDropped(
        f"Corpus {corpus.name}: {num_dropped:,} of {num_documents:,} documents are dropped, most of them "
        f"({drops[worst]:,}) by {worst}, where dropped_share_max allows {corpus.dropped_share_max:.0%}. Correct "
        f"{remedy} in the corpus file, or raise dropped_share_max.",
        corpus=corpus.name,
        rule=worst,
    )


def refuse_if_nothing_is_left(corpus: "Corpus", drops: Mapping[str, int], num_documents: int) -> None:
    """Whatever `dropped_share_max` allows: nothing can be made of a shard without a document.

    Raises:
        TooMuchDropped: all of at least one document are dropped; the text names the worst rule.
    """
    if not num_documents or sum(drops.values()) < num_documents:
        return
    worst = max(drops, key=lambda rule: drops[rule])
    raise TooMuchDropped(
        f"Corpus {corpus.name}: {num_documents:,} of {num_documents:,} documents (100%) are dropped, most of them "
        f"({drops[worst]:,}) by {worst}, so that no training example is left. Raise sequence_length, now "
        f"{corpus.sequence_length:,}, or let example.overlong cut them.",
        corpus=corpus.name,
        rule=worst,
    )
