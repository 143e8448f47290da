"""Works off one batch: validates its file, has its lines answered, writes its files.

The file is divided into parts. A part's lines are asked side by side, and settled together by one small object. A
gateway that is killed leaves parts that are settled and parts that are not; the next one goes on with the latter, and
makes the same lines under the same names and seeds. Two gateways on one batch begin at different parts, look before
each whether it is settled, and at worst throw away what the other one was faster with.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from headrace.clock import Clock
from headrace.errors import ObjectMissing, StoreUnavailable, Transient, reason_of
from headrace.handoff.erasures import ErasedData, Erasures
from headrace.inbox.batches import lines, outcomes, states
from headrace.inbox.batches.files import Files, NewFile
from headrace.inbox.batches.kept import Batches, CountsSoFar, Kept, Working
from headrace.inbox.batches.outcomes import Answered, Unmade
from headrace.inbox.batches.places import FILE, name_of
from headrace.inbox.batches.states import CANCELLED, ERASED, EXPIRED, Batch, Counts, LineProblem
from headrace.inbox.drain import WorkedOff
from headrace.serving.gateway.batches.lines import LineAsking
from headrace.serving.gateway.batches.places import LinePlaces, Stops

# A line that an engine failed at is asked so often in all; each attempt of its unit has attempts of its own.
_NUM_ATTEMPTS = 3
_PAUSE_SECONDS, _PAUSE_SECONDS_MAX = 1.0, 30.0
_LOOK_SECONDS = 1.0
# Jobs look less often, the more of them there are.
_LOOK_SECONDS_A_JOB = 0.05
_T = TypeVar("_T")


@dataclass(kw_only=True)
class BatchSite:
    """What all jobs of a gateway share. `lines_a_part`: of new batches; a kill repeats at most the parts under way."""

    model: str
    kept: Batches
    files: Files
    asking: LineAsking
    counts: CountsSoFar
    lines: LinePlaces
    parts: LinePlaces
    num_parts_max: int
    lines_a_part: int
    first_part: int
    """Where it begins with a batch: any number, of its own."""
    clock: Clock
    threads: Executor
    record: Callable[..., None]
    count: Callable[[str, int], None]
    worked_off: deque[WorkedOff]
    num_jobs: int = 0

    async def insist(self, call: Callable[..., _T], *arguments: Any) -> _T:
        """Calls in a thread, until the store answers."""
        pause_seconds = _PAUSE_SECONDS
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self.threads, call, *arguments)
            except (StoreUnavailable, Transient) as error:
                self.record("batch waits for the store", error=reason_of(error))
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, _PAUSE_SECONDS_MAX)

    def now(self) -> int:
        return int(self.clock.now())


class Job:
    """One batch, from whatever state it is in to its end."""

    def __init__(self, site: BatchSite, kept: Kept) -> None:
        self._site, self._kept = site, kept
        self._tenant = kept.tenant
        self._stops = Stops()
        self._num_settled = 0
        # With `run`.
        self._working: Working | None = None
        self._erased = ErasedData(b"", frozenset())

    @property
    def batch(self) -> Batch:
        return self._kept.batch

    @property
    def num_lines_waiting(self) -> int:
        """Without an outcome, as far as this gateway knows; of a batch that is not validated, none is known."""
        return 0 if self.batch.is_final else self.batch.num_lines - self._num_settled

    def look(self, kept: Kept) -> None:
        """A newer state, which somebody else has made."""
        if kept.number > self._kept.number:
            self._kept = kept
        if self.batch.status == "cancelling" or self.batch.is_final:
            self._stops.stop(CANCELLED)

    async def run(self) -> None:
        """Until the batch has ended, or an erasure is of it or of one of its lines: who begins anew leaves that out.

        Raises: HandoffCorrupt: what the store has of the batch is damaged.
        """
        self._working = await self._site.insist(self._site.kept.begin)
        try:
            self._erased = await self._insist(self._working.erasures.all)
            if not self._erased.has("batch", self.batch.id):
                await self._work_until_erased(self._working.erasures)
        finally:
            await asyncio.get_running_loop().run_in_executor(self._site.threads, self._working.end)

    async def _work_until_erased(self, erasures: Erasures) -> None:
        work, watch = (asyncio.create_task(one) for one in (self._work(), self._until_erased(erasures)))
        try:
            await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_erased = watch.done() and not work.done()
            for task in (work, watch):
                task.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)
        (watch if is_erased else work).result()

    async def _until_erased(self, erasures: Erasures) -> None:
        while True:
            await asyncio.sleep(self._look_seconds)
            more = await self._insist(erasures.more)
            if more.has("batch", self.batch.id) or more.has("lines", self.batch.input.id):
                return

    @property
    def _look_seconds(self) -> float:
        return max(_LOOK_SECONDS, _LOOK_SECONDS_A_JOB * self._site.num_jobs)

    async def _insist(self, call: Callable[..., _T], *arguments: Any) -> _T:
        """As the site's, within this work: whatever becomes of who waits for it, an erasure waits for the call."""
        assert self._working is not None, "it does not run"
        return await self._site.insist(self._working.call, call, *arguments)

    async def _work(self) -> None:
        while not self.batch.is_final:
            before = self._kept
            match self.batch.status:
                case "validating":
                    await self._validate()
                case "in_progress" | "cancelling":
                    await self._make()
                case "finalizing":
                    await self._end()
            if self._kept.number > before.number:
                self._site.record(
                    "batch", batch=self.batch.id, key=self._tenant, status=self.batch.status, was=before.batch.status
                )
        self._site.counts.forget(self.batch.id)
        await self._insist(self._site.kept.close, self._tenant, self.batch.id)

    async def _advance(self, seen: Kept, batch: Batch) -> None:
        """Makes `batch` the state after the one that was seen, unless somebody has made another one meanwhile."""
        self.look(await self._insist(self._site.kept.advance, seen, batch))

    async def _validate(self) -> None:
        seen = self._kept
        num_lines, problems = await self._insist(self._validated)
        now = self._site.now()
        if problems:
            await self._advance(seen, states.failed(seen.batch, problems, now))
        else:
            await self._advance(seen, states.begun(seen.batch, num_lines, self._site.lines_a_part, now))

    def _validated(self) -> tuple[int, tuple[LineProblem, ...]]:
        try:
            return lines.validated(self._site.files.pieces(self._tenant, self.batch.input), self._wanted())
        except ObjectMissing:  # deleted while the batch was being made
            return 0, (LineProblem(code="file_not_found", message=f"There is no file {self.batch.input.id} any more."),)

    async def _make(self) -> None:
        await self._settle()
        seen = self._kept
        if seen.batch.status == "cancelling":
            await self._end()
        elif seen.batch.status == "in_progress":
            counts = await self._insist(self._site.counts.of, self._tenant, seen.batch.id)
            if counts.num_completed + counts.num_failed == seen.batch.num_lines:
                await self._advance(seen, states.finalizing(seen.batch, counts, self._site.now()))
            else:
                # Another gateway has ended it, and cleared the lines away.
                self.look(await self._insist(self._site.kept.following, seen))

    async def _settle(self) -> None:
        """Settles each part, made or not."""
        plan = await self._insist(self._planned)
        there = await self._insist(self._site.kept.settled_parts, self._tenant, self.batch.id)
        # After the listing: lines are cleared away once a batch has ended, and not before.
        self.look(await self._insist(self._site.kept.following, self._kept))
        if self.batch.is_final:
            return
        self._num_settled = sum(map(plan.num_lines_of, there))
        self._look_at_time()
        left = [part for part in range(plan.num_parts) if part not in there]
        start = self._site.first_part % max(len(left), 1)
        room = asyncio.Semaphore(self._site.num_parts_max)
        looking = asyncio.create_task(self._keep_looking())
        try:
            async with asyncio.TaskGroup() as group:
                for part in left[start:] + left[:start]:
                    await room.acquire()
                    has_place = await self._site.parts.take(self._tenant, self._stops)
                    # Also of one that is cancelled before it begins.
                    making = group.create_task(self._make_part(plan, part))
                    making.add_done_callback(partial(self._give_back, room, has_place=has_place))
        finally:
            looking.cancel()
            # A damaged state, which it may have met, is met again by the next change.
            await asyncio.gather(looking, return_exceptions=True)

    def _planned(self) -> lines.Plan:
        pieces = self._site.files.pieces(self._tenant, self.batch.input)
        return lines.planned(pieces, self.batch.lines_a_part)

    def _give_back(self, room: asyncio.Semaphore, _: object, *, has_place: bool) -> None:
        room.release()
        if has_place:
            self._site.parts.give_back()

    async def _make_part(self, plan: lines.Plan, part: int) -> None:
        site, batch = self._site, self.batch
        if await self._insist(site.kept.is_settled, self._tenant, batch.id, part):
            self._num_settled += plan.num_lines_of(part)
            return
        begun_at = site.clock.now()
        read = await self._insist(
            lines.lines_of_part,
            lambda offset: site.files.pieces(self._tenant, batch.input, offset),
            plan,
            part,
            self._wanted(),
        )
        made = await asyncio.gather(*[asyncio.create_task(self._outcome(line)) for line in read])
        own = outcomes.settled(batch.id, made)
        counts = (await self._insist(site.kept.settle, self._tenant, batch.id, part, own)).counts
        site.counts.note(batch.id, part, counts)
        self._num_settled += len(read)
        site.count("completed", counts.num_completed)
        site.count("failed", counts.num_failed)
        if not self._stops.why:
            done = WorkedOff(ready_at=begun_at, done_at=site.clock.now(), num_rows=len(read))
            site.worked_off.append(done)

    async def _outcome(self, line: lines.Line) -> Answered | Unmade:
        """A line's outcome, whatever happens; it has a place only while it is asked."""
        site, batch, num_failures = self._site, self.batch, 0
        if not line.custom_id or self._erased.has("line", batch.input.id, line.custom_id):
            return Unmade(custom_id="", code=ERASED)
        name = outcomes.request_id(batch.id, line.custom_id)
        for attempt in itertools.count():
            if not await site.lines.take(self._tenant, self._stops):
                return Unmade(custom_id=line.custom_id, code=self._stops.why)
            try:
                answer = await site.asking.ask(
                    batch.endpoint, line.body, request_id=name, key=self._tenant, session=batch.id
                )
            finally:
                site.lines.give_back()
            num_failures += not answer.comes_back
            if not answer.may_pass or num_failures == _NUM_ATTEMPTS:
                return Answered(
                    custom_id=line.custom_id,
                    status=answer.status,
                    request_id=name,
                    body=answer.body,
                    ignored=answer.ignored,
                )
            pause_seconds = min(_PAUSE_SECONDS * 2 ** min(attempt, 8), _PAUSE_SECONDS_MAX)
            await self._stops.pause(max(pause_seconds, answer.retry_after_seconds or 0.0))
        raise AssertionError("it counts for ever")

    async def _end(self) -> None:
        """Writes the files and ends the batch; whoever does it again finds both."""
        seen = self._kept
        try:
            counts, output, errors = await self._insist(self._written)
        except ObjectMissing:
            # Another gateway has ended it and cleared the lines away; or somebody has deleted a damaged part.
            self.look(await self._insist(self._site.kept.following, seen))
            if not self.batch.is_final:
                await self._settle()
            return
        await self._advance(seen, states.ended(seen.batch, counts, output, errors, self._site.now()))

    def _written(self) -> tuple[Counts, str | None, str | None]:
        """The counts, and the names of the two files; a file that would be empty is not made."""
        site, batch = self._site, self.batch
        moment = batch.finalizing_at or batch.cancelling_at
        assert moment is not None
        num_parts = -(-batch.num_lines // batch.lines_a_part)
        total = Counts()
        made: dict[str, NewFile] = {}
        try:
            for part in range(num_parts):
                settled = site.kept.settled(self._tenant, batch.id, part)
                total = total.plus(settled.counts)
                for ending, text in (("output", settled.output), ("error", settled.errors)):
                    if text and ending not in made:
                        made[ending] = site.files.new(self._tenant, name_of(FILE, moment, batch.id, ending))
                    if text:
                        made[ending].write(text.encode())
            for ending, file in made.items():
                expires_at = moment + batch.output_seconds
                file.seal(f"{batch.id}_{ending}.jsonl", "batch_output", created_at=moment, expires_at=expires_at)
        finally:
            for file in made.values():
                file.discard()
        names = {ending: file.id for ending, file in made.items()}
        return total, names.get("output"), names.get("error")

    async def _keep_looking(self) -> None:
        while not self._stops.why:
            await asyncio.sleep(self._look_seconds)
            self._look_at_time()
            self.look(await self._insist(self._site.kept.following, self._kept))

    def _look_at_time(self) -> None:
        if self._site.clock.now() >= self.batch.expires_at:
            self._stops.stop(EXPIRED)

    def _wanted(self) -> lines.Wanted:
        return lines.Wanted(endpoint=self.batch.endpoint, model=self._site.model)
