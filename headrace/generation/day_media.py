"""Pictures and recordings of a day's rows: which there are, read when they are shown.

Of each sealed content version those of its own claim, whatever was made since. What is gone is not there: a report
shows what there is, and says what is damaged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from headrace.errors import HandoffCorrupt
from headrace.generation.sealed_tables import MEDIA_OF
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.row_tables import CONTENT
from headrace.handoff.schemas import MEDIA
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.version_sets.media_settings import MemberKind


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A row's picture or recording.

    Attributes:
        width, height: in pixels, of a picture.
        figures: what its review measured, as JSON; empty: it was not reviewed.
    """

    role: str
    kind: MemberKind
    item_id: str
    media_type: str
    num_bytes: int
    width: int | None
    height: int | None
    xxh3_128: bytes
    media: MediaSet = field(repr=False)
    figures: str = ""

    def read(self) -> bytes:
        """Raises: HandoffCorrupt: the bytes differ from the published ones. HandoffMissing: they were collected."""
        return self.media.read(self.item_id)


DayMedia = Mapping[str, Sequence[Part]]
"""Row id → its pictures, then its recordings."""

_COLUMNS = ("row_id", "item_id", "media_type", "num_bytes", "width", "height", "xxh3_128")


def day_media(
    contents: Sequence[Handoff],
    handoffs: HandoffStore,
    reviewed: Mapping[str, Handoff] | None = None,
    *,
    damaged: Callable[[HandoffCorrupt], None] | None = None,
) -> DayMedia:
    """Of sealed versions of generated_content, or of mirrors.

    Args:
        reviewed: their reviews, by partition.
        damaged: called for each index of media that cannot be read; its parts are left out. None: it is raised.
    """
    found: dict[str, list[Part]] = {}
    for content in contents:
        tables, _ = MEDIA_OF["content" if content.asset == CONTENT else "mirror"]
        if not (claim := content.attributes.get("claim")):
            continue
        figures = _figures((reviewed or {}).get(content.partition))
        for kind, asset in tables.items():
            try:
                handoff = handoffs.find(asset, content.partition, claim=claim)
                if handoff is None or not handoff.num_rows:
                    continue
                media, items = MediaSet.open(handoff), handoff.table(list(_COLUMNS)).to_pylist()
            except HandoffCorrupt as error:
                if damaged is None:
                    raise
                damaged(error)
                continue
            for item in items:
                role = item["item_id"].rpartition("/")[2]
                part = Part(
                    role=role,
                    kind=kind,
                    media=media,
                    figures=figures.get(item["item_id"], ""),
                    **{name: item[name] for name in _COLUMNS[1:]},
                )
                found.setdefault(item["row_id"], []).append(part)
    return found


def _figures(reviewed: Handoff | None) -> dict[str, str]:
    """By item id."""
    if reviewed is None or not has_media(reviewed.schema):
        return {}
    rows = reviewed.table([MEDIA.name])[MEDIA.name].to_pylist()
    return {one["item_id"]: one.get("figures") or "" for row in rows for one in row}


def has_media(schema: pa.Schema, columns: Sequence[str] | None = None) -> bool:
    """Whether rows name pictures or recordings, and `columns` (None: all) ask for them."""
    names = schema.names if columns is None else columns
    return MEDIA.name in names and pa.types.is_list(schema.field(MEDIA.name).type)


def num_of(media: DayMedia, kind: MemberKind) -> int:
    return sum(part.kind == kind for parts in media.values() for part in parts)
