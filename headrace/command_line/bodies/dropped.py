"""What `headrace dropped --json` prints."""

from dataclasses import dataclass

from headrace.prep.drops import DroppedDocument


@dataclass(frozen=True, kw_only=True)
class DroppedShardBody:
    shard: str
    num_documents: int
    counts: dict[str, int]
    """Every rule → how many documents it drops; one counts for the first rule that drops it."""
    clean_documents_version: int | None
    """With --images of clean_images; null: none is sealed yet."""
    is_as_sealed: bool | None
    """Whether that version left out the same documents; null: there is none."""


@dataclass(frozen=True, kw_only=True)
class DroppedBody:
    """`headrace dropped --json`."""

    shards: tuple[DroppedShardBody, ...]
    unread_shards: tuple[str, ...]
    """Their raw_documents are not sealed yet."""
    looked_at_length: bool
    """false: the base model is not on this machine, so nobody knows what is too long for a sequence; or
    --images, which have no length."""
    num_documents_listed: int
    """All that are dropped, or those of the wanted rule; `documents` may hold fewer."""
    documents: tuple[DroppedDocument, ...]
