"""The kinds of training examples a corpus can make, and which columns and settings belong to each.

A completion is made of a document by templates; a conversation and a preference pair stand in the files as messages; a
plain text is learnt as it is. Knows nothing of tokens.
"""

from dataclasses import dataclass
from typing import Any, Literal

from headrace.errors import InvalidInput
from headrace.text_templates import placeholders
from headrace.user_files.ranges import check_ranges

ExampleKind = Literal["completion", "conversation", "pair", "plain"]
Overlong = Literal["drop", "truncate_end", "truncate_start", "split"]

# Ours, in the order in which refusals name them.
INPUT_COLUMNS: dict[ExampleKind, tuple[str, ...]] = {
    "completion": ("document_id", "term", "category", "text", "examples"),
    "conversation": ("document_id", "term", "category", "messages", "tools"),
    "pair": ("document_id", "term", "category", "prompt", "chosen", "rejected"),
    "plain": ("document_id", "term", "category", "text", "examples"),
}
# Without these no example can be made; a completion's templates may need more.
NEEDED_COLUMNS: dict[ExampleKind, tuple[str, ...]] = {
    "completion": ("text",),
    "conversation": ("messages",),
    "pair": ("chosen", "rejected"),
    "plain": ("text",),
}
# The kinds whose documents carry messages beside their text.
OF_MESSAGES: tuple[ExampleKind, ...] = ("conversation", "pair")

# A pair is compared from its common prompt on, so only its ends may go; a template's turns cannot be split.
_OVERLONG: dict[ExampleKind, tuple[Overlong, ...]] = {
    "completion": ("drop", "truncate_end", "truncate_start"),
    "conversation": ("drop", "truncate_end", "truncate_start"),
    "pair": ("drop", "truncate_end"),
    "plain": ("drop", "truncate_end", "truncate_start", "split"),
}


@dataclass(frozen=True, kw_only=True)
class ExampleForm:
    """What one document becomes, or the kind's name alone."""

    kind: ExampleKind = "completion"
    """`completion`: `prompt` and `completion`, filled with the document, as a chat. `conversation`: the column
    `messages` in OpenAI's form. `pair`: the columns `prompt`, `chosen` and `rejected`. `plain`: the text as it is, and
    the end-of-text token."""
    loss: Literal["assistant", "last"] = "assistant"
    """Which turns of a conversation are learnt: all of the assistant's, or its last one."""
    overlong: Overlong = "drop"
    """What becomes of an example longer than `sequence_length`: dropped; `truncate_end` and `truncate_start` cut a
    completion or a plain text there, and leave out a conversation's last or first turns; `split` makes several of a
    plain text. A prompt is never cut: where it alone is too long, the example is dropped."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.overlong not in _OVERLONG[self.kind]:
            raise InvalidInput(
                f"overlong must be one of {', '.join(_OVERLONG[self.kind])} for the kind {self.kind}, got "
                f"{self.overlong!r}."
            )
        if self.loss == "last" and self.kind != "conversation":
            raise InvalidInput(f"loss last is for conversations, got the kind {self.kind}: leave it out.")
        if self.loss == "last" and self.overlong == "truncate_end":
            raise InvalidInput(
                "overlong truncate_end leaves out the last turn, which alone is learnt with loss last: take "
                "truncate_start or drop."
            )


@dataclass(frozen=True, kw_only=True)
class ExamplePrompt:
    """The two turns before the completion; the document fills `{term}` and `{category}`."""

    user: str
    """The user turn."""
    system: str | None = None
    """null leaves the system turn to the model's own chat template, which may add one."""

    def __post_init__(self) -> None:
        placeholders("user", self.user, texts=("term", "category"))
        placeholders("system", self.system or "", texts=("term", "category"))


def form_of(content: Any) -> Any:
    """What a file's value of `example` stands for: a kind's name is that kind with the defaults of all else."""
    return {"kind": content} if isinstance(content, str) else content


def check_columns(kind: ExampleKind, columns: dict[str, str]) -> None:
    """Raises: InvalidInput: a column is not one of the kind's, or one that it needs is not mapped."""
    of_kind = "" if kind == "completion" else f" for the kind {kind}"
    for name in columns:
        if name not in INPUT_COLUMNS[kind]:
            raise InvalidInput(f"columns must map {', '.join(INPUT_COLUMNS[kind])}{of_kind}, got {name!r}.")
    for name in NEEDED_COLUMNS[kind]:
        if name not in columns:
            raise InvalidInput(f"columns must map {name!r} to the column that holds the {name}{of_kind}.")
