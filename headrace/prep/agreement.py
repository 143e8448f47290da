"""How far sources of labels agree: two of them beyond chance, any number of them, and label by label.

Labels are names without an order: "good" is as far from "bad" as from "fair". A figure says nothing of who is right,
and little below some fifty documents. Which documents two sources both labelled is not chance: a judge only sees those
that rules keep.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headrace.text.markdown import fitting_table


@dataclass(frozen=True, kw_only=True)
class LabelAgreement:
    """One label in two sources; `precision` and `recall` take the first one for right; None: nothing to divide by."""

    label: str
    num_first: int
    num_second: int
    num_both: int

    @property
    def precision(self) -> float | None:
        return self.num_both / self.num_second if self.num_second else None

    @property
    def recall(self) -> float | None:
        return self.num_both / self.num_first if self.num_first else None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """For documents with labels from two sources: their number, the share with equal labels, kappa, and each label."""

    num_both: int
    equal_share: float
    kappa: float
    labels: tuple[LabelAgreement, ...]


def agreement_of(pairs: Sequence[tuple[str, str]]) -> Agreement:
    """The agreement of two sources, from the labels that each document has of both."""
    return Agreement(
        num_both=len(pairs),
        equal_share=sum(left == right for left, right in pairs) / len(pairs) if pairs else 0.0,
        kappa=cohens_kappa(pairs),
        labels=tuple(
            LabelAgreement(
                label=label,
                num_first=sum(left == label for left, _ in pairs),
                num_second=sum(right == label for _, right in pairs),
                num_both=sum(left == label == right for left, right in pairs),
            )
            for label in sorted({label for pair in pairs for label in pair})
        ),
    )


def agreement_markdown(found: Agreement, first: str, second: str) -> str:
    """A table with a line for each label: how often each source gave it, and how far the second one follows the first.

    Args:
        first: the name of the first source, which is taken for right.
        second: the name of the other.
    """
    rows = [
        [
            one.label,
            f"{one.num_first:,}",
            f"{one.num_second:,}",
            f"{one.num_both:,}",
            *map(_share, (one.precision, one.recall)),
        ]
        for one in found.labels
    ]
    headers = ["label", first, second, "both", "precision", "recall"]
    return fitting_table(headers, rows, right=headers[1:])


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> float:
    """Agreement beyond chance: 1 is perfect, 0 is what two coins with the same weights would reach.

    Two sources that give everything the same single label agree by 1; without pairs the result is 0.

    Source: Cohen 1960, A coefficient of agreement for nominal scales.
    """
    if not pairs:
        return 0.0
    num_pairs = len(pairs)
    observed = sum(left == right for left, right in pairs) / num_pairs
    lefts, rights = Counter(left for left, _ in pairs), Counter(right for _, right in pairs)
    by_chance = sum(lefts[label] * rights[label] for label in lefts) / num_pairs**2
    return 1.0 if by_chance == 1 else (observed - by_chance) / (1 - by_chance)


def krippendorffs_alpha(documents: Iterable[Mapping[str, str]]) -> float | None:
    """Agreement beyond chance of any number of sources, of which each may have left documents out.

    1 is perfect, 0 is chance; None: no document has two labels. If all labels are the same, the result is 1.

    Args:
        documents: for each document source → label.

    Source: Krippendorff 2011, Computing Krippendorff's alpha-reliability (nominal data).
    """
    differing = 0.0
    weights: Counter[str] = Counter()
    for labels in documents:
        if len(labels) < 2:
            continue
        counts = Counter(labels.values())
        for label, count in counts.items():
            weights[label] += count
            differing += count * (len(labels) - count) / (len(labels) - 1)
    total = sum(weights.values())
    if not total:
        return None
    by_chance = sum(count * (total - count) for count in weights.values()) / (total - 1)
    return 1.0 if by_chance == 0 else 1 - differing / by_chance
