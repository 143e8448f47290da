"""Documents are tokenized once: what is known makes the same examples, and only what it cannot know is made anew."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.chat.tokenizer import ChatTokenizer
from headrace.handoff.schemas import MESSAGES, check_schema
from headrace.handoff.versions import HandoffStore
from headrace.prep.corpus import Corpus
from headrace.prep.example_forms import ExampleForm, ExamplePrompt
from headrace.prep.examples import build_examples
from headrace.prep.token_store import KeptTokens, tokens_digest
from headrace.store.local import LocalStore
from tests.chat.chat_templates import CHATML, GENERATION, model_of
from tests.prep.builders import make_clean, make_corpus

KINDS: dict[str, Corpus] = {
    "completion": make_corpus(),
    "conversation": make_corpus(
        columns={"messages": "m"}, prompt=None, example=ExampleForm(kind="conversation", overlong="truncate_start")
    ),
    "pair": make_corpus(
        columns={"chosen": "c", "rejected": "r"}, prompt=None, example=ExampleForm(kind="pair", overlong="truncate_end")
    ),
    "plain": make_corpus(columns={"text": "t"}, prompt=None, example=ExampleForm(kind="plain", overlong="split")),
}


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> ChatTokenizer:
    return ChatTokenizer(tiny_model)


def documents_of(kind: str, numbers: range) -> pa.Table:
    texts = [f"text {number} <|im_end|> " + "word " * (number % 30) for number in numbers]
    table = make_clean(*({"text": text, "term": f"term {text}", "document_id": text} for text in texts))
    if kind in ("completion", "plain"):
        return table
    return table.append_column(MESSAGES, pa.array([json.dumps(carried(kind, text)) for text in texts]))


def carried(kind: str, text: str) -> dict[str, Any]:
    asked = [{"role": "user", "content": f"Why {text}?"}]
    first, second = ([{"role": "assistant", "content": f"{word} {text}"}] for word in ("yes", "no"))
    if kind == "pair":
        return {"prompt": asked, "chosen": first, "rejected": second}
    return {"messages": [*asked, *first, *asked, *second]}


@pytest.mark.parametrize("kind", KINDS)
def test_known_tokens_make_the_same_examples_and_only_new_texts_are_tokenized(
    kind: str, tokenizer: ChatTokenizer
) -> None:
    corpus = dataclasses.replace(KINDS[kind], sequence_length=80)
    first = build_examples(corpus, documents_of(kind, range(40)), tokenizer)
    check_schema("tokenized_documents", first.tokens)
    assert (first.num_tokenized, first.tokens.num_rows) == (40, 40)
    for length, numbers, num_new in ((80, range(40), 0), (128, range(40), 0), (80, range(10, 45), 5)):
        changed = dataclasses.replace(corpus, sequence_length=length)
        documents = documents_of(kind, numbers)

        again = build_examples(changed, documents, tokenizer, first.tokens)

        anew = build_examples(changed, documents, tokenizer)
        assert again.num_tokenized == num_new
        assert again.sequences.equals(anew.sequences)
        assert again.counts == anew.counts
        assert again.tokens.equals(anew.tokens)


def test_texts_that_stand_twice_are_tokenized_once(tokenizer: ChatTokenizer) -> None:
    twins = [{"text": "a weir", "term": "weir"}, {"text": "a weir", "term": "weir"}, {"text": "a weir", "term": None}]

    made = build_examples(make_corpus(prompt=ExamplePrompt(user="Go on.")), make_clean(*twins), tokenizer)

    assert (made.num_tokenized, made.counts["train"].num_examples) == (2, 3)


def test_what_decides_ids_and_spans_is_in_the_digest_and_nothing_else(tiny_model: Path, tmp_path: Path) -> None:
    marked = ChatTokenizer(model_of(tiny_model, tmp_path / "marked", GENERATION))
    tokenizer = ChatTokenizer(model_of(tiny_model, tmp_path / "plain", CHATML))
    corpus = KINDS["conversation"]
    digest = tokens_digest(corpus, tokenizer)

    same = dataclasses.replace(corpus, sequence_length=7, example=ExampleForm(kind="conversation"))
    last = dataclasses.replace(corpus, example=ExampleForm(kind="conversation", loss="last"))
    assert tokens_digest(same, tokenizer) == digest
    others = [tokens_digest(corpus, marked), tokens_digest(last, tokenizer), tokens_digest(make_corpus(), tokenizer)]
    others.append(tokens_digest(make_corpus(completion="{term}: {text}"), tokenizer))
    assert len({digest, *others}) == 5


def test_sealed_tokens_are_found_again_and_damaged_ones_are_none(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    tokens = build_examples(make_corpus(), documents_of("completion", range(9)), tokenizer).tokens
    kept = KeptTokens(HandoffStore(LocalStore(tmp_path)), "shard-00", "of this tokenizer")
    assert kept.known() is None

    kept.seal(tokens, run_id="r")

    found = kept.known()
    assert found is not None
    assert found.equals(tokens.cast(found.schema))
    assert dataclasses.replace(kept, digest="of another").known() is None
    [part] = list(tmp_path.rglob("*.arrow"))
    body = bytearray(part.read_bytes())
    body[len(body) // 2] ^= 0xFF
    part.chmod(0o644)
    part.write_bytes(body)
    assert KeptTokens(HandoffStore(LocalStore(tmp_path)), "shard-00", "of this tokenizer").known() is None
