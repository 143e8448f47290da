"""Makes one content partition; a kill at any moment loses no row, doubles none and repeats one batch at most.

The claim fixes the prompts and the version set, and so the plan of micro-batches. One `create` commits each batch: a
later worker skips it, and a simultaneous one loses at most the race for it. When all batches exist, the committed rows
are sealed.

It does not divide a partition among workers. Two workers on one partition waste work, but do no harm.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import pyarrow as pa

from headrace.engines.rows import GenerationRequest, GenerationResult, RowMaker, builds, failed, storable
from headrace.errors import HandoffCorrupt, HeadraceError
from headrace.generation.campaign import GENERATION_CODE_VERSION, Campaign
from headrace.generation.claim_objects import Claim
from headrace.generation.claims import Claims
from headrace.generation.micro_batches import MadeRow, assemble, commit, committed, read_commit
from headrace.generation.requests import Row, plan_micro_batches, rows_for
from headrace.generation.sealing import Origin, find_sealed, inputs_now, seal, stop_if_superseded, void_error
from headrace.generation.spending import Spending
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.version_sets.sets import VersionSet, VersionSets

# How many different notes a run reports; affected counts are null in any case.
_NUM_NOTES_MAX = 5


class Progress(Protocol):
    def __call__(self, rows_done: int, rows_total: int, tokens_per_second: float, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Worker:
    """The process that makes rows: recorded in the execution table, never in the content."""

    run_id: str
    host: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A sealed partition. `reused`: it was sealed before, and this call made nothing.

    `seconds` and counts that end in `_now` cover this call's batches; the others cover the partition.
    """

    content: Handoff
    execution: Handoff
    claim: Claim
    reused: bool
    num_errors: int
    num_generated_now: int = 0
    num_tokens_now: int = 0
    seconds: float = 0.0
    # What was wrong with the engine's statements about its rows → how many rows.
    notes: Mapping[str, int] = field(default_factory=dict)
    # The engine's libraries here, or this release's code, if they differ from the version set's: bytes may differ.
    build_drift: str | None = None

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens_now / self.seconds if self.seconds else 0.0

    def figures(self) -> dict[str, int | float | str | bool]:
        """A run's figures, by name and unit; `reused` is missing, since the version's record shows it."""
        figures: dict[str, int | float | str | bool] = {
            "num_rows_generated_now": self.num_generated_now,
            "num_errors": self.num_errors,
            "num_tokens_now": self.num_tokens_now,
            "engine_seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
            "version_set": self.claim.version_set[:12],
            "attempt": self.claim.attempt,
            "attempt_reason": self.claim.reason,
        }
        if self.notes:
            figures["engine_notes"] = "; ".join(f"{note} ({count} rows)" for note, count in self.notes.items())
        return figures | ({"engine_build_drift": self.build_drift} if self.build_drift else {})


def generate_partition(
    claim: Claim,
    *,
    campaign: Campaign,
    claims: Claims,
    handoffs: HandoffStore,
    open_engine: Callable[[VersionSet], RowMaker],
    worker: Worker,
    progress: Progress | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Finishes a claim: makes the missing rows, then seals the partition.

    Calls `open_engine` only if a row is missing: a partition that is sealed, or only lacks its seal, loads no
    model.

    Raises:
        RepinRequired: the claim's version set was rolled back; open the claim again.
        MirrorStopped: as RepinRequired, for a mirror's claim, which is not tried again.
        EngineUnavailable: no row can be made now; what was committed stays.
        BudgetSpent: the campaign's budget for the day is spent; what was committed stays.
        Superseded: newer prompts or a later attempt were sealed since the claim; nothing of this one is published.
        HandoffCorrupt: a commit or the prompts are damaged.
    """
    if sealed := find_sealed(claim, claims, handoffs):
        errors = _num_errors(sealed.content.table(["finish_reason"]))
        return Outcome(content=sealed.content, execution=sealed.execution, claim=claim, reused=True, num_errors=errors)
    prompts = handoffs.open("prompts", claim.partition, claim.inputs["prompts"])
    read = {f"prompts[{claim.partition}]": f"v{prompts.version} {prompts.content_digest}"}
    origin = Origin(run_id=worker.run_id, input_versions=inputs_now(handoffs, read))
    stop_if_superseded(claim, claims, handoffs, origin)
    asked = prompts.table()
    rows = rows_for(asked, claim.version_set)
    making = _Making(
        claim=claim,
        claims=claims,
        batches=plan_micro_batches(rows, claim.micro_batch_rows),
        row_attempts=campaign.row_attempts,
        worker=worker,
        progress=progress,
        monotonic=monotonic,
        spending=Spending.of(claim, campaign, handoffs, monotonic),
    )
    if making.missing():
        making.run(open_engine)
    content, execution = assemble(making.commits(), rows, asked)
    assert len(set(content["row_id"].to_pylist())) == content.num_rows == len(rows), "lost or doubled rows"
    # The partition's prompts may have changed, even back to these, while rows were made.
    origin = replace(origin, input_versions=inputs_now(handoffs, read))
    sealed = seal(claim, claims, handoffs, content=content, execution=execution, origin=origin)
    return Outcome(
        content=sealed.content,
        execution=sealed.execution,
        claim=claim,
        reused=False,
        num_errors=_num_errors(content),
        num_generated_now=making.num_rows,
        num_tokens_now=making.num_tokens,
        seconds=making.seconds,
        notes=dict(making.notes.most_common(_NUM_NOTES_MAX)),
        build_drift=making.build_drift,
    )


@dataclass(kw_only=True)
class _Making:
    """One worker's pass over a claim's missing batches, with its counts."""

    claim: Claim
    claims: Claims
    batches: Sequence[tuple[Row, ...]]
    row_attempts: int
    worker: Worker
    progress: Progress | None
    monotonic: Callable[[], float]
    spending: Spending | None
    num_rows: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    build_drift: str | None = None
    notes: Counter[str] = field(default_factory=Counter)
    _done: set[int] = field(default_factory=set)

    def missing(self) -> list[int]:
        self._done = committed(self.claims.objects, self.claim)
        return [index for index in range(len(self.batches)) if index not in self._done]

    def run(self, open_engine: Callable[[VersionSet], RowMaker]) -> None:
        version_set = VersionSets(self.claims.objects).get(self.claim.version_set)
        self._stop_if_aborted()
        # No model is loaded for nothing.
        self._stop_if_spent()
        engine = open_engine(version_set)
        try:
            wanted = builds(version_set.engine_of(role).build for role in version_set.chain) or version_set.engine.build
            if engine.build != wanted:
                self.build_drift = f"{engine.build or 'no build'} instead of {wanted or 'no build'}"
            elif version_set.code_version != GENERATION_CODE_VERSION:
                # A set that an earlier release made: its other rows may have other bytes than this release's.
                self.build_drift = f"generation code {GENERATION_CODE_VERSION} instead of {version_set.code_version}"
            # Checked again after each batch, since another worker may have made some.
            while missing := self.missing():
                self._report()
                self._stop_if_aborted()
                self._stop_if_spent()
                self._make(engine, missing[0])
            self._report()
        finally:
            engine.close()

    def commits(self) -> list[pa.Table]:
        try:
            return [
                read_commit(self.claims.objects, self.claim, index, batch) for index, batch in enumerate(self.batches)
            ]
        except HandoffCorrupt:
            # A worker that found the claim's set rolled back has dropped the batches.
            settlement = self.claims.settlement(self.claim)
            if settlement is not None and settlement.outcome == "void":
                raise void_error(self.claim, settlement.reason) from None
            raise

    def _make(self, engine: RowMaker, index: int) -> None:
        started = self.monotonic()
        results = generate_rows(engine, self.batches[index], self.row_attempts)
        seconds = self.monotonic() - started
        made = [
            MadeRow(
                row=row,
                result=result,
                seconds=seconds / len(results),
                num_retries=num_retries,
                deterministic=engine.deterministic and self.build_drift is None,
            )
            for row, (result, num_retries) in zip(self.batches[index], results, strict=True)
        ]
        self.seconds += seconds
        self.num_tokens += sum(one.result.num_output_tokens or 0 for one in made)
        self.notes.update(one.result.note for one in made if one.result.note)
        if commit(self.claims.objects, self.claim, index, made, host=self.worker.host, run_id=self.worker.run_id):
            self.num_rows += len(made)

    def _stop_if_aborted(self) -> None:
        if self.claim.on_abort != "repin" or not (reason := self.claims.abort_of(self.claim)):
            return
        # If it is settled as sealed, its rows are repaired, not taken back.
        if self.claims.settle(self.claim, "void", reason).outcome == "void":
            self.claims.drop_batches(self.claim)
            raise void_error(self.claim, reason)

    def _stop_if_spent(self) -> None:
        if self.spending:
            rows_done, rows_total = self._rows()
            self.spending.stop_if_spent(self.claim, self._done, num_made=rows_done, num_asked=rows_total)

    def _rows(self) -> tuple[int, int]:
        """Those that are made, and all."""
        return sum(len(self.batches[index]) for index in self._done), sum(map(len, self.batches))

    def _report(self) -> None:
        if self.progress:
            rows_done, rows_total = self._rows()
            self.progress(rows_done, rows_total, self.num_tokens / self.seconds if self.seconds else 0.0)


def generate_rows(engine: RowMaker, rows: Sequence[Row], row_attempts: int) -> list[tuple[GenerationResult, int]]:
    """A batch's results, each with its number of retries. Failing rows are retried alone, then given up.

    Raises:
        HeadraceError: from the engine: no row caused it, so none is given up.
    """
    requests = [GenerationRequest(row_id=row.row_id, prompt=row.prompt, seed=row.seed) for row in rows]
    outcome: list[tuple[GenerationResult, int]] = []
    for request, first in zip(requests, _attempt(engine, requests), strict=True):
        result, num_retries = first, 0
        while result.finish_reason == "error" and num_retries < row_attempts - 1:
            num_retries += 1
            (result,) = _attempt(engine, [request])
        outcome.append((result, num_retries))
    return outcome


def _attempt(engine: RowMaker, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
    try:
        results = engine.generate(requests)
    except HeadraceError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever a library raises may be one row's fault, and stays one row's)
        return [failed(error) for _ in requests]
    assert len(results) == len(requests), (
        f"engine {engine.name} gave {len(results)} results for {len(requests)} requests"
    )
    return [storable(result) for result in results]


def _num_errors(content: pa.Table) -> int:
    return content["finish_reason"].to_pylist().count("error")
