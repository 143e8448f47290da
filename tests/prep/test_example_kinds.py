"""Conversations, pairs and plain texts as training examples, and what becomes of those that are too long."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.chat.tokenizer import ChatTokenizer
from headrace.errors import InvalidInput
from headrace.handoff.content_digest import digest_of
from headrace.handoff.schemas import MESSAGES, check_schema
from headrace.prep.corpus import Corpus
from headrace.prep.drops import TooMuchDropped
from headrace.prep.example_forms import ExampleForm, ExamplePrompt
from headrace.prep.example_kinds import fitted_examples, shown_example, tokenized_documents, tokenizer_for
from headrace.prep.examples import NO_LOSS, build_examples, made_by
from headrace.prep.fitting import fitted_completion, fitted_text, learnt_text
from headrace.prep.token_spans import TokenizedExample
from headrace.training.examples import PackedExamples
from tests.chat.chat_templates import CHATML_WITH_TOOLS, GEMMA, model_of
from tests.prep.builders import gloss, make_clean, make_corpus

SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path) -> ChatTokenizer:
    return ChatTokenizer(tiny_model)


def make_kind(kind: Any, **changes: Any) -> Corpus:
    columns = {
        "conversation": {"messages": "messages"},
        "pair": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
        "plain": {"text": "text"},
    }[kind]
    form = ExampleForm(kind=kind, **{key: changes.pop(key) for key in ("loss", "overlong") if key in changes})
    return make_corpus(**{"columns": columns, "prompt": None, "example": form} | changes)


def exchange(number: int, num_words: int = 2) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"Question {number}?"},
        {"role": "assistant", "content": f"answer {number}" + " word" * num_words},
    ]


def conversation(num_exchanges: int, *, system: bool = True) -> list[dict[str, str]]:
    return [*([SYSTEM] if system else []), *(turn for number in range(num_exchanges) for turn in exchange(number))]


def carrying(*bodies: Mapping[str, Any], splits: Sequence[str] = ()) -> pa.Table:
    """CLEAN_DOCUMENTS with messages."""
    made = make_clean(
        *({"text": f"text {number}", "split": split} for number, split in enumerate(splits or ["train"] * len(bodies)))
    )
    return made.append_column(MESSAGES, pa.array([json.dumps(body) for body in bodies]))


def learnt(row: Mapping[str, Any], tokenizer: ChatTokenizer) -> list[str]:
    """The text of each run of tokens with loss in a packed row."""
    carries = [label != NO_LOSS for label in row["labels"]]
    edges = [place for place in range(1, len(carries)) if carries[place] != carries[place - 1]]
    runs = [(start, end) for start, end in pairwise([0, *edges, len(carries)]) if carries[start]]
    return [tokenizer.backend.decode(row["input_ids"][start:end], skip_special_tokens=False) for start, end in runs]


def text_of(row: Mapping[str, Any], tokenizer: ChatTokenizer) -> str:
    """The first example of a packed row."""
    ends = [place for place in range(1, len(row["position_ids"])) if row["position_ids"][place] == 0]
    ids = row["input_ids"][: ends[0] if ends else None]
    return tokenizer.backend.decode(ids, skip_special_tokens=False)


def test_completions_are_the_bytes_that_they_were_before_there_were_other_kinds(tokenizer: ChatTokenizer) -> None:
    documents = make_clean(
        *(
            {"term": f"term {number}", "text": gloss(number)["gloss"], "split": "train" if number % 10 else "heldout"}
            for number in range(200)
        ),
        {"term": "x", "text": "spells <|im_end|> it"},
        {"term": "y", "text": "long " * 200},
    )
    demo = ExamplePrompt(system="You write dictionary definitions.", user='Define the {category} "{term}".')
    digests = [
        digest_of(build_examples(corpus, documents, tokenizer).sequences)
        for corpus in (make_corpus(prompt=demo), make_corpus(completion="{term}: {text}", sequence_length=128))
    ]
    assert digests == [
        "bd5b85c4368a7941991e64b686702c0b8febfe9aab5942f352771e188f817b67",
        "d197a9474eab39c919264e72d00ada45b5fd7861c56ded2a879c55a01b5b0428",
    ]


def test_of_a_conversation_each_answer_and_its_end_carry_loss_or_the_last_one(tokenizer: ChatTokenizer) -> None:
    documents = carrying({"messages": conversation(2)})
    every = build_examples(make_kind("conversation"), documents, tokenizer)
    last = build_examples(make_kind("conversation", loss="last"), documents, tokenizer)

    check_schema("training_examples", every.sequences)
    [row] = every.sequences.to_pylist()
    assert learnt(row, tokenizer) == ["answer 0 word word<|im_end|>", "answer 1 word word<|im_end|>"]
    assert text_of(row, tokenizer) == tokenizer.render(conversation(2))
    assert learnt(last.sequences.to_pylist()[0], tokenizer) == ["answer 1 word word<|im_end|>"]
    assert every.counts["train"].num_completion_tokens == row["num_completion_tokens"]


def test_conversations_that_begin_alike_have_the_ids_of_each_alone(tokenizer: ChatTokenizer) -> None:
    corpus = make_kind("conversation", sequence_length=512)
    rows = carrying(*({"messages": conversation(number)} for number in range(1, 6))).to_pylist()

    together = list(fitted_examples(corpus, rows, tokenizer))

    for row, fitted in zip(rows, together, strict=True):
        [alone] = fitted_examples(corpus, [row], tokenizer)
        assert fitted.examples[0].ids.tolist() == alone.examples[0].ids.tolist()
        assert fitted.examples[0].spans == alone.examples[0].spans


def test_tools_reach_the_template(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(model_of(tiny_model, tmp_path / "model", CHATML_WITH_TOOLS))
    tools = [{"type": "function", "function": {"name": "weather"}}]
    documents = carrying({"messages": conversation(1, system=False), "tools": tools})

    [row] = build_examples(make_kind("conversation", sequence_length=512), documents, tokenizer).sequences.to_pylist()

    assert f"<tools>\n{json.dumps(tools[0])}\n</tools>" in text_of(row, tokenizer)


def test_a_conversation_that_the_template_refuses_is_named(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(
        model_of(tiny_model, tmp_path / "model", GEMMA, ("<bos>", "<start_of_turn>", "<end_of_turn>"))
    )
    documents = carrying({"messages": conversation(1, system=False)}, {"messages": conversation(1)})

    with pytest.raises(InvalidInput, match=r"^Document d2: Chat template of .* refuses .* System role not supported"):
        build_examples(make_kind("conversation"), documents, tokenizer)


def test_of_an_overlong_conversation_the_last_turns_go_or_the_first_ones_after_the_system_turn(
    tokenizer: ChatTokenizer,
) -> None:
    documents = carrying({"messages": conversation(8)}, {"messages": conversation(1)}, splits=["heldout", "train"])
    made = {
        overlong: build_examples(
            make_kind("conversation", overlong=overlong, sequence_length=160), documents, tokenizer
        )
        for overlong in ("drop", "truncate_end", "truncate_start")
    }
    assert made["drop"].drops == {"overlong": 1}
    assert made["drop"].counts["heldout"].num_overlong == 1
    assert made["drop"].counts["heldout"].num_documents == 0
    ends = {}
    for overlong in ("truncate_end", "truncate_start"):
        assert made[overlong].drops == {"overlong": 0}
        assert made[overlong].counts["heldout"].num_truncated == 1
        [row] = [row for row in made[overlong].sequences.to_pylist() if row["split"] == "heldout"]
        ends[overlong] = learnt(row, tokenizer)
        assert text_of(row, tokenizer).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQuestion")
    num = len(ends["truncate_end"])
    assert ends["truncate_end"] == [f"answer {number} word word<|im_end|>" for number in range(num)]
    first = 8 - len(ends["truncate_start"])
    assert ends["truncate_start"] == [f"answer {number} word word<|im_end|>" for number in range(first, 8)]
    # One more exchange would not fit.
    [longer] = fitted_examples(
        make_kind("conversation", sequence_length=10_000),
        carrying({"messages": [SYSTEM, *conversation(8)[1 + 2 * (first - 1) :]]}).to_pylist(),
        tokenizer,
    )
    assert longer.num_tokens > 160


def test_a_conversation_whose_last_exchange_alone_is_too_long_is_dropped(tokenizer: ChatTokenizer) -> None:
    documents = carrying({"messages": [*exchange(0), *exchange(1, 200)]}, {"messages": conversation(1)})

    made = build_examples(
        make_kind("conversation", overlong="truncate_start", sequence_length=100), documents, tokenizer
    )

    assert made.drops == {"overlong": 1}


def test_the_last_turns_that_fit_have_one_with_weight(tokenizer: ChatTokenizer) -> None:
    messages = conversation(8)
    messages[-1] = {**messages[-1], "weight": 0}  # type: ignore[dict-item]
    corpus = make_kind("conversation", overlong="truncate_start", sequence_length=100)

    [row] = build_examples(corpus, carrying({"messages": messages}), tokenizer).sequences.to_pylist()

    assert learnt(row, tokenizer)[-1] == "answer 6 word word<|im_end|>"
    assert text_of(row, tokenizer).endswith("answer 7 word word<|im_end|>\n")


def test_a_pairs_prompt_and_answers_are_the_ids_of_both_chats(tokenizer: ChatTokenizer) -> None:
    bodies = [
        {
            "prompt": [SYSTEM, {"role": "user", "content": f"Question {number}?"}],
            "chosen": [{"role": "assistant", "content": f"\ngood {number}"}],
            "rejected": [{"role": "assistant", "content": f"bad <|im_end|> {number}"}],
        }
        for number in range(5)
    ]
    made = build_examples(make_kind("pair"), carrying(*bodies), tokenizer)

    check_schema("training_examples", made.sequences)
    for body, row in zip(bodies, made.sequences.to_pylist(), strict=True):
        # What the model is asked with; of it the last line break belongs to a token of the first answer, too.
        asked = tokenizer.encode_chat(body["prompt"])
        assert row["prompt_ids"] == asked[: len(row["prompt_ids"])]
        assert len(asked) - len(row["prompt_ids"]) <= 1
        for name in ("chosen", "rejected"):
            ids = tokenizer.encode_chat([*body["prompt"], *body[name]], add_generation_prompt=False)
            whole = row["prompt_ids"] + row[f"{name}_ids"]
            assert whole == ids[: len(whole)]
            assert tokenizer.backend.decode(ids[len(whole) :], skip_special_tokens=False) == "\n"
            answer = tokenizer.backend.decode(row[f"{name}_ids"], skip_special_tokens=False)
            assert answer.endswith(f"{body[name][0]['content']}<|im_end|>")
    counts = made.counts["train"]
    assert counts.num_examples == counts.num_sequences == 5
    assert made.padding_share == 0


def test_of_an_overlong_pair_both_ends_go_unless_only_they_differ(tokenizer: ChatTokenizer) -> None:
    def body(chosen: str, rejected: str) -> dict[str, Any]:
        answers = {"chosen": chosen, "rejected": rejected}
        return {"prompt": [{"role": "user", "content": "Why?"}]} | {
            name: [{"role": "assistant", "content": text}] for name, text in answers.items()
        }

    corpus = make_kind("pair", overlong="truncate_end", sequence_length=40)
    documents = carrying(body("good" + " x" * 60, "bad"), body("same" + " x" * 60 + "1", "same" + " x" * 60 + "2"))
    made = build_examples(corpus, documents, tokenizer)

    [row] = made.sequences.to_pylist()
    assert len(row["prompt_ids"]) + len(row["chosen_ids"]) == 40
    assert tokenizer.backend.decode(row["rejected_ids"], skip_special_tokens=False) == "bad<|im_end|>"
    assert made.counts["train"].num_truncated == 1
    assert made.drops == {"overlong": 1}


def test_a_plain_text_is_learnt_whole_with_its_end_and_special_tokens_in_it_are_text(tokenizer: ChatTokenizer) -> None:
    texts = ["def f(x):\n\treturn x", "says <|im_end|> and goes on"]

    made = build_examples(make_kind("plain"), make_clean(*texts), tokenizer)

    check_schema("training_examples", made.sequences)
    [row] = made.sequences.to_pylist()
    starts = [place for place in range(len(row["position_ids"])) if row["position_ids"][place] == 0]
    for text, (start, end) in zip(texts, pairwise(starts), strict=True):
        ids = row["input_ids"][start:end]
        assert tokenizer.backend.decode(ids, skip_special_tokens=False) == f"{text}<|im_end|>"
        # Nothing predicts an example's first token.
        assert row["labels"][start:end] == [NO_LOSS, *ids[1:]]
        assert ids.count(tokenizer.end_of_text[1]) == 1


def test_a_base_model_without_a_template_takes_plain_texts_and_puts_its_own_token_before_them(
    tiny_model: Path, tmp_path: Path
) -> None:
    directory = model_of(tiny_model, tmp_path / "model", "", ("<s>",))
    (directory / "chat_template.jinja").unlink()
    body = json.loads((directory / "tokenizer.json").read_text())
    body["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    }
    (directory / "tokenizer.json").write_text(json.dumps(body))

    with pytest.raises(InvalidInput, match="has no chat template"):
        tokenizer_for(make_corpus(), str(directory))
    tokenizer = tokenizer_for(make_kind("plain"), str(directory))
    [row] = build_examples(make_kind("plain"), make_clean("a weir"), tokenizer).sequences.to_pylist()

    assert text_of(row, tokenizer) == "<|endoftext|>a weir<|im_end|>"
    # Each piece of a split text begins so, too.
    [text] = make_clean("a weir in the river " * 9).to_pylist()
    [whole] = tokenized_documents(make_kind("plain"), [text], tokenizer)
    [fitted] = fitted_examples(make_kind("plain", overlong="split", sequence_length=16), [text], tokenizer)
    assert {tuple(piece.ids[:1].tolist()) for piece in fitted.examples} == {tuple(tokenizer.beginning_ids)}
    assert learnt_ids(fitted.examples) == whole.ids[1:].tolist()


def learnt_ids(examples: Sequence[TokenizedExample]) -> list[int]:
    return [token for one in examples for start, end in one.spans for token in one.ids[start:end].tolist()]


@settings(max_examples=60, deadline=None)
@given(num_tokens=st.integers(2, 60), num_beginning=st.integers(0, 2), length=st.integers(2, 20))
def test_an_overlong_text_is_cut_at_the_end_that_is_named_or_split_without_loss(
    num_tokens: int, num_beginning: int, length: int
) -> None:
    ids = np.arange(num_tokens, dtype=np.int32)
    made = {
        overlong: fitted_text(learnt_text(ids), num_beginning, length, overlong).examples
        for overlong in ("drop", "truncate_end", "truncate_start", "split")
    }
    kept = {overlong: [one.ids.tolist() for one in examples] for overlong, examples in made.items()}
    whole = ids.tolist()
    # Each token is learnt once, as it is in the whole.
    assert learnt_ids(made["split"]) == learnt_ids([learnt_text(ids)])
    if num_tokens <= length:
        assert all(examples == [whole] for examples in kept.values())
        return
    assert kept["drop"] == []
    assert kept["truncate_end"] == [whole[:length]]
    if num_beginning < length:
        assert kept["truncate_start"] == [whole[:num_beginning] + whole[num_tokens - length + num_beginning :]]
    assert all(2 <= len(piece) <= length for piece in kept["split"])
    assert kept["split"][0] == whole[:length]
    for piece in made["split"][1:]:
        [(start, _)] = piece.spans
        beginning = whole[:num_beginning] if length > num_beginning + 1 else []
        assert piece.ids[:start].tolist() == [*beginning, piece.ids[start] - 1]


def test_pieces_are_made_again_and_no_other_examples(tokenizer: ChatTokenizer) -> None:
    plain, split = make_kind("plain"), make_kind("plain", overlong="split")
    assert made_by(plain, tokenizer) == {"corpus": plain.digest, "tokenizer": tokenizer.digest}
    assert made_by(split, tokenizer).keys() == {"corpus", "tokenizer", "pieces"}


@settings(max_examples=60, deadline=None)
@given(before=st.integers(1, 10), text=st.integers(1, 30), behind=st.integers(0, 2), length=st.integers(1, 45))
def test_of_an_overlong_completion_only_the_completion_is_cut(before: int, text: int, behind: int, length: int) -> None:
    ids = np.arange(before + text + behind, dtype=np.int32)
    example = TokenizedExample(ids=ids, spans=((before, before + text),))
    for overlong in ("truncate_end", "truncate_start"):
        fitted = fitted_completion(example, length, overlong)
        if len(ids) <= length:
            assert fitted.outcome == "whole"
            continue
        for one in fitted.examples:
            [(start, end)] = one.spans
            assert fitted.outcome == "truncated"
            assert len(one.ids) == length
            assert one.ids[:start].tolist() == ids[:before].tolist()
            cut = one.ids[start:end].tolist()
            wanted = ids[before : before + text].tolist()
            assert cut == (wanted[: len(cut)] if overlong == "truncate_end" else wanted[-len(cut) :])
        assert bool(fitted.examples) == (
            length > before if overlong == "truncate_end" else length > before + behind + 1
        )


def test_nothing_left_of_a_shard_fails_whatever_share_may_be_dropped(tokenizer: ChatTokenizer) -> None:
    corpus = make_corpus(sequence_length=8, dropped_share_max=1.0)
    with pytest.raises(TooMuchDropped, match=r"2 of 2 documents \(100%\) are dropped.* by overlong.*sequence_length"):
        build_examples(corpus, make_clean("a weir", "a dam"), tokenizer)


def test_what_is_kept_and_dropped_of_each_side_adds_up(tokenizer: ChatTokenizer) -> None:
    texts = [
        {"text": "word " * (number % 40 + 1), "split": "heldout" if number % 4 == 0 else "train"}
        for number in range(80)
    ]
    for overlong in ("drop", "truncate_end", "split"):
        made = build_examples(make_kind("plain", overlong=overlong, sequence_length=32), make_clean(*texts), tokenizer)
        for split, counts in made.counts.items():
            assert counts.num_documents + counts.num_overlong == sum(one["split"] == split for one in texts)
            rows = [row for row in made.sequences.to_pylist() if row["split"] == split]
            assert sum(row["num_examples"] for row in rows) == counts.num_examples
        assert sum(made.drops.values()) == sum(counts.num_overlong for counts in made.counts.values())
        assert bool(made.drops["overlong"]) == (overlong == "drop")


@pytest.mark.parametrize("kind", ["conversation", "plain"])
def test_the_trainer_reads_them_as_it_reads_completions(kind: str, tokenizer: ChatTokenizer) -> None:
    documents = carrying(*({"messages": conversation(number)} for number in (1, 2, 3)))
    made = build_examples(make_kind(kind), documents, tokenizer)
    examples = PackedExamples([made.sequences], "train")

    numbers = range(len(examples))
    assert examples.num_tokens(numbers) == made.counts["train"].num_tokens
    assert examples.num_loss_tokens(numbers) == made.counts["train"].num_completion_tokens


def test_one_example_is_shown_with_what_carries_loss(tokenizer: ChatTokenizer) -> None:
    [chat] = carrying({"messages": conversation(1)}).to_pylist()
    answers = {
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
    }
    [pair] = carrying({"prompt": [{"role": "user", "content": "Why?"}], **answers}).to_pylist()
    [text] = make_clean({"text": "a weir", "term": "weir"}).to_pylist()

    assert shown_example(make_kind("conversation"), chat, tokenizer) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQuestion 0?<|im_end|>\n"
        "<|im_start|>assistant\n⟦answer 0 word word<|im_end|>⟧\n"
    )
    assert shown_example(make_kind("conversation"), chat, None).endswith("assistant: answer 0 word word")
    asked = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert shown_example(make_kind("pair"), pair, tokenizer) == (
        f"chosen:\n{asked}⟦good<|im_end|>⟧\n\nrejected:\n{asked}⟦bad<|im_end|>⟧\n"
    )
    assert shown_example(make_kind("pair"), pair, None) == (
        "user: Why?\nchosen assistant: good\nrejected assistant: bad"
    )
    assert shown_example(make_kind("plain"), text, tokenizer) == "⟦a weir<|im_end|>⟧"
    assert "⟦a weir<|im_end|>⟧" in shown_example(make_corpus(), text, tokenizer)
