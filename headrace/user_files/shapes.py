"""Builds frozen dataclasses from users' files and other mappings, or reports all their faults at once.

The dataclass is the schema: its annotations give types and ranges (`Annotated[int, Ge(1)]`), its defaults mark optional
keys, and the text below a field is its description (`headrace.user_files.json_schema`). pydantic checks it strictly.
Unknown keys are refused, because a misspelt `heldout_shares: 0.1` would silently change a split. Once all fields of a
class are valid, the report includes what its `__post_init__` refuses.
"""

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from headrace.errors import InvalidInput, reason_of
from headrace.user_files.nearest_keys import nearest_key
from headrace.user_files.ranges import range_in_words

# Functions import pydantic and PyYAML themselves: 100 ms of CPU, which code that only reads handoffs should not pay.
if TYPE_CHECKING:
    from pydantic_core import ErrorDetails, InitErrorDetails, SchemaValidator, ValidationError

    from headrace.user_files.yaml_file import Document

T = TypeVar("T")


Keys = tuple[str | int, ...]

# Numbers beyond it are refused: later JSON readers, databases and libraries may not hold them. NaN counts as beyond.
_NUMBER_END = 2**63
_SHOWN_CHARACTERS_MAX = 300
_FAULTS_SHOWN_MAX = 100
# The directory of the file that is being read, for what it names relative to itself.
_read_from: ContextVar[Path | None] = ContextVar("read_from", default=None)
_NULL_OR = "null or "

_NUMBERS = {"int_type": "a whole number", "float_type": "a number", "finite_number": "a number"}
_NOUNS = _NUMBERS | {
    "string_type": "a string",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "dataclass_type": "a mapping of keys to values",
}
_BOUNDS = ("greater_than_equal", "greater_than", "less_than_equal", "less_than")


def from_file(cls: type[T], path: Path, noun: str, *, refusal: type[InvalidInput] = InvalidInput) -> T:
    """Builds `cls` from a YAML file.

    Args:
        noun: what a refusal calls the file: "Corpus file".

    Raises:
        InvalidInput: of the class `refusal`: there is no such file, it is not YAML, or it has faults. Each fault is a
            line with its line and column, in the order of the file.
    """
    from headrace.user_files.yaml_file import read_yaml

    token = _read_from.set(path.absolute().parent)
    try:
        document = read_yaml(path, noun)
        return _checked(cls, document.content, f"{noun} {path}", document)
    except InvalidInput as error:
        raise refusal(str(error)) from error.__cause__
    finally:
        _read_from.reset(token)


def beside(name: Path) -> Path:
    """A path that the file which is being read names, relative to that file.

    Raises: ValueError, in the file's report: no file is being read, so nothing can be relative to it.
    """
    directory = _read_from.get()
    if directory is None and not name.is_absolute():
        raise ValueError(f"must be an absolute path where no file names it, got {name}")
    return name if directory is None else directory / name


def from_file_of_variable(cls: type[T], path: Path, noun: str, variable: str) -> T:
    """As `from_file`, of a file that an environment variable names: a missing one says so."""
    try:
        return from_file(cls, path, noun)
    except InvalidInput as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise InvalidInput(f"{noun} {path} does not exist; {variable} names the file to use.") from error
        raise


def from_mapping(cls: type[T], mapping: object, where: str) -> T:
    """Builds `cls` from `mapping`; `where` names it in messages, such as `engine 'echo'`.

    Raises:
        InvalidInput: unknown or missing keys, values of the wrong type, or values that `cls` refuses.
    """
    return _checked(cls, mapping, where, None)


class Before:
    """An annotation: `change` converts a file's value to the annotated type, such as a number to a section.

    Attributes:
        accepts: the type that a file may use besides the annotated one, for JSON Schema; None: no other.
    """

    def __init__(self, change: Callable[[Any], Any], *, accepts: Any = None) -> None:
        self.change, self.accepts = change, accepts

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        schema = handler(source)
        shown = core_schema.union_schema([handler.generate_schema(self.accepts), schema]) if self.accepts else schema
        return core_schema.no_info_before_validator_function(self.change, schema, json_schema_input_schema=shown)


class After:
    """An annotation: `check` refuses values of the annotated class that a file may not have, though the class may.

    Its refusal begins with the field: "temperature must be …".
    """

    def __init__(self, check: Callable[[Any], None]) -> None:
        self.check = check

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, value: Any) -> Any:
        try:
            self.check(value)
        except InvalidInput as error:
            field, _, rest = str(error).partition(" ")
            raise fault((field,), tail=f" {rest}") from error
        return value


def chosen(cls: type[T], mapping: object, *, others: tuple[str, ...] = ()) -> T:
    """For a pydantic validator whose class depends on the mapping, as an engine's options depend on its name.

    Args:
        others: further known keys, which the caller has taken out.

    Raises:
        ValidationError: the enclosing report includes its faults.
    """
    return _validator(cls, others).validate_python(_plain(mapping))


def fault(keys: Keys, **said: Any) -> "ValidationError":
    """A fault that such a validator finds itself.

    Args:
        keys: the path to it, from the validator's input.
        said: either `wish`, what must be so ("be a string"), or `tail`, the sentence after the place.
    """
    from pydantic_core import ValidationError

    return ValidationError.from_exception_data("fault", [_detail(keys, path=_label(keys), **said)])


def _checked(cls: type[T], content: object, where: str, document: "Document | None") -> T:
    from pydantic_core import ValidationError

    try:
        return chosen(cls, content)
    except ValidationError as error:
        found = [(one["loc"], one.get("ctx", {})) for one in error.errors(include_url=False)]
    places = [document.place(keys, of_key="of_key" in said) if document else () for keys, said in found]
    in_order = sorted(zip(places, found, strict=True), key=lambda pair: pair[0])
    lines = [
        ("".join(f":{number}" for number in place), _sentence(said, _reached(content, keys)))
        for place, (keys, said) in in_order[:_FAULTS_SHOWN_MAX]
    ]
    if len(in_order) == 1:
        raise InvalidInput("".join([where, *lines[0]])) from None
    start = str(document.path) if document else where
    shown = [f"{start}{place}{sentence}" for place, sentence in lines]
    rest = [f"and {len(in_order) - len(shown)} more"] if len(in_order) > len(shown) else []
    raise InvalidInput("\n  ".join([f"{where} has {len(in_order)} faults:", *shown, *rest])) from None


@cache
def _validator(cls: type, others: tuple[str, ...]) -> "SchemaValidator":
    from pydantic_core import SchemaValidator

    return SchemaValidator(_reporting(core_schema_of(cls), others))


def core_schema_of(cls: Any, **settings: Any) -> Any:
    """pydantic's core schema of a class.

    Args:
        settings: further settings of its ConfigDict.
    """
    from pydantic import ConfigDict, TypeAdapter

    # A dataclass accepts no outside settings, but has those of the list that contains it.
    listed: Any = tuple.__class_getitem__(cls)
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, **settings)
    schema: Any = TypeAdapter(listed, config=config).core_schema
    if schema["type"] == "definitions":
        return {**schema, "schema": schema["schema"]["items_schema"][0]}
    return schema["items_schema"][0]


def _reporting(schema: Any, others: tuple[str, ...]) -> Any:
    """The schema, in which each dataclass reports its faults in our words."""
    if isinstance(schema, list):
        return [_reporting(part, others) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made: Any = {key: _reporting(part, others) for key, part in schema.items()}
    if made.get("type") != "dataclass":
        return made
    from pydantic_core import core_schema

    # Only this is not strict: a mapping is accepted in place of the dataclass.
    made["strict"], ref = False, made.pop("ref", None)
    return core_schema.no_info_wrap_validator_function(_in_our_words(made["cls"], others), made, ref=ref)


def _in_our_words(cls: type, others: tuple[str, ...]) -> Callable[[Any, Callable[[Any], Any]], Any]:
    from pydantic_core import ValidationError

    known = (*others, *(field.name for field in fields(cls)))

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            found = [_again(one, cls, known) for one in error.errors(include_url=False)]
        except InvalidInput as error:
            found = [_detail(_keys_of(str(error), value), tail=f": {error}")]
        except Exception as error:  # noqa: BLE001 (another package's options; the other faults are told too)
            found = [_detail((), tail=f" cannot be checked by {cls.__name__}: {reason_of(error)}")]
        raise ValidationError.from_exception_data(cls.__name__, found)

    return check


def _again(error: "ErrorDetails", cls: type, known: tuple[str, ...]) -> "InitErrorDetails":
    """Puts a field's fault into our words; for one from further below, only extends its path."""
    keys, kind, context = error["loc"], error["type"], error.get("ctx", {})
    if kind == "fault":
        # The last `depth` of the keys are in its path.
        below = _label(keys[: len(keys) - context["depth"]]), context["path"]
        return _detail(keys, **{**context, "path": ": ".join(filter(None, below))})
    if kind == "missing":
        return _detail(keys, tail=f" lacks the key {keys[-1]!r}.")
    if kind == "unexpected_keyword_argument":
        key = str(keys[-1])
        return _detail(keys, tail=f" has an unknown key {_shown(key)}{nearest_key(key, cls, known)}", of_key=True)
    if kind == "value_error":
        return _detail(keys, path=_label(keys), tail=f": {context['error']}")
    if kind == "literal_error":
        wish = "be one of " + context["expected"].replace("'", "").replace(" or ", ", ")
    elif kind in _BOUNDS:
        wish = "be " + range_in_words(cls, str(keys[0]))
    else:
        wish = f"be {_null_or(cls, keys)}{_NOUNS[kind]}" if kind in _NOUNS else error["msg"].partition(" should ")[2]
    return _detail(keys, path=_label(keys), wish=wish)


def _null_or(cls: type, keys: Keys) -> str:
    """What a key may hold besides its type, as the beginning of a wish."""
    hint = get_type_hints(cls).get(str(keys[0])) if len(keys) == 1 else None
    return _NULL_OR if type(None) in get_args(hint) else ""


def _keys_of(refusal: str, value: Any) -> Keys:
    """The place of a class's own refusal, which usually begins with the field or the path to it: "gate: margins …"."""
    keys: Keys = ()
    for part in refusal.split(": "):
        name, *index = re.findall(r"[^][]+", part.partition(" ")[0])
        # A key of a section within may stand as `offload.parameters`: the section is the nearest place.
        name = name.partition(".")[0]
        if not isinstance(value, Mapping) or name not in value:
            break
        keys, value = (*keys, name, *map(int, index)), value[name]
    return keys


def _detail(keys: Keys, **said: Any) -> "InitErrorDetails":
    """A fault as pydantic passes it upwards. `path`: the parts that lead to it from the present dataclass."""
    from pydantic_core import InitErrorDetails, PydanticCustomError

    return InitErrorDetails(
        type=PydanticCustomError("fault", "fault", {"path": "", **said, "depth": len(keys)}), loc=keys, input=None
    )


def _sentence(said: dict[str, Any], value: object) -> str:
    """The sentence after the place of the whole. `value`: as it was given."""
    start = f": {said['path']}" if said["path"] else ""
    if "tail" in said:
        return start + said["tail"]
    wish = said["wish"]
    if (
        wish.removeprefix("be ").removeprefix(_NULL_OR) in _NUMBERS.values()
        and isinstance(value, int | float)
        and not _is_within(value)
    ):
        wish += " within ±2^63"
    # Of a whole file: an empty one has no value that a person would find in it.
    got = "an empty file" if value is None and not said["path"] and said["depth"] == 0 else _shown(value)
    return f"{start} must {wish}, got {got}."


def _label(keys: Keys) -> str:
    """Such as `replicas.http://a/v1[0]`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def _plain(content: object) -> Any:
    """Prepares for the checks: lists become tuples, keys texts, and numbers out of range NaN, which is refused."""
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return tuple(map(_plain, content))
    if isinstance(content, int | float) and not isinstance(content, bool) and not _is_within(content):
        return float("nan")
    return content


def _is_within(number: float) -> bool:
    return -_NUMBER_END < number < _NUMBER_END


def _reached(content: Any, keys: Keys) -> object:
    """The value at `keys`, or the value that is no list or mapping where the path ends early."""
    for key in keys:
        if isinstance(content, Mapping):
            content = next((value for name, value in content.items() if str(name) == key), None)
        elif isinstance(content, list | tuple) and isinstance(key, int):
            content = content[key]
    return content


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # a number in it has more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else f"{text[:_SHOWN_CHARACTERS_MAX]}…"
