"""Renders one rollout as a self-contained page, and as a few lines of markdown for the Dagster UI.

Shows what `headrace.rollout.status` read; asks no store and no server. Escapes text from journals, prompts and error
messages.
"""

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from markupsafe import Markup

from headrace.clock import iso
from headrace.rollout import states
from headrace.rollout.charts import Interval, interval_chart, weight_chart
from headrace.rollout.gates import MIRRORED_PASS_RATE, GateSettings, known_metric, metric_title
from headrace.rollout.media_pairs import MediaPairs
from headrace.rollout.status import BadRows, RolloutStatus, SetView, by_whom, percent
from headrace.text import markdown
from headrace.text.pages import NUM_COLORS, escaped, page_environment

if TYPE_CHECKING:
    from headrace.rollout.sequential.looks import Finding
    from headrace.rollout.sequential.samples import Sample

_REASON_CHARS = 90
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class MetricCard:
    """One metric of both sets: its chart and the test's result."""

    title: str
    chart: Markup
    sentence: str


def render_page(status: RolloutStatus, pairs: MediaPairs | None = None) -> str:
    """Args: pairs: rows of both sets side by side, with their pictures and recordings within the page."""
    environment = page_environment("headrace.rollout")
    environment.filters["percent"] = percent
    environment.filters["iso"] = lambda seconds: iso(seconds).replace("T", " ").removesuffix("Z")
    colors = _colors(status)
    return environment.get_template("rollout.html.j2").render(
        status=status,
        state=status.state,
        colors=colors,
        standing=_standing(status),
        since=_duration(status.now - status.since) if status.since else "–",
        weights=weight_chart(status.history, colors, now=status.now),
        metrics=_metric_cards(status, colors),
        heldout=_heldout(status),
        heldout_unit=status.evidence.heldout_unit if status.evidence else "",
        changes=[(one.path, *_marked(one.before, one.after)) for one in status.changes],
        bad_rows=_by_set(status.bad_rows or ()),
        by_whom=by_whom,
        pairs=pairs or MediaPairs(),
    )


def page_markdown(status: RolloutStatus) -> str:
    """The rollout's standing and its newest entries, short enough for the UI to show inline."""
    text = f"**{markdown.inline(status.headline, _REASON_CHARS)}**"
    if status.verdict and status.state and status.state.candidate:
        action = status.verdict.action.replace("_", " ")
        text += f"\nGate: *{action}*, {markdown.inline(status.verdict.reason, _REASON_CHARS)}"
    if not status.history:
        return text
    rows = [
        [
            str(moment.entry.number),
            iso(moment.entry.at)[5:16],
            moment.entry.event,
            percent(moment.weight),
            by_whom(moment.entry),
            str(moment.entry.fields.get("reason", "")),
        ]
        for moment in status.history
    ]
    entries = markdown.fitting_table(
        ["#", "at", "event", "weight", "by", "reason"],
        rows,
        right=["#", "weight"],
        cell_chars_max=_REASON_CHARS,
        chars_max=markdown.CHARS_MAX - len(text) - 2,
        newest_last=True,
    )
    return f"{text}\n\n{entries}"


def _colors(status: RolloutStatus) -> dict[str, int]:
    """Set → colour, in the journal's order, so a set always keeps its colour."""
    return {named: index % NUM_COLORS for index, named in enumerate(status.sets)}


def _standing(status: RolloutStatus) -> tuple[str, str]:
    """The page's tag: a word and the class of its colour."""
    state, last = status.state, status.last
    if state is None or last is None:
        return "not started", "soft"
    if state.candidate:
        return ("paused", "warm") if state.paused else ("on trial", "busy")
    if state.proposed:
        return "being prepared", "busy"
    if last.event == states.ABORTED:
        return "rolled back", "bad"
    return ("promoted", "good") if last.event == states.PROMOTED else ("stable", "good")


def _metric_cards(status: RolloutStatus, colors: dict[str, int]) -> list[MetricCard]:
    """A card for each metric with data; judged ones have bands, a margin and the test's result."""
    evidence, sides = status.evidence, _sides(status)
    if evidence is None or sides is None:
        return []
    candidate, stable = sides
    findings = status.verdict.findings if status.verdict else {}
    judged = status.plan.gate.judged() if status.plan else {}
    cards = []
    for name, samples in evidence.metrics.items():
        if not any(sample.num for sample in samples):
            continue
        charts = _arm_chart(status, name, (candidate, stable), samples, colors)
        if name in findings:
            charts += _difference_chart(name, findings[name], colors[candidate.id])
        unsaid = "Too few of both sets to compare yet." if name in judged else "Not judged by this plan."
        sentence = f"The candidate is {findings[name].sentence}." if name in findings else unsaid
        cards.append(MetricCard(title=metric_title(name), chart=charts, sentence=sentence))
    for name, sample in evidence.paired.items():
        if name in findings:
            chart = _difference_chart(name, findings[name], colors[candidate.id])
            sentence = f"Over {sample.num:,} prompts the candidate is {findings[name].sentence}."
            cards.append(MetricCard(title=metric_title(name), chart=chart, sentence=sentence))
    return cards


def _arm_chart(
    status: RolloutStatus,
    name: str,
    views: tuple[SetView, SetView],
    samples: "tuple[Sample, Sample]",
    colors: dict[str, int],
) -> Markup:
    """Both sets' means on one scale, with the end of the margin."""
    metric, gate = known_metric(name), status.plan.gate if status.plan else None
    margin = gate.judged().get(name) if gate else None
    is_share = metric.kind == "proportion"
    rows = []
    for view, sample in zip(views, samples, strict=True):
        if sample.num:
            low, high = _band(gate, name, sample) if gate and margin else (None, None)
            rows.append(
                Interval(
                    label=view.standing,
                    mean=sample.mean,
                    low=low,
                    high=high,
                    text=f"{_figure(sample.mean, is_share=is_share)} of {sample.num:,}",
                    color=colors[view.id],
                )
            )
    sign = 1 if metric.worse == "higher" else -1
    bound = samples[1].mean + sign * margin if margin and samples[1].num else None
    return interval_chart(rows, title=metric_title(name), bound=bound, worse=metric.worse, is_share=is_share)


def _difference_chart(name: str, finding: "Finding", color: int) -> Markup:
    """How much worse the candidate is: beyond the dashed line it exceeds the margin."""
    is_share = known_metric(name).kind == "proportion" or name == MIRRORED_PASS_RATE
    row = Interval(
        label="worse by",
        mean=finding.difference,
        low=_known(finding.lower),
        high=_known(finding.upper),
        text=f"margin {_figure(finding.margin, is_share=is_share)}",
        color=color,
    )
    title = f"How much worse the candidate is: {metric_title(name)}"
    return interval_chart([row], title=title, bound=finding.margin, worse="higher", is_share=is_share, zero=True)


def _band(gate: GateSettings, name: str, sample: "Sample") -> tuple[float | None, float | None]:
    """The band of one arm's mean."""
    from headrace.rollout.sequential.looks import confidence_band

    low, high = confidence_band(gate.design(name), sample)
    return _known(low), _known(high)


def _known(bound: float | None) -> float | None:
    """None for an infinite bound: the test has seen too little."""
    return bound if bound is not None and math.isfinite(bound) else None


def _figure(value: float, *, is_share: bool) -> str:
    return f"{value * 100:.3g}%" if is_share else f"{value:.3g}"


def _by_set(rows: Sequence[BadRows]) -> dict[str, list[BadRows]]:
    """Groups by set; rows that readers still get come first."""
    found: dict[str, list[BadRows]] = {}
    for one in sorted(rows, key=lambda one: (not one.is_published, one.partition, one.version)):
        found.setdefault(one.version_set, []).append(one)
    return found


def _heldout(status: RolloutStatus) -> list[tuple[str, float]]:
    """Standing and held-out loss of both sets, if both were measured on the same tokens."""
    evidence, sides = status.evidence, _sides(status)
    if evidence is None or sides is None or evidence.heldout_candidate is None or evidence.heldout_stable is None:
        return []
    candidate, stable = (view.standing for view in sides)
    return [(candidate, evidence.heldout_candidate), (stable, evidence.heldout_stable)]


def _sides(status: RolloutStatus) -> tuple[SetView, SetView] | None:
    """Candidate and stable set of the trial that the evidence covers."""
    if status.trial is None or status.trial.candidate is None:
        return None
    return status.sets[status.trial.candidate], status.sets[status.trial.stable]


def _marked(before: object, after: object) -> tuple[Markup, Markup]:
    """Both sides, escaped, with differing words marked."""
    if not (isinstance(before, str) and isinstance(after, str)) or min(len(before.split()), len(after.split())) < 3:
        return _plain(before), _plain(after)
    old, new = before.split(" "), after.split(" ")
    sides: tuple[list[str], list[str]] = ([], [])
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        for side, tag, words in ((sides[0], "del", old[a0:a1]), (sides[1], "ins", new[b0:b1])):
            if words:
                text = escaped(" ".join(words))
                side.append(text if kind == "equal" else f"<{tag}>{text}</{tag}>")
    marked = [Markup(" ".join(side)) for side in sides]
    return marked[0], marked[1]


def _plain(value: object) -> Markup:
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return Markup(f'<code title="{value}">{value[:16]}…</code>')
    return Markup('<span class="unit">–</span>') if value is None or value == "" else escaped(str(value))


def _duration(seconds: float) -> str:
    """`3 d 4 h`: the two largest units."""
    lengths = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)]
    seconds = max(seconds, 0.0)
    for (unit, length), (smaller, part) in pairwise(lengths):
        if seconds >= length:
            rest = int(seconds % length // part)
            return f"{int(seconds // length)} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds:.0f} s"
