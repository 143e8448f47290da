"""What an erasure cannot reach from the store: where else the same data may be, and what to do there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.erasure.deciding import MadeOf
from headrace.keys import ContentPartition

_NUM_RUNS_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Outside:
    """A place of data that the store does not keep, and what a person does there."""

    place: str
    todo: str


def days_of(partitions: Iterable[str]) -> list[str]:
    found = map(ContentPartition.find, partitions)
    return sorted({partition.day for partition in found if partition})


def report_pages(home: Path, days: Sequence[str]) -> list[Path]:
    """The days' pages, which show rows. They are made again from what is left."""
    return sorted(page for day in days for page in (home / "reports").rglob(f"{day}.html"))


def outside(
    runs: Sequence[str], made_of: Sequence[MadeOf], *, store_url: str, cache: Path | None, dagster_home: str | None
) -> tuple[Outside, ...]:
    """What to look at beside the store.

    Args:
        runs: Dagster's, that sealed versions with the data: their records may show the first rows.
        made_of: what learned from it.
    """
    found: list[Outside] = []
    if runs:
        deletes = [f"dagster run delete {run}" for run in runs[:_NUM_RUNS_SHOWN]]
        more = f" and {len(runs) - _NUM_RUNS_SHOWN} more" if len(runs) > _NUM_RUNS_SHOWN else ""
        where = dagster_home or "$DAGSTER_HOME"
        place = f"Dagster's event log ({where}): pages of {len(runs)} runs may show first rows"
        found.append(Outside(place=place, todo="; ".join(deletes) + more))
    if not store_url.startswith("file:"):
        place = f"caches of machines that read this store ({cache or 'the default directory'} on this one)"
        todo = "stop what reads the store there, and delete the directory: it is filled anew"
        found.append(Outside(place=place, todo=todo))
    for one in made_of:
        place = f"{one.asset}[{one.partition}] v{one.version} of run {one.run_id}, and its record in MLflow"
        todo = f"materialize {one.asset}, partition {one.partition}, again, and retire this: weights cannot forget"
        found.append(Outside(place=place, todo=todo))
    place = (
        "prompt files, exports, backups and copies of the store, and records of gateways (--log: names of API keys and "
        "sessions; texts with --log-content)"
    )
    found.append(Outside(place=place, todo="delete it there; what is sent or listed again is left out here"))
    return tuple(found)
