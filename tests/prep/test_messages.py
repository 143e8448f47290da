"""What a record's messages must be, told with the column and the message; and what rules see of them."""

import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.handoff.schemas import check_schema
from headrace.prep.clean_shards import clean_shard
from headrace.prep.corpus import Corpus
from headrace.prep.example_forms import ExampleForm
from headrace.prep.messages import MessagesUnreadable, read_messages
from headrace.prep.sources import read_shard
from tests.prep.builders import make_corpus, write_jsonl

USER, ANSWER = {"role": "user", "content": "Sunny?"}, {"role": "assistant", "content": "Yes."}
FUNCTION = {"name": "weather", "arguments": '{"z": 1, "city": "Rome"}'}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": FUNCTION}]}
REPLY = {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
COLUMNS = {"messages": "chat", "prompt": "question", "chosen": "good", "rejected": "bad"}


def make_chats(**changes: Any) -> Corpus:
    given = {"columns": {"messages": "chat"}, "prompt": None, "example": ExampleForm(kind="conversation")}
    return make_corpus(**given | changes)


def read(messages: Any, **more: Any) -> dict[str, Any]:
    found = read_messages("conversation", COLUMNS, {"messages": messages, **more}, nulls_are_absent=False)
    return json.loads(found.json)


def pair(**values: Any) -> dict[str, Any]:
    return json.loads(read_messages("pair", COLUMNS, values, nulls_are_absent=False).json)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (None, "holds no message"),
        ([], "holds no message"),
        ("hello", "is text that is not JSON: Expecting value"),
        ('{"role": "user"}', "must be a list of objects, or such a list as JSON text, got dict"),
        (["hello"], "must be a list of objects, or such a list as JSON text, got list"),
        ([USER], "has no assistant turn, or none with weight, so there is nothing to learn"),
        ([{"role": "human", "content": "a"}], "message 1 has the role 'human', wanted one of system, user, assistant"),
        ([{"from": "human", "value": "a"}], "message 1 has the keys from and value; wanted OpenAI's form"),
        ([{"role": "user"}, ANSWER], "message 1 has no content"),
        ([USER, {"role": "assistant", "content": None}], "message 2 has no content and no tool_calls"),
        ([{"role": "user", "content": 7}, ANSWER], "message 1 has content of the type int, wanted a string or a list"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ANSWER],
            "message 1 has a part of the type 'image_url'; only text can be learnt",
        ),
        ([USER, REPLY, ANSWER], "message 2 is a tool's and answers no call of the assistant before it"),
        ([USER, CALL, {**REPLY, "tool_call_id": "c2"}], "message 3 answers the call 'c2', wanted one of 'c1'"),
        ([{**USER, "tool_calls": CALL["tool_calls"]}, ANSWER], "message 1 has tool_calls and the role 'user'"),
        ([USER, {**CALL, "tool_calls": [{"id": "c1"}]}], "message 2 has a tool call without function.name"),
        (
            [USER, {**CALL, "tool_calls": [{"id": 7, "function": FUNCTION}]}, REPLY, ANSWER],
            "message 2 calls weather with an id of the type int, wanted a string",
        ),
        (
            [USER, {**CALL, "tool_calls": [{"type": "code_interpreter", "function": FUNCTION}]}],
            "message 2 has a tool call of the type 'code_interpreter', wanted function",
        ),
        (
            [USER, {**CALL, "tool_calls": [{"function": FUNCTION}]}, REPLY, ANSWER],
            "message 3 answers the call 'c1', and no call before it has an id",
        ),
        ([USER, {**CALL, "tool_calls": "weather"}], "message 2 has tool_calls of the type str, wanted a list"),
        (
            [USER, {**CALL, "tool_calls": [{"function": {"name": "w", "arguments": "{city"}}]}],
            "message 2 calls w with arguments that are not JSON",
        ),
        (
            [USER, {**CALL, "tool_calls": [{"function": {"name": "w", "arguments": "[1]"}}]}],
            "message 2 calls w with arguments of the type list, wanted an object",
        ),
        ([USER, {**ANSWER, "function_call": {"name": "w"}}], "message 2 has a function_call, OpenAI's old form"),
        ([USER, {**ANSWER, "weight": 0.5}], "message 2 has the weight 0.5; wanted 0 or 1, of an assistant's turn"),
        ([USER, {**ANSWER, "weight": 0}], "has no assistant turn, or none with weight, so there is nothing to learn"),
        ([{**USER, "name": 7}, ANSWER], "message 1 has name of the type int, wanted a string"),
    ],
)
def test_a_record_that_is_no_conversation_is_told_with_its_column_and_message(messages: Any, reason: str) -> None:
    with pytest.raises(MessagesUnreadable) as refused:
        read(messages)
    assert str(refused.value).startswith(f"column 'chat' {reason}")


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "9" * 4301])
def test_numbers_that_json_lacks_or_python_cannot_write_are_set_aside_and_the_largest_kept(number: str) -> None:
    def called(number: str) -> list[Any]:
        arguments = f'{{"x": [{number}]}}'
        return [USER, {**CALL, "tool_calls": [{"function": {"name": "w", "arguments": arguments}}]}]

    told = r"a number that JSON lacks or that is too large \((nan|-?inf)\): write it as text"
    with pytest.raises(MessagesUnreadable, match=rf"message 2 calls w with arguments that hold {told}"):
        read(called(number))
    with pytest.raises(MessagesUnreadable, match=rf"column 'tools' holds tools with {told}"):
        read([USER, ANSWER], tools=f'[{{"x": {number}}}]')
    kept = read(called("9" * 4300))["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert kept == {"x": [int("9" * 4300)]}


# Objects as lists of pairs: a key may stand twice in one.
pairs = st.recursive(
    st.none() | st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(st.sampled_from("abc"), inner), max_size=3),
    max_leaves=8,
)


def spelt(value: Any) -> str:
    if not isinstance(value, list):
        return json.dumps(value)
    if value and all(isinstance(one, tuple) for one in value):
        return "{" + ", ".join(f'"{key}": {spelt(inner)}' for key, inner in value) + "}"
    return "[" + ", ".join(map(spelt, value)) + "]"


def has_key_twice(text: str) -> bool:
    found: list[bool] = []
    json.loads(text, object_pairs_hook=lambda given: found.append(len({key for key, _ in given}) < len(given)))
    return any(found)


@given(value=pairs)
def test_a_key_that_stands_twice_at_any_depth_of_what_is_read_sets_its_record_aside(value: Any) -> None:
    """In objects of JSON Lines, in JSON text of any format, and in arguments that are JSON text; elsewhere it may."""
    arguments = f'{{"x": {spelt(value)}}}'
    call = json.dumps([USER, CALL, REPLY, ANSWER])
    given_as = json.dumps(FUNCTION["arguments"])
    as_objects, as_text = call.replace(given_as, arguments), call.replace(given_as, json.dumps(arguments))
    wanted = [as_objects, as_text, json.dumps(as_objects), json.dumps(as_text)]
    lines = [f'{{"chat": {chat}}}' for chat in wanted] + [f'{{"chat": {call}, "other": {spelt(value)}}}']
    with TemporaryDirectory() as directory:
        (Path(directory) / "files").mkdir()
        (Path(directory) / "files/a.jsonl").write_text("\n".join(lines))

        shard = read_shard(make_chats(quarantine_share_max=1.0), "shard-00", Path(directory))

    assert shard.quarantine["source_line"].to_pylist() == ([1, 2, 3, 4] if has_key_twice(arguments) else [])
    assert all("twice in one object" in reason for reason in shard.quarantine["reason"].to_pylist())
    assert shard.documents.num_rows + shard.quarantine.num_rows == 5


def test_an_answer_that_is_messages_with_a_key_twice_is_no_text() -> None:
    twice = '[{"role": "user", "role": "assistant", "content": "a"}]'
    with pytest.raises(MessagesUnreadable, match=r"'good' is text that is JSON with the key 'role' twice in one obj"):
        pair(prompt="q", chosen=twice, rejected="b")


def test_what_templates_read_is_kept_in_its_own_order_and_the_rest_left_out() -> None:
    parts = [{"type": "text", "text": "Sun"}, {"type": "text", "text": "ny?"}]
    kept = read([{"id": 7, "role": "user", "content": parts}, CALL, {**REPLY, "name": "w"}, ANSWER], tools=[FUNCTION])

    call = {"name": "weather", "arguments": {"z": 1, "city": "Rome"}}
    assert kept == {
        "messages": [
            USER,
            {**CALL, "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": call}]},
            {"role": "tool", "content": "sunny", "tool_call_id": "c1", "name": "w"},
            ANSWER,
        ],
        "tools": [FUNCTION],
    }
    assert list(kept["messages"][1]["tool_calls"][0]["function"]["arguments"]) == ["z", "city"]


def test_rules_see_all_but_the_system_turn_and_the_first_question_is_the_term() -> None:
    messages = [{"role": "system", "content": "Be brief."}, USER, CALL, REPLY, ANSWER]
    found = read_messages("conversation", COLUMNS, {"messages": messages}, nulls_are_absent=False)

    assert found.text == 'Sunny?\n\nweather {"z":1,"city":"Rome"}\n\nsunny\n\nYes.'
    assert found.first == "Sunny?"


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "Sunny?", "chosen": "Yes.", "rejected": "No."},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [{"role": "assistant", "content": "No."}]},
        {"prompt": "Sunny?", "chosen": [USER, ANSWER], "rejected": "No."},
        {"chosen": [USER, ANSWER], "rejected": json.dumps([USER, {"role": "assistant", "content": "No."}])},
        {"prompt": None, "chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "No."}]},
    ],
)
def test_a_pair_is_texts_or_messages_with_or_without_their_prompt(values: dict[str, Any]) -> None:
    assert pair(**values) == {
        "prompt": [USER],
        "chosen": [ANSWER],
        "rejected": [{"role": "assistant", "content": "No."}],
    }


def test_an_answer_that_is_a_list_is_a_text() -> None:
    assert pair(prompt="Count.", chosen="[1, 2]", rejected="[INST]")["chosen"][0]["content"] == "[1, 2]"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"prompt": "a", "chosen": None, "rejected": "b"}, "column 'good' is null"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "column 'good' is the same as the rejected one"),
        ({"chosen": "b", "rejected": "c"}, "column 'good' and the rejected one do not begin alike, and no column"),
        (
            {"prompt": "a", "chosen": [ANSWER, USER, ANSWER], "rejected": "c"},
            "column 'good' must hold one turn of the assistant after the prompt, got assistant, user, assistant",
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": [USER]},
            "column 'bad' must hold one turn of the assistant after the prompt, got user",
        ),
        (
            {"prompt": "a", "chosen": [{**ANSWER, "weight": 0}], "rejected": "b"},
            "column 'good' holds an answer with the weight 0, so there is nothing to prefer",
        ),
    ],
)
def test_a_record_that_is_no_pair_is_told_with_its_column(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(MessagesUnreadable) as refused:
        pair(**values)
    assert str(refused.value).startswith(reason)


def test_json_lines_parquet_and_csv_make_the_same_documents_and_tell_the_line_of_a_fault(tmp_path: Path) -> None:
    chats = [[USER, {**CALL, "content": ""}, REPLY, ANSWER], [USER, ANSWER], [USER]]
    write_jsonl(tmp_path / "files/a.jsonl", [{"chat": chat} for chat in chats])
    # In a struct, each message has every key.
    pq.write_table(pa.table({"chat": chats}), tmp_path / "files/b.parquet")
    cells = "\n".join('"' + json.dumps(chat).replace('"', '""') + '"' for chat in chats)
    (tmp_path / "files/c.csv").write_text(f"chat\n{cells}\n")

    shard = read_shard(make_chats(), "shard-00", tmp_path)

    check_schema("raw_documents", shard.documents)
    documents = shard.documents.to_pylist()
    assert [row["messages"] for row in documents[2:4]] == [row["messages"] for row in documents[:2]]
    assert [row["messages"] for row in documents[4:]] == [row["messages"] for row in documents[:2]]
    assert [row["term"] for row in documents] == ["Sunny?"] * 6
    assert len({row["document_id"] for row in documents}) == 2
    assert [(row["source_file"], row["source_line"]) for row in shard.quarantine.to_pylist()] == [
        ("files/a.jsonl", 3),
        ("files/b.parquet", 3),
        ("files/c.csv", 4),
    ]
    assert "has no assistant turn, or none with weight" in shard.quarantine["reason"][0].as_py()


def test_nulls_of_json_text_in_parquet_are_kept_and_those_that_fill_a_struct_are_not(tmp_path: Path) -> None:
    arguments = {"city": None, "n": 1}
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "w", "arguments": arguments}}]}
    as_text = {"role": "assistant", "tool_calls": [{"function": {"name": "w", "arguments": json.dumps(arguments)}}]}
    (tmp_path / "files").mkdir()
    pq.write_table(pa.table({"chat": [json.dumps([USER, call])]}), tmp_path / "files/a.parquet")
    pq.write_table(pa.table({"chat": [[USER, as_text]]}), tmp_path / "files/b.parquet")
    pq.write_table(pa.table({"chat": [[USER, call], [USER, ANSWER]]}), tmp_path / "files/c.parquet")

    documents = read_shard(make_chats(), "shard-00", tmp_path).documents.to_pylist()

    calls = [json.loads(row["messages"])["messages"][1].get("tool_calls") for row in documents]
    found = [call[0]["function"]["arguments"] if call else None for call in calls]
    assert found == [arguments, arguments, {"n": 1}, None]


@pytest.mark.parametrize(
    ("value", "kind"),
    [(datetime(2026, 11, 29), "datetime"), (Decimal("1.5"), "Decimal"), (date(2026, 1, 1), "date"), (b"", "bytes")],
)
def test_values_of_parquet_that_json_lacks_are_set_aside_where_a_model_would_read_them(
    value: object, kind: str, tmp_path: Path
) -> None:
    function = {"name": "w", "arguments": {"when": value}}
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": function}], "made": value}
    (tmp_path / "files").mkdir()
    table = pa.table({"chat": [[USER, call], [USER, {**ANSWER, "made": value}]], "tools": [None, [function]]})
    pq.write_table(table, tmp_path / "files/a.parquet")
    # What no template reads may be of any type.
    pq.write_table(table.slice(1).drop_columns(["tools"]), tmp_path / "files/b.parquet")
    corpus = make_chats(columns={"messages": "chat", "tools": "tools"}, quarantine_share_max=1.0)

    shard = read_shard(corpus, "shard-00", tmp_path)

    told = f"a value of the type {kind}, which is not JSON's: write it as text"
    assert shard.quarantine["reason"].to_pylist()[:2] == [
        f"column 'chat' message 2 calls w with arguments that hold {told}",
        f"column 'tools' holds tools with {told}",
    ]
    assert read_shard(make_chats(files=("files/b.parquet",)), "shard-00", tmp_path).documents.num_rows == 1


@pytest.mark.parametrize("depth", [50, 200, 600, 800, 900, 950, 980, 2000])
def test_what_is_nested_too_deep_to_be_written_again_is_set_aside(depth: int, tmp_path: Path) -> None:
    deep = "[" * depth + "]" * depth
    chat = json.dumps([USER, CALL])
    call = chat.replace(json.dumps(FUNCTION["arguments"]), f'{{"x": {deep}}}')
    ignored = chat.replace('"role": "user"', f'"role": "user", "x": {deep}')
    write_jsonl(tmp_path / "files/a.jsonl", [{"chat": call}, {"chat": ignored}])
    (tmp_path / "files/b.jsonl").write_text("".join(f'{{"chat": {one}}}\n' for one in (call, ignored)))
    pq.write_table(pa.table({"chat": [call, ignored]}), tmp_path / "files/c.parquet")

    shard = read_shard(make_chats(quarantine_share_max=1.0), "shard-00", tmp_path)

    num_aside = shard.quarantine.num_rows
    assert shard.documents.num_rows + num_aside == 6
    assert num_aside == 0 if depth < 100 else num_aside >= 3


def test_half_a_surrogate_pair_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"chat": [{"role": "assistant", "content": "\\ud83d"}]}\n')

    shard = read_shard(make_chats(files=("a.jsonl",)), "shard-00", tmp_path)

    assert shard.quarantine["reason"].to_pylist() == [
        "column 'chat' holds half of a surrogate pair, which is no character"
    ]


def test_messages_come_through_cleaning_byte_for_byte_and_other_corpora_have_no_such_column(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": " a\u00a0b  c\r\n"}, {"role": "assistant", "content": "\tx  y\u200b"}]
    write_jsonl(tmp_path / "files/a.jsonl", [{"chat": chat}])
    corpus = make_chats()

    raw = read_shard(corpus, "shard-00", tmp_path).documents
    clean = clean_shard(corpus, raw, {}).documents

    check_schema("clean_documents", clean)
    assert json.loads(clean["messages"][0].as_py()) == {"messages": chat}
    assert clean["text"].to_pylist() != raw["text"].to_pylist()
