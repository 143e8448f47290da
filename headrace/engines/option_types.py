"""Checks the options' class of an engine kind, before a user's file meets it.

Options are read from YAML and kept in a version set as JSON, so a field can only have a type that both can give. A
wrong one would make every file that names the engine fail, with a fault that looks like the file's.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from headrace.errors import InvalidInput, reason_of

_LEAVES = (str, int, float, bool, NoneType, Any, object)
_SEQUENCES = (list, set, frozenset)


def check_options(options: Any, whose: str) -> None:
    """Args: whose: the engine and its package, for a refusal.

    Raises: InvalidInput: no frozen dataclass, a field that a file cannot give, or a default that JSON cannot hold.
    """
    if not _is_frozen(options):
        raise InvalidInput(f"options of {whose} must be a frozen dataclass, got {options!r}.")
    fields = dataclasses.fields(options)
    if any(field.name == "name" for field in fields):
        raise InvalidInput(f"options of {whose} has a field 'name', which is the engine's own in a file. Rename it.")
    try:
        hints = get_type_hints(options, include_extras=True)
    except Exception as error:
        raise InvalidInput(f"options of {whose} has a type that cannot be read: {reason_of(error)}.") from error
    for field in fields:
        if wrong := _unreadable(hints[field.name]):
            raise InvalidInput(
                f"options of {whose}: {field.name} must be of a type that YAML and JSON have, got {wrong}."
            )
        if field.default_factory is not dataclasses.MISSING:
            try:
                default = field.default_factory()
            except Exception as error:
                raise InvalidInput(
                    f"options of {whose}: the default of {field.name} raised {reason_of(error)}."
                ) from error
        elif (default := field.default) is dataclasses.MISSING:
            continue
        try:
            json.dumps(default, default=dataclasses.asdict, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise InvalidInput(
                f"options of {whose}: the default of {field.name} must be a value of JSON, and finite, got {default!r}."
            ) from error


def _unreadable(hint: Any, inside: tuple[type, ...] = ()) -> str:
    """The first part of a field's type that no file can give, with what to use; empty: there is none."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        # Such an annotation converts what it is given.
        converts = any(hasattr(one, "__get_pydantic_core_schema__") for one in arguments[1:])
        return "" if converts else _unreadable(arguments[0], inside)
    if alias := getattr(hint, "__supertype__", None) or getattr(hint, "__value__", None):
        return _unreadable(alias, inside)
    # A class may hold itself.
    if hint in _LEAVES or hint in inside or origin is Literal or hasattr(hint, "__get_pydantic_core_schema__"):
        return ""
    kind = origin or hint
    if kind in _SEQUENCES:
        return f"{_name(hint)}: use tuple[{_name(arguments[0]) if arguments else 'str'}, ...]"
    if kind in (Union, UnionType, tuple, dict, Mapping, Sequence):
        return next(filter(None, (_unreadable(one, inside) for one in arguments if one is not Ellipsis)), "")
    if _is_frozen(kind):
        hints = get_type_hints(kind, include_extras=True)
        return next(
            filter(None, (_unreadable(hints[field.name], (*inside, kind)) for field in dataclasses.fields(kind))), ""
        )
    return f"{_name(hint)}: use str, int, float, bool, Literal, tuple, dict or a frozen dataclass"


def _is_frozen(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
