"""Conversations and preference pairs as they stand in a user's file: checked message by message, and kept as JSON.

The form is OpenAI's: `{role, content}`, the content a text or a list of text parts, an assistant's `tool_calls`, a
tool's `tool_call_id`, and the `weight` 0 of a turn that is not learnt. Arguments of calls are objects afterwards, as
chat templates expect, in their own order: a template prints them. Keys that no template reads are left out. JSON text
in which a key stands twice in one object is no example, as in JSON Lines.

De-duplication, rules, labels and leaks look at one text: all contents but the system turn's, which many conversations
share. So two conversations that differ in their system turn alone are copies. The first user turn stands for the term:
all that begin alike fall on one side of the split. Messages themselves are never normalised.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from headrace.prep.example_forms import ExampleKind
from headrace.user_files.json_objects import JsonObjects, inner_values

ROLES = ("system", "user", "assistant", "tool")
_TEXT_KEYS = ("tool_call_id", "name", "reasoning_content")
# What JSON has; Parquet also has dates, decimals, bytes and maps, which no template shows as a model reads them.
_JSON_TYPES = (str, int, float, dict, list, type(None))
# Python reads and writes JSON by recursion, and fails near 1,000 levels, earlier where its own stack is deep.
_NESTED_MAX = 100

ChatMessage = dict[str, Any]


class MessagesUnreadable(Exception):
    """Why a record holds no example; begins with the column."""


@dataclass(frozen=True, kw_only=True)
class ReadMessages:
    """`text`: what rules see; `first`: the first user turn; `json`: what training reads."""

    text: str
    first: str | None
    json: str


def read_messages(
    kind: ExampleKind, columns: Mapping[str, str], values: Mapping[str, object], *, nulls_are_absent: bool
) -> ReadMessages:
    """Args:
        columns: ours → the file's, for the reason.
        values: by our names.
        nulls_are_absent: whether an object's nulls only fill up a struct, as in Parquet.

    Raises:
        MessagesUnreadable: the values are no example of this kind.
    """
    given = {name: _Column(columns.get(name, name), value, nulls_are_absent) for name, value in values.items()}
    if kind == "pair":
        prompt, chosen, rejected = _pair(given.get("prompt"), given["chosen"], given["rejected"])
        body: dict[str, Any] = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        shown = [*prompt, *chosen, *rejected]
    else:
        messages = given["messages"].messages()
        if not any(message["role"] == "assistant" and message.get("weight", 1) for message in messages):
            raise given["messages"].fault("has no assistant turn, or none with weight, so there is nothing to learn")
        tools = given["tools"].tools() if "tools" in given else None
        body, shown = {"messages": messages} | ({"tools": tools} if tools else {}), messages
    first = next((message["content"] for message in shown if message["role"] == "user"), None)
    return ReadMessages(text="\n\n".join(filter(None, map(_shown, shown))), first=first or None, json=_json(body))


class _Column:
    """One value of a record."""

    def __init__(self, name: str, value: object, nulls_are_absent: bool) -> None:
        self._name, self._value = name, value
        self._nulls_are_absent = nulls_are_absent

    @property
    def is_null(self) -> bool:
        return self._value is None

    def fault(self, sentence: str) -> MessagesUnreadable:
        return MessagesUnreadable(f"column {self._name!r} {sentence}")

    def turns(self, role: str) -> list[ChatMessage]:
        """The value as messages, or, of a text, as one turn of `role`. A list as JSON text counts as messages."""
        if isinstance(self._value, str) and not _is_json_of_messages(self._value):
            return [{"role": role, "content": self._value}]
        return self.messages()

    def messages(self) -> list[ChatMessage]:
        """The value as messages that follow each other."""
        listed = self.objects()
        if not listed:
            raise self.fault("holds no message")
        messages: list[ChatMessage] = []
        for number, given in enumerate(listed, start=1):
            message = self._message(number, given)
            if message["role"] == "tool":
                self._check_answered(number, message, messages)
            messages.append(message)
        return messages

    def tools(self) -> list[dict[str, Any]] | None:
        found = self.objects()
        self._check_is_json("holds tools with", found)
        return found

    def objects(self) -> list[dict[str, Any]] | None:
        """The value as a list of objects, from JSON text too; None: it is null."""
        value = self._value
        # Nulls of JSON text are the user's own, whatever the file.
        fills_up = self._nulls_are_absent and not isinstance(value, str)
        if isinstance(value, str):
            value = self._parsed("is text that is", value)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self.fault(f"must be a list of objects, or such a list as JSON text, got {_kind(value)}")
        return [_without_nulls(one) for one in value] if fills_up else value

    def _message(self, number: int, given: Mapping[str, Any]) -> ChatMessage:
        where = f"message {number}"
        if "role" not in given and {"from", "value"} <= given.keys():
            raise self.fault(f"{where} has the keys from and value; wanted OpenAI's form, role and content")
        role, content, calls = given.get("role"), given.get("content"), given.get("tool_calls")
        if role not in ROLES:
            raise self.fault(f"{where} has the role {role!r}, wanted one of {', '.join(ROLES)}")
        if given.get("function_call"):
            raise self.fault(f"{where} has a function_call, OpenAI's old form; wanted tool_calls")
        if calls and role != "assistant":
            raise self.fault(f"{where} has tool_calls and the role {role!r}; only the assistant calls tools")
        if content is None and not calls:
            raise self.fault(f"{where} has no content" + (" and no tool_calls" if role == "assistant" else ""))
        # "" for null, which some templates would print.
        message: ChatMessage = {"role": role, "content": "" if content is None else self._content(where, content)}
        if calls:
            message["tool_calls"] = self._calls(where, calls)
        if (weight := given.get("weight")) is not None:
            if role != "assistant" or weight not in (0, 1):
                raise self.fault(f"{where} has the weight {weight!r}; wanted 0 or 1, of an assistant's turn")
            message["weight"] = int(weight)
        for key in _TEXT_KEYS:
            if (value := given.get(key)) is not None:
                if not isinstance(value, str):
                    raise self.fault(f"{where} has {key} of the type {_kind(value)}, wanted a string")
                message[key] = value
        return message

    def _content(self, where: str, content: object) -> str:
        if isinstance(content, str):
            return content
        if not isinstance(content, list):
            raise self.fault(f"{where} has content of the type {_kind(content)}, wanted a string or a list of parts")
        texts: list[str] = []
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                kind = repr(part.get("type")) if isinstance(part, dict) else _kind(part)
                raise self.fault(f"{where} has a part of the type {kind}; only text can be learnt")
            texts.append(part["text"])
        return "".join(texts)

    def _calls(self, where: str, calls: object) -> list[dict[str, Any]]:
        if not isinstance(calls, list):
            raise self.fault(f"{where} has tool_calls of the type {_kind(calls)}, wanted a list")
        made: list[dict[str, Any]] = []
        for call in calls:
            function = call.get("function") if isinstance(call, dict) else None
            name = function.get("name") if isinstance(function, dict) else None
            if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(name, str):
                raise self.fault(f"{where} has a tool call without function.name")
            arguments = self._arguments(where, name, function.get("arguments", {}))
            if not isinstance(call_id := call.get("id"), str | None):
                raise self.fault(f"{where} calls {name} with an id of the type {_kind(call_id)}, wanted a string")
            if call.get("type") not in (None, "function"):
                raise self.fault(f"{where} has a tool call of the type {call['type']!r}, wanted function")
            named = {"id": call_id} if call_id is not None else {}
            made.append({**named, "type": "function", "function": {"name": name, "arguments": arguments}})
        return made

    def _arguments(self, where: str, name: str, arguments: object) -> dict[str, Any]:
        if isinstance(arguments, str):
            arguments = self._parsed(f"{where} calls {name} with arguments that are", arguments or "{}")
        if not isinstance(arguments, dict):
            raise self.fault(f"{where} calls {name} with arguments of the type {_kind(arguments)}, wanted an object")
        self._check_is_json(f"{where} calls {name} with arguments that hold", arguments)
        return arguments

    def _parsed(self, what: str, text: str) -> object:
        objects = JsonObjects()
        try:
            value = objects.read(text)
        except (ValueError, RecursionError) as error:
            raise self.fault(f"{what} not JSON: {error}") from error
        if (key := objects.repeated_within(value)) is not None:
            raise self.fault(f"{what} JSON with the key {key!r} twice in one object")
        return value

    def _check_is_json(self, what: str, value: object) -> None:
        level = [value]
        for _ in range(_NESTED_MAX):
            if others := [_kind(one) for one in level if not isinstance(one, _JSON_TYPES)]:
                raise self.fault(f"{what} a value of the type {others[0]}, which is not JSON's: write it as text")
            if odd := [one for one in level if isinstance(one, float) and not isfinite(one)]:
                raise self.fault(f"{what} a number that JSON lacks or that is too large ({odd[0]}): write it as text")
            level = inner_values(level)
            if not level:
                return
        raise self.fault(f"{what} objects or lists nested deeper than {_NESTED_MAX}")

    def _check_answered(self, number: int, message: ChatMessage, before: Sequence[ChatMessage]) -> None:
        asked = next((one for one in reversed(before) if one["role"] != "tool"), {})
        calls = asked.get("tool_calls", [])
        if not calls:
            raise self.fault(f"message {number} is a tool's and answers no call of the assistant before it")
        ids = [call["id"] for call in calls if "id" in call]
        if (got := message.get("tool_call_id")) is not None and got not in ids:
            wanted = f"wanted one of {', '.join(map(repr, ids))}" if ids else "and no call before it has an id"
            raise self.fault(f"message {number} answers the call {got!r}, {wanted}")


def _pair(
    prompt: _Column | None, chosen: _Column, rejected: _Column
) -> tuple[list[ChatMessage], list[ChatMessage], list[ChatMessage]]:
    """The prompt's messages, and one answer of the assistant each; without a prompt, both begin with it."""
    for answer in (chosen, rejected):
        if answer.is_null:
            raise answer.fault("is null")
    wholes = chosen.turns("assistant"), rejected.turns("assistant")
    if prompt is None or prompt.is_null:
        asked = _common(*wholes)
        if not asked:
            raise chosen.fault("and the rejected one do not begin alike, and no column holds their prompt")
    else:
        asked = prompt.turns("user")
    answers: list[list[ChatMessage]] = []
    for column, whole in zip((chosen, rejected), wholes, strict=True):
        answer = whole[len(asked) :] if whole[: len(asked)] == asked else whole
        if [one["role"] for one in answer] != ["assistant"]:
            got = ", ".join(one["role"] for one in answer) or "nothing"
            raise column.fault(f"must hold one turn of the assistant after the prompt, got {got}")
        if not answer[0].get("weight", 1):
            raise column.fault("holds an answer with the weight 0, so there is nothing to prefer")
        answers.append(answer)
    if answers[0] == answers[1]:
        raise chosen.fault("is the same as the rejected one, so there is nothing to prefer")
    return asked, answers[0], answers[1]


def _common(first: Sequence[ChatMessage], second: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The messages with which both begin, without the last of either."""
    num = 0
    while num < min(len(first), len(second)) - 1 and first[num] == second[num]:
        num += 1
    return list(first[:num])


def _is_json_of_messages(text: str) -> bool:
    """Answers may be lists, too: `[1, 2]`."""
    if not text.lstrip().startswith("["):
        return False
    try:
        value = JsonObjects().read(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and "role" in one for one in value)


def _shown(message: ChatMessage) -> str:
    """A message as rules see it."""
    if message["role"] == "system":
        return ""
    called = [call["function"] for call in message.get("tool_calls", ())]
    calls = [f"{one['name']} {_json(one['arguments'])}" for one in called]
    return "\n".join(filter(None, [message["content"], *calls]))


def _json(value: object) -> str:
    """In the file's own order, which templates print."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
