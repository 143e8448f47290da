"""What people take away: reviewed rows of a campaign, a day or a version set, or the newest rows of an asset.

A Hugging Face dataset is a directory with Parquet and a card, which `datasets.load_dataset(DIRECTORY)` opens.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from headrace.errors import HandoffMissing, InvalidInput
from headrace.generation.dataset_media import CELL, write_dataset_file
from headrace.generation.day_media import has_media
from headrace.generation.left_behind import left_behind, listed_prompts
from headrace.handoff.export import Progress, Selected, write_rows
from headrace.handoff.row_tables import REVIEWED
from headrace.handoff.spelling import plain_type
from headrace.handoff.versions import HandoffStore
from headrace.keys import ContentPartition, is_day
from headrace.store.whole_files import made_when_whole
from headrace.text.markdown import inline
from headrace.version_sets.sets import VersionSets

_SET = re.compile(r"[0-9a-f]{6,64}")
# Of kept rows they say nothing.
VERDICT = ("kept", "rejected_by")
DATA_FILE = "data/train-00000-of-00001.parquet"


def select_rows(handoffs: HandoffStore, word: str, *, day: str | None = None, with_rejected: bool = False) -> Selected:
    """The newest rows that `word` means: a campaign, a day, an asset, or a version set by id or its beginning.

    Args:
        day: of a campaign's or version set's rows, only this day's.
        with_rejected: reviewed rows that the review rejected, too.

    Raises:
        HandoffMissing: nothing in the store has this name.
        InvalidInput: several version sets begin so, or the rows have different columns.
    """
    reviewed = [part for key in handoffs.partitions(REVIEWED) if (part := ContentPartition.find(key))]
    where = {} if with_rejected else {"kept": True}
    if day is not None and not is_day(day):
        raise InvalidInput(f"--day must be a day such as 2026-11-22, got {day!r}.")
    if is_day(word):
        if day is not None:
            raise InvalidInput(f"--day goes with a campaign or a version set, got the day {word!r} too.")
        chosen = [part.key for part in reviewed if part.day == word]
        return _selected(handoffs, REVIEWED, chosen, f"day {word}", where)
    if any(part.campaign == word for part in reviewed):
        chosen = [part.key for part in reviewed if part.campaign == word and day in (None, part.day)]
        return _selected(handoffs, REVIEWED, chosen, f"campaign {word}{f' on {day}' if day else ''}", where)
    if word in handoffs.assets():
        if day is not None:
            raise InvalidInput(f"--day goes with a campaign or a version set, got the asset {word!r}.")
        return _selected(handoffs, word, handoffs.partitions(word), f"asset {word}", {})
    if _SET.fullmatch(word):
        version_set = VersionSets(handoffs.objects).find(word)
        chosen = [part.key for part in reviewed if day in (None, part.day)]
        label = f"version set {version_set[:12]}"
        return _selected(handoffs, REVIEWED, chosen, label, {**where, "version_set": version_set})
    campaigns = sorted({part.campaign for part in reviewed})
    raise HandoffMissing(
        f"Nothing in this store is called {word!r}: name a campaign ({', '.join(campaigns) or 'none is reviewed'}), "
        "a day such as 2026-11-22, an asset, or a version set."
    )


def export_dataset(
    selected: Selected,
    handoffs: HandoffStore,
    directory: Path,
    *,
    columns: Sequence[str] | None = None,
    progress: Progress = lambda _: None,
) -> int:
    """Writes a dataset with its card; returns its number of rows.

    Pictures and recordings of rows are columns, one of each role, in the place of `media`.

    Raises:
        InvalidInput: the directory is there already. StoreUnavailable: it cannot be written.
    """
    num_rows = 0

    def tell(num_done: int) -> None:
        nonlocal num_rows
        num_rows += num_done
        progress(num_done)

    with made_when_whole(directory) as partial:
        data = partial / DATA_FILE
        data.parent.mkdir()
        with data.open("xb") as file:
            if has_media(selected.schema, columns):
                schema = write_dataset_file(selected, handoffs, file, columns=columns, progress=tell)
            else:
                write_rows(selected, file, "parquet", columns=columns, progress=tell)
                schema = pa.schema([selected.schema.field(name) for name in columns or selected.schema.names])
        (partial / "README.md").write_text(_card(selected, schema, num_rows))
    return num_rows


def _selected(
    handoffs: HandoffStore, asset: str, keys: Sequence[str], label: str, where: Mapping[str, object]
) -> Selected:
    left = sorted(left_behind(listed_prompts(handoffs.objects, keys), compared_in=handoffs.objects))
    found = [newest for key in keys if key not in left and (newest := handoffs.newest(asset, key))]
    if left:
        label += f" (without {', '.join(left)}, whose prompts are in other partitions since num_shards changed)"
    return Selected(label=label, handoffs=tuple(found), where=where)


def _type_name(field: pa.Field) -> str:
    if field.type == CELL:
        return "picture or sound, with its file's name"
    return str(plain_type(field.type))


def _card(selected: Selected, schema: pa.Schema, num_rows: int) -> str:
    """The card's head is what `datasets` reads; the rest is for people."""
    sets: Counter[str] = Counter()
    for one in selected.handoffs:
        if "version_set" in one.schema.names:
            sets.update(one.table(["version_set"])["version_set"].to_pylist())
    versions = VersionSets(selected.handoffs[0].objects)
    made_by = [f"- {count:,} rows of {inline(versions.label(one))}, version set `{one}`" for one, count in sets.items()]
    sealed = [f"- {inline(one.label)}, `{one.content_digest}`" for one in selected.handoffs]
    fields = [f"| {inline(field.name)} | {inline(_type_name(field))} |" for field in schema]
    return "\n".join(
        [
            "---",
            "configs:",
            "- config_name: default",
            "  data_files:",
            "  - split: train",
            f"    path: {DATA_FILE}",
            "---",
            f"# {inline(selected.label)}",
            "",
            f"{num_rows:,} rows that models generated, exported by Headrace.",
            "`headrace trace ROW_ID` tells a row's origin.",
            "",
            "| column | type |",
            "|---|---|",
            *fields,
            *(["", "## Made by (before the review)", *made_by] if made_by else []),
            "",
            "## Sealed versions",
            *sealed,
            "",
        ]
    )
