"""Makes one content partition; a kill at any moment loses no row, doubles none and repeats one batch at most.

The claim fixes the prompts and the version set, and so the plan of micro-batches. One `create` commits each batch: a
later worker skips it, and a simultaneous one loses at most the race for it. When all batches exist, the committed rows
are sealed.

It does not divide a partition among workers. Two workers on one partition waste work, but do no harm.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from headrace.errors import HandoffCorrupt
from headrace.generation.campaign import GENERATION_CODE_VERSION, Campaign
from headrace.generation.claim_objects import Claim
from headrace.generation.claims import Claims
from headrace.generation.committed_media import CommittedMedia
from headrace.generation.micro_batches import assemble
from headrace.generation.requests import plan_micro_batches, rows_for
from headrace.generation.sealing import (
    MadeTables,
    Origin,
    SealedContent,
    find_sealed,
    inputs_now,
    seal,
    stop_if_superseded,
    void_error,
)
from headrace.generation.spending import Spending
from headrace.generation.step_work import Clocked, MadeBy, OpenMedia, OpenRows, Plan, Work, works_of
from headrace.generation.steps import steps_of
from headrace.generation.taken_rows import TakenRows
from headrace.handoff.content_digest import digest_of
from headrace.handoff.layout import manifest_key
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.version_sets.media_settings import MemberKind
from headrace.version_sets.sets import VersionSets

# How many different notes a run reports; affected counts are null in any case.
_NUM_NOTES_MAX = 5
T = TypeVar("T")


class Progress(Protocol):
    def __call__(self, rows_done: int, rows_total: int, tokens_per_second: float, /) -> None: ...


def progress_text(rows_done: int, rows_total: int, tokens_per_second: float) -> str:
    """A `Progress` for a log: pictures and recordings have no tokens."""
    speed = f", {tokens_per_second:,.0f} tokens/s" if tokens_per_second else ""
    return f"{rows_done:,} of {rows_total:,} rows{speed}"


@dataclass(frozen=True, kw_only=True)
class Worker:
    """The process that makes rows: recorded in the execution table, never in the content."""

    run_id: str
    host: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A sealed partition, or one whose later steps are still to be made. `reused`: it was sealed before, and this call
    made nothing.

    `seconds` and counts that end in `_now` cover this call's batches; the others cover the partition.
    """

    sealed: SealedContent | None
    # The content digest of the texts, sealed or not.
    texts: str
    claim: Claim
    reused: bool
    num_errors: int
    num_generated_now: int = 0
    # Rows of steps that were taken from what another version set made already (`taken_rows`).
    num_taken_now: int = 0
    num_tokens_now: int = 0
    seconds: float = 0.0
    # What was wrong with the engine's statements about its rows → how many rows.
    notes: Mapping[str, int] = field(default_factory=dict)
    # The engine's libraries here, or this release's code, if they differ from the version set's: bytes may differ.
    build_drift: str | None = None
    # Roles that paint or speak whose rows are not all made: nothing is sealed before they are.
    waits_for: tuple[str, ...] = ()

    @property
    def content(self) -> Handoff:
        assert self.sealed, "nothing is sealed before every step is made"
        return self.sealed.content

    @property
    def execution(self) -> Handoff:
        assert self.sealed, "nothing is sealed before every step is made"
        return self.sealed.execution

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens_now / self.seconds if self.seconds else 0.0

    def figures(self, kind: MemberKind = "text") -> dict[str, int | float | str | bool]:
        """A run's figures, by name and unit; `reused` is missing, since the version's record shows it.

        Args: kind: of what the run was asked for. Pictures and recordings have no tokens; texts that they lacked have.
        """
        tokens = {"num_tokens_now": self.num_tokens_now, "tokens_per_second": self.tokens_per_second}
        figures: dict[str, int | float | str | bool] = {
            "num_rows_generated_now": self.num_generated_now,
            "num_errors": self.num_errors,
            **(tokens if kind == "text" or self.num_tokens_now else {}),
            "engine_seconds": self.seconds,
            "version_set": self.claim.version_set[:12],
            "attempt": self.claim.attempt,
            "attempt_reason": self.claim.reason,
        }
        if self.num_taken_now:
            figures["num_rows_taken_now"] = self.num_taken_now
        if self.waits_for:
            figures["waits_for"] = ", ".join(self.waits_for)
        if self.notes:
            figures["engine_notes"] = "; ".join(f"{note} ({count} rows)" for note, count in self.notes.items())
        return figures | ({"engine_build_drift": self.build_drift} if self.build_drift else {})


def generate_partition(
    claim: Claim,
    *,
    campaign: Campaign,
    claims: Claims,
    handoffs: HandoffStore,
    open_engine: OpenRows,
    worker: Worker,
    open_media: OpenMedia | None = None,
    up_to: MemberKind | None = None,
    progress: Progress | None = None,
    turn: Callable[[MemberKind], AbstractContextManager[None]] = lambda kind: nullcontext(),
    monotonic: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Finishes a claim: makes the missing rows step by step, then seals the partition.

    Calls `open_engine` and `open_media` only if a row is missing: a partition that is sealed, or only lacks its seal,
    loads no model.

    Args:
        open_engine: the roles that write. open_media: a role that paints or speaks.
        up_to: the last kind of step that this call makes, in the order of the chain; None: all. What comes before it is
            made first where it is missing. The call that finds every step made seals.
        turn: what is held while a loaded engine makes rows of a kind, such as a turn on its GPU.

    Raises:
        RepinRequired: the claim's version set was rolled back; open the claim again.
        MirrorStopped: as RepinRequired, for a mirror's claim, which is not tried again.
        EngineUnavailable: no row can be made now; what was committed stays.
        BudgetSpent: the campaign's budget for the day is spent; what was committed stays.
        Superseded: newer prompts or a later attempt were sealed since the claim; nothing of this one is published.
        HandoffCorrupt: a commit or the prompts are damaged.
    """
    version_set = VersionSets(claims.objects).get(claim.version_set)
    steps = steps_of(version_set)
    if sealed := find_sealed(claim, claims, handoffs, steps):
        errors = _num_errors(sealed.content.table(["finish_reason"]))
        return Outcome(sealed=sealed, texts=sealed.content.content_digest, claim=claim, reused=True, num_errors=errors)
    prompts = handoffs.open("prompts", claim.partition, claim.inputs["prompts"])
    read = {f"prompts[{claim.partition}]": f"v{prompts.version} {prompts.content_digest}"}
    origin = Origin(run_id=worker.run_id, input_versions=inputs_now(handoffs, read))
    stop_if_superseded(claim, claims, handoffs, origin)
    asked = prompts.table()
    rows = rows_for(asked, claim.version_set, seeds_of=steps[0].led_to_by)
    plan = Plan(
        claim=claim,
        version_set=version_set,
        batches=plan_micro_batches(rows, claim.micro_batch_rows),
        prompts={one["prompt_id"]: one for one in asked.to_pylist()},
        row_attempts=campaign.row_attempts,
        objects=claims.objects,
        taken=TakenRows(claim=claim, version_set=version_set, handoffs=handoffs, prompts_digest=prompts.content_digest),
    )
    works = works_of(plan, steps, open_engine, open_media)
    making = _Making(
        plan=plan,
        claims=claims,
        worker=worker,
        progress=progress,
        turn=turn,
        monotonic=monotonic,
        spending=Spending.of(claim, campaign, handoffs, monotonic),
    )
    for work in _up_to(works, up_to):
        making.run(work)
    writing, *later = works
    texts, execution = assemble(making.read(writing.made), rows, asked)
    assert len(set(texts["row_id"].to_pylist())) == texts.num_rows == len(rows), "lost or doubled rows"
    outcome = Outcome(
        sealed=None,
        texts=digest_of(texts),
        claim=claim,
        reused=False,
        num_errors=_num_errors(texts),
        num_generated_now=making.num_rows,
        num_taken_now=making.num_taken,
        num_tokens_now=making.num_tokens,
        seconds=making.seconds,
        notes=dict(making.notes.most_common(_NUM_NOTES_MAX)),
        build_drift=making.build_drift,
    )
    if unmade := [work.step.role for work in later if making.missing(work)]:
        return replace(outcome, waits_for=tuple(unmade))
    # The partition's prompts may have changed, even back to these, while rows were made.
    origin = replace(origin, input_versions=inputs_now(handoffs, read))
    media: list[tuple[MemberKind, CommittedMedia]] = [(work.step.kind, making.read(work.made)) for work in later]
    made = MadeTables(content=texts, execution=execution, media=media)
    # The items' bytes are read from the commits while they are sealed.
    sealed = making.read(lambda: seal(claim, claims, handoffs, steps, made, origin=origin))
    return replace(outcome, sealed=sealed)


def _up_to(works: Sequence[Work], kind: MemberKind | None) -> Sequence[Work]:
    """The texts, then the steps of the wanted kind: pictures and recordings do not need each other."""
    return works if kind is None else [work for work in works if work.step.kind in ("text", kind)]


@dataclass(kw_only=True)
class _Making:
    """One worker's pass over a claim's missing batches, with its counts."""

    plan: Plan
    claims: Claims
    worker: Worker
    progress: Progress | None
    turn: Callable[[MemberKind], AbstractContextManager[None]]
    monotonic: Callable[[], float]
    spending: Spending | None
    num_rows: int = 0
    num_taken: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    build_drift: str | None = None
    notes: Counter[str] = field(default_factory=Counter)
    _done: set[int] = field(default_factory=set)

    @property
    def claim(self) -> Claim:
        return self.plan.claim

    def missing(self, work: Work) -> list[int]:
        self._done = work.committed()
        return [index for index in range(len(self.plan.batches)) if index not in self._done]

    def run(self, work: Work) -> None:
        if not self.missing(work):
            return
        self._stop_if_aborted()
        for index in self.missing(work):
            if self.read(lambda at=index: work.is_there(at)):
                self._stop_if_aborted()
                self._make(work, None, index)
        if not self.missing(work):
            self._report()
            return
        # No model is loaded for nothing.
        self._stop_if_spent(work)
        engine = work.open()
        try:
            self._note_drift(engine.build, work.wanted_build())
            # Checked again after each batch, since another worker may have made some.
            # Arrow imports pandas with its first Python value, which takes up to a second: not while a GPU waits.
            pa.array([0])
            with self.turn(work.step.kind):
                while missing := self.missing(work):
                    self._report()
                    self._stop_if_aborted()
                    self._stop_if_spent(work)
                    self._make(work, engine, missing[0])
            self._report()
            if self.spending:
                # The next step is measured against all of this one.
                self.spending.count(self.claim, self._done, work.role)
        finally:
            engine.close()

    def read(self, read: Callable[[], T]) -> T:
        """Raises: RepinRequired, MirrorStopped: what is read is gone, since the claim is void."""
        try:
            return read()
        except HandoffCorrupt:
            # A worker that found the claim's set rolled back has dropped the batches.
            settlement = self.claims.settlement(self.claim)
            if settlement is not None and settlement.outcome == "void":
                raise void_error(self.claim, settlement.reason) from None
            raise

    def _note_drift(self, build: str, wanted: str) -> None:
        made_by = self.plan.version_set.code_version
        if build != wanted:
            self.build_drift = f"{build or 'no build'} instead of {wanted or 'no build'}"
        elif self.build_drift is None and made_by != GENERATION_CODE_VERSION:
            # A set that an earlier release made: its other rows may have other bytes than this release's.
            self.build_drift = f"generation code {GENERATION_CODE_VERSION} instead of {made_by}"

    def _make(self, work: Work, engine: Any, index: int) -> None:
        clocked = Clocked(monotonic=self.monotonic)
        made_by = MadeBy(host=self.worker.host, run_id=self.worker.run_id, is_own_build=self.build_drift is None)
        made = self.read(lambda: work.make(engine, index, made_by, clocked))
        self.seconds += clocked.seconds
        self.num_tokens += made.num_tokens
        self.notes.update(made.notes)
        if made.is_first:
            self.num_rows += len(self.plan.batches[index]) - made.num_taken
            self.num_taken += made.num_taken

    def _stop_if_aborted(self) -> None:
        self._stop_if_ended()
        if self.claim.on_abort != "repin" or not (reason := self.claims.abort_of(self.claim)):
            return
        # If it is settled as sealed, its rows are repaired, not taken back.
        if self.claims.settle(self.claim, "void", reason).outcome == "void":
            self.claims.drop_batches(self.claim)
            raise void_error(self.claim, reason)

    def _stop_if_ended(self) -> None:
        """Where somebody else ended the attempt, such as an erasure of its prompts.

        One that may finish unpublished goes on after its set was rolled back, as long as it has its prompts.
        """
        settlement = self.claims.settlement(self.claim)
        if settlement is None or settlement.outcome == "sealed":
            return
        prompts = manifest_key("prompts", self.claim.partition, self.claim.inputs["prompts"])
        if self.claims.abort_of(self.claim) is None or not self.claims.objects.exists(prompts):
            self.claims.drop_batches(self.claim)
            raise void_error(self.claim, settlement.reason)

    def _stop_if_spent(self, work: Work) -> None:
        if self.spending:
            rows_done, rows_total = self._rows()
            asked = {"num_made": rows_done, "num_asked": rows_total}
            self.spending.stop_if_spent(self.claim, self._done, **asked, role=work.role)

    def _rows(self) -> tuple[int, int]:
        """Those that are made, and all."""
        batches = self.plan.batches
        return sum(len(batches[index]) for index in self._done), sum(map(len, batches))

    def _report(self) -> None:
        if self.progress:
            rows_done, rows_total = self._rows()
            self.progress(rows_done, rows_total, self.num_tokens / self.seconds if self.seconds else 0.0)


def _num_errors(content: pa.Table) -> int:
    return content["finish_reason"].to_pylist().count("error")
