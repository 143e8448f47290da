"""Documents as chats in a model's own template, with the characters of what carries loss and of what ends its turn.

Knows nothing of tokens.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headrace.chat.template import Message, Tools
from headrace.chat.tokenizer import ChatTokenizer
from headrace.chat.turn_spans import SpannedChat, end_of_turn, spanned
from headrace.errors import InvalidInput
from headrace.prep.corpus import Corpus

# A row of clean documents: its id, term, category and text, and of some corpora its messages.
Document = Mapping[str, str | None]


def completion_chats(corpus: Corpus, rows: Sequence[Document], tokenizer: ChatTokenizer) -> Iterator[SpannedChat]:
    """The chats of `rows`, in order.

    Raises:
        InvalidInput: the model's chat template refuses a system turn, or changes the completion.
    """
    probe = {"term": "term", "category": "category"}
    behind = end_of_turn(tokenizer, _prompt_messages(corpus, probe))
    for row in rows:
        completion = corpus.completion.format_map(row)
        messages = [*_prompt_messages(corpus, row), {"role": "assistant", "content": completion}]
        chat = tokenizer.rendered(messages)
        start = len(chat.text) - len(behind) - len(completion)
        if chat.text[start:] != completion + behind:
            raise InvalidInput(
                f"The base model's chat template does not keep the completion {completion!r} as it is, got "
                f"{chat.text!r}. Take a model whose template copies the assistant's words."
            )
        # The model should learn the end token, but not the line break after it.
        yield SpannedChat(chat, ((start, len(chat.text) - len(behind) + len(behind.rstrip())),))


def completion_messages(corpus: Corpus, row: Document) -> list[Message]:
    """A document's prompt and completion."""
    return [*_prompt_messages(corpus, row), {"role": "assistant", "content": corpus.completion.format_map(row)}]


def messages_of(row: Document) -> dict[str, Any]:
    """What a document of messages carries: lists by name."""
    carried = row["messages"]
    assert carried is not None
    return json.loads(carried)


def document_chat(
    row: Document,
    messages: Sequence[Message],
    tokenizer: ChatTokenizer,
    *,
    tools: Tools | None = None,
    only_last: bool = False,
) -> SpannedChat:
    """A chat of some of a document's messages, with the assistant's turns, or its last one.

    Raises:
        InvalidInput: the template refuses them, or nobody can tell what the assistant generates; names the document.
    """
    try:
        return spanned(tokenizer, messages, tools, only_last=only_last)
    except InvalidInput as error:
        raise InvalidInput(f"Document {row.get('document_id')}: {error}") from error


def _prompt_messages(corpus: Corpus, row: Document) -> list[Message]:
    assert corpus.prompt is not None
    turns = {"system": corpus.prompt.system, "user": corpus.prompt.user}
    return [{"role": role, "content": text.format_map(row)} for role, text in turns.items() if text is not None]
