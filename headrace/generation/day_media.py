"""Pictures and recordings of a day's rows: which there are, read when they are shown.

Of each sealed content version those of its own claim, whatever was made since. What is gone is not there: a report
shows what there is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headrace.generation.sealed_tables import CONTENT, MEDIA_OF
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.version_sets.media_settings import MemberKind


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A row's picture or recording. `width`, `height`: in pixels, of a picture."""

    role: str
    kind: MemberKind
    item_id: str
    media_type: str
    num_bytes: int
    width: int | None
    height: int | None
    xxh3_128: bytes
    media: MediaSet = field(repr=False)

    def read(self) -> bytes:
        """Raises: HandoffCorrupt: the bytes differ from the published ones."""
        return self.media.read(self.item_id)


DayMedia = Mapping[str, Sequence[Part]]
"""Row id → its pictures, then its recordings."""

_COLUMNS = ("row_id", "item_id", "media_type", "num_bytes", "width", "height", "xxh3_128")


def day_media(contents: Sequence[Handoff], handoffs: HandoffStore) -> DayMedia:
    """Of sealed versions of generated_content, or of mirrors."""
    found: dict[str, list[Part]] = {}
    for content in contents:
        tables, _ = MEDIA_OF["content" if content.asset == CONTENT else "mirror"]
        if not (claim := content.attributes.get("claim")):
            continue
        for kind, asset in tables.items():
            if (handoff := handoffs.find(asset, content.partition, claim=claim)) is None or not handoff.num_rows:
                continue
            media = MediaSet.open(handoff)
            for item in handoff.table(list(_COLUMNS)).to_pylist():
                role = item["item_id"].rpartition("/")[2]
                part = Part(role=role, kind=kind, media=media, **{name: item[name] for name in _COLUMNS[1:]})
                found.setdefault(item["row_id"], []).append(part)
    return found


def num_of(media: DayMedia, kind: MemberKind) -> int:
    return sum(part.kind == kind for parts in media.values() for part in parts)
