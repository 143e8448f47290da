"""The one reader of users' YAML: what a file says, or one sentence on why it says nothing.

Beside what YAML itself refuses, a file is refused that reads as something else than what stands there: a key that
stands twice (YAML lets the last one win without a word), anchors that multiply a few lines into gigabytes or contain
themselves, half of a surrogate pair.
"""

from pathlib import Path
from typing import Any

import yaml

from headrace.errors import InvalidInput

# A person's file has some kilobytes.
_BYTES_MAX = 4 * 2**20
# What a file stands for once each anchor is written out.
_VALUES_MAX = 1_000_000


def read_yaml(path: Path, noun: str) -> object:
    """The one document of a YAML file; None: it is empty.

    Args:
        noun: what a refusal calls the file: "Corpus file".

    Raises:
        InvalidInput: there is no such file, or it is not YAML, or not what it seems to say.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        with path.open("rb") as file:
            body = file.read(_BYTES_MAX + 1)
        if len(body) > _BYTES_MAX:
            raise ValueError(f"it has more than {_BYTES_MAX:,} bytes")
        return yaml.load(body.decode("utf-8"), _Loader)
    except FileNotFoundError as error:
        raise InvalidInput(f"{noun} {path} does not exist.") from error
    except RecursionError as error:
        raise InvalidInput(f"{noun} {path} is not readable as YAML: it is nested too deeply.") from error
    # What PyYAML's constructors let pass of the values that they are given: `2026-99-99`, `!!int x`, `!!bool x` …
    except (yaml.YAMLError, OSError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidInput(f"{noun} {path} is not readable as YAML: {reason.rstrip('.')}.") from error


class _Loader(yaml.SafeLoader):
    """Looks at what was parsed before anything is made of it."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        # By identity; a node that is not there yet is being composed.
        self._num_values: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        is_alias = self.check_event(yaml.AliasEvent)
        node: Any = super().compose_node(parent, index)
        if not is_alias:
            self._num_values[id(node)] = self._counted(node)
        elif id(node) not in self._num_values:
            raise ValueError(f"an anchor stands inside itself{_at(node)}")
        return node

    def _counted(self, node: Any) -> int:
        if isinstance(node, yaml.ScalarNode):
            _check_text(node)
            return 1
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            below = [part for pair in node.value for part in pair]
        else:
            below = node.value
        total = 1 + sum(self._num_values[id(part)] for part in below)
        if total > _VALUES_MAX:
            raise ValueError(f"its anchors multiply to more than {_VALUES_MAX:,} values{_at(node)}")
        return total


def _check_text(node: yaml.ScalarNode) -> None:
    try:
        node.value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a surrogate pair, which is no character,{_at(node)}") from error


def _check_keys(node: yaml.MappingNode) -> None:
    seen: dict[str, yaml.ScalarNode] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and seen.setdefault(key.value, key) is not key:
            shown = key.value if len(key.value) <= 80 else f"{key.value[:80]}…"
            raise ValueError(f"the key {shown!r} stands twice,{_at(seen[key.value])} and{_at(key)}")


def _at(node: yaml.Node) -> str:
    return f" at line {node.start_mark.line + 1}"
