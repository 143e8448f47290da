"""Counts what a campaign's day has spent, against its budget: from what the store has of its attempts, and no more.

Micro-batches and sealed tables state each row's tokens and seconds, and the seconds of its pictures and recordings, so
a killed run, a retry and another shard's worker count without a record of their own. One's own partition is counted
before each micro-batch; the others are looked at again as often as costs a hundredth of the time. What they spent in
between, and each worker's present micro-batch, may exceed the budget. Rows that were taken instead of being made cost
nothing.
"""

import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from typing import cast

import polars as pl
import pyarrow as pa

from headrace.engines.prices import Price, price_of
from headrace.errors import BudgetSpent, HandoffCorrupt, InvalidCampaign, ObjectMissing
from headrace.generation.budget import spent_text
from headrace.generation.campaign import Campaign
from headrace.generation.claim_objects import CLAIM, ROOT, SETTLED, Claim, is_claim
from headrace.generation.micro_batches import committed, read_figures
from headrace.generation.sealed_tables import MEDIA_OF, TABLES_OF
from headrace.generation.steps import steps_of
from headrace.handoff.schemas import TAKEN_FROM
from headrace.handoff.versions import HandoffStore
from headrace.keys import ContentPartition, partition_from_path
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import read_object
from headrace.version_sets.sets import Member, VersionSets

# Others' partitions are looked at again after so many seconds, or after so many times as long as the last look took.
_LOOK_AGAIN_SECONDS = 10.0
_LOOK_AGAIN_TIMES = 100.0
# Small objects: a store far away answers as many at a time.
_NUM_READERS = 8
_FIGURES = ("prompt", "num_prompt_tokens", "num_output_tokens")


@dataclass(frozen=True, kw_only=True)
class Spent:
    """`num_unknown`: rows whose engine counted no tokens; they stand for the most that they can have."""

    tokens: int = 0
    seconds: float = 0.0
    money: float = 0.0
    num_unknown: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})


@dataclass(kw_only=True)
class _Attempt:
    """What is known of one attempt: the micro-batches that were counted, or all of it, once it is sealed."""

    claim: Claim
    # Of the role that paints or speaks, or of the texts; and the number of the batch.
    counted: set[tuple[str, int]] = field(default_factory=set)
    spent: Spent = field(default_factory=Spent)
    is_whole: bool = False


@dataclass(frozen=True, kw_only=True)
class _Over:
    """A budget that is spent. `sentence`: without its end."""

    what: str
    amount: float
    limit: float
    sentence: str


@dataclass(kw_only=True)
class Spending:
    """What one day of a campaign has spent, as one worker sees it."""

    campaign: Campaign
    handoffs: HandoffStore
    day: str
    monotonic: Callable[[], float] = time.monotonic
    _attempts: dict[str, _Attempt] = field(default_factory=dict)
    _look_at: float | None = None

    @classmethod
    def of(
        cls, claim: Claim, campaign: Campaign, handoffs: HandoffStore, monotonic: Callable[[], float]
    ) -> "Spending | None":
        """None: the campaign may spend what it likes."""
        if campaign.budget is None:
            return None
        day = ContentPartition.parse(claim.partition).day
        return cls(campaign=campaign, handoffs=handoffs, day=day, monotonic=monotonic)

    def stop_if_spent(
        self, claim: Claim, done: Collection[int], *, num_made: int, num_asked: int, role: str = ""
    ) -> None:
        """Args:
            claim: one's own attempt.
            done: its committed micro-batches of the step that it is at.
            num_made, num_asked: its rows of that step.
            role: of that step, if it paints or speaks.

        Raises:
            BudgetSpent: the day has spent one of its budgets.
            InvalidCampaign: nobody can tell what a token of this attempt costs.
        """
        now = self.monotonic()
        if self._look_at is None or now >= self._look_at:
            self._look_at_all()
            ended = self.monotonic()
            self._look_at = ended + max(_LOOK_AGAIN_SECONDS, _LOOK_AGAIN_TIMES * (ended - now))
        self.count(claim, done, role)
        if over := self._over():
            rows = f"{num_made:,} of {num_asked:,} rows of {claim.partition} are made. They stay"
            raise BudgetSpent(
                f"{over.sentence}, and {rows}: raise budget.{over.what} in the campaign's file and start the partition "
                "again, which makes the missing rows alone.",
                campaign=self.campaign.name,
                partition=claim.partition,
                spent=over.amount,
                budget=over.limit,
            )

    def count(self, claim: Claim, done: Collection[int], role: str = "") -> None:
        """Counts one's own micro-batches of a step. Args: as in `stop_if_spent`."""
        self._count(self._attempts.setdefault(claim.id, _Attempt(claim=claim)), role, done)

    def stop_before_runs(self, num_partitions: int) -> None:
        """For who is about to start runs that ask for rows of so many partitions.

        Raises:
            BudgetSpent: each of them would end before its first row.
            InvalidCampaign: as `stop_if_spent`.
        """
        self._look_at_all()
        if over := self._over():
            what = "partition lacks" if num_partitions == 1 else "partitions lack"
            raise BudgetSpent(
                f"{over.sentence}, and {num_partitions:,} {what} rows. Nothing was started: raise budget.{over.what} "
                "in the campaign's file and call it again, which makes the missing rows alone.",
                campaign=self.campaign.name,
                spent=over.amount,
                budget=over.limit,
            )

    def _over(self) -> "_Over | None":
        spent = sum((one.spent for one in self._attempts.values()), Spent())
        for what, limit in self.campaign.budget.stated() if self.campaign.budget else ():
            if (amount := getattr(spent, what)) >= limit:
                guessed = ""
                if spent.num_unknown and what != "seconds":
                    guessed = (
                        f" ({spent.num_unknown:,} rows, whose engine counted no tokens, stand for the most that they "
                        "can have)"
                    )
                sentence = (
                    f"Campaign {self.campaign.name!r} has spent its budget of {what} for {self.day}, "
                    f"{spent_text(what, amount, limit)}{guessed}"
                )
                return _Over(what=what, amount=amount, limit=limit, sentence=sentence)
        return None

    def _look_at_all(self) -> None:
        for path in self._objects.children(ROOT):
            # Every partition in the store: what one cost that a lower num_shards left behind is spent, too.
            partition = ContentPartition.find(partition_from_path(path))
            if partition is None or (partition.campaign, partition.day) != (self.campaign.name, self.day):
                continue
            listed = self._objects.list(f"{ROOT}/{path}")
            settled = {one.removesuffix(SETTLED) for one in listed if one.endswith(SETTLED)}
            for one in filter(is_claim, listed):
                try:
                    claim = read_object(self._objects, one, CLAIM)
                except (ObjectMissing, HandoffCorrupt):
                    # Nobody can go on with it, and the next attempt deletes its rows.
                    continue
                attempt = self._attempts.setdefault(claim.id, _Attempt(claim=claim))
                if attempt.is_whole or (one.removesuffix(".json") in settled and self._count_sealed(attempt)):
                    continue
                for role in ("", *self._makers(claim)):
                    self._count(attempt, role, committed(self._objects, claim, role))

    def _count_sealed(self, attempt: _Attempt) -> bool:
        """Counts the tables, since the micro-batches of a published attempt may be collected. False: there are none."""
        claim = attempt.claim
        tables = [self.handoffs.find(asset, claim.partition, claim=claim.id) for asset in TABLES_OF[claim.kind]]
        if self._makers(claim):
            _, making_media = MEDIA_OF[claim.kind]
            tables.append(self.handoffs.find(making_media, claim.partition, claim=claim.id))
        if not all(tables):
            return False
        rows, making, *media = (one for one in tables if one)
        try:
            made = making.table()
            figures = rows.table(list(_FIGURES)).append_column("seconds", made["seconds"])
            if TAKEN_FROM.name in made.column_names:
                figures = figures.append_column(TAKEN_FROM.name, made[TAKEN_FROM.name])
            spent = self._spent(claim, figures)
            for one in media:
                spent += _seconds(one.table(["seconds"]))
        except HandoffCorrupt:
            return False
        attempt.spent, attempt.is_whole = spent, True
        return True

    def _count(self, attempt: _Attempt, role: str, done: Collection[int]) -> None:
        new = sorted({(role, index) for index in done} - attempt.counted)
        read = partial(self._read, attempt.claim)
        if len(new) < _NUM_READERS:
            found = list(map(read, new))
        else:
            with ThreadPoolExecutor(_NUM_READERS) as readers:
                found = list(readers.map(read, new))
        attempt.spent = sum(found, attempt.spent)
        attempt.counted.update(new)

    def _read(self, claim: Claim, batch: tuple[str, int]) -> Spent:
        role, index = batch
        try:
            if role:
                return _seconds(read_figures(self._objects, claim, index, ["seconds"], role))
            return self._spent(claim, read_figures(self._objects, claim, index, [*_FIGURES, "seconds"]))
        except (ObjectMissing, HandoffCorrupt):
            # Dropped meanwhile, or damaged: the run that seals it says so.
            return Spent()

    def _spent(self, claim: Claim, rows: pa.Table) -> Spent:
        figures = cast(pl.DataFrame, pl.from_arrow(rows))
        seconds = float(figures["seconds"].sum())
        if self.campaign.budget is None or not self.campaign.budget.counts_tokens or not self._writers(claim):
            return Spent(seconds=seconds)
        if TAKEN_FROM.name in figures.columns:
            # Nobody was asked for them.
            figures = figures.filter(pl.col(TAKEN_FROM.name).is_null())
        read, written = figures["num_prompt_tokens"], figures["num_output_tokens"]
        num_unknown = int((read.is_null() | written.is_null()).sum())
        if num_unknown:
            # A token is a byte of its text at least.
            read = read.fill_null(figures["prompt"].str.len_bytes())
            written = written.fill_null(self._writer(claim).writing.max_new_tokens)
        # Of int32 columns, whose sums may be more.
        num_read, num_written = int(read.cast(pl.Int64).sum()), int(written.cast(pl.Int64).sum())
        price = self._price(claim) if self.campaign.budget.money is not None else None
        money = price.of(num_read, num_written) if price else None
        return Spent(tokens=num_read + num_written, seconds=seconds, money=money or 0.0, num_unknown=num_unknown)

    def _price(self, claim: Claim) -> Price:
        writer = self._writer(claim)
        if price := price_of(self.campaign.prices, writer):
            return price
        raise InvalidCampaign(
            f"budget.money of campaign {self.campaign.name!r} needs a price of {writer.model_name!r}, version "
            f"{writer.model_version}, on which attempt {claim.attempt} at {claim.partition} runs: add it to prices.",
            partition=claim.partition,
        )

    def _writer(self, claim: Claim) -> Member:
        writers = self._writers(claim)
        if len(writers) == 1:
            return writers[0]
        raise InvalidCampaign(
            f"budget.tokens and budget.money of campaign {self.campaign.name!r} count one writer's tokens, and attempt "
            f"{claim.attempt} at {claim.partition} runs on {len(writers)} roles that write: state "
            "budget.seconds instead.",
            partition=claim.partition,
        )

    def _writers(self, claim: Claim) -> list[Member]:
        return [member for member in self._sets.get(claim.version_set).members if member.kind == "text"]

    def _makers(self, claim: Claim) -> tuple[str, ...]:
        """The roles of an attempt that paint or speak; none: nobody can go on with it, since its set is gone."""
        try:
            return tuple(step.role for step in steps_of(self._sets.get(claim.version_set))[1:])
        except (ObjectMissing, HandoffCorrupt):
            return ()

    @cached_property
    def _sets(self) -> VersionSets:
        return VersionSets(self._objects)

    @property
    def _objects(self) -> ObjectStore:
        return self.handoffs.objects


def _seconds(made: pa.Table) -> Spent:
    return Spent(seconds=float(sum(made["seconds"].to_pylist())))
