"""Lists pairs of files that share six lines or more, of the same words or of one shape; fails where there are too many.

A line's shape is the line with every name, string and number made equal. Imports, comments, docstrings and lone
brackets do not count. What only declares (fields, parameters, constants, literals over several lines) has few shapes to
choose from, and counts where its words are the same. A run that stands in more than eight places is an idiom, and is
passed over. The bounds are in pyproject.toml: `[tool.headrace.duplicates]`.
"""

import ast
import itertools
import keyword
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
ROOMS = ("headrace", "headrace_dagster", "assets", "resources", "pipelines", "simulation", "benchmarks", "tests")
RUN_LINES_MIN = 6
PLACES_MAX = 8
_TOKEN = re.compile(r"""[rbf]*"(?:[^"\\]|\\.)*"|[rbf]*'(?:[^'\\]|\\.)*'|#.*|[^\W\d]\w*|\d[\w.]*|\S""")


@dataclass(frozen=True)
class Line:
    file: str
    number: int
    words: str
    compared: str


@dataclass(frozen=True)
class Pair:
    """Two files, or one twice; `longest` is the longest run that they share, line beside line."""

    num_lines: int
    longest: Sequence[tuple[Line, Line]]

    def __str__(self) -> str:
        (first, other), (last, other_last) = self.longest[0], self.longest[-1]
        shape = "" if all(one.words == two.words for one, two in self.longest) else ", of one shape"
        return (
            f"{first.file}:{first.number}-{last.number} ~ {other.file}:{other.number}-{other_last.number}: "
            f"{len(self.longest)} lines{shape}; {self.num_lines} in all"
        )


def counted_lines(file: str, source: str) -> list[Line]:
    silent, declaring = set[int](), set[int]()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant(value=str())):
                silent |= _numbers(node)
            case ast.ClassDef(body=body) | ast.Module(body=body):
                fields = (part for part in body if isinstance(part, ast.AnnAssign | ast.Assign))
                declaring |= set[int]().union(*map(_numbers, fields))
            case ast.FunctionDef(args=arguments) | ast.AsyncFunctionDef(args=arguments):
                below = (
                    part for part in ast.walk(arguments) if isinstance(part, ast.arg) and part.lineno > node.lineno
                )
                declaring |= set[int]().union(*map(_numbers, below))
            case ast.expr() if node.end_lineno != node.lineno and _is_literal(node):
                declaring |= _numbers(node)
    lines = []
    for number, text in enumerate(source.splitlines(), 1):
        words = [] if number in silent else [word for word in _TOKEN.findall(text) if word[0] != "#"]
        if any(word[0].isalnum() or word[0] in "_\"'" for word in words):
            shapes = [_shape(word) for word in words]
            is_literal = not any(shape.isidentifier() and shape != "s" for shape in shapes)
            compared = words if number in declaring or is_literal else shapes
            lines.append(Line(file, number, " ".join(words), " ".join(compared)))
    return lines


def _numbers(node: ast.expr | ast.stmt | ast.arg) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def _is_literal(node: ast.expr) -> bool:
    """A text of several lines, or a table in which nothing is called."""
    match node:
        case ast.Constant() | ast.JoinedStr():
            return True
        case ast.Dict() | ast.List() | ast.Tuple() | ast.Set():
            return not any(isinstance(part, ast.Call | ast.comprehension) for part in ast.walk(node))
    return False


@cache
def _shape(word: str) -> str:
    if word[0].isdigit():
        return "0"
    if word[-1] in "\"'":
        return "s"
    return "x" if word.isidentifier() and not keyword.iskeyword(word) else word


def shared_runs(files: Sequence[Sequence[Line]]) -> Iterator[list[tuple[Line, Line]]]:
    """Runs of lines that stand in two places, each as long as it goes."""
    places: defaultdict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for at, lines in enumerate(files):
        for start in range(len(lines) - RUN_LINES_MIN + 1):
            places[tuple(line.compared for line in lines[start : start + RUN_LINES_MIN])].append((at, start))
    starts: defaultdict[tuple[int, int, int], list[int]] = defaultdict(list)
    for found in places.values():
        if 1 < len(found) <= PLACES_MAX:
            for (one, start), (two, other) in itertools.combinations(found, 2):
                if one != two or other - start >= RUN_LINES_MIN:
                    starts[one, two, other - start].append(start)
    for (one, two, offset), found in starts.items():
        for _, run in itertools.groupby(enumerate(sorted(found)), lambda item: item[1] - item[0]):
            numbers = [start for _, start in run]
            covered = range(numbers[0], numbers[-1] + RUN_LINES_MIN)
            yield [(files[one][number], files[two][number + offset]) for number in covered]


def duplicate_pairs(sources: dict[str, str]) -> list[Pair]:
    """Most shared lines first."""
    runs: defaultdict[tuple[str, str], list[list[tuple[Line, Line]]]] = defaultdict(list)
    for run in shared_runs([counted_lines(file, source) for file, source in sources.items()]):
        runs[run[0][0].file, run[0][1].file].append(run)
    pairs = [Pair(len({line for run in found for line, _ in run}), max(found, key=len)) for found in runs.values()]
    return sorted(pairs, key=lambda pair: -pair.num_lines)


def main() -> None:
    bounds = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["headrace"]["duplicates"]
    paths = [path for room in ROOMS for path in sorted((CHECKOUT / room).rglob("*.py"))]
    pairs = duplicate_pairs({str(path.relative_to(CHECKOUT)): path.read_text() for path in paths})
    too_long = [
        pair
        for pair in pairs
        if len(pair.longest) > bounds["run_lines_max"]
        and not all(line.file.startswith("tests/") for line in pair.longest[0])
    ]
    for pair in pairs if "--all" in sys.argv or len(pairs) > bounds["pairs_max"] else too_long:
        print(pair)
    print(
        f"{len(pairs)} pairs of files share {RUN_LINES_MIN} lines or more (at most {bounds['pairs_max']}); "
        f"outside the tests {len(too_long)} share more than {bounds['run_lines_max']} in a row (none may)."
    )
    sys.exit(bool(too_long) or len(pairs) > bounds["pairs_max"])


if __name__ == "__main__":
    main()
