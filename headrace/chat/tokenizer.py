"""A model's tokenizer and chat template, read from its files without transformers.

Only this module turns text into ids, for data prep, bulk and live engines: a model is asked in the form in which it was
trained. Importing transformers costs 3.5 CPU seconds (it imports torch), in every run of every shard; `tokenizers` and
jinja2 cost 0.1 s. The price is that transformers' few lines of set-up are repeated here; tests compare text and ids
with `apply_chat_template`.

Documents, prompts and messages are text, never turns: if they contain one of the model's special tokens, such as
`<|im_end|>`, only the template's own occurrences become that token's id (`plain_backend.py`).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from headrace.chat.plain_backend import PlainBackend
from headrace.chat.special_tokens import name_special_tokens, named_in_config
from headrace.chat.template import (
    TEMPLATE_FILE,
    TEMPLATES_DIRECTORY,
    ChatTemplate,
    Message,
    Tools,
    template_text,
)
from headrace.errors import InvalidInput
from headrace.keys import digest_text

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    TEMPLATE_FILE,
    f"{TEMPLATES_DIRECTORY}/*.jinja",
)
# Keys by which a template finds what it prints.
_OWN_KEYS = frozenset(
    (
        "role",
        "content",
        "tool_calls",
        "tool_call_id",
        "name",
        "id",
        "type",
        "function",
        "arguments",
        "reasoning_content",
    )
)


@dataclass(frozen=True)
class RenderedChat:
    """`text` as the template rendered it; `marked`: the same, with the template's tokens as `plain_backend` marks them.

    `marked` is None if no message contains a special token; then `text` is enough.
    """

    text: str
    marked: str | None = None


class ChatTokenizer:
    """Renders chats and encodes them exactly as `transformers.AutoTokenizer` does for the same files."""

    def __init__(self, directory: Path, *, date: str | None = None, needs_template: bool = True) -> None:
        """Raises: InvalidInput: a file is missing or broken, or there is no chat template and it is needed.

        Args:
            date: for templates that ask for today's date, such as 2026-11-28.
            needs_template: False for texts that are no chats; base models often have no template.
        """
        self._directory = directory
        try:
            self.backend = Tokenizer.from_str(self._text("tokenizer.json"))
            self._config = json.loads(self._text("tokenizer_config.json"))
            self._named = name_special_tokens(self.backend, self._config, directory)
        except FileNotFoundError as error:
            raise InvalidInput(
                f"Model directory {directory} has no {Path(error.filename).name}, wanted a model with a fast tokenizer "
                "(tokenizer.json, tokenizer_config.json). Check HEADRACE_BASE_MODEL."
            ) from error
        except Exception as error:
            raise InvalidInput(f"Tokenizer of {directory} is not readable: {error}") from error
        # Settings in the file for other callers must not cut or pad our examples.
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = bool(self._config.get("split_special_tokens", False))
        try:
            template = template_text(directory, self._config)
        except InvalidInput:
            if needs_template:
                raise
            template = ""
        self._template = ChatTemplate(template, str(directory), special_tokens=self._named, date=date)

    @classmethod
    def load(cls, model: str, *, date: str | None = None, needs_template: bool = True) -> "ChatTokenizer":
        """Loads from a local directory, or from the hub if `model` is not a directory.

        Raises:
            InvalidInput: `model` is neither a directory nor a name on the hub.
        """
        if Path(model).is_dir():
            return cls(Path(model), date=date, needs_template=needs_template)
        if Path(model).is_absolute():
            raise InvalidInput(
                f"Model directory {model} does not exist. `make demo` makes the demo's; set HEADRACE_BASE_MODEL."
            )
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            files = Path(snapshot_download(model, allow_patterns=list(_TOKENIZER_FILES)))
            return cls(files, date=date, needs_template=needs_template)
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise InvalidInput(f"Model {model!r} is neither a directory nor to be had from the hub: {error}") from error

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The rendered messages, for reading.

        Raises:
            InvalidInput: as `rendered`.
        """
        return self.rendered(messages, add_generation_prompt=add_generation_prompt).text

    def rendered(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools | None = None,
        add_generation_prompt: bool = False,
        around_generation: tuple[str, str] | None = None,
    ) -> RenderedChat:
        """Args:
            tools: what the assistant may call, as functions in OpenAI's form.
            around_generation: as in `ChatTemplate.render`; neither may stand in a message.

        Raises:
            InvalidInput: the template refuses these messages, or needs a date and has none.
        """
        messages = [{key: value for key, value in message.items() if value is not None} for message in messages]
        # Most messages hold texts alone: a prompt and its completion, a million times.
        texts: list[str] = [value for message in messages for value in message.values()]
        if tools or set(map(type, texts)) != {str}:
            texts = list(_texts_in([messages, tools]))
        # The marks must not be those around the generation.
        marks = (
            self._plain.marks_for([*texts, *(around_generation or ())]) if self._plain.any_spells_one(texts) else None
        )
        if marks:
            messages, tools = ([_with_texts(one, marks.around) for one in given or ()] for given in (messages, tools))
        rendered = self._template.render(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            around_generation=around_generation,
        )
        return RenderedChat(*marks.resolved(rendered)) if marks else RenderedChat(rendered)

    @property
    def marks_generation(self) -> bool:
        """Whether the template itself says, with `{% generation %}`, what the assistant generates."""
        return self._template.marks_generation

    def encode_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> list[int]:
        """The ids of one chat, without additions in front or behind.

        Raises:
            InvalidInput: the template refuses these messages or needs a date and has none, or a message contains a
                special token that this tokenizer makes of any text.
        """
        ids, _ = self.encode(self.rendered(messages, add_generation_prompt=add_generation_prompt))
        return ids

    def encode(self, chat: RenderedChat) -> tuple[list[int], Encoding]:
        """Ids, and an encoding that maps each token to its characters of `chat.text`."""
        if chat.marked is None:
            [encoding] = self.encode_batch([chat.text])
            return encoding.ids, encoding
        return self._plain.encode(chat.marked)

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Encodings with ids and offsets, without additions in front or behind. Special tokens in a text become ids."""
        return self.backend.encode_batch(list(texts), add_special_tokens=False)

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that are no chats, without additions; special tokens in them are encoded as text.

        Raises:
            InvalidInput: a text contains a special token that this tokenizer makes of any text.
        """
        foreign = [self._plain.spells_one(text) for text in texts]
        usual = [text for text, is_foreign in zip(texts, foreign, strict=True) if not is_foreign]
        # Without offsets, which nobody asks for.
        encodings = iter(self.backend.encode_batch_fast(usual, add_special_tokens=False))
        return [
            self._plain.encode(text)[0] if is_foreign else next(encodings).ids
            for text, is_foreign in zip(texts, foreign, strict=True)
        ]

    @cached_property
    def digest(self) -> str:
        """Digest of everything that determines text and ids.

        It is taken of what was made of the files, and of all of it, so no file that is read can be forgotten here.
        """
        config = json.dumps(self._config, sort_keys=True)
        # What came later is left out where there is none of it, so that other tokenizers keep their digest.
        later = [] if self._template.date is None else [self._template.date]
        if self._named != named_in_config(self._config):
            later.append(json.dumps(self._named, sort_keys=True))
        return digest_text("tokenizer", self.backend.to_str(), config, self._template.text, *later)

    @cached_property
    def special_tokens(self) -> frozenset[str]:
        """Tokens with a meaning for the model but none for a reader, such as `<|im_end|>`."""
        added = self.backend.get_added_tokens_decoder().values()
        return frozenset(token.content for token in added if token.special)

    @cached_property
    def pad_id(self) -> int:
        """The padding id. Any id would do: padding carries no loss, and nothing attends to it."""
        for name in ("pad_token", "eos_token"):
            if name in self._named and (token_id := self.backend.token_to_id(self._named[name])) is not None:
                return token_id
        return 0

    @cached_property
    def end_of_text(self) -> tuple[str, int]:
        """The token after which a text is over, and its id.

        Raises:
            InvalidInput: the model's files name none.
        """
        token = self._named.get("eos_token")
        token_id = None if token is None else self.backend.token_to_id(token)
        if token is None or token_id is None:
            raise InvalidInput(
                f"Model {self._directory} names no eos_token in tokenizer_config.json, which ends each text: add it."
            )
        return token, token_id

    @cached_property
    def beginning_ids(self) -> list[int]:
        """What this tokenizer itself puts before each text, such as Llama's `<s>`; often nothing."""
        alone, whole = (self.backend.encode("a", add_special_tokens=added).ids for added in (False, True))
        start = next((at for at in range(len(whole)) if whole[at : at + len(alone)] == alone), 0)
        return whole[:start]

    @cached_property
    def _plain(self) -> PlainBackend:
        added = self.backend.get_added_tokens_decoder().values()
        turn = self._template.text_of_one_turn
        # Some models mark turns with added tokens that are not flagged as special.
        marking = {token.content for token in added if token.content in turn and not token.content.isspace()}
        return PlainBackend(self.backend, self.special_tokens | marking)

    def _text(self, name: str) -> str:
        return (self._directory / name).read_text(encoding="utf-8")


def _texts_in(value: Any) -> Iterator[str]:
    """Every text of messages and tools, keys of objects too: a template prints a call's arguments whole."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (key for key in value if key not in _OWN_KEYS)
        for one in value.values():
            yield from _texts_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts_in(one)


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """The same with each of `_texts_in` changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key if key in _OWN_KEYS else change(key): _with_texts(one, change) for key, one in value.items()}
    return [_with_texts(one, change) for one in value] if isinstance(value, list | tuple) else value
