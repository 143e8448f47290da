"""What people say was said in recorded turns: a file with the columns `row_id` and `text`, of a person who listened."""

from pathlib import Path

from headrace.errors import InvalidInput
from headrace.user_files.layout import FileLayout, Unreadable
from headrace.user_files.records import read_records


def read_references(file: Path) -> dict[str, str]:
    """Row id → what was said; of JSON Lines, CSV or Parquet.

    Raises: InvalidInput: the file is missing, a line is none, or a turn has two texts.
    """
    found: dict[str, str] = {}
    for record in read_records(file, FileLayout(columns=("row_id", "text"))):
        if isinstance(record, Unreadable):
            raise InvalidInput(f"References {file}, line {record.line}: {record.reason}.")
        row, text = record.fields.get("row_id"), record.fields.get("text")
        if not isinstance(row, str) or not isinstance(text, str):
            raise InvalidInput(
                f"References {file}, line {record.line}: wanted row_id and text as texts, got {row!r:.80} and "
                f"{text!r:.80}."
            )
        if found.setdefault(row, text) != text:
            raise InvalidInput(
                f"References {file}, line {record.line}: turn {row[:16]}… has another text before. Leave one of them."
            )
    return found
