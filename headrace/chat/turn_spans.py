"""Which characters of a rendered chat the assistant generates: its words, and what ends its turn.

The template says so itself where it has `{% generation %}`. Of others, each turn's words are put between two marks
before they are rendered, which finds them in any template that copies them; the text that ends a turn follows. Where
that fails (turns with tool calls, a template that looks into the words), a turn reaches from the generation prompt
after all messages before it to the end of the chat that ends with it, if the whole chat begins with both. To render
these for every turn would take four times as long for twice as many, so it is done for the first and the last turn of
each kind: those alike in what they hold, between messages alike. The others of a kind stand between the same texts,
from the words before to the words behind; a turn that does not is rendered, too.

Marks never reach the tokenizer: the text without them must be the text that is rendered without them.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from headrace.chat.template import Message, Tools
from headrace.chat.tokenizer import ChatTokenizer, RenderedChat
from headrace.errors import InvalidInput

Span = tuple[int, int]

# Noncharacters: no text may hold them, and UTF-8 can, so a text that does is searched for prefixes instead.
_BEGIN, _END = "\ufdd0", "\ufdd1"
_MARK = re.compile(f"[{_BEGIN}{_END}]")


class SpannedChat(NamedTuple):
    """A chat, and the characters of its text that the assistant generates, in order."""

    chat: RenderedChat
    spans: tuple[Span, ...]


def spanned(
    tokenizer: ChatTokenizer, messages: Sequence[Message], tools: Tools | None = None, *, only_last: bool = False
) -> SpannedChat:
    """Args:
        messages: those with the weight 0 are not learnt.
        only_last: the last of the assistant's turns with weight alone.

    Raises:
        InvalidInput: the template refuses the messages, marks other parts than the assistant's turns as generated, or
            writes a turn otherwise once others follow.
    """
    weights = [message.get("weight", 1) for message in messages if message["role"] == "assistant"]
    wanted = [turn for turn, weight in enumerate(weights) if weight][-1 if only_last else 0 :]
    assert wanted
    messages = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
    chat = tokenizer.rendered(messages, tools=tools)
    _check_calls_are_shown(tokenizer, messages, tools, chat.text)
    spans: list[Span] | None = None
    if _MARK.search(chat.text):
        pass
    elif tokenizer.marks_generation:
        marked = tokenizer.rendered(messages, tools=tools, around_generation=(_BEGIN, _END))
        spans = _marked_spans(marked.text, chat.text)
        if spans and len(spans) != len(weights) == len(wanted):
            # Several parts of a turn, all of which are learnt.
            return SpannedChat(chat, tuple(spans))
        if spans is not None and len(spans) != len(weights):
            raise InvalidInput(
                f"The base model's chat template marks {len(spans)} parts with {{% generation %}}, wanted the "
                f"{len(weights)} turns of the assistant, each once."
            )
    else:
        spans = _spans_of_words(tokenizer, messages, tools, chat.text)
    if spans is None:
        turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        by_kind = _spans_by_kind(tokenizer, messages, tools, chat.text, [turns[turn] for turn in wanted])
        return SpannedChat(chat, tuple(by_kind))
    return SpannedChat(chat, tuple(spans[turn] for turn in wanted))


def end_of_turn(tokenizer: ChatTokenizer, before: Sequence[Message]) -> str:
    """The template's text after an answer to `before`: the end of the turn, often with a line break.

    Raises:
        InvalidInput: there is none.
    """
    answer = "the completion"
    probe = tokenizer.render([*before, {"role": "assistant", "content": answer}])
    _, found, behind = probe.rpartition(answer)
    if not found or not behind.strip():
        raise InvalidInput(
            f"The base model's chat template does not end the assistant's turn, got {probe!r}: nothing would teach the "
            "model to stop. Take an instruct model."
        )
    return behind


def _check_calls_are_shown(
    tokenizer: ChatTokenizer, messages: Sequence[Message], tools: Tools | None, text: str
) -> None:
    """Raises: InvalidInput: the template leaves out calls or tools: the model would learn to answer nothing."""
    without = {
        "the assistant's tool_calls": ([{**one, "tool_calls": None} for one in messages], tools),
        "tools": (messages, None),
    }
    has = {
        "the assistant's tool_calls": any(message.get("tool_calls") for message in messages),
        "tools": bool(tools),
    }
    for what, given in without.items():
        try:
            is_left_out = has[what] and tokenizer.rendered(given[0], tools=given[1]).text == text
        except InvalidInput:
            # It reads them: without them it refuses the others.
            continue
        if is_left_out:
            raise InvalidInput(
                f"The base model's chat template leaves out {what}. Take a model whose template shows them, or leave "
                "such conversations out."
            )


def _spans_of_words(
    tokenizer: ChatTokenizer, messages: Sequence[Message], tools: Tools | None, text: str
) -> list[Span] | None:
    """By marks around each of the assistant's contents, or around its words where the template trims blanks."""
    if any(message.get("tool_calls") for message in messages):
        return None
    end = end_of_turn(tokenizer, [{"role": "user", "content": "the prompt"}]).rstrip()
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    found = _places_of_words(tokenizer, messages, tools, text, turns)
    ended = all(text.startswith(end, behind) for _, behind in found)
    return [(start, behind + len(end)) for start, behind in found] if found and ended else None


def _places_of_words(
    tokenizer: ChatTokenizer, messages: Sequence[Message], tools: Tools | None, text: str, numbers: Sequence[int]
) -> list[Span]:
    """Where the contents of the messages with these numbers stand in `text`, or their words, if the template trims
    blanks; empty if marks do not find them all."""
    chosen = set(numbers)
    for trims in (False, True):
        marked = [_with_marks(one, trims) if number in chosen else one for number, one in enumerate(messages)]
        try:
            found = _marked_spans(tokenizer.rendered(marked, tools=tools).text, text)
        except InvalidInput:
            # It reads them, such as a tool's answer that must be JSON.
            continue
        if found is not None and len(found) == len(numbers):
            return found
    return []


def _with_marks(message: Message, trims: bool) -> Message:
    content = message["content"]
    words = content.strip() if trims else content
    before, _, behind = content.partition(words) if words else (content, "", "")
    return {**message, "content": f"{before}{_BEGIN}{words}{_END}{behind}"}


def _marked_spans(marked: str, text: str) -> list[Span] | None:
    """The places of what is marked in `text`; None: without marks it is another text, or a mark lacks its other."""
    spans: list[Span] = []
    begun = None
    for number, mark in enumerate(_MARK.finditer(marked)):
        place = mark.start() - number
        if (mark[0] == _BEGIN) != (begun is None):
            return None
        if begun is not None:
            spans.append((begun, place))
        begun = place if mark[0] == _BEGIN else None
    return None if begun is not None or _MARK.sub("", marked) != text else spans


def _spans_by_kind(
    tokenizer: ChatTokenizer, messages: Sequence[Message], tools: Tools | None, text: str, turns: Sequence[int]
) -> list[Span]:
    """Of the assistant's turns that have these numbers among the messages."""
    spoken = [number for number, message in enumerate(messages) if message["content"].strip()]
    # Of fewer turns, hardly three are of a kind.
    found = _places_of_words(tokenizer, messages, tools, text, spoken) if len(turns) > 4 else []
    words = dict(zip(spoken, found, strict=False))
    kinds: dict[object, list[int]] = defaultdict(list)
    for number in turns:
        is_between = number - 1 in words and number + 1 in words
        kinds[_kind(messages[number - 1 : number + 2]) if is_between else number].append(number)
    spans: dict[int, Span] = {}
    for alike in kinds.values():
        ends = dict.fromkeys((alike[0], alike[-1]))
        ends = {number: _span_by_prefixes(tokenizer, messages, tools, text, number) for number in ends}
        spans |= ends
        if len(alike) < 3:
            continue
        around = {
            (text[words[number - 1][1] : start], text[end : words[number + 1][0]])
            for number, (start, end) in ends.items()
        }
        for number in alike[1:-1]:
            start, stop = words[number - 1][1], words[number + 1][0]
            between = _span_between(text, start, stop, *around.copy().pop()) if len(around) == 1 else None
            spans[number] = between or _span_by_prefixes(tokenizer, messages, tools, text, number)
    return [spans[number] for number in turns]


def _kind(messages: Sequence[Message]) -> object:
    """What these hold, without their words."""
    held = [{key for key, value in message.items() if value} for message in messages]
    return tuple((message["role"], frozenset(keys)) for message, keys in zip(messages, held, strict=True))


def _span_between(text: str, start: int, stop: int, before: str, behind: str) -> Span | None:
    """What stands in [start, stop) between these two texts; None: they do not stand there."""
    begin = start + len(before)
    if not text.startswith(before, start) or not text.endswith(behind, begin, stop):
        return None
    end = begin + len(text[begin : stop - len(behind)].rstrip())
    return (begin, end) if end > begin else None


def _span_by_prefixes(
    tokenizer: ChatTokenizer, messages: Sequence[Message], tools: Tools | None, text: str, number: int
) -> Span:
    """Of the message with this number."""
    before = tokenizer.rendered(messages[:number], tools=tools, add_generation_prompt=True).text if number else ""
    upto = tokenizer.rendered(messages[: number + 1], tools=tools).text
    if not text.startswith(before) or not text.startswith(upto) or len(upto.rstrip()) <= len(before):
        raise InvalidInput(
            f"The base model's chat template writes turn {number + 1} otherwise once others follow, so nobody can tell "
            "what the assistant generates: put {% generation %} and {% endgeneration %} around it in the template, or "
            "take loss: last."
        )
    return len(before), len(upto.rstrip())
