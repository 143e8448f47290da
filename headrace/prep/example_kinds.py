"""Documents as examples that fit into a sequence, by the corpus's kind of example; and how one looks.

The one place that knows all kinds: packing, dropped documents and `headrace check` ask it.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from headrace.chat.template import Message
from headrace.chat.tokenizer import ChatTokenizer
from headrace.chat.turn_spans import SpannedChat
from headrace.prep.chats import Document, completion_chats, completion_messages, messages_of
from headrace.prep.conversations import conversation_chat, fitted_conversation
from headrace.prep.corpus import Corpus
from headrace.prep.example_forms import OF_MESSAGES
from headrace.prep.fitting import Fitted, fitted_completion, fitted_pair, fitted_text, learnt_text
from headrace.prep.pairs import pair_chats, tokenized_pairs
from headrace.prep.token_spans import TokenizedExample, tokenized_chats

# What stands around text that carries loss, where one example is shown.
LOSS_BEGIN, LOSS_END = "⟦", "⟧"


def tokenizer_for(corpus: Corpus, model: str) -> ChatTokenizer:
    """The tokenizer of a directory or hub name, with what the corpus's examples need of it.

    Raises:
        InvalidInput: as `ChatTokenizer.load`.
    """
    needs_template = corpus.example.kind != "plain"
    return ChatTokenizer.load(model, date=corpus.template_date, needs_template=needs_template)


def row_columns(corpus: Corpus) -> list[str]:
    """The columns of clean documents that examples are made of."""
    carried = ["messages"] if corpus.example.kind in OF_MESSAGES else []
    return ["document_id", "term", "category", "text", *carried]


def tokenized_documents(
    corpus: Corpus, rows: Sequence[Document], tokenizer: ChatTokenizer
) -> Iterator[TokenizedExample]:
    """Each of `rows` whole, however long, in order.

    Raises:
        InvalidInput: the model's chat template refuses a document, or changes what it should copy.
    """
    match corpus.example.kind:
        case "completion":
            yield from tokenized_chats(list(completion_chats(corpus, rows, tokenizer)), tokenizer)
        case "conversation":
            yield from tokenized_chats([conversation_chat(corpus, row, tokenizer) for row in rows], tokenizer)
        case "pair":
            yield from tokenized_pairs(rows, tokenizer)
        case "plain":
            beginning, (_, end) = tokenizer.beginning_ids, tokenizer.end_of_text
            for ids in tokenizer.encode_texts([row["text"] or "" for row in rows]):
                yield learnt_text(np.asarray([*beginning, *ids, end], dtype=np.int32))


def fitted_document(corpus: Corpus, row: Document, example: TokenizedExample, tokenizer: ChatTokenizer) -> Fitted:
    """A document's examples, as far as they fit into `sequence_length`.

    Args:
        example: the whole of it.
    """
    length, overlong = corpus.sequence_length, corpus.example.overlong
    match corpus.example.kind:
        case "completion":
            return fitted_completion(example, length, overlong)
        case "conversation":
            return fitted_conversation(corpus, row, example, tokenizer)
        case "pair":
            return fitted_pair(example, length, overlong)
        case "plain":
            return fitted_text(example, len(tokenizer.beginning_ids), length, overlong)


def fitted_examples(corpus: Corpus, rows: Sequence[Document], tokenizer: ChatTokenizer) -> Iterator[Fitted]:
    """Both of each of `rows`, in order.

    Raises:
        InvalidInput: as `tokenized_documents`.
    """
    for row, example in zip(rows, tokenized_documents(corpus, rows, tokenizer), strict=True):
        yield fitted_document(corpus, row, example, tokenizer)


def shown_example(corpus: Corpus, row: Document, tokenizer: ChatTokenizer | None) -> str:
    """One example for people, as the model will read it, with what carries loss between ⟦ and ⟧.

    Without a tokenizer turn by turn.
    """
    kind = corpus.example.kind
    if kind == "plain":
        end = tokenizer.end_of_text[0] if tokenizer else ""
        return f"{LOSS_BEGIN}{row['text']}{end}{LOSS_END}"
    if tokenizer is None:
        return "\n".join(_turn(name, message) for name, message in _listed(corpus, row))
    if kind == "completion":
        return _with_loss(next(completion_chats(corpus, [row], tokenizer)))
    if kind == "conversation":
        return _with_loss(conversation_chat(corpus, row, tokenizer))
    chosen, rejected = map(_with_loss, pair_chats(row, tokenizer))
    return f"chosen:\n{chosen}\nrejected:\n{rejected}"


def _listed(corpus: Corpus, row: Document) -> Iterator[tuple[str, Message]]:
    if corpus.example.kind == "completion":
        yield from (("", message) for message in completion_messages(corpus, row))
        return
    for name, messages in messages_of(row).items():
        if name != "tools":
            yield from ((f"{name} " if name in ("chosen", "rejected") else "", message) for message in messages)


def _turn(name: str, message: Message) -> str:
    calls = [f"\n  calls {call['function']['name']}" for call in message.get("tool_calls", ())]
    return f"{name}{message['role']}: {message['content']}{''.join(calls)}"


def _with_loss(chat: SpannedChat) -> str:
    text, shown, place = chat.chat.text, [], 0
    for start, end in chat.spans:
        shown += [text[place:start], LOSS_BEGIN, text[start:end], LOSS_END]
        place = end
    return "".join([*shown, text[place:]])
