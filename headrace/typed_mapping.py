"""Turns a parsed YAML mapping into a frozen dataclass, or says in one sentence what is wrong with it.

The dataclass is the schema: its annotations are the types, its defaults the optional keys. Unknown keys are refused
rather than ignored, because a misspelt `heldout_shares: 0.1` would otherwise change a split without a word.
"""

import difflib
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from headrace.errors import InvalidInput

T = TypeVar("T")

# Beyond it no JSON reader, database or library that a number is handed to has it. NaN is not within it either.
_NUMBER_END = 2**63
_SHOWN_CHARACTERS_MAX = 300


def from_mapping(cls: type[T], mapping: object, where: str) -> T:
    """Build `cls` out of `mapping`; `where` names the place in messages, such as `resources/corpus.yaml: labels`.

    Raises:
        InvalidInput: an unknown or missing key, a value of the wrong type, or a value that `cls` refuses.
    """
    if not isinstance(mapping, Mapping):
        raise InvalidInput(f"{where} must be a mapping of keys to values, got {_shown(mapping)}.")
    known = {field.name: field for field in fields(cls)}  # pyright: ignore[reportArgumentType]
    for key in mapping:
        if key not in known:
            raise InvalidInput(f"{where} has an unknown key {_shown(key)}; {_suggestion(str(key), list(known))}")
    for name, field in known.items():
        if name not in mapping and field.default is MISSING and field.default_factory is MISSING:
            raise InvalidInput(f"{where} lacks the key {name!r}.")
    hints = get_type_hints(cls)
    values = {name: _value(hints[name], value, f"{where}: {name}") for name, value in mapping.items()}
    try:
        return cls(**values)
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from error


def _suggestion(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}."


def _value(hint: Any, value: object, where: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        return None if value is None else _value(options[0], value, where)
    if origin is Literal:
        if value not in get_args(hint):
            raise InvalidInput(f"{where} must be one of {', '.join(get_args(hint))}, got {_shown(value)}.")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise InvalidInput(f"{where} must be a list, got {_shown(value)}.")
        return tuple(_value(get_args(hint)[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InvalidInput(f"{where} must be a mapping of keys to values, got {_shown(value)}.")
        return {str(key): _value(get_args(hint)[1], item, f"{where}.{key}") for key, item in value.items()}
    if hasattr(hint, "from_mapping"):
        # What a mapping may hold depends on what it says, as an engine's options do on its name.
        return hint.from_mapping(value, where)
    if is_dataclass(hint):
        return from_mapping(hint, value, where)  # pyright: ignore[reportArgumentType]
    if hint in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        if not -_NUMBER_END < value < _NUMBER_END:
            raise InvalidInput(f"{where} must be {_NOUNS[hint]} within ±2^63, got {_shown(value)}.")
        value = float(value) if hint is float else value
    # `True` is an int to Python and a mistake to a reader of YAML.
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InvalidInput(f"{where} must be {_NOUNS.get(hint, hint.__name__)}, got {_shown(value)}.")
    return value


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # it holds a number of more digits than Python spells
        text = "a number of thousands of digits"
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else f"{text[:_SHOWN_CHARACTERS_MAX]}…"


_NOUNS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
