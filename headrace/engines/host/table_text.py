"""A host's table as Markdown, for a page of Dagster's UI."""

from collections.abc import Mapping

from headrace.clock import iso
from headrace.engines.host.table_view import ModelRow, Table
from headrace.fairness import WorkClass
from headrace.text.markdown import fitting_table

# Longer metadata is shown behind a link.
_CHARS_MAX = 900
_HEADERS = ("model", "place", "state", "kept", "since", "MiB", "hits", "comes in", "next out")


def markdown_table(table: Table, now: float) -> str:
    """The models of a host, those that were here last in front, and the memory that is promised to them.

    A page is looked at later: `since` is a time, in UTC.

    Args: now: in seconds since the epoch.
    """
    rows = sorted(table.data, key=lambda row: (row.state == "absent", row.state_seconds))
    shown = fitting_table(
        _HEADERS,
        [_cells(row, now) for row in rows],
        right=("MiB", "hits", "comes in", "next out"),
        chars_max=_CHARS_MAX,
    )
    accounts = [f"{one.reserved_mib:,} of {one.mib:,} MiB of {one.place} are promised." for one in table.accounts]
    return "\n\n".join([shown, " ".join(accounts)])


def comes_in(row: ModelRow) -> str:
    """How long a model took to come, or to wake if it sleeps, the last time; empty: it never did."""
    seconds = row.wake_seconds if row.state == "asleep" and row.wake_seconds is not None else row.bring_seconds
    return f"{seconds:.1f} s" if seconds is not None else ""


def by_class(counts: Mapping[WorkClass, int]) -> str:
    """`1 live, 8 batch`; empty: there is none."""
    return ", ".join(f"{num} {work_class}" for work_class, num in counts.items() if num)


def _cells(row: ModelRow, now: float) -> tuple[str, ...]:
    return (
        row.model,
        row.place,
        row.state,
        "yes" if row.is_kept else "",
        iso(now - row.state_seconds),
        f"{row.mib:,}",
        str(row.hits),
        comes_in(row),
        str(row.next_out or ""),
    )
