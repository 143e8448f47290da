"""Works off a service's batches beside its live requests: every gateway of the service that has `--batches` does.

A batch belongs to no gateway. Each looks for those that have not ended, and works at all of them; places go round among
the clients, and within a client to the older batch.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping

from headrace.clock import Clock
from headrace.errors import StoreUnavailable, reason_of
from headrace.inbox.batches.files import Files, Swept
from headrace.inbox.batches.kept import Batches, CountsSoFar, Kept
from headrace.inbox.batches.places import BATCH, made_at
from headrace.inbox.drain import rows_per_second
from headrace.serving.daemon_threads import DaemonThreads
from headrace.serving.gateway.batches.job import BatchSite, Job
from headrace.serving.gateway.batches.lines import LineAsking
from headrace.serving.gateway.batches.places import LinePlaces
from headrace.version_sets.media_settings import MemberKind

# Of a part: few, so that a kill repeats little, and enough that settling them costs little. A picture takes a MiB.
_LINES_A_PART: Mapping[MemberKind, int] = {"text": 16, "image": 4}
_LOOK_SECONDS = 2.0
# How long a batch whose objects are damaged rests.
_DAMAGED_SECONDS = 60.0
# A mark without a batch is of a request that was killed in between.
_NEVER_MADE_SECONDS = 3_600.0
_SWEEP_SECONDS = 600.0
_NUM_MEASURED = 50
_NUM_THREADS = 8


class BatchWork:
    """Used from one event loop."""

    def __init__(
        self,
        kept: Batches,
        files: Files,
        counts: CountsSoFar,
        asking: LineAsking,
        *,
        model: str,
        makes: MemberKind,
        num_lines_max: int,
        clock: Clock,
        record: Callable[..., None],
        count: Callable[[str, int], None],
    ) -> None:
        """Args:
        num_lines_max: lines at once.
        record: writes what happened into the gateway's log.
        count: counts lines by outcome.
        """
        self._threads = DaemonThreads(_NUM_THREADS, "batches")
        num_parts_max = num_lines_max // _LINES_A_PART[makes] + 2
        self._site = BatchSite(
            model=model,
            kept=kept,
            files=files,
            asking=asking,
            counts=counts,
            lines=LinePlaces(num_lines_max),
            parts=LinePlaces(num_parts_max),
            num_parts_max=num_parts_max,
            lines_a_part=_LINES_A_PART[makes],
            first_part=random.randrange(1 << 30),
            clock=clock,
            threads=self._threads,
            record=record,
            count=count,
            worked_off=deque(maxlen=_NUM_MEASURED),
        )
        self._jobs: dict[tuple[str, str], tuple[Job, asyncio.Task[None]]] = {}
        self._rests: dict[tuple[str, str], float] = {}
        self._new = asyncio.Event()
        self._swept = Swept()
        self._forgotten_at: dict[str, int] = {}

    @property
    def num_lines_waiting(self) -> int:
        return sum(job.num_lines_waiting for job, _ in self._jobs.values())

    @property
    def num_open(self) -> int:
        return len(self._jobs)

    def backlog_seconds(self, num_more: int = 0) -> float | None:
        """How long the waiting lines and so many more will take; None: nothing was measured yet."""
        drain = rows_per_second(self._site.worked_off)
        return None if drain is None else (self.num_lines_waiting + num_more) / drain

    def look(self, kept: Kept) -> None:
        """A state that a client's request has made: it is followed at once."""
        if (found := self._jobs.get((kept.tenant, kept.batch.id))) is not None:
            found[0].look(kept)
        self._new.set()

    async def run(self) -> None:
        """Until it is cancelled, which leaves every batch for the next gateway."""
        next_sweep, told = 0.0, ""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._new.clear()
                try:
                    for one in await loop.run_in_executor(self._threads, self._site.kept.open):
                        await self._start(one)
                    if loop.time() >= next_sweep:
                        next_sweep = loop.time() + _SWEEP_SECONDS
                        await loop.run_in_executor(self._threads, self._sweep)
                    told = ""
                except Exception as error:  # noqa: BLE001 (the next look goes on)
                    if reason_of(error) != told:
                        told = reason_of(error)
                        self._site.record("batches not found", error=told)
                try:
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._new.wait()
                except TimeoutError:
                    pass
        finally:
            tasks = [task for _, task in self._jobs.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _start(self, one: tuple[str, str]) -> None:
        now = asyncio.get_running_loop().time()
        if one in self._jobs or self._rests.get(one, 0.0) > now:
            return
        try:
            kept = await asyncio.get_running_loop().run_in_executor(self._threads, self._site.kept.find, *one)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 (it costs its own batch alone)
            self._stand_still(one, error)
            return
        if kept is None:
            # Its client's request is between the mark and the batch, or was killed there.
            seconds = self._site.clock.now() - made_at(BATCH, one[1])
            self._rests[one] = now + min(max(seconds, _LOOK_SECONDS), _DAMAGED_SECONDS)
            if seconds > _NEVER_MADE_SECONDS:
                await asyncio.get_running_loop().run_in_executor(self._threads, self._site.kept.close, *one)
            return
        job = Job(self._site, kept)
        task = asyncio.create_task(self._watched(one, job), name="batch")
        self._jobs[one] = job, task
        self._site.num_jobs = len(self._jobs)

    async def _watched(self, one: tuple[str, str], job: Job) -> None:
        try:
            await job.run()
        except Exception as error:  # noqa: BLE001 (it costs its own batch alone)
            self._stand_still(one, error)
        finally:
            del self._jobs[one]
            self._site.num_jobs = len(self._jobs)

    def _stand_still(self, one: tuple[str, str], error: Exception) -> None:
        self._rests[one] = asyncio.get_running_loop().time() + _DAMAGED_SECONDS
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        self._site.record("batch stands still", batch=one[1], key=one[0], error=reason_of(error))

    def _sweep(self) -> None:
        """Deletes files whose time is over, and batches with theirs."""
        site, used = self._site, set[str]()
        for one in site.kept.open():
            if (kept := site.kept.find(*one)) is not None:
                used.add(kept.batch.input.part)
        if num_files := site.files.sweep(used, self._swept):
            site.record("files expired", num_files=num_files)
        for tenant in site.files.tenants():
            site.kept.forget_before(tenant, site.now(), self._forgotten_at)
