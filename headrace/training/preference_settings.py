"""What a recipe says of preferences: how strongly pairs move the model, and of which reviewed rows pairs are made."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from headrace.errors import InvalidTrainingRun
from headrace.keys import check_subject_name, is_day
from headrace.user_files.ranges import Because, check_ranges


@dataclass(frozen=True, kw_only=True)
class RowPairs:
    """Pairs of reviewed rows: one that was kept and one that was rejected, of models that were asked the same."""

    campaigns: tuple[str, ...]
    """Whose reviewed rows: the campaigns' names. A kept row and a rejected one may be of two days, and of two of these
    campaigns."""
    since: str | None = None
    """The first day whose rows count, such as 2026-11-01; null: all days that are there."""
    pairs_per_prompt: Annotated[int, Ge(1), Le(1000)] = 1
    """How many pairs one prompt gives at most; each row is in one pair alone."""
    heldout_share: Annotated[float, Gt(0), Le(0.5)] = 0.1
    """The share of prompts whose pairs measure and never train. What the corpus file holds out is held out whatever
    this says."""
    sequence_length: Annotated[int, Ge(2), Le(10_000_000), Because("no model reads more")] = 1024
    """Tokens of a prompt with either answer; longer pairs are left out."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for name in self.campaigns:
            check_subject_name("campaigns", name)
        if not self.campaigns or len(set(self.campaigns)) < len(self.campaigns):
            raise InvalidTrainingRun(
                f"campaigns must name at least one campaign, and each once, got {list(self.campaigns)!r}."
            )
        if self.since is not None and not is_day(self.since):
            raise InvalidTrainingRun(f"since must be a day such as 2026-11-01, got {self.since!r}.")


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Direct preference optimization (DPO): the chosen answer becomes likelier than the rejected one, by how much each
    was likelier before the first step."""

    beta: Annotated[float, Gt(0), Le(100)] = 0.1
    """How dear it is to move away from the model before the first step: lower moves further."""
    label_smoothing: Annotated[float, Ge(0), Lt(0.5), Because("at 0.5 both answers would count alike")] = 0.0
    """The share of pairs that may be the wrong way round."""
    rows: RowPairs | None = None
    """Pairs of the pipeline's own reviewed rows (`preference_pairs`); null: the corpus file's pairs, with `example:
    pair`."""

    def __post_init__(self) -> None:
        check_ranges(self)
