"""Names that the code writes as constants (run tags, environment variables), and the text below each of them."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
# What a deployment runs; `simulation` and the tests have names of their own.
PACKAGES = ("headrace", "headrace_dagster", "assets", "resources", "pipelines")
_HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Constant:
    """`text`: what stands below it in the module; "" if nothing does."""

    value: str
    text: str
    module: str


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted(path for path in (CHECKOUT / package).rglob("*.py") if _HERE not in path.parents)


def constants(pattern: str) -> list[Constant]:
    """The strings that fit, assigned to a name of their own at a module's top."""
    fits, found = re.compile(pattern), list[Constant]()
    for path in sources():
        source = path.read_text(encoding="utf-8")
        if not fits.search(source):
            continue
        body = ast.parse(source).body
        for statement, following in zip_longest(body, body[1:]):
            value = _text(statement.value) if isinstance(statement, ast.Assign) else None
            if value and fits.fullmatch(value):
                text = _text(following.value) if isinstance(following, ast.Expr) else None
                found.append(Constant(value=value, text=text or "", module=str(path.relative_to(CHECKOUT))))
    return found


def _text(expression: ast.expr) -> str | None:
    value = expression.value if isinstance(expression, ast.Constant) else None
    return value if isinstance(value, str) else None
