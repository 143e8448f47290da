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


def from_mapping(cls: type[T], mapping: object, where: str) -> T:
    """Build `cls` out of `mapping`; `where` names the place in messages, such as `resources/corpus.yaml: labels`.

    Raises:
        InvalidInput: an unknown or missing key, a value of the wrong type, or a value that `cls` refuses.
    """
    if not isinstance(mapping, Mapping):
        raise InvalidInput(f"{where} must be a mapping of keys to values, got {mapping!r}.")
    known = {field.name: field for field in fields(cls)}  # pyright: ignore[reportArgumentType]
    for key in mapping:
        if key not in known:
            raise InvalidInput(f"{where} has an unknown key {key!r}; {_suggestion(str(key), list(known))}")
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
            raise InvalidInput(f"{where} must be one of {', '.join(get_args(hint))}, got {value!r}.")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise InvalidInput(f"{where} must be a list, got {value!r}.")
        return tuple(_value(get_args(hint)[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InvalidInput(f"{where} must be a mapping of keys to values, got {value!r}.")
        return {str(key): _value(get_args(hint)[1], item, f"{where}.{key}") for key, item in value.items()}
    if is_dataclass(hint):
        return from_mapping(hint, value, where)  # pyright: ignore[reportArgumentType]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # `True` is an int to Python and a mistake to a reader of YAML.
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InvalidInput(f"{where} must be {_NOUNS.get(hint, hint.__name__)}, got {value!r}.")
    return value


_NOUNS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
