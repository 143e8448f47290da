"""A model's tokenizer and chat template, read from its files without importing transformers.

Importing transformers costs 3.5 CPU seconds (it imports torch), in every run of every shard; `tokenizers` and jinja2
cost 0.1 s. The price is that transformers' few lines of template set-up are repeated here; tests compare text and ids
with `apply_chat_template`. Templates run in jinja's sandbox: they come from a hub and are foreign code.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import jinja2
import jinja2.ext
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Encoding, Tokenizer

from headrace.errors import InvalidInput
from headrace.keys import digest_text

Message = Mapping[str, str]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class ChatTokenizer:
    """Renders chats and turns them into ids exactly as `transformers.AutoTokenizer` does for the same files."""

    def __init__(self, directory: Path) -> None:
        """Raises: InvalidInput: a file is missing or broken, or there is no chat template."""
        self._directory = directory
        try:
            self.backend = Tokenizer.from_str(self._text("tokenizer.json"))
            self._config = json.loads(self._text("tokenizer_config.json"))
        except FileNotFoundError as error:
            raise InvalidInput(
                f"Model directory {directory} has no {Path(error.filename).name}, wanted a model with a fast tokenizer "
                "(tokenizer.json, tokenizer_config.json). Check HEADRACE_BASE_MODEL."
            ) from error
        except Exception as error:
            raise InvalidInput(f"Tokenizer of {directory} is not readable: {error}") from error
        # What a file asks of other callers must not cut or pad our examples.
        self.backend.no_truncation()
        self.backend.no_padding()
        self._template = _environment().from_string(self._template_text())

    @classmethod
    def load(cls, model: str) -> "ChatTokenizer":
        """From a local directory, or from the hub if `model` names no directory.

        Raises:
            InvalidInput: neither a directory nor a name that the hub gives files for.
        """
        if Path(model).is_dir():
            return cls(Path(model))
        if Path(model).is_absolute():
            raise InvalidInput(
                f"Model directory {model} does not exist. `make demo` makes the demo's; set HEADRACE_BASE_MODEL."
            )
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return cls(Path(snapshot_download(model, allow_patterns=list(_TOKENIZER_FILES))))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise InvalidInput(f"Model {model!r} is neither a directory nor to be had from the hub: {error}") from error

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """Raises: InvalidInput: the template refuses these messages."""
        try:
            return self._template.render(
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                # Templates ask for these two without asking whether they are defined.
                tools=None,
                documents=None,
                raise_exception=_raise_exception,
                **self._special,
            )
        except jinja2.TemplateError as error:
            raise InvalidInput(f"Chat template of {self._directory} refuses the messages: {error}") from error

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Encodings with ids and offsets; nothing is added in front or behind."""
        return self.backend.encode_batch(list(texts), add_special_tokens=False)

    @cached_property
    def digest(self) -> str:
        """Identity of everything that decides text and ids."""
        config = json.dumps(self._config, sort_keys=True)
        return digest_text("tokenizer", self.backend.to_str(), config, self._template_text())

    @cached_property
    def special_tokens(self) -> frozenset[str]:
        """Tokens that mean something to the model and nothing to a reader, such as `<|im_end|>`."""
        added = self.backend.get_added_tokens_decoder().values()
        return frozenset(token.content for token in added if token.special)

    @cached_property
    def pad_id(self) -> int:
        """The id that fills a sequence up; any would do, as padding bears no loss and is attended to by nothing."""
        for name in ("pad_token", "eos_token"):
            if name in self._special and (token_id := self.backend.token_to_id(self._special[name])) is not None:
                return token_id
        return 0

    @cached_property
    def _special(self) -> dict[str, str]:
        named = {name: self._config.get(name) for name in _SPECIAL_TOKENS}
        contents = {name: token["content"] if isinstance(token, dict) else token for name, token in named.items()}
        return {name: content for name, content in contents.items() if content}

    def _template_text(self) -> str:
        if (self._directory / "chat_template.jinja").is_file():
            return self._text("chat_template.jinja")
        template = self._config.get("chat_template")
        if isinstance(template, list):
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
        if not isinstance(template, str):
            raise InvalidInput(
                f"Model {self._directory} has no chat template (chat_template.jinja, or chat_template in "
                "tokenizer_config.json): take an instruct model, or add the template its training used."
            )
        return template

    def _text(self, name: str) -> str:
        return (self._directory / name).read_text(encoding="utf-8")


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's words for some trainers; here it is its content."""

    tags = {"generation"}  # noqa: RUF012 (as jinja's Extension declares it)

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """Jinja as transformers sets it up for chat templates, but for `strftime_now`.

    That one is left undefined on purpose: templates that stamp today's date then fall back to a date of their own, and
    the same corpus makes the same bytes tomorrow.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    return environment


def _to_json(value: object, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False) -> str:
    # Jinja's own filter escapes HTML characters.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
