"""Pictures and recordings of two version sets side by side: of mirrored rows, some, read and made small for a page.

Both sides answer the same prompt; where the sets have the same writers, both are of the same text. Rows on which the
review's verdicts differ come first, up to half of what is shown; the others are a fair sample by row id.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headrace.errors import HandoffCorrupt, HandoffMissing
from headrace.generation.day_media import Part, day_media
from headrace.generation.inline_media import shown_part
from headrace.generation.mirroring import COMPARISON
from headrace.generation.sealed_tables import MIRRORED, version_read
from headrace.handoff.row_tables import CONTENT
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import ContentPartition
from headrace.rollout.media_pairs import MediaPair, MediaPairs, PairSide
from headrace.rollout.states import RolloutState
from headrace.text.shown_media import ShownMedia

NUM_PAIRS = 12
BYTES_MAX = 2_000_000
_TEXT_CHARS = 400


def trial_pairs(
    handoffs: HandoffStore,
    campaign: str,
    trial: RolloutState | None,
    *,
    num_pairs: int = NUM_PAIRS,
    bytes_max: int = BYTES_MAX,
) -> MediaPairs:
    """Pairs of the newest mirrored partition whose rows have pictures or recordings. What is damaged is told there.

    Args:
        trial: in which a candidate is or was last on trial; None, or no mirrors: there are no pairs.
        bytes_max: of all that is shown; a pair that does not fit ends the list.
    """
    candidate = (trial.candidate or trial.proposed) if trial else None
    if trial is None or candidate is None:
        return MediaPairs()
    partitions = filter(None, map(ContentPartition.find, handoffs.partitions(COMPARISON)))
    keys = [partition.key for partition in partitions if partition.campaign == campaign]
    for key in sorted(keys, reverse=True):
        try:
            comparison = handoffs.find(COMPARISON, key, version_set=candidate, published_set=trial.stable)
            pairs = _of_comparison(comparison, handoffs, num_pairs, bytes_max) if comparison else None
        except HandoffMissing:
            # Collected since it was compared.
            continue
        except HandoffCorrupt as error:
            return MediaPairs(problem=str(error))
        if pairs is not None:
            return pairs
    return MediaPairs()


def _of_comparison(comparison: Handoff, handoffs: HandoffStore, num_pairs: int, bytes_max: int) -> MediaPairs | None:
    """None: the rows of one side have no media."""
    sides = [handoffs.open(one, comparison.partition, version_read(comparison, one)) for one in (CONTENT, MIRRORED)]
    media = [day_media([one], handoffs) for one in sides]
    if not all(media):
        return None
    rows, shown = comparison.table().to_pylist(), []
    for pair, num_bytes in _pairs(_chosen(rows, num_pairs), [_texts(one) for one in sides], media):
        bytes_max -= num_bytes
        if bytes_max < 0:
            break
        shown.append(pair)
    return MediaPairs(shown=shown, num_rows=len(rows))


def _chosen(rows: Sequence[Mapping[str, Any]], num_pairs: int) -> list[Mapping[str, Any]]:
    drawn = sorted(rows, key=lambda row: row["published_row_id"])
    differing = [row for row in drawn if row["published_kept"] != row["mirrored_kept"]][: num_pairs // 2]
    others = [row for row in drawn if row not in differing]
    return [*differing, *others][:num_pairs]


def _texts(content: Handoff) -> dict[str, tuple[str, str]]:
    rows = content.table(["row_id", "prompt", "output"]).to_pylist()
    return {row["row_id"]: (row["prompt"], row["output"]) for row in rows}


def _pairs(
    rows: Sequence[Mapping[str, Any]],
    texts: Sequence[Mapping[str, tuple[str, str]]],
    media: Sequence[Mapping[str, Sequence[Part]]],
) -> Iterator[tuple[MediaPair, int]]:
    """Each pair, made on demand, and its bytes."""
    for row in rows:
        ids = (row["published_row_id"], row["mirrored_row_id"])
        before, after = (media[side].get(row_id, ()) for side, row_id in enumerate(ids))
        there = {part.role: part.xxh3_128 for part in before}
        equal = tuple(part.role for part in after if there.get(part.role) == part.xxh3_128)
        stable, candidate = _shown(before), _shown([part for part in after if part.role not in equal])
        sides = [
            PairSide(
                text=texts[side][row_id][1][:_TEXT_CHARS],
                kept=row[f"{name}_kept"],
                rejected_by=tuple(row[f"{name}_rejected_by"]),
                parts=parts,
                equal=equal if side else (),
            )
            for side, (name, row_id, parts) in enumerate(
                zip(("published", "mirrored"), ids, (stable, candidate), strict=True)
            )
        ]
        pair = MediaPair(prompt=texts[0][ids[0]][0][:_TEXT_CHARS], stable=sides[0], candidate=sides[1])
        yield pair, sum(part.num_bytes for part in (*stable, *candidate)) + 4 * 4 * _TEXT_CHARS


def _shown(parts: Sequence[Part]) -> tuple[ShownMedia, ...]:
    return tuple(shown for part in parts if (shown := shown_part(part)))
