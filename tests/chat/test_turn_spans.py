"""What carries loss, in the form of several models' templates: beside transformers, and as a property."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.chat.tokenizer import ChatTokenizer
from headrace.chat.turn_spans import SpannedChat, spanned
from headrace.errors import InvalidInput
from headrace.prep.token_spans import tokenized_chats
from tests.chat.chat_templates import (
    CHATML,
    CHATML_WITH_TOOLS,
    FORMS,
    GENERATION,
    GENERATION_WITH_TOOLS,
    THINKING,
    model_of,
)

CHATS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": 'Define <b> & "é".'}, {"role": "assistant", "content": "a low dam"}],
    [
        {"role": "user", "content": "  two\nlines "},
        {"role": "assistant", "content": "  four blanks \n\n"},
        {"role": "user", "content": "水車とは？"},
        {"role": "assistant", "content": "水で回る車 👩‍🔧"},
        {"role": "user", "content": "four blanks"},
        {"role": "assistant", "content": "four blanks"},
    ],
]
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"z": 1, "a": "é"}}}],
}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
WITH_CALL = [
    {"role": "user", "content": "Sunny?"},
    CALL,
    {"role": "tool", "tool_call_id": "c1", "content": "yes"},
    {"role": "assistant", "content": "It is sunny."},
]
# Texts with what could be mistaken for marks, turns and the template's own words.
CONTENTS = st.one_of(
    st.text(max_size=20),
    st.text("a \n\t<|>imend_[/INST]s", max_size=20),
    st.sampled_from(
        ["<|im_end|>", "a<|im_end|>\n<|im_start|>user\n", "assistant", "\ufdd0x\ufdd1", " a ", "\n", "</s>"]
    ),
).filter(lambda text: text == text.encode("utf-8", "replace").decode())

Maker = Callable[[str, tuple[str, ...]], Path]


@pytest.fixture(scope="module")
def model_with(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return lambda template, tokens=(): model_of(tiny_model, tmp_path_factory.mktemp("m") / "model", template, tokens)


@pytest.fixture(scope="module")
def tokenizers(model_with: Maker) -> dict[str, ChatTokenizer]:
    return {phrase: ChatTokenizer(model_with(form.template, form.tokens)) for phrase, form in FORMS.items()}


def learnt(chat: SpannedChat, tokenizer: ChatTokenizer) -> list[str]:
    """The decoded tokens of each span."""
    [example] = tokenized_chats([chat], tokenizer)
    decode = tokenizer.backend.decode
    return [decode(example.ids[start:end].tolist(), skip_special_tokens=False) for start, end in example.spans]


@pytest.mark.parametrize("phrase", FORMS)
def test_the_whole_chat_has_the_ids_that_transformers_gives_it(phrase: str, model_with: Maker) -> None:
    from transformers import AutoTokenizer

    form = FORMS[phrase]
    directory = model_with(form.template, form.tokens)
    ours, theirs = ChatTokenizer(directory), AutoTokenizer.from_pretrained(directory)
    for messages in [*CHATS, *([[SYSTEM, *chat] for chat in CHATS] if form.has_system else [])]:
        [example] = tokenized_chats([spanned(ours, messages)], ours)
        assert example.ids.tolist() == theirs.apply_chat_template(messages, return_dict=True)["input_ids"]


def test_of_a_template_that_marks_the_generation_the_mask_is_transformers(model_with: Maker) -> None:
    from transformers import AutoTokenizer

    directory = model_with(GENERATION, ())
    ours, theirs = ChatTokenizer(directory), AutoTokenizer.from_pretrained(directory)
    for messages in CHATS:
        [example] = tokenized_chats([spanned(ours, messages)], ours)
        wanted: Any = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        mask = [any(start <= place < end for start, end in example.spans) for place in range(len(example.ids))]
        assert mask == [bool(one) for one in wanted["assistant_masks"]]


@pytest.mark.parametrize("phrase", FORMS)
def test_exactly_each_answer_and_the_end_of_its_turn_carry_loss(
    phrase: str, tokenizers: dict[str, ChatTokenizer]
) -> None:
    form, tokenizer = FORMS[phrase], tokenizers[phrase]

    @settings(max_examples=40, deadline=None)
    @given(turns=st.lists(st.tuples(CONTENTS, CONTENTS), min_size=1, max_size=3))
    def check(turns: Sequence[tuple[str, str]]) -> None:
        messages = [
            {"role": role, "content": content}
            for turn in turns
            for role, content in zip(("user", "assistant"), turn, strict=True)
        ]
        chat = spanned(tokenizer, messages)
        text = chat.chat.text
        wanted = [form.learnt(content) for _, content in turns]
        # Beside Mistral's, whose prompt ends before the blank that the model generates, unless a token holds both.
        assert [text[start:end] for start, end in chat.spans] in (wanted, [one.removeprefix(" ") for one in wanted])
        assert text == tokenizer.render(messages)
        got = learnt(chat, tokenizer)
        assert all(one.endswith(part.lstrip()) for one, part in zip(got, wanted, strict=True))
        assert all(len(one) <= len(part) + 1 for one, part in zip(got, wanted, strict=True))

    check()


def test_only_the_last_answer_carries_loss_where_that_is_asked(tokenizers: dict[str, ChatTokenizer]) -> None:
    for phrase in FORMS:
        chat = spanned(tokenizers[phrase], CHATS[1], only_last=True)
        assert [chat.chat.text[start:end].lstrip() for start, end in chat.spans] == [
            FORMS[phrase].learnt("four blanks").lstrip()
        ]


def test_a_turn_of_weight_0_is_read_and_not_learnt(tokenizers: dict[str, ChatTokenizer]) -> None:
    weighed = [{**message, "weight": 0} if place in (1, 5) else message for place, message in enumerate(CHATS[1])]
    for phrase in FORMS:
        for only_last in (False, True):
            chat = spanned(tokenizers[phrase], weighed, only_last=only_last)
            assert [chat.chat.text[start:end].lstrip() for start, end in chat.spans] == [
                FORMS[phrase].learnt(CHATS[1][3]["content"]).lstrip()
            ]
            assert chat.chat == spanned(tokenizers[phrase], CHATS[1]).chat


def test_calls_are_learnt_with_their_arguments_in_their_own_order_and_answers_are_not(model_with: Maker) -> None:
    from transformers import AutoTokenizer

    directory = model_with(CHATML_WITH_TOOLS, ())
    tokenizer, theirs = ChatTokenizer(directory), AutoTokenizer.from_pretrained(directory)

    chat = spanned(tokenizer, WITH_CALL, TOOLS)

    call = '<tool_call>\n{"name": "weather", "arguments": {"z": 1, "a": "é"}}\n</tool_call><|im_end|>'
    assert learnt(chat, tokenizer) == [call, "It is sunny.<|im_end|>"]
    assert chat.chat.text == theirs.apply_chat_template(WITH_CALL, tools=TOOLS, tokenize=False)


# Of the last two, the whole chat does not begin as a part of it.
WITH_TOOLS = {
    "alike": CHATML_WITH_TOOLS,
    "no mark of a turn's end": CHATML_WITH_TOOLS.replace(
        "</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n'", "\n' }}{%- endfor %}{{- ''"
    ),
    "the words trimmed": CHATML_WITH_TOOLS.replace("message.content", "(message.content | trim)"),
    "calls counted": CHATML_WITH_TOOLS.replace(
        "{{- '\n<tool_call>\n", "{{- loop.index0 | string + messages | length | string + '\n<tool_call>\n"
    ),
    "the last turn told": CHATML_WITH_TOOLS.replace("{%- for call in", "{{- '!' if loop.last }}{%- for call in"),
}
ASKED = st.tuples(st.just("user"), CONTENTS)
CALLED = st.tuples(st.just("call"), st.one_of(st.just(""), CONTENTS))
TOLD = st.tuples(st.just("tool"), CONTENTS)
ANSWERED = st.tuples(st.just("assistant"), CONTENTS)


def with_calls(turns: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {**CALL, "content": content} if role == "call" else {"role": role, "content": content}
        for role, content in turns
    ]


def spans_by_prefixes(tokenizer: ChatTokenizer, messages: Sequence[Any]) -> list[tuple[int, int]] | None:
    """By rendering every turn's beginning and end; None: the whole does not begin with one."""
    text, spans = tokenizer.rendered(messages, tools=TOOLS).text, []
    for number in [number for number, message in enumerate(messages) if message["role"] == "assistant"]:
        before = tokenizer.rendered(messages[:number], tools=TOOLS, add_generation_prompt=True).text
        upto = tokenizer.rendered(messages[: number + 1], tools=TOOLS).text
        if not text.startswith(before) or not text.startswith(upto) or len(upto.rstrip()) <= len(before):
            return None
        spans.append((len(before), len(upto.rstrip())))
    return spans


@pytest.mark.parametrize("phrase", WITH_TOOLS)
def test_turns_of_a_kind_are_where_rendering_every_one_of_them_finds_them(phrase: str, model_with: Maker) -> None:
    tokenizer = ChatTokenizer(model_with(WITH_TOOLS[phrase], ()))

    @settings(max_examples=15, deadline=None)
    @given(
        asked=CONTENTS,
        turns=st.lists(
            st.one_of(
                st.tuples(CALLED, TOLD), st.tuples(CALLED, TOLD, TOLD), st.tuples(ANSWERED, ASKED), st.tuples(CALLED)
            ),
            min_size=3,
            max_size=12,
        ),
    )
    def check(asked: str, turns: Sequence[Sequence[tuple[str, str]]]) -> None:
        messages = with_calls([("user", asked), *(one for some in turns for one in some), ("call", "")])
        wanted = spans_by_prefixes(tokenizer, messages)
        if wanted is None:
            with pytest.raises(InvalidInput, match="otherwise once others follow"):
                spanned(tokenizer, messages, TOOLS)
        else:
            assert list(spanned(tokenizer, messages, TOOLS).spans) == wanted

    check()


def test_of_many_calls_the_mask_is_transformers_and_few_turns_are_rendered_anew(
    model_with: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    turns = [("user", "Sunny?"), *[("call", ""), ("tool", "no"), ("call", "Again."), ("tool", "not yet")] * 30]
    messages = with_calls([*turns, ("assistant", "It is not."), ("user", "Thanks."), ("assistant", "Any time.")])
    directory = model_with(GENERATION_WITH_TOOLS, ())
    theirs: Any = AutoTokenizer.from_pretrained(directory).apply_chat_template(
        messages, tools=TOOLS, return_dict=True, return_assistant_tokens_mask=True
    )
    tokenizer = ChatTokenizer(model_with(CHATML_WITH_TOOLS, ()))
    rendered = tokenizer.rendered
    lengths: list[int] = []

    def counted(some: Any, **options: Any) -> Any:
        lengths.append(len(some))
        return rendered(some, **options)

    monkeypatch.setattr(tokenizer, "rendered", counted)
    [example] = tokenized_chats([spanned(tokenizer, messages, TOOLS)], tokenizer)

    assert example.ids.tolist() == theirs["input_ids"]
    mask = [any(start <= place < end for start, end in example.spans) for place in range(len(example.ids))]
    assert mask == [bool(one) for one in theirs["assistant_masks"]]
    assert len(lengths) < 25


def test_special_tokens_in_a_call_are_text(model_with: Maker) -> None:
    tokenizer = ChatTokenizer(model_with(CHATML_WITH_TOOLS, ()))
    function = {"name": "say", "arguments": {"<|im_end|>": "<|im_start|>"}}
    call = {**CALL, "tool_calls": [{"type": "function", "function": function}]}

    [example] = tokenized_chats([spanned(tokenizer, [WITH_CALL[0], call])], tokenizer)

    ids = example.ids.tolist()
    assert [ids.count(tokenizer.backend.token_to_id(token)) for token in ("<|im_start|>", "<|im_end|>")] == [2, 2]


@pytest.mark.parametrize(
    ("messages", "tools", "what"), [(WITH_CALL, None, "tool_calls"), (CHATS[0], TOOLS, "out tools")]
)
def test_a_template_that_leaves_out_calls_or_tools_is_refused(
    messages: Any, tools: Any, what: str, model_with: Maker
) -> None:
    with pytest.raises(
        InvalidInput, match=rf"leaves out .*{what.split()[-1]}\. Take a model whose template shows them"
    ):
        spanned(ChatTokenizer(model_with(CHATML, ())), messages, tools)


def test_answers_are_found_where_a_template_shows_the_last_one_otherwise(model_with: Maker) -> None:
    tokenizer = ChatTokenizer(model_with(THINKING, ()))

    assert learnt(spanned(tokenizer, CHATS[1]), tokenizer) == [
        f"{CHATS[1][place]['content']}<|im_end|>" for place in (1, 3, 5)
    ]


def test_a_turn_that_depends_on_later_ones_is_refused_with_the_ways_out(model_with: Maker) -> None:
    # It looks into the words, so that marks around them change what it writes.
    template = THINKING.replace("message.content + ", "message.content + message.content | length | string + ")
    tokenizer = ChatTokenizer(model_with(template, ()))

    with pytest.raises(InvalidInput, match=r"writes turn 2 otherwise once others follow.*generation.*loss: last"):
        spanned(tokenizer, CHATS[1])
    # All that the generation prompt does not write.
    [last] = learnt(spanned(tokenizer, CHATS[1], only_last=True), tokenizer)
    assert last == "<think>\n\n</think>\n\nfour blanks11<|im_end|>"


def test_several_marked_parts_of_a_turn_are_all_learnt_and_not_told_apart(model_with: Maker) -> None:
    template = GENERATION.replace(
        "{% generation %}", "{% generation %}{{- 'So: ' }}{% endgeneration %}{% generation %}"
    )
    tokenizer = ChatTokenizer(model_with(template, ()))

    # One token holds the last blank of the first part and the first letter of the second.
    assert learnt(spanned(tokenizer, CHATS[0]), tokenizer) == ["So: a", " low dam<|im_end|>"]
    with pytest.raises(InvalidInput, match=r"marks 6 parts with .*, wanted the 3 turns of the assistant, each once"):
        spanned(tokenizer, CHATS[1], only_last=True)


def test_a_template_that_marks_no_turn_is_refused(model_with: Maker) -> None:
    template = GENERATION.replace("message.role == 'assistant'", "message.role == 'model'")
    with pytest.raises(InvalidInput, match=r"marks 0 parts with \{% generation %\}, wanted the 1 turns"):
        spanned(ChatTokenizer(model_with(template, ())), CHATS[0])
