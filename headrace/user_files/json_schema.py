"""JSON Schema of users' files, with which editors complete keys and underline mistakes.

It covers types, ranges and keys, but not what a class's `__post_init__` refuses. Its descriptions are the docstrings
of classes and the texts below fields.
"""

import ast
import inspect
from itertools import pairwise
from typing import Any

from headrace.user_files.shapes import core_schema_of

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(cls: type, title: str) -> dict[str, Any]:
    """The draft 2020-12 schema of the files from which `cls` is built."""
    # Imported here, since the import takes CPU that other commands should not pay.
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        def dataclass_schema(self, schema: Any) -> dict[str, Any]:
            made = super().dataclass_schema(schema)
            for name, text in _field_texts(schema["cls"]).items():
                made["properties"][name]["description"] = text
            return made

        def field_title_should_be_set(self, schema: Any) -> bool:
            return False

        def get_title_from_name(self, name: str) -> str:
            return name

    made = Generator().generate(core_schema_of(cls))
    return {"$schema": _DIALECT, **_in_lines(made), "title": title}


def _field_texts(cls: type) -> dict[str, str]:
    """Field → the text below it, in the class or in the base that declares it."""
    texts: dict[str, str] = {}
    for base in (base for base in reversed(cls.__mro__) if "__dataclass_fields__" in vars(base)):
        [tree] = ast.parse(inspect.cleandoc(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in pairwise(tree.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                texts[ast.unparse(field.target)] = str(text.value.value)
    return texts


def _in_lines(part: Any) -> Any:
    """Puts each description on one line: editors break lines themselves."""
    if isinstance(part, list):
        return [_in_lines(one) for one in part]
    if not isinstance(part, dict):
        return part
    return {
        key: " ".join(value.split()) if key == "description" and isinstance(value, str) else _in_lines(value)
        for key, value in part.items()
    }
