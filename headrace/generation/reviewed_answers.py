"""Reviewed rows as answers to what a model was asked, over days and campaigns: what preference pairs are made of.

Two rows answer the same if their writers were asked the same messages, by whichever version set and on whichever day.
Rows of a chain of several writers are left out: what the last of them was asked is not kept. The review of a picture or
a recording says nothing of a text, so a row that its text's own rules do not reject, but which is rejected, is on
neither side. Texts are read for the pairs alone that are made of them; until then memory holds some 150 bytes a row.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from headrace.chat.template import Message as Turn
from headrace.engines.base import Message
from headrace.engines.messages import messages_for
from headrace.errors import HandoffMissing
from headrace.generation.left_behind import left_behind, listed_prompts
from headrace.generation.review import RULES
from headrace.generation.rolled_back import aborted_sets
from headrace.generation.sealed_tables import version_read
from headrace.generation.steps import steps_of
from headrace.handoff.row_tables import CONTENT, PROMPTS, REVIEWED
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import ContentPartition
from headrace.rollout.journal import Journal
from headrace.rollout.states import fold
from headrace.version_sets.sets import Member, VersionSets

# Rules that reject rows which have no answer.
_WITHOUT_ANSWER = ("failed", "empty")
_OF_TEXTS = tuple(rule for rule in RULES if rule not in _WITHOUT_ANSWER)
_COLUMNS = ["row_id", "prompt_id", "prompt", "output", "version_set", "kept", "rejected_by"]
# A row: by what it was asked (`asking`: a number of `ReviewedAnswers.askings`), what it is worth, and where it stands.
SCHEMA = {
    "asking": pl.Int32,
    "prompt": pl.String,
    "term": pl.String,
    "row_id": pl.String,
    "text": pl.UInt64,
    "kept": pl.Boolean,
    "is_whole": pl.Boolean,
    "partition": pl.Int32,
}


@dataclass(frozen=True)
class Asking:
    """How a writer is asked: its templates, and the date that its chat template gets."""

    system_prompt: str
    user_template: str
    date: str | None

    def messages(self, member: Member, prompt: str) -> list[Turn]:
        """Args: member: any with these templates."""
        asked = messages_for(member, [Message(role="user", content=prompt)])
        return [{"role": message.role, "content": message.content} for message in asked]


@dataclass
class ReviewedAnswers:
    """Answers that the review judged, with SCHEMA, and how many rows are none, by reason.

    Attributes:
        askings: how they were asked, each with a member that is asked so.
        partitions: of reviewed_content.
        made_of: "asset[partition]" → every version that was read.
        left_out: partitions whose rows cannot be judged now, each with its reason.
        aborted: sets that were rolled back, of any of the campaigns.
    """

    rows: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SCHEMA))
    askings: list[tuple[Asking, Member]] = field(default_factory=list)
    partitions: list[Handoff] = field(default_factory=list)
    made_of: dict[str, Handoff] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    aborted: frozenset[str] = frozenset()
    num_rows: int = 0
    num_without_answer: int = 0
    num_of_chains: int = 0
    num_neither: int = 0

    def texts(self, row_ids: Collection[str]) -> dict[str, tuple[str, list[str], str]]:
        """Row id → its text, the rules that it breaks, and its partition."""
        wanted = pl.Series("row_id", list(row_ids), pl.String)
        found: dict[str, tuple[str, list[str], str]] = {}
        for handoff in self.partitions:
            chosen = handoff.polars(["row_id", "output", "rejected_by"]).filter(
                pl.col("row_id").is_in(wanted.implode())
            )
            found |= {row_id: (text, rules, handoff.partition) for row_id, text, rules in chosen.rows()}
        return found


def reviewed_answers(handoffs: HandoffStore, campaigns: Sequence[str], *, since: str | None = None) -> ReviewedAnswers:
    """The newest reviewed rows of some campaigns, from the day `since` on.

    A row of a set that was rolled back is never an answer to learn from, and one to learn to avoid if it was rejected.

    Raises:
        HandoffMissing: nothing of a campaign was ever reviewed.
        HandoffCorrupt: a version or a journal is damaged.
    """
    answers = ReviewedAnswers()
    by_campaign = _partitions_of(handoffs, campaigns, since)
    answers.aborted = frozenset().union(
        *(aborted_sets(fold(Journal(handoffs.objects, name, handoffs.clock).entries())) for name in campaigns)
    )
    reader = _Reader(handoffs, answers)
    frames = [frame for keys in by_campaign.values() for frame in reader.frames(keys)]
    answers.rows = pl.concat([answers.rows, *frames])
    return answers


def _partitions_of(handoffs: HandoffStore, campaigns: Sequence[str], since: str | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in campaigns}
    reviewed = [part for key in handoffs.partitions(REVIEWED) if (part := ContentPartition.find(key))]
    for part in reviewed:
        if part.campaign in found and part.day >= (since or ""):
            found[part.campaign].append(part.key)
    if missing := [name for name, keys in found.items() if not keys]:
        there = ", ".join(sorted({part.campaign for part in reviewed})) or "none"
        raise HandoffMissing(
            f"No reviewed row of campaign {missing[0]} is in the store{f' since {since}' if since else ''}; reviewed "
            f"campaigns are: {there}. Correct campaigns or since in the recipe's preference.rows, or materialize "
            f"{REVIEWED}."
        )
    left = left_behind(
        listed_prompts(handoffs.objects, [key for keys in found.values() for key in keys]),
        compared_in=handoffs.objects,
    )
    return {name: sorted(key for key in keys if key not in left) for name, keys in found.items()}


class _Reader:
    """Reads partitions one by one into `answers`."""

    def __init__(self, handoffs: HandoffStore, answers: ReviewedAnswers) -> None:
        self._handoffs = handoffs
        self._answers = answers
        self._sets = VersionSets(handoffs.objects)
        self._numbers: dict[Asking, int] = {}
        # Version set → the number of its writer's asking; None: it has not one writer.
        self._of_set: dict[str, int | None] = {}

    def frames(self, keys: Sequence[str]) -> Iterator[pl.DataFrame]:
        for key in keys:
            reviewed = self._handoffs.open(REVIEWED, key)
            try:
                content = self._handoffs.open(CONTENT, key, version_read(reviewed, CONTENT))
                prompts = self._handoffs.open(PROMPTS, key, version_read(content, PROMPTS))
            except HandoffMissing as error:
                self._answers.left_out.append(f"{key}: {error}")
                continue
            for handoff in (reviewed, content, prompts):
                self._answers.made_of[f"{handoff.asset}[{key}]"] = handoff
            self._answers.partitions.append(reviewed)
            yield self._answered(reviewed, content, prompts)

    def _answered(self, reviewed: Handoff, content: Handoff, prompts: Handoff) -> pl.DataFrame:
        answers, number = self._answers, len(self._answers.partitions) - 1
        rows = reviewed.polars(_COLUMNS).with_columns(pl.col("output").hash().alias("text")).drop("output")
        askings = {name: self._asking_of(name) for name in rows["version_set"].unique().to_list()}
        rows = rows.with_columns(
            pl.col("version_set").replace_strict(askings, return_dtype=pl.Int32, default=None).alias("asking"),
            _breaks_any(_WITHOUT_ANSWER).alias("is_unanswered"),
            _breaks_any(_OF_TEXTS).alias("is_rejected"),
        )
        answers.num_rows += rows.height
        answers.num_of_chains += int(rows["asking"].is_null().sum())
        rows = rows.filter(pl.col("asking").is_not_null())
        answers.num_without_answer += int(rows["is_unanswered"].sum())
        rows = rows.filter(~pl.col("is_unanswered"))
        is_chosen = pl.col("kept") & ~pl.col("version_set").is_in(list(answers.aborted))
        judged = rows.filter(is_chosen | pl.col("is_rejected"))
        answers.num_neither += rows.height - judged.height
        finished = content.polars(["row_id", "finish_reason"])
        terms = prompts.polars(["prompt_id", "term"])
        return (
            judged.join(finished, on="row_id", how="left", maintain_order="left")
            .join(terms, on="prompt_id", how="left", maintain_order="left")
            .with_columns(
                (pl.col("finish_reason") == "stop").fill_null(value=True).alias("is_whole"),
                pl.lit(number, pl.Int32).alias("partition"),
            )
            .select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())
        )

    def _asking_of(self, version_set: str) -> int | None:
        if version_set not in self._of_set:
            self._of_set[version_set] = self._number(version_set)
        return self._of_set[version_set]

    def _number(self, name: str) -> int | None:
        version_set = self._sets.get(name)
        writers = steps_of(version_set)[0].roles
        if len(writers) != 1:
            return None
        member = version_set.member(writers[0])
        spec = member.engine or version_set.engine
        asking = Asking(member.system_prompt, member.user_template, spec.template_date)
        if asking not in self._numbers:
            self._numbers[asking] = len(self._answers.askings)
            self._answers.askings.append((asking, member))
        return self._numbers[asking]


def _breaks_any(rules: Sequence[str]) -> pl.Expr:
    return pl.col("rejected_by").list.eval(pl.element().is_in(list(rules))).list.any()
