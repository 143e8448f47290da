"""One model's part in a campaign or a service, as their files describe it: model, prompt template, decoding, engine.

They stand above the version set, whose member a role becomes, and above the engines, which say what their section of a
file may hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from headrace.engines.registry import EngineKind, engine_kind
from headrace.errors import InvalidInput
from headrace.text_templates import placeholders
from headrace.typed_mapping import from_mapping
from headrace.version_sets.sets import EngineSpec


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """The turns that the model's chat template is given; `{text}` is the prompt."""

    user: str = "{text}"
    # null leaves the system turn to the model's own chat template, which may add one.
    system: str | None = None

    def __post_init__(self) -> None:
        if "text" not in placeholders("user", self.user, texts=("text",)):
            raise InvalidInput(f"user must hold {{text}}, where the prompt goes, got {self.user!r}.")


class EngineSettings:
    """What turns prompts into answers: an installed engine and its options; all of it is part of the version set."""

    __slots__ = ("kind", "options")

    def __init__(self, name: str = "transformers", **options: Any) -> None:
        """Raises: InvalidInput: no such engine, or options that it does not take."""
        self.kind: EngineKind = engine_kind(name)
        self.options: Any = self.kind.options(**options)

    @classmethod
    def from_mapping(cls, mapping: object, where: str) -> "EngineSettings":
        """As `typed_mapping.from_mapping`: the engine's options are the schema of what stands beside `name`."""
        if not isinstance(mapping, Mapping):
            raise InvalidInput(f"{where} must be a mapping of keys to values, got {mapping!r}.")
        name = mapping.get("name", "transformers")
        if not isinstance(name, str):
            raise InvalidInput(f"{where}: name must be a string, got {name!r}.")
        try:
            kind = engine_kind(name)
        except InvalidInput as error:
            raise InvalidInput(f"{where}: name: {error}") from error
        options = from_mapping(kind.options, {key: mapping[key] for key in mapping if key != "name"}, where)
        return cls(name, **{one.name: getattr(options, one.name) for one in fields(options)})

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def spec(self) -> EngineSpec:
        return self.kind.spec(self.options)

    def on(self, name: str) -> "EngineSettings":
        """Another engine, with as much of these options as that takes.

        Raises: InvalidInput: no such engine, or one that needs what is not said here.
        """
        # What is for one engine alone stays with it.
        kept = {one.name: getattr(self.options, one.name) for one in fields(self.options)}
        return self.taking(name, **{key: value for key, value in kept.items() if key not in _OF_ONE_ENGINE})

    @classmethod
    def taking(cls, name: str, **offered: Any) -> "EngineSettings":
        """An engine with those of these options that it takes.

        Raises: InvalidInput: no such engine, or one that needs what is not offered.
        """
        taken = {one.name for one in fields(engine_kind(name).options)}
        return cls(name, **{key: value for key, value in offered.items() if key in taken})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EngineSettings) and (self.name, self.options) == (other.name, other.options)

    def __hash__(self) -> int:
        return hash((self.name, self.options))

    def __repr__(self) -> str:
        return f"EngineSettings({self.name!r}, {self.options!r})"


_OF_ONE_ENGINE = frozenset({"template_date", "special_tokens"})
