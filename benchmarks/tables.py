"""Tables of traces, a line at a time: openb (Weng et al. 2023), Azure's of 2023."""

import csv
from collections.abc import Sequence
from pathlib import Path

from headrace.errors import InvalidInput

Row = dict[str, str]


def read_rows(path: Path, columns: Sequence[str], what: str) -> list[tuple[int, Row]]:
    """Lines with their numbers. Raises: InvalidInput: no such file, or other columns."""
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise InvalidInput(f"{path} lacks the columns {', '.join(missing)} of {what}.")
            return [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{path} cannot be read as {what}: {error}.") from error


def number(path: Path, line: int, row: Row, column: str) -> int:
    """Raises: InvalidInput: it is no whole number of 0 or more; nothing there is 0."""
    try:
        found = int(row[column] or 0)
    except (TypeError, ValueError):
        found = -1
    if found < 0:
        raise InvalidInput(f"{path}, line {line}: {column} must be a whole number of 0 or more, got {row[column]!r}.")
    return found


def per_cent(path: Path, line: int, row: Row, column: str) -> float:
    """Raises: InvalidInput: it is no number from 0 to 100."""
    try:
        found = float(row[column])
    except (TypeError, ValueError):
        found = -1.0
    if not 0 <= found <= 100:
        raise InvalidInput(f"{path}, line {line}: {column} must be from 0 to 100 per cent, got {row[column]!r}.")
    return found
