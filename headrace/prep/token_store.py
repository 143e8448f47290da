"""Token ids of documents that were tokenized before, kept beside the training examples that were made of them.

Tokenizing is most of what training examples cost, and depends on a document's texts, the tokenizer, the templates and
the kind of example alone. So each shard's ids are sealed under the texts' hash: another `sequence_length` or `overlong`
takes them all, and a shard with some new documents tokenizes these. Nothing else reads them: without them, or with
damaged ones, everything is tokenized. The price is four bytes a token in the store, a third of what the examples take.

Knows one shard's newest version alone: a document that moves to another shard is tokenized once more.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import xxhash

from headrace.chat.tokenizer import ChatTokenizer
from headrace.errors import HandoffCorrupt, HandoffMissing, PublishConflict
from headrace.handoff.schemas import TOKENIZED_DOCUMENTS
from headrace.handoff.versions import HandoffStore
from headrace.keys import digest_text
from headrace.prep.chats import Document
from headrace.prep.corpus import Corpus
from headrace.prep.example_forms import OF_MESSAGES
from headrace.prep.example_kinds import tokenized_documents
from headrace.prep.token_spans import TokenizedExample, ragged
from headrace.store.objects import canonical_json

ASSET = "tokenized_documents"
# Raise it when the same texts get other ids or spans.
_CODE_VERSION = "1"


def tokens_digest(corpus: Corpus, tokenizer: ChatTokenizer) -> str:
    """Of all that decides a document's ids and spans, but its own texts."""
    kind, loss = corpus.example.kind, corpus.example.loss
    prompt = asdict(corpus.prompt) if corpus.prompt else None
    form = {"kind": kind, "loss": loss, "prompt": prompt, "completion": corpus.completion}
    return digest_text(ASSET, _CODE_VERSION, tokenizer.digest, canonical_json(form).decode())


@dataclass(frozen=True)
class KeptTokens:
    """One shard's sealed tokens of one `tokens_digest`."""

    handoffs: HandoffStore
    shard: str
    digest: str

    def known(self) -> pa.Table | None:
        """The newest version, as TOKENIZED_DOCUMENTS, if there is a sound one."""
        with suppress(HandoffCorrupt, HandoffMissing):
            found = self.handoffs.find(ASSET, self.shard, tokens=self.digest)
            return found.table() if found else None
        return None

    def seal(self, tokens: pa.Table, *, run_id: str) -> None:
        """Another run's version of the same shard is as good as this one."""
        attributes = {"tokens": self.digest}
        with suppress(PublishConflict):
            self.handoffs.publish(
                ASSET, self.shard, tokens, code_version=_CODE_VERSION, run_id=run_id, attributes=attributes
            )


class DocumentTokens:
    """Tokenizes the documents of one shard, each text once; takes the known ones."""

    def __init__(self, known: pa.Table | None = None) -> None:
        self._kept: dict[bytes, TokenizedExample] = {}
        self._known: dict[bytes, TokenizedExample] = dict(_read(known)) if known is not None else {}
        self.num_tokenized = 0

    def of(self, corpus: Corpus, rows: Sequence[Document], tokenizer: ChatTokenizer) -> list[TokenizedExample]:
        """Raises: InvalidInput: as `tokenized_documents`."""
        keys = [_key(corpus, row) for row in rows]
        if self._known:
            self._kept.update((key, self._known[key]) for key in keys if key in self._known)
        missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._kept}
        self.num_tokenized += len(missing)
        made = tokenized_documents(corpus, list(missing.values()), tokenizer)
        self._kept.update(zip(missing, made, strict=True))
        return [self._kept[key] for key in keys]

    def table(self) -> pa.Table:
        """All documents that were asked for, as TOKENIZED_DOCUMENTS."""
        examples = list(self._kept.values())
        spans = [np.asarray(example.spans, dtype=np.int32).reshape(-1) for example in examples]
        columns = [
            pa.array(list(self._kept), pa.binary(16)),
            ragged([example.ids for example in examples]),
            ragged(spans),
        ]
        return pa.Table.from_arrays(columns, schema=TOKENIZED_DOCUMENTS)


def _key(corpus: Corpus, row: Document) -> bytes:
    """A hash of what an example is made of."""
    names = ("messages",) if corpus.example.kind in OF_MESSAGES else ("term", "category", "text")
    hashed = xxhash.xxh3_128()
    for name in names:
        text = row[name]
        # The length tells where a text ends; null is no text.
        hashed.update(b"\xff" if text is None else b"%d:" % len(encoded := text.encode()) + encoded)
    return hashed.digest()


def _read(known: pa.Table) -> Iterator[tuple[bytes, TokenizedExample]]:
    for batch in known.to_batches():
        ids, spans = (_rows(batch.column(name)) for name in ("token_ids", "spans"))
        for key, document, flat in zip(batch.column("key").to_pylist(), ids, spans, strict=True):
            places = flat.tolist()
            yield key, TokenizedExample(ids=document, spans=tuple(zip(places[::2], places[1::2], strict=True)))


def _rows(column: pa.ListArray) -> Iterator[np.ndarray]:
    """Each list as a view of the column's pages."""
    values, offsets = column.values.to_numpy(), column.offsets.to_numpy()
    return (values[start:end] for start, end in pairwise(offsets))
