"""Reads all users' YAML: a file's values and their places, or one sentence on why it cannot be read.

YAML 1.2's core schema: `3e-4` is a number, `0o17` is fifteen; `no`, `12:30` and `2026-01-01` are texts. In addition the
merge key `<<` is accepted, and a key is always text, as in JSON.

It also refuses files that would read differently from what is written: a key that occurs twice (YAML silently takes the
last one), a number with a leading zero (octal in YAML 1.1), anchors that multiply a few lines into gigabytes or contain
themselves, lone surrogates.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from headrace.errors import InvalidInput

# A person's file has some kilobytes.
_BYTES_MAX = 4 * 2**20
# The number of values after expanding all anchors.
_VALUES_MAX = 1_000_000
# Nesting of lists. JSON readers of these values fail at about twice as much.
_DEPTH_MAX = 100
# A project's own files, which its sensors read every few seconds: parsing one takes 6 ms, and it rarely changes.
_NUM_KEPT, _KEPT_BYTES_MAX = 128, 2**16


class Document:
    """A file's content, and the place of each value in it.

    Attributes:
        content: None, bool, int, float, str, lists and dicts with keys of text; None: the file is empty.
    """

    def __init__(self, path: Path, root: yaml.Node | None) -> None:
        self.path = path
        self._root = root
        self._pairs: dict[int, dict[str, tuple[yaml.Node, yaml.Node]]] = {}
        self._made: dict[int, Any] = {}
        self.content: Any = None if root is None else self._value(root)

    def place(self, keys: Sequence[str | int], *, of_key: bool = False) -> tuple[int, int]:
        """Line and column, from 1 on, of the value under these keys, or of the innermost existing one.

        Args:
            of_key: the place of the last key itself.
        """
        key_node = node = self._root
        for key in keys:
            if isinstance(node, yaml.MappingNode) and key in (pairs := self._mapping(node)):
                key_node, node = pairs[str(key)]
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                key_node = node = node.value[key]
            else:
                break
        found = key_node if of_key else node
        return (found.start_mark.line + 1, found.start_mark.column + 1) if found else (1, 1)

    def _value(self, node: yaml.Node) -> Any:
        if id(node) not in self._made:
            self._made[id(node)] = self._new_value(node)
        return self._made[id(node)]

    def _new_value(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == BaseResolver.DEFAULT_MAPPING_TAG:
            return {key: self._value(value) for key, (_, value) in self._mapping(node).items()}
        if isinstance(node, yaml.SequenceNode) and node.tag == BaseResolver.DEFAULT_SEQUENCE_TAG:
            return [self._value(one) for one in node.value]
        if isinstance(node, yaml.ScalarNode) and node.tag == BaseResolver.DEFAULT_SCALAR_TAG:
            return node.value
        tag = _shown(node.tag.replace(_TAGS, "!!"))
        if node.tag not in _CORE or not isinstance(node, yaml.ScalarNode):
            raise _refused(node, f"the tag {tag} has no meaning here")
        pattern, _, make = _CORE[node.tag]
        if not pattern.match(node.value):
            raise _refused(node, f"{_shown(node.value)} is not what its tag {tag} says")
        try:
            return make(node.value)
        except ValueError as error:  # thousands of digits
            raise _refused(node, str(error)) from error

    def _mapping(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key → its place and its value; merged keys are placed where they were written."""
        if id(node) not in self._pairs:
            own = {key.value: (key, value) for key, value in node.value if not _is_merge(key)}
            for key, value in node.value:
                if _is_merge(key):
                    for merged in _merged(value):
                        own = self._mapping(merged) | own
            self._pairs[id(node)] = own
        return self._pairs[id(node)]


def read_yaml(path: Path, noun: str) -> Document:
    """The one document of a YAML file.

    Args:
        noun: what a refusal calls the file: "Corpus file".

    Raises:
        InvalidInput: the file does not exist, is not YAML, or would read differently from what is written.
    """
    where, body = f"{noun} {path}", b""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        with path.open("rb") as file:
            body = file.read(_BYTES_MAX + 1)
        if len(body) > _BYTES_MAX:
            raise ValueError(f"it has more than {_BYTES_MAX:,} bytes")
        return Document(path, _kept_root(body) if len(body) <= _KEPT_BYTES_MAX else _root(body))
    except FileNotFoundError as error:
        raise InvalidInput(f"{where} does not exist.") from error
    except yaml.MarkedYAMLError as error:
        cause = error
        reason = _reason(error, body.decode())
        if mark := error.problem_mark:
            where = f"{where}:{mark.line + 1}:{mark.column + 1}"
    except RecursionError as error:
        cause, reason = error, "it is nested too deeply"
    except UnicodeDecodeError as error:
        where = f"{where}:{body.count(bytes([10]), 0, error.start) + 1}"
        cause, reason = error, f"byte 0x{body[error.start]:02x} is no UTF-8; save the file as UTF-8"
    except yaml.reader.ReaderError as error:
        where = f"{where}:{body.decode()[: error.position].count(chr(10)) + 1}"
        cause, reason = error, f"it holds the character U+{error.character:04X}, which YAML does not allow"
    except (yaml.YAMLError, OSError, ValueError) as error:
        cause, reason = error, " ".join(str(error).split())
    raise InvalidInput(f"{where} is not readable as YAML: {reason.rstrip('.')}.") from cause


def _root(body: bytes) -> yaml.Node | None:
    return _Nodes(body.decode("utf-8")).get_single_node()


# By what stands in the file. Documents read its nodes, and make values of their own.
_kept_root = lru_cache(maxsize=_NUM_KEPT)(_root)


def _reason(error: yaml.MarkedYAMLError, text: str) -> str:
    """PyYAML's sentence, and what it does not say: where the trouble began, and what people usually did."""
    if conflict := _CONFLICT.search(text):
        line = text.count("\n", 0, conflict.start()) + 1
        return f"line {line} is the mark of a merge that is not finished; choose one side, and take the marks out"
    context, problem = error.context, error.problem or ""
    begun, there = error.context_mark, error.problem_mark
    if context and begun and there and begun.line != there.line:
        context += f" that begins at line {begun.line + 1}"
    reason = ", ".join(filter(None, (context, problem)))
    if "'\\t'" in problem:
        return f"{reason}; use spaces"
    if problem == "mapping values are not allowed here":
        return f"{reason}: a text with a colon and a blank needs quotes, and a line before it may lack its 'key: '"
    return reason


# What git writes into a file that two people changed.
_CONFLICT = re.compile(r"^(?:<{7}|>{7}|={7})(?: .*)?$", re.MULTILINE)


def _whole_number(text: str) -> int:
    if text[:2] in ("0o", "0x"):
        return int(text, 0)
    _refuse_leading_zeros(text, "0o10 is eight")
    return int(text)


def _refuse_leading_zeros(text: str, hint: str) -> None:
    """YAML 1.1 reads 010 as eight, 1.2 as ten: nobody could say which of them a person means."""
    if re.match(r"[-+]?0[0-9]", text):
        raise ValueError(f"the number {text} has a leading zero; write {text.lstrip('+-0') or '0'} ({hint}), or quotes")


def _number(text: str) -> float:
    _refuse_leading_zeros(text, "a text needs quotes")
    return float(text.replace(".", "", 1) if text[-1] in "fFnN" else text)


_TAGS = "tag:yaml.org,2002:"
# The core schema's table, https://yaml.org/spec/1.2.2/#103-core-schema: the types of a plain scalar, in order; if
# nothing matches it is text. Each pattern has the characters with which it begins.
_CORE: dict[str, tuple[re.Pattern[str], str, Callable[[str], Any]]] = {
    f"{_TAGS}{name}": (re.compile(rf"(?:{pattern})\Z"), first, make)
    for name, pattern, first, make in (
        ("null", r"null|Null|NULL|~|", "~nN", lambda _: None),
        ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text[0] in "tT"),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789", _whole_number),
        (
            "float",
            r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
            "-+.0123456789",
            _number,
        ),
    )
}


# PyYAML resolves types by YAML 1.1, but its parts read what 1.2 has too. Its composer keeps each value's place.
class _Nodes(Reader, Scanner, Parser, Composer, BaseResolver):
    """Checks the parsed nodes before any value is built."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        # By identity; a missing node is being composed.
        self._sizes: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        is_alias = self.check_event(yaml.AliasEvent)
        node: Any = super().compose_node(parent, index)
        if not is_alias:
            self._sizes[id(node)] = self._size(node)
        elif id(node) not in self._sizes:
            raise _refused(node, f"an anchor stands inside itself{_at(node)}")
        return node

    def _size(self, node: Any) -> tuple[int, int]:
        """The node's number of values and its depth of nesting, with anchors expanded."""
        if isinstance(node, yaml.ScalarNode):
            _check_text(node)
            return 1, 1
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            parts = [part for pair in node.value for part in pair]
        else:
            parts = node.value
        sizes = [self._sizes[id(part)] for part in parts]
        total, depth = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
        if total > _VALUES_MAX:
            raise _refused(node, f"its anchors multiply to more than {_VALUES_MAX:,} values{_at(node)}")
        if depth > _DEPTH_MAX:
            raise _refused(node, "it is nested too deeply")
        return total, depth


for _tag, (_pattern, _first, _) in _CORE.items():
    # ``: an empty scalar has no first character; it is null.
    _Nodes.add_implicit_resolver(_tag, _pattern, [*_first, *([""] if _tag.endswith(":null") else [])])


def _is_merge(key: yaml.Node) -> bool:
    return isinstance(key, yaml.ScalarNode) and key.value == "<<" and key.style is None


def _merged(node: yaml.Node) -> Iterator[yaml.MappingNode]:
    """The mappings that `<<` merges; if several have a key, the first one counts."""
    for one in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        if not isinstance(one, yaml.MappingNode):
            raise _refused(one, "<< must name a mapping, or a list of them")
        yield one


def _check_text(node: yaml.ScalarNode) -> None:
    try:
        node.value.encode()
    except UnicodeEncodeError as error:
        raise _refused(node, f"half of a surrogate pair, which is no character,{_at(node)}") from error


def _check_keys(node: yaml.MappingNode) -> None:
    seen: dict[str, yaml.ScalarNode] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _refused(key, "a key must be a text, not a list or a mapping")
        if seen.setdefault(key.value, key) is not key:
            raise _refused(key, f"the key {_shown(key.value)} stands twice,{_at(seen[key.value])} and{_at(key)}")


def _shown(value: str) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _refused(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _at(node: yaml.Node) -> str:
    return f" at line {node.start_mark.line + 1}"
