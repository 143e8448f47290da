"""The demo's illustrated, talking dictionary in figures: what was painted and spoken, and how well by each painter."""

import json
from collections import Counter
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from headrace.handoff.versions import HandoffStore
from headrace.text.drawing import Terminal
from headrace.version_sets.sets import VersionSets
from pipelines.demo.story import FIRST_PAINTER, GOOD_PAINTER, PICTURES, WORSE_PAINTER, Days, content_partitions


@dataclass(frozen=True, kw_only=True)
class PictureSummary:
    """Attributes:
    num_rows: of both days; `num_whole`: with a picture and a recording; `num_kept`: by the review.
    rejected_by: rule → rows.
    agreement: painter's version → share of its judged pictures that are near the true one.
    taught_error: recipe → the registered error on taught captions.
    """

    num_rows: int
    num_whole: int
    num_kept: int
    rejected_by: dict[str, int]
    agreement: dict[str, float]
    taught_error: dict[str, float]


def picture_summary(handoffs: HandoffStore, days: Days) -> PictureSummary:
    """Raises: HandoffMissing: the demo is not finished."""
    partitions = [key for day in (days.first, days.second) for key in content_partitions(PICTURES, day)]
    rows = [row for key in partitions for row in handoffs.open("reviewed_content", key).table().to_pylist()]
    sets, agreement = VersionSets(handoffs.objects), dict[str, list[float]]()
    for row in rows:
        painter = sets.get(row["version_set"]).member("painter")
        figures = next((json.loads(one["figures"]) for one in row["media"] if one["role"] == "painter"), {})
        if "agreement" in figures:
            agreement.setdefault(f"{painter.model_name}/{painter.model_version}", []).append(figures["agreement"])
    errors = {}
    for recipe in (FIRST_PAINTER, GOOD_PAINTER, WORSE_PAINTER):
        [version] = [
            one for one in handoffs.open("registered_version", recipe).table().to_pylist() if one["kind"] == "trained"
        ]
        errors[recipe] = round(version["heldout_loss"], 4)
    return PictureSummary(
        num_rows=len(rows),
        num_whole=sum({one["role"] for one in row["media"]} >= {"painter", "speaker"} for row in rows),
        num_kept=sum(row["kept"] for row in rows),
        rejected_by=dict(sorted(Counter(rule for row in rows for rule in row["rejected_by"]).items())),
        agreement={version: round(fmean(values), 3) for version, values in sorted(agreement.items())},
        taught_error=errors,
    )


def print_pictures(console: Terminal, body: dict[str, Any]) -> None:
    errors = ", ".join(f"{recipe.rpartition('.')[2]} {error:.4f}" for recipe, error in body["taught_error"].items())
    near = ", ".join(f"{version} {share:.0%}" for version, share in body["agreement"].items())
    console.print(
        f"{body['num_whole']} of {body['num_rows']} dictionary rows have text, picture and voice, {body['num_kept']} "
        f"are kept. Error on taught captions: {errors}. Pictures near the true one, as published: {near}.\n"
    )
