"""Judges a sealed partition by what its rows are made of: texts, pictures, recordings. A row is kept if all parts are.

Rules of a picture or a recording are named by its role and rule, such as `painter.blank`. Its bytes are those that its
text was sealed with: both are of one claim.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from headrace.errors import HandoffMissing
from headrace.generation.campaign import Campaign
from headrace.generation.review import Review, rejections, reviewed_table
from headrace.generation.sealed_tables import CONTENT, MEDIA_OF
from headrace.generation.sealing import TEXTS_OF
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.schemas import MEDIA
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.version_sets.media_settings import MemberKind


@dataclass(frozen=True, kw_only=True)
class RowParts:
    """Row id → role → what was made of it; None: nothing was. `sets`: the kind's media, for who reads bytes.

    Attributes:
        makers: the roles that painted or spoke, in their order: those of the version set that made the rows, whatever
            the campaign's file says by now.
        is_written: somebody wrote the texts; otherwise they are the prompts.
    """

    makers: Sequence[str]
    is_written: bool
    making: Mapping[str, Mapping[str, Mapping[str, Any]]]
    items: Mapping[str, Mapping[str, Mapping[str, Any]]]
    sets: Mapping[MemberKind, MediaSet]


def review_content(content: Handoff, handoffs: HandoffStore, campaign: Campaign) -> Review:
    """Judges every row of a sealed generated_content; the result is REVIEWED_CONTENT.

    Raises: HandoffMissing: the rows' pictures or recordings are gone.
    """
    table = content.table()
    parts = parts_of(content, handoffs)
    rows = table.select(["row_id", "prompt", "output", "finish_reason"]).to_pylist()
    verdicts = [_broken(row, campaign, parts) for row in rows]
    if parts is not None:
        media = pa.array([_references(parts, row["row_id"]) for row in rows], MEDIA.type)
        table = table.append_column(MEDIA, media) if "media" not in table.column_names else _replaced(table, media)
    counts = Counter(rule for broken in verdicts for rule in broken)
    return reviewed_table(table, verdicts, counts)


def parts_of(content: Handoff, handoffs: HandoffStore) -> RowParts | None:
    """The pictures and recordings of a sealed version of content or of a mirror, of the same claim; None: its version
    set makes none.

    Raises: HandoffMissing: they are gone.
    """
    if TEXTS_OF not in content.attributes:
        return None
    kind = "content" if content.asset == CONTENT else "mirror"
    tables, making_asset = MEDIA_OF[kind]
    claim = content.attributes.get("claim", "")
    execution = handoffs.find(making_asset, content.partition, claim=claim)
    if execution is None:
        raise HandoffMissing(
            f"{content.label} has parts beside its texts, and their record {making_asset} is gone. Materialize "
            f"{content.asset}[{content.partition}] again with regenerate: keep_set.",
            handoff=content.label,
        )
    making: dict[str, dict[str, Mapping[str, Any]]] = {}
    makers: dict[str, None] = {}
    for row in execution.table().to_pylist():
        makers[row["role"]] = None
        making.setdefault(row["row_id"], {})[row["role"]] = row
    items: dict[str, dict[str, Mapping[str, Any]]] = {}
    sets: dict[MemberKind, MediaSet] = {}
    for media_kind, asset in tables.items():
        handoff = handoffs.find(asset, content.partition, claim=claim)
        if handoff is None:
            continue
        sets[media_kind] = MediaSet.open(handoff)
        for item in handoff.table().to_pylist():
            role = item["item_id"].rpartition("/")[2]
            items.setdefault(item["row_id"], {})[role] = item
    is_written = bool(content.attributes[TEXTS_OF])
    return RowParts(makers=tuple(makers), is_written=is_written, making=making, items=items, sets=sets)


def _broken(row: Mapping[str, Any], campaign: Campaign, parts: RowParts | None) -> list[str]:
    # A prompt that is painted as it is was not written by anybody.
    broken = rejections(row, campaign.review) if parts is None or parts.is_written else []
    if parts is None:
        return broken
    for role in parts.makers:
        made = parts.making.get(row["row_id"], {}).get(role)
        if made is None or made["finish_reason"] != "stop":
            # A part that was skipped for want of a text is no second fault.
            reason = "missing" if made is None else made["finish_reason"]
            broken += [f"{role}.{'failed' if reason == 'error' else reason}"] if reason != "skipped" else []
    return broken


def _references(parts: RowParts, row_id: str) -> list[dict[str, Any]]:
    there = parts.items.get(row_id, {})
    names = [field.name for field in MEDIA.type.value_type]
    found = ({**there[role], "role": role} for role in parts.makers if role in there)
    return [{name: item[name] for name in names} for item in found]


def _replaced(table: pa.Table, media: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index("media"), MEDIA, media)
