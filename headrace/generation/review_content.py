"""Judges a sealed partition by what its rows are made of: texts, pictures, recordings. A row is kept if all parts are.

Rules of a picture or a recording are named by its role and rule, such as `painter.blank`; those of the text, which one
role's alone is, have no such beginning. Bytes are those that the text was sealed with: all are of one claim. A row
without a text gets no second fault for what was never made of it, and where prompts are painted as they are nobody's
text is judged. What was measured of an item stays beside its reference, for reports and the rollout's gate.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from headrace.engines.media import UNREAD
from headrace.engines.messages import asked_of
from headrace.errors import HandoffMissing, InvalidInput
from headrace.generation.campaign import Campaign
from headrace.generation.media_review.picture_settings import PictureReview
from headrace.generation.media_review.speech_settings import SpeechReview
from headrace.generation.review import RULES, Review, rejections, reviewed_table
from headrace.generation.sealed_tables import MEDIA_OF, version_read
from headrace.generation.sealing import TEXTS_OF
from headrace.generation.steps import steps_of
from headrace.handoff.media.reading import MediaSet, StoredItem
from headrace.handoff.row_tables import CONTENT, PROMPTS
from headrace.handoff.schemas import MEDIA
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import digest_text
from headrace.rollout.gates import ROLE_METRICS
from headrace.store.objects import canonical_json
from headrace.version_sets.media_settings import MemberKind
from headrace.version_sets.sets import VersionSets

if TYPE_CHECKING:
    from headrace.generation.media_review.references import References

_KEYS: Mapping[MemberKind, str] = {"image": "pictures", "speech": "speech"}
# A row's id, the rules that its item breaks, and what was measured of it, by name.
_Judged = tuple[str, tuple[str, ...], Mapping[str, Any]]
# Rows whose texts are in memory at once.
_SLICE_ROWS = 2048
# Faults of a part that is not there, by its finish_reason.
_NOT_MADE = {"error": "failed", "refused": "refused", "skipped": "failed"}
# The text's own faults that explain why nothing was made of it: then a skipped part is no second fault.
_NO_TEXT = frozenset({"failed", "empty"})


@dataclass(frozen=True, kw_only=True)
class RowParts:
    """Row id → role → what was made of it; None: nothing was. `sets`: the kind's media, for who reads bytes.

    Attributes:
        kinds: the roles that painted or spoke, in their order, and what they make: those of the version set that made
            the rows, whatever the campaign's file says by now.
        speeds: of the roles that spoke, how fast.
        is_written: somebody wrote the texts; otherwise they are the prompts.
    """

    kinds: Mapping[str, MemberKind]
    speeds: Mapping[str, float]
    is_written: bool
    making: Mapping[str, Mapping[str, Mapping[str, Any]]]
    items: Mapping[str, Mapping[str, Mapping[str, Any]]]
    sets: Mapping[MemberKind, MediaSet]


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """A partition's rows, judged.

    Attributes:
        broken: by row, in the content's order, the rules that it breaks.
        rules: all that were applied.
        figures: row id → role → what was measured of its item.
        measured: of a role, over all its items, such as `painter.agreement`.
    """

    broken: list[list[str]]
    rules: tuple[str, ...]
    figures: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    measured: Mapping[str, int | float] = field(default_factory=dict)


def review_content(content: Handoff, handoffs: HandoffStore, campaign: Campaign, home: Path = Path()) -> Review:
    """Judges every row of a sealed generated_content; the result is REVIEWED_CONTENT.

    Args:
        home: where the globs of a campaign's true pictures start.

    Raises:
        HandoffMissing: the rows' pictures or recordings are gone.
        InvalidInput: the campaign's true pictures are not found.
    """
    table = content.table()
    parts = parts_of(content, handoffs)
    found = verdicts_of(content, handoffs, campaign, references_of(campaign, handoffs, home), parts=parts)
    if parts is not None:
        rows = table["row_id"].to_pylist()
        references = [_references(parts, row, found.figures.get(row, {})) for row in rows]
        media = pa.array(references, MEDIA.type)
        table = table.append_column(MEDIA, media) if "media" not in table.column_names else _replaced(table, media)
    return reviewed_table(table, found.broken, found.rules, found.measured)


def verdicts_of(
    content: Handoff,
    handoffs: HandoffStore,
    campaign: Campaign,
    references: "References | None" = None,
    *,
    parts: RowParts | None,
) -> Verdicts:
    """The verdicts on a sealed generated_content, or on a mirror of it. `parts`: of it, as `parts_of` finds them."""
    # A prompt that is painted as it is was not written by anybody.
    is_written = parts is None or parts.is_written
    rules = tuple(RULES) if is_written else ()
    broken = _texts_broken(content, campaign) if is_written else [[] for _ in range(content.num_rows)]
    if parts is None:
        return Verdicts(broken=broken, rules=rules)
    rows = content.table(["row_id"])["row_id"].to_pylist()
    by_row = dict(zip(rows, broken, strict=True))
    figures: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for role, kind in parts.kinds.items():
        rules += _rules_of(role, kind, campaign)
        for row, rule in _not_made(by_row, role, parts):
            by_row[row].append(f"{role}.{rule}")
    # Recordings first: of two pictures that look alike the one stays whose row nothing else rejects.
    for role in sorted(parts.kinds, key=lambda role: parts.kinds[role] == "image"):
        if parts.kinds[role] == "image":
            captions = _captions(content, handoffs, campaign, role, parts)
            judged = _pictures_judged(role, by_row, captions, parts, _limits_of("image", campaign), references)
        else:
            judged = _speech_judged(role, parts, campaign)
        for row, faults, measured in judged:
            by_row[row] += [f"{role}.{rule}" for rule in faults]
            figures[row][role] = measured
    has_references = references is not None
    over_all = {
        name: value
        for role, kind in parts.kinds.items()
        for name, value in _measured(role, figures, has_references=has_references and kind == "image")
    }
    return Verdicts(broken=broken, rules=rules, figures=figures, measured=over_all)


def references_of(campaign: Campaign, handoffs: HandoffStore, home: Path) -> "References | None":
    """The campaign's true pictures, if it names any. Raises: as `open_references`."""
    settings = campaign.review.pictures
    if settings is None or settings.references is None:
        return None
    from headrace.generation.media_review.references import open_references

    return open_references(settings, handoffs, home)


def rules_digest(campaign: Campaign, references: "References | None") -> str:
    """Of everything in a campaign's file that verdicts depend on."""
    body = asdict(campaign.review)
    # A text campaign's is what it was before there were pictures.
    body = {name: value for name, value in body.items() if name not in _KEYS.values()}
    kinds: set[MemberKind] = {campaign.parts[role].kind for role in campaign.makers}
    for kind in kinds:
        body[_KEYS[kind]] = asdict(limits) if (limits := _limits_of(kind, campaign)) else None
    if references is not None:
        body["references"] = references.digest
    return digest_text("review", canonical_json(body).decode())


def parts_of(content: Handoff, handoffs: HandoffStore) -> RowParts | None:
    """The pictures and recordings of a sealed version of content or of a mirror, of the same claim; None: its version
    set makes none.

    Raises: HandoffMissing: they are gone.
    """
    if TEXTS_OF not in content.attributes:
        return None
    version_set = VersionSets(handoffs.objects).get(content.attributes["version_set"])
    _, *later = steps_of(version_set)
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
    for row in execution.table().to_pylist():
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
    kinds: dict[str, MemberKind] = {step.role: step.kind for step in later}
    # A row was made whole: where its part is not found any more, nobody may judge it as a row without one.
    lost = [role for role, media_kind in kinds.items() if media_kind not in sets and _is_any_made(making, role)]
    if lost:
        raise HandoffMissing(
            f"{content.label} has parts that {', '.join(lost)} made, and {tables[kinds[lost[0]]]} is gone. Materialize "
            f"{content.asset}[{content.partition}] again.",
            handoff=content.label,
        )
    speeds = {member.role: member.speech.speed for member in version_set.members if member.speech}
    return RowParts(kinds=kinds, speeds=speeds, is_written=is_written, making=making, items=items, sets=sets)


def _is_any_made(making: Mapping[str, Mapping[str, Mapping[str, Any]]], role: str) -> bool:
    return any(of_row[role]["finish_reason"] == "stop" for of_row in making.values() if role in of_row)


def _texts_broken(content: Handoff, campaign: Campaign) -> list[list[str]]:
    broken: list[list[str]] = []
    for start in range(0, content.num_rows, _SLICE_ROWS):
        slice_rows = range(start, min(start + _SLICE_ROWS, content.num_rows))
        texts = content.table(["prompt", "output", "finish_reason"], rows=slice_rows)
        broken += [rejections(row, campaign.review) for row in texts.to_pylist()]
    return broken


def _limits_of(kind: MemberKind, campaign: Campaign) -> Any:
    """The limits by which the campaign's pictures, or recordings, are judged."""
    if kind == "speech":
        return campaign.review.speech or SpeechReview()
    return campaign.review.pictures or PictureReview()


def _rules_of(role: str, kind: MemberKind, campaign: Campaign) -> tuple[str, ...]:
    limits = _limits_of(kind, campaign)
    return tuple(f"{role}.{rule}" for rule in (*dict.fromkeys(_NOT_MADE.values()), *(limits.rules if limits else ())))


def _not_made(broken: Mapping[str, Sequence[str]], role: str, parts: RowParts) -> Iterator[tuple[str, str]]:
    """Rows that lack a part for its own fault, each with the rule's name. `broken`: the rules broken so far."""
    for row, rules in broken.items():
        made = parts.making.get(row, {}).get(role)
        if made is None:
            yield row, "missing"
        elif made["finish_reason"] == "skipped" and not _NO_TEXT.isdisjoint(rules):
            continue
        elif rule := _NOT_MADE.get(made["finish_reason"]):
            yield row, rule


def _pictures_judged(
    role: str,
    broken: Mapping[str, Sequence[str]],
    captions: Mapping[str, str],
    parts: RowParts,
    settings: PictureReview,
    references: "References | None",
) -> Iterator[_Judged]:
    """Args: broken: every row, in order, with the rules that it breaks so far."""
    from headrace.generation.media_review.pictures import Painted, measured, picture_verdicts

    found = {row: measured(content) for row, content in _contents(parts, role, "image")}
    there = [row for row in broken if row in found]
    painted = [
        Painted(measured=found[row], caption=captions.get(row, ""), is_rejected=bool(broken[row])) for row in there
    ]
    for row, verdict in zip(there, picture_verdicts(painted, settings, references), strict=True):
        # What the painter did not read is no fault by itself, and explains one.
        unread = json.loads(parts.items[row][role]["attributes"]).get(UNREAD)
        yield row, verdict.faults, verdict.figures | ({UNREAD: unread} if unread else {})


def _speech_judged(role: str, parts: RowParts, campaign: Campaign) -> Iterator[_Judged]:
    from headrace.generation.media_review.speech import speech_verdict

    limits = _limits_of("speech", campaign)
    for row, content in _contents(parts, role, "speech"):
        asked = parts.making[row][role]["asked"]
        verdict = speech_verdict(content, asked, limits, speed=parts.speeds.get(role, 1.0))
        heard = {} if verdict.heard is None else {"heard": verdict.heard}
        yield row, verdict.faults, {**verdict.figures, **heard}


def _contents(parts: RowParts, role: str, kind: MemberKind) -> Iterator[tuple[str, bytes]]:
    if kind not in parts.sets:
        return
    for item, chunks in parts.sets[kind].contents():
        if _role_of(item) == role and item.row_id is not None:
            yield item.row_id, b"".join(chunks)


def _role_of(item: StoredItem) -> str:
    return item.item_id.rpartition("/")[2]


def _captions(
    content: Handoff, handoffs: HandoffStore, campaign: Campaign, role: str, parts: RowParts
) -> Mapping[str, str]:
    """Row id → the caption by which its true picture is found; without one if the row lacks what its template names."""
    template = campaign.review.pictures.caption if campaign.review.pictures else None
    if template is None:
        return {row: made[role]["asked"] for row, made in parts.making.items() if role in made}
    opened = handoffs.open(PROMPTS, content.partition, version_read(content, PROMPTS))
    prompts = {prompt["prompt_id"]: prompt for prompt in opened.table().to_pylist()}
    found = {}
    for row in content.table(["row_id", "prompt_id", "output"]).to_pylist():
        try:
            prompt = prompts[row["prompt_id"]]
            found[row["row_id"]] = asked_of(template, text=row["output"], prompt=prompt, writers=campaign.writers)
        except InvalidInput:
            continue
    return found


def _measured(
    role: str, figures: Mapping[str, Mapping[str, Mapping[str, Any]]], *, has_references: bool
) -> Iterator[tuple[str, int | float]]:
    items = [of_row[role] for of_row in figures.values() if role in of_row]
    for name in ROLE_METRICS:
        if values := [one[name] for one in items if name in one]:
            yield f"{role}.{name}", fmean(values)
    if has_references:
        yield f"{role}.num_without_reference", sum("agreement" not in one for one in items)


def _references(parts: RowParts, row_id: str, figures: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    there = parts.items.get(row_id, {})
    names = [field.name for field in MEDIA.type.value_type]
    found = (
        {**there[role], "role": role, "figures": _json(figures.get(role, {}))} for role in parts.kinds if role in there
    )
    return [{name: item[name] for name in names} for item in found]


def _json(figures: Mapping[str, Any]) -> str:
    # Rounded, so that a processor that adds in another order gives the same bytes. JSON has no infinity.
    told = {
        name: round(one, 4) if isinstance(one, float) else one
        for name, one in figures.items()
        if not isinstance(one, float) or math.isfinite(one)
    }
    return json.dumps(told, sort_keys=True)


def _replaced(table: pa.Table, media: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index("media"), MEDIA, media)
