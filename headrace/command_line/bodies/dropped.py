"""What `headrace dropped --json` prints."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DroppedDocumentBody:
    shard: str
    document_id: str
    file: str
    line: int
    """In Parquet, its row."""
    excerpt: str
    """The first characters of its text, normalised."""
    rule: str
    measured: float | int | str | None
    """A number, or what the rule found; of a near duplicate its similarity; null: the rule measures nothing."""
    limit: float | int | str | None
    """What the corpus file says of the rule; null: it has no limit."""
    copy_of: str | None
    """Of a duplicate: the id of the document that is kept."""


@dataclass(frozen=True, kw_only=True)
class DroppedShardBody:
    shard: str
    num_documents: int
    counts: dict[str, int]
    """Every rule → how many documents it drops; one counts for the first rule that drops it."""
    clean_documents_version: int | None
    """null: none is sealed yet."""
    is_as_sealed: bool | None
    """Whether that version left out the same documents; null: there is none."""


@dataclass(frozen=True, kw_only=True)
class DroppedBody:
    """`headrace dropped --json`."""

    shards: tuple[DroppedShardBody, ...]
    unread_shards: tuple[str, ...]
    """Their raw_documents are not sealed yet."""
    looked_at_length: bool
    """false: the base model is not on this machine, so nobody knows what is too long for a sequence."""
    num_documents_listed: int
    """All that are dropped, or those of the wanted rule; `documents` may hold fewer."""
    documents: tuple[DroppedDocumentBody, ...]
