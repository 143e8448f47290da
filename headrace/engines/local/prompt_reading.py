"""How much of a text a pipeline of diffusers reads, and what of a longer one never reaches its picture.

Every pipeline cuts its texts at a number of tokens that stands in another place: a constant, an argument's default, its
configuration, the tokenizer. So nobody guesses it here: while a text is encoded, the tokenizers tell what they are
asked. A pipeline that cannot be watched so says nothing, and a text counts as read as long as one of several encoders
reads it to its end.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# What is told of an end that nobody reads.
_SHOWN_CHARACTERS = 1_000


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A tokenizer, and of how many tokens its encoder gets a text. None: of all of them.

    `before`, `after`: what the pipeline puts around a text.
    """

    tokenizer: Any
    num_tokens_max: int | None
    before: str = ""
    after: str = ""

    def unread(self, text: str) -> str | None:
        """The end of the text that is cut off; None: nothing is."""
        if self.num_tokens_max is None:
            return None
        whole = f"{self.before}{text}{self.after}"
        # Quietly: it would warn of every text that is longer than its model.
        if len(self.tokenizer(whole, verbose=False).input_ids) <= self.num_tokens_max:
            return None
        kept = self.tokenizer(whole, truncation=True, max_length=self.num_tokens_max, return_offsets_mapping=True)
        num_read = max((end for _, end in kept.offset_mapping), default=0) - len(self.before)
        return text[max(num_read, 0) :] or None


@dataclass(frozen=True, kw_only=True)
class CutText:
    """`num_tokens_max`: as many are read."""

    num_tokens_max: int
    unread: str

    @property
    def note(self) -> str:
        return f"the text is longer than the {self.num_tokens_max} tokens that the model reads: its end is not painted"


def cut_text(readers: Sequence[Reader], text: str) -> CutText | None:
    """What no reader reads of a text; None: one of them reads all of it, or nothing is known of them."""
    found: list[CutText] = []
    for reader in readers:
        if (unread := reader.unread(text)) is None:
            return None
        assert reader.num_tokens_max is not None, "it cut the text"
        found.append(CutText(num_tokens_max=reader.num_tokens_max, unread=unread[:_SHOWN_CHARACTERS]))
    return min(found, key=lambda one: len(one.unread), default=None)


@contextmanager
def watched(pipeline: Any, text: str) -> Iterator[list[Reader]]:
    """Fills a list with the pipeline's readers while `text` is encoded within the block."""
    from transformers import PreTrainedTokenizerBase

    readers: list[Reader] = []
    tokenizers = [one for one in pipeline.components.values() if isinstance(one, PreTrainedTokenizerBase)]
    kinds = [type(one) for one in tokenizers]
    for tokenizer, kind in zip(tokenizers, kinds, strict=True):
        # A call is looked up at the class, and the pipeline may ask of which class it is.
        tokenizer.__class__ = _telling(kind, text, readers)
    found: list[Reader] = []
    try:
        yield found
    finally:
        for tokenizer, kind in zip(tokenizers, kinds, strict=True):
            tokenizer.__class__ = kind
        for tokenizer in tokenizers:
            own = [one for one in readers if one.tokenizer is tokenizer]
            # Beside the call that cuts, some count the whole text to warn of it.
            cutting = [one for one in own if one.num_tokens_max is not None]
            found += (cutting or own)[:1]


def _telling(kind: type, text: str, readers: list[Reader]) -> type:
    def call(self: Any, given: Any = None, *others: Any, **options: Any) -> Any:
        asked = given if given is not None else options.get("text")
        first = asked[0] if isinstance(asked, list | tuple) and asked else asked
        if isinstance(first, str):
            before, is_there, after = first.partition(text)
            if is_there:
                readers.append(Reader(tokenizer=self, num_tokens_max=_limit(self, options), before=before, after=after))
        arguments = () if given is None else (given, *others)
        return kind.__call__(self, *arguments, **options)

    return type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})


def _limit(tokenizer: Any, options: dict[str, Any]) -> int | None:
    """Of a call of the tokenizer."""
    if options.get("truncation") in (None, False, "do_not_truncate") or not tokenizer.is_fast:
        return None
    return int(options.get("max_length") or tokenizer.model_max_length)
