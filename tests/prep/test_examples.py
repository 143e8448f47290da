from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.chat.tokenizer import ChatTokenizer, RenderedChat
from headrace.errors import InvalidInput
from headrace.handoff.schemas import check_schema
from headrace.prep.chats import completion_chats
from headrace.prep.drops import TooMuchDropped
from headrace.prep.example_forms import ExamplePrompt
from headrace.prep.examples import NO_LOSS, build_examples
from headrace.prep.token_spans import tokenized_chats
from tests.prep.builders import gloss, make_clean, make_corpus

DOCUMENTS = [
    {"term": f"term {number}", "text": gloss(number)["gloss"], "split": "heldout" if number % 10 == 0 else "train"}
    for number in range(200)
]


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path) -> ChatTokenizer:
    return ChatTokenizer(tiny_model)


class RenderingTokenizer(ChatTokenizer):
    """The tiny model's tokenizer with another template."""

    def __init__(self, directory: Path, end: str, change: str = "") -> None:
        super().__init__(directory)
        self._end, self._change = end, change

    def rendered(self, messages: Sequence[Any], **_: Any) -> RenderedChat:
        turns = [f"[{message['role']}] {message['content']}{self._change}" for message in messages]
        return RenderedChat("".join(turns) + self._end)


def chats(sequences: pa.Table, tokenizer: ChatTokenizer) -> list[tuple[str, str]]:
    """Each example of each sequence as its whole text and the text that bears loss."""
    found = []
    for row in sequences.to_pylist():
        starts = [index for index, position in enumerate(row["position_ids"]) if position == 0]
        for start, end in [*pairwise(starts), (starts[-1], len(row["input_ids"]))]:
            ids, labels = row["input_ids"][start:end], row["labels"][start:end]
            learnt = [label for label in labels if label != NO_LOSS]
            if learnt:
                found.append(tuple(tokenizer.backend.decode(part, skip_special_tokens=False) for part in (ids, learnt)))
    return found


def test_each_example_is_the_whole_chat_with_loss_on_the_completion_and_its_end(tokenizer: ChatTokenizer) -> None:
    corpus = make_corpus(
        sequence_length=512, prompt=ExamplePrompt(system="Be brief.", user='Define the {category} "{term}".')
    )
    examples = build_examples(corpus, make_clean({"term": "weir", "text": "a low dam"}), tokenizer)

    ((chat, learnt),) = chats(examples.sequences.slice(0, 1), tokenizer)

    assert chat.startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        '<|im_start|>user\nDefine the noun "weir".<|im_end|>\n'
        "<|im_start|>assistant\na low dam<|im_end|>\n"
    )
    assert learnt == "a low dam<|im_end|>"


@pytest.mark.parametrize("num_documents", [1, 2, 50])
def test_ids_are_those_of_the_whole_chat_however_many_share_its_beginning(
    num_documents: int, tokenizer: ChatTokenizer
) -> None:
    rows = DOCUMENTS[:num_documents]
    corpus = make_corpus(prompt=ExamplePrompt(system="Be brief.", user='Define "{term}".'))

    made = tokenized_chats(list(completion_chats(corpus, rows, tokenizer)), tokenizer)
    for row, example in zip(rows, made, strict=True):
        turns = {"system": "Be brief.", "user": f'Define "{row["term"]}".', "assistant": row["text"]}
        chat = tokenizer.render([{"role": role, "content": content} for role, content in turns.items()])
        assert list(example.ids) == tokenizer.encode_batch([chat])[0].ids
        [(start, end)] = example.spans
        learnt = example.ids[start:end].tolist()
        assert tokenizer.backend.decode(learnt, skip_special_tokens=False) == f"{row['text']}<|im_end|>"


def test_every_document_is_in_the_sequences_of_its_own_split(tokenizer: ChatTokenizer) -> None:
    examples = build_examples(make_corpus(), make_clean(*DOCUMENTS), tokenizer)

    check_schema("training_examples", examples.sequences)
    for split in ("train", "heldout"):
        sides = examples.sequences.column("split").to_pylist()
        own = examples.sequences.filter(pa.array([side == split for side in sides]))
        learnt = sorted(text for _, text in chats(own, tokenizer))
        assert learnt == sorted(row["text"] + "<|im_end|>" for row in DOCUMENTS if row["split"] == split)
        assert examples.counts[split].num_examples == len(learnt)
        assert examples.counts[split].num_sequences == own.num_rows
        assert examples.counts[split].num_completion_tokens == sum(own.column("num_completion_tokens").to_pylist())


def test_positions_restart_with_each_example_and_with_the_padding(tokenizer: ChatTokenizer) -> None:
    examples = build_examples(make_corpus(), make_clean(*DOCUMENTS), tokenizer)

    for row in examples.sequences.to_pylist():
        positions = row["position_ids"]
        assert positions[0] == 0
        assert all(later in (earlier + 1, 0) for earlier, later in pairwise(positions))
        num_padding = len(positions) - 1 - max(i for i, label in enumerate(row["labels"]) if label != NO_LOSS)
        # The template's line break, then padding, which is an example of its own.
        assert positions.count(0) == row["num_examples"] + (num_padding > 1)
        assert all(label in (NO_LOSS, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))


def test_a_document_that_does_not_fit_is_dropped_whole_and_counted(tokenizer: ChatTokenizer) -> None:
    examples = build_examples(make_corpus(sequence_length=64), make_clean("short", "long " * 80), tokenizer)

    assert examples.drops == {"overlong": 1}
    assert examples.num_documents == 2
    assert sum(counts.num_examples for counts in examples.counts.values()) == 1


def test_a_text_that_spells_the_end_of_a_turn_is_learnt_as_text(tokenizer: ChatTokenizer) -> None:
    gloss = "a dam<|im_end|>\n<|im_start|>user"
    turns = tokenizer.backend.token_to_id("<|im_start|>"), tokenizer.backend.token_to_id("<|im_end|>")

    examples = build_examples(make_corpus(), make_clean(gloss, {"term": "<|im_start|>", "text": "a weir"}), tokenizer)

    [row] = examples.sequences.to_pylist()
    assert row["num_examples"] == 2
    assert [row["input_ids"].count(token) for token in turns] == [4, 4]
    # The text and the one token that ends the turn.
    learnt = [label for label in row["labels"] if label != NO_LOSS]
    assert tokenizer.backend.decode(learnt, skip_special_tokens=False) == f"{gloss}<|im_end|>a weir<|im_end|>"


def test_an_empty_shard_makes_an_empty_table_of_the_right_columns(tokenizer: ChatTokenizer) -> None:
    examples = build_examples(make_corpus(), make_clean(), tokenizer)

    check_schema("training_examples", examples.sequences)
    assert examples.padding_share == 0


def test_the_completion_may_be_a_template_too(tokenizer: ChatTokenizer) -> None:
    corpus = make_corpus(completion="{term}: {text}", prompt=ExamplePrompt(user="Define."))

    examples = build_examples(corpus, make_clean({"term": "end", "text": "a {brace}"}), tokenizer)

    assert chats(examples.sequences, tokenizer)[0][1] == "end: a {brace}<|im_end|>"


def test_a_completion_that_looks_like_the_end_is_learnt_whole_with_the_space_of_its_first_token(
    tiny_model: Path,
) -> None:
    tokenizer = RenderingTokenizer(tiny_model, end=" the end.\n")

    examples = build_examples(make_corpus(), make_clean("the end."), tokenizer)

    assert chats(examples.sequences, tokenizer)[0][1] == " the end. the end."


def test_a_template_without_an_end_is_refused_since_nothing_would_teach_the_model_to_stop(tiny_model: Path) -> None:
    with pytest.raises(InvalidInput, match=r"does not end the assistant's turn.*Take an instruct model"):
        build_examples(make_corpus(), make_clean("a dam"), RenderingTokenizer(tiny_model, end=" \n"))


def test_a_template_that_changes_the_completion_is_refused_with_both(tiny_model: Path) -> None:
    class Shouting(RenderingTokenizer):
        def rendered(self, messages: Sequence[Any], **_: Any) -> RenderedChat:
            return RenderedChat(super().rendered(messages).text.replace("dam", "DAM"))

    with pytest.raises(InvalidInput, match=r"does not keep the completion 'a dam' as it is, got .*a DAM"):
        build_examples(make_corpus(), make_clean("a dam"), Shouting(tiny_model, end="</s>"))


def test_the_same_documents_make_the_same_bytes(tokenizer: ChatTokenizer) -> None:
    first, second = (build_examples(make_corpus(), make_clean(*DOCUMENTS), tokenizer).sequences for _ in range(2))

    assert first.equals(second)


def test_a_sequence_length_into_which_nothing_fits_fails_instead_of_sealing_nothing(tokenizer: ChatTokenizer) -> None:
    documents = make_clean(*DOCUMENTS[:20])
    with pytest.raises(TooMuchDropped, match=r"20 of 20 documents are dropped.*by overlong.*Correct sequence_length"):
        build_examples(make_corpus(sequence_length=8, dropped_share_max=0.9), documents, tokenizer)
