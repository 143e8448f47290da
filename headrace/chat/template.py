"""A model's chat template: which one applies, and what it can read.

Templates come from a hub and are foreign code, so they run in jinja's sandbox. If one asks for the time, it gets the
date that the caller fixed (in a corpus, campaign or service), or nothing: many templates then use a date of their own,
and the others are refused. So the same inputs give the same bytes on every day.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
from jinja2.nodes import Name, Node, Output
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from headrace.errors import InvalidInput

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATES_DIRECTORY = "additional_chat_templates"

# role and content, and of some also tool_calls, tool_call_id and name.
Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]]


def template_text(directory: Path, config: Mapping[str, Any]) -> str:
    """The template that applies unless another is requested by name.

    Files precede the entry in tokenizer_config.json; among several templates the one named `default` applies.

    Raises:
        InvalidInput: there is no template.
    """
    named: dict[str, str] = {}
    if (file := directory / TEMPLATE_FILE).is_file():
        named["default"] = file.read_text(encoding="utf-8")
    for file in sorted((directory / TEMPLATES_DIRECTORY).glob("*.jinja")):
        named[file.stem] = file.read_text(encoding="utf-8")
    entry = config.get("chat_template")
    if not named and isinstance(entry, list):
        named = {template["name"]: template["template"] for template in entry}
    elif not named and isinstance(entry, str):
        named = {"default": entry}
    if "default" in named:
        return named["default"]
    if named:
        raise InvalidInput(
            f"Model {directory} has the chat templates {', '.join(sorted(named))} and none named default: "
            f"save the one that its training used as {TEMPLATE_FILE}."
        )
    raise InvalidInput(
        f"Model {directory} has no chat template ({TEMPLATE_FILE}, or chat_template in tokenizer_config.json): "
        "take an instruct model, or add the template its training used."
    )


def checked_date(field: str, date: str | None) -> None:
    """Raises: InvalidInput: `date` is not a day, such as 2026-11-28."""
    try:
        is_day = date is None or datetime.fromisoformat(date).date().isoformat() == date
    except ValueError:
        is_day = False
    if not is_day:
        raise InvalidInput(f"{field} must be a day as YYYY-MM-DD, got {date!r}.")


class ChatTemplate:
    """Renders messages as `transformers` does, except for the date."""

    def __init__(self, text: str, where: str, *, special_tokens: Mapping[str, str], date: str | None) -> None:
        """Raises: InvalidInput: the text is not a valid template."""
        self._where = where
        self._special_tokens = dict(special_tokens)
        self.text = text
        self.date = date
        try:
            self._template = _environment(date).from_string(text)
        except jinja2.TemplateError as error:
            raise InvalidInput(f"Chat template of {where} is no template: {error}") from error

    @property
    def marks_generation(self) -> bool:
        """Whether the template itself says, with `{% generation %}`, what the assistant generates."""
        return bool(re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", self.text))

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Tools | None = None,
        around_generation: tuple[str, str] | None = None,
    ) -> str:
        """Args:
            around_generation: what is written before and after each `{% generation %}` block; None: nothing.

        Raises:
            InvalidInput: the template refuses these messages, or needs a date and has none.
        """
        try:
            return self._template.render(
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                # Templates use these two without testing whether they are defined.
                tools=list(tools) if tools else None,
                documents=None,
                **self._special_tokens,
                **(dict(zip(_AROUND, around_generation, strict=True)) if around_generation else {}),
            )
        except Exception as error:  # (foreign code: any exception means that it cannot render these)
            if isinstance(error, jinja2.UndefinedError) and "'strftime_now'" in str(error):
                raise InvalidInput(
                    f"Chat template of {self._where} writes today's date into every chat: the same inputs would make "
                    "other bytes tomorrow. Set template_date (a day, such as '2026-11-28') in the corpus file for "
                    "training, and in the engine section of a campaign or service; take the same day for both."
                ) from error
            reason = str(error) if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {error}"
            raise InvalidInput(f"Chat template of {self._where} refuses the messages: {reason}") from error

    @cached_property
    def text_of_one_turn(self) -> str:
        """One user turn around an empty text, which shows the turn marks. "" if the template refuses it."""
        try:
            return self.render([{"role": "user", "content": ""}], add_generation_prompt=False)
        except InvalidInput:
            return ""


# Variables that hold what is written around a generation block.
_AROUND = ("headrace_before_generation", "headrace_after_generation")


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's words: its content, between two variables that are mostly empty."""

    tags = {"generation"}  # noqa: RUF012 (as jinja's Extension declares it)

    def parse(self, parser: Parser) -> list[Node]:
        line = next(parser.stream).lineno
        before, after = (Output([Name(name, "load")], lineno=line) for name in _AROUND)
        return [before, *parser.parse_statements(("name:endgeneration",), drop_needle=True), after]


def _environment(date: str | None) -> ImmutableSandboxedEnvironment:
    """Jinja as transformers sets it up for chat templates; `strftime_now` exists only with a date."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    if date is not None:
        environment.globals["strftime_now"] = datetime.fromisoformat(date).strftime
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter would escape HTML characters.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
