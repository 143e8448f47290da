"""How one micro-batch of a step is made, committed and read: of the texts, or of a role that paints or speaks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from headrace.engines.media_rows import MediaMaker, MediaRequest, MediaResult
from headrace.engines.messages import asked_of
from headrace.engines.rows import (
    GenerationRequest,
    GenerationResult,
    RowMaker,
    builds,
    failed,
    storable,
)
from headrace.errors import HandoffCorrupt, HeadraceError, InvalidInput
from headrace.generation.claim_objects import Claim
from headrace.generation.committed_media import CommittedMedia
from headrace.generation.media_batches import MadeMedium, MediaBatch, commit_media, read_media
from headrace.generation.micro_batches import MadeRow, commit, committed, read_commit
from headrace.generation.requests import Row
from headrace.generation.steps import Step
from headrace.generation.taken_rows import TakenMedium, TakenRows, TakenText
from headrace.keys import row_id, row_seed
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import VersionSet

_Q = TypeVar("_Q")
_R = TypeVar("_R", GenerationResult, MediaResult)


class OpenRows(Protocol):
    def __call__(self, version_set: VersionSet, /) -> RowMaker: ...


class OpenMedia(Protocol):
    def __call__(self, version_set: VersionSet, role: str, /) -> MediaMaker: ...


@dataclass(frozen=True, kw_only=True)
class MadeBy:
    """Who makes a batch, and whether its bytes are the version set's own."""

    host: str
    run_id: str
    is_own_build: bool


@dataclass(frozen=True, kw_only=True)
class MadeBatch:
    """`is_first`: this worker committed it. `num_taken`: its rows that were not made, but taken."""

    num_tokens: int
    num_taken: int
    notes: Sequence[str]
    is_first: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One attempt's rows in their batches, and what is known of their prompts."""

    claim: Claim
    version_set: VersionSet
    batches: Sequence[tuple[Row, ...]]
    # Prompt id → its row of PROMPTS, with what it carries.
    prompts: Mapping[str, Mapping[str, Any]]
    row_attempts: int
    objects: ObjectStore
    taken: TakenRows


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The first step: what the writers write, or the prompts as they are."""

    plan: Plan
    step: Step
    open_rows: OpenRows

    # Of its micro-batches' keys.
    role = ""

    def open(self) -> RowMaker:
        return self.open_rows(self.plan.version_set) if self.step.roles else PromptsAsTheyAre()

    def wanted_build(self) -> str:
        if not self.step.roles:
            return ""
        version_set = self.plan.version_set
        return builds(version_set.engine_of(role).whole_build for role in self.step.roles)

    def committed(self) -> set[int]:
        return committed(self.plan.objects, self.plan.claim)

    def is_there(self, index: int) -> bool:
        """Whether no engine is needed for the batch."""
        return all(self._taken(row) for row in self.plan.batches[index])

    def make(self, engine: RowMaker | None, index: int, made_by: MadeBy, seconds_of: "Clocked") -> MadeBatch:
        """Args: engine: None: `is_there`."""
        batch = self.plan.batches[index]
        taken = {row.row_id: found for row in batch if (found := self._taken(row))}
        asked = [row for row in batch if row.row_id not in taken]
        results: dict[str, tuple[GenerationResult, int]] = {}
        if asked:
            assert engine, "a batch with rows to make has its engine"
            made_now = seconds_of(lambda: generate_rows(engine, asked, self.plan.row_attempts))
            results = dict(zip((row.row_id for row in asked), made_now, strict=True))
        made = [
            MadeRow(
                row=row,
                result=found.result,
                seconds=0.0,
                num_retries=0,
                deterministic=found.deterministic,
                taken_from=found.source,
            )
            if (found := taken.get(row.row_id))
            else MadeRow(
                row=row,
                result=results[row.row_id][0],
                seconds=seconds_of.seconds / len(asked),
                num_retries=results[row.row_id][1],
                deterministic=engine is not None and engine.deterministic and made_by.is_own_build,
            )
            for row in batch
        ]
        is_first = commit(self.plan.objects, self.plan.claim, index, made, host=made_by.host, run_id=made_by.run_id)
        return MadeBatch(
            num_tokens=sum(result.num_output_tokens or 0 for result, _ in results.values()),
            num_taken=len(taken),
            notes=[result.note for result, _ in results.values() if result.note],
            is_first=is_first,
        )

    def _taken(self, row: Row) -> TakenText | None:
        return self.plan.taken.text(row.prompt_id, row.seed)

    def read(self, index: int) -> pa.Table:
        return read_commit(self.plan.objects, self.plan.claim, index, self.plan.batches[index])

    def made(self) -> list[pa.Table]:
        """All batches. Raises: HandoffCorrupt: as `read_commit`."""
        return [self.read(index) for index in range(len(self.plan.batches))]


@dataclass(frozen=True, kw_only=True)
class Media:
    """A later step: one role that paints or speaks of what the texts' commits hold, never of memory."""

    plan: Plan
    step: Step
    texts: Texts
    open_media: OpenMedia
    # Index → what was found of the batch that was looked at last.
    _ready: dict[int, dict[str, TakenMedium]] = field(default_factory=dict)

    @property
    def role(self) -> str:
        return self.step.role

    def open(self) -> MediaMaker:
        return self.open_media(self.plan.version_set, self.step.role)

    def wanted_build(self) -> str:
        return self.plan.version_set.engine_of(self.step.role).whole_build

    def committed(self) -> set[int]:
        return committed(self.plan.objects, self.plan.claim, self.step.role)

    def is_there(self, index: int) -> bool:
        """Whether no engine is needed for the batch: all of it is taken, or skipped."""
        requests = [one for one in self._asked(index).values() if isinstance(one, MediaRequest)]
        taken = self.plan.taken.media(self.step, requests)
        # Of one batch at a time: bytes of all of them may be more than memory holds.
        self._ready.clear()
        self._ready[index] = taken
        return len(taken) == len(requests)

    def make(self, engine: MediaMaker | None, index: int, made_by: MadeBy, seconds_of: "Clocked") -> MadeBatch:
        """Args: engine: None: `is_there`."""
        batch, asked = self.plan.batches[index], self._asked(index)
        requests = [one for one in asked.values() if isinstance(one, MediaRequest)]
        taken = self._ready.pop(index, None) or self.plan.taken.media(self.step, requests)
        tried = self._tried(engine, [one for one in requests if one.row_id not in taken], seconds_of)
        made = []
        for row in batch:
            request, found = asked[row.row_id], taken.get(row.row_id)
            is_tried = row.row_id in tried
            result, num_retries = tried[row.row_id] if is_tried else (MediaResult.none("skipped", str(request)), 0)
            is_own = engine is None or engine.deterministic
            made.append(
                MadeMedium(
                    row=row,
                    asked=request.text if isinstance(request, MediaRequest) else "",
                    seed=media_seed(self.step, row),
                    result=found.result if found else result,
                    seconds=seconds_of.seconds / len(tried) if is_tried else 0.0,
                    num_retries=num_retries,
                    deterministic=found.deterministic if found else is_own and made_by.is_own_build,
                    taken_from=found.source if found else None,
                )
            )
        claim, role = self.plan.claim, self.step.role
        is_first = commit_media(self.plan.objects, claim, role, index, made, host=made_by.host, run_id=made_by.run_id)
        notes = [result.note for result, _ in tried.values() if result.note]
        return MadeBatch(num_tokens=0, num_taken=len(taken), notes=notes, is_first=is_first)

    def _tried(
        self, engine: MediaMaker | None, requests: Sequence[MediaRequest], seconds_of: "Clocked"
    ) -> dict[str, tuple[MediaResult, int]]:
        if not requests:
            return {}
        assert engine, "a batch with rows to make has its engine"
        tried = seconds_of(lambda: make_media(engine, requests, self.plan.row_attempts))
        return dict(zip((one.row_id for one in requests), tried, strict=True))

    def read(self, index: int) -> MediaBatch:
        """Raises: HandoffCorrupt: as `read_media`; or it was made of other texts than there are by now."""
        made = read_media(self.plan.objects, self.plan.claim, self.step.role, index, self.plan.batches[index])
        asked = [one.text if isinstance(one, MediaRequest) else "" for one in self._asked(index).values()]
        if made.table["asked"].to_pylist() != asked:
            # A batch of texts was deleted, since it was damaged, and its writer wrote something else.
            claim, key = self.plan.claim, made.key
            raise HandoffCorrupt(
                f"Micro-batch {self.plan.objects.uri(key)} was made of other texts than its rows have. Delete that "
                f"file and materialize generated_content[{claim.partition}] again: its rows are made anew.",
                key=key,
                partition=claim.partition,
            )
        return made

    def made(self) -> CommittedMedia:
        """All of the step's batches. Raises: HandoffCorrupt: as `read`."""
        batches = (self.read(index) for index in range(len(self.plan.batches)))
        return CommittedMedia.of(self.plan.objects, self.plan.claim, batches)

    def _asked(self, index: int) -> dict[str, MediaRequest | str]:
        """Row id → what is asked of it, or why nothing is."""
        plan = self.plan
        rows = {row.row_id: row for row in plan.batches[index]}
        made = self.texts.read(index).select(["row_id", "output", "finish_reason"]).to_pylist()
        return {
            one["row_id"]: media_request(
                plan.version_set,
                self.step,
                rows[one["row_id"]],
                text="" if one["finish_reason"] == "error" else one["output"],
                prompt=plan.prompts[rows[one["row_id"]].prompt_id],
                writers=self.texts.step.roles,
            )
            for one in made
        }


def media_request(
    version_set: VersionSet,
    step: Step,
    row: Row,
    *,
    text: str,
    prompt: Mapping[str, Any],
    writers: tuple[str, ...],
) -> MediaRequest | str:
    """What a step that paints or speaks is asked for a row; or why nothing is.

    Args: text: as in `asked_of`; empty: the row has none.
    """
    if not text.strip():
        return "the row has no text"
    try:
        asked = asked_of(version_set.member(step.role).user_template, text=text, prompt=prompt, writers=writers)
    except InvalidInput as error:
        return str(error)
    return MediaRequest(row_id=row.row_id, text=asked, seed=media_seed(step, row))


def media_seed(step: Step, row: Row) -> int:
    return row_seed(row_id(row.prompt_id, step.led_to_by, row.variation))


def make_media(
    engine: MediaMaker, requests: Sequence[MediaRequest], row_attempts: int
) -> list[tuple[MediaResult, int]]:
    """A batch's pictures or recordings, each with its number of retries; otherwise as `generate_rows`."""
    return tried_rows(engine.generate, requests, row_attempts, failed=_failed, name=engine.name)


Work = Texts | Media


@dataclass(kw_only=True)
class Clocked:
    """Times one call. `seconds`: of the last one."""

    monotonic: Callable[[], float]
    seconds: float = field(default=0.0)

    def __call__(self, work: Callable[[], Any]) -> Any:
        started = self.monotonic()
        made = work()
        self.seconds = self.monotonic() - started
        return made


class PromptsAsTheyAre:
    """The texts of a chain in which nobody writes: a prompt is what is painted or spoken."""

    name, build, deterministic = "prompt", "", True

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        return [
            GenerationResult(text=one.prompt, num_prompt_tokens=0, num_output_tokens=0, finish_reason="stop")
            for one in requests
        ]

    def close(self) -> None:
        pass


def works_of(
    plan: Plan, steps: Sequence[Step], open_rows: OpenRows, open_media: OpenMedia | None
) -> tuple[Texts, *tuple[Media, ...]]:
    """How each of a set's steps is made.

    Raises: InvalidInput: a step paints or speaks, and nobody says how it is opened.
    """
    texts = Texts(plan=plan, step=steps[0], open_rows=open_rows)
    if open_media is None and len(steps) > 1:
        raise InvalidInput(f"Role {steps[1].role!r} makes {steps[1].kind}, and nothing here opens its engine.")
    later = (Media(plan=plan, step=step, texts=texts, open_media=open_media) for step in steps[1:] if open_media)
    return (texts, *later)


def generate_rows(engine: RowMaker, rows: Sequence[Row], row_attempts: int) -> list[tuple[GenerationResult, int]]:
    """A batch's texts, each with its number of retries. Failing rows are retried alone, then given up.

    Raises:
        HeadraceError: from the engine: no row caused it, so none is given up.
    """
    requests = [GenerationRequest(row_id=row.row_id, prompt=row.prompt, seed=row.seed) for row in rows]
    return tried_rows(engine.generate, requests, row_attempts, failed=failed, name=engine.name, storable=storable)


def tried_rows(
    generate: Callable[[Sequence[_Q]], list[_R]],
    requests: Sequence[_Q],
    row_attempts: int,
    *,
    failed: Callable[[BaseException], _R],
    name: str,
    storable: Callable[[_R], _R] = lambda result: result,
) -> list[tuple[_R, int]]:
    def attempt(some: Sequence[_Q]) -> list[_R]:
        try:
            results = generate(some)
        except HeadraceError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever a library raises may be one row's fault, and stays one row's)
            return [failed(error) for _ in some]
        assert len(results) == len(some), f"engine {name} gave {len(results)} results for {len(some)} requests"
        return [storable(result) for result in results]

    outcome: list[tuple[_R, int]] = []
    for request, first in zip(requests, attempt(requests) if requests else [], strict=True):
        result, num_retries = first, 0
        while result.finish_reason == "error" and num_retries < row_attempts - 1:
            num_retries += 1
            (result,) = attempt([request])
        outcome.append((result, num_retries))
    return outcome


def _failed(error: BaseException) -> MediaResult:
    return MediaResult.none("error", error)
