"""An engine host: keeps the table of residents, starts and ends their processes, and hands clients' turns to them.

It loads no engine and reads no turn: a request's body goes to the model's process as it came, and the answer back in
pieces. So a crash, a leak or a long computation of a model is not the host's. Clients are told by HTTP on one Unix
socket:

| path | answer |
|---|---|
| PUT /models/KEY | what the model of that key is, as JSON: it is brought, or has been; its facts |
| POST /models/KEY/v1/chat/completions | a turn of it, whole or in pieces |
| POST /models/KEY/v1/batches | turns that are made together |
| POST /floor | lines that name models which must not make room for bulk work, until no more come |
| GET /v1/models | the table: what is where, and what would go next |
| DELETE /places/PLACE/models | the table; what nobody uses at the place begins to leave |
| GET /metrics | the same in Prometheus's text form |
| GET /alive | nothing, at once |

A request says in `X-Headrace-Class` whether it is `live`, `flex` or `batch`, and in `X-Headrace-Tenants` whose it is. A
client that leaves, however it does, takes its turns and its floor along.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from headrace.engines.asker import Asker
from headrace.engines.host.address import SILENT_SECONDS
from headrace.engines.host.asker_headers import CLASS, asker_in
from headrace.engines.host.child_process import ChildProcess, told_of
from headrace.engines.host.copies import State
from headrace.engines.host.edge import REQUEST_BYTES_MAX, telling
from headrace.engines.host.floor import FLOOR, FLOOR_LINE, FLOOR_SECONDS
from headrace.engines.host.gpu_memory import GpuMemory
from headrace.engines.host.lines import BATCHES, CHAT, METRICS, MODELS, num_lines
from headrace.engines.host.metrics import CONTENT_TYPE, page
from headrace.engines.host.outcomes import ModelLost
from headrace.engines.host.residents import Residents
from headrace.engines.host.silence import ALIVE
from headrace.engines.host.steps import Load, Refuse, Sleep, Start, Step, Stop, Wake
from headrace.engines.host.table_view import Table, table_body, table_of
from headrace.engines.host.wanted import CPU, WANTED, Facts, Place, Wanted
from headrace.engines.host.work import Ticket
from headrace.errors import EngineUnavailable, HeadraceError

_log = logging.getLogger(__name__)
# How often processes are measured while there are any, and time's own steps are taken.
_LOOK_SECONDS = 0.5
# Joined with its head, an answer is one write: half of what a short one costs is calls of the kernel.
_SMALL_BYTES = 2**16
_HEADERS = ("Content-Type", "Cache-Control")
# Of a request, what its model's process is told.
_ASKED = ("X-Request-Id", CLASS)


class Supervisor:
    """Used on one event loop."""

    def __init__(
        self,
        table: Residents,
        socket_file: Path,
        gpus: GpuMemory | None = None,
        *,
        remember: Callable[[], None] = lambda: None,
        floor_seconds: float = FLOOR_SECONDS,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        """Args:
        socket_file: the host's own; its models' lie beside it.
        gpus: those that the table has accounts of.
        remember: writes down what the table has measured.
        floor_seconds: a floor that was not renewed for so long is gone.
        silent_seconds: a model's process that was stopped, and not let go on for so long, is ended.
        """
        self.table = table
        self._remember = remember
        self._gpus = gpus
        self._floor_seconds, self._silent_seconds = floor_seconds, silent_seconds
        self._file = socket_file
        self._wanted: dict[str, Wanted] = {}
        self._facts: dict[str, Facts] = {}
        # By key and place.
        self._children: dict[tuple[str, str], ChildProcess] = {}
        self._waiting: dict[Ticket, asyncio.Future[None]] = {}
        # One for each request that holds one.
        self._floors: dict[object, tuple[str, ...]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._num_started = 0
        self._is_closing = False
        self.num_requests = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=REQUEST_BYTES_MAX)
        app.router.add_put("/models/{key}", telling(self._bring))
        for path, handler in ((CHAT, self._relay), (BATCHES, self._batch)):
            app.router.add_post(f"/models/{{key}}{path}", telling(handler))
        app.router.add_post(FLOOR, telling(self._keep))
        app.router.add_get(MODELS, self._list)
        app.router.add_delete("/places/{place}/models", telling(self._empty))
        app.router.add_get(METRICS, self._metrics)
        app.router.add_get(ALIVE, self._alive)
        return app

    # --- what clients ask ---

    async def _bring(self, request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"]
        try:
            wanted = WANTED.checked(await request.read())
        except ValueError as error:
            raise EngineUnavailable(f"The engine host cannot read what it is asked for: {error}.") from None
        if wanted.key != key:
            raise EngineUnavailable(
                f"The engine host finds another key for {wanted.label}: it is of another release. End it, and the next "
                "run starts one of its own."
            )
        self.table.know(key, places=list(self._places(wanted)), label=wanted.label, guess_mib=wanted.guess_mib)
        self._wanted[key] = wanted
        # Who opens a model that is here waits for nobody's work.
        if not self.table.is_open(key):
            async with self._turn(key, asker_in(request.headers)):
                pass
        return web.json_response(asdict(self._facts[key]))

    async def _batch(self, request: web.Request) -> web.StreamResponse:
        """Turns that are made together. The model is free before the client reads, which may sleep."""
        raw = await request.read()
        async with self._asked(request, raw, size=num_lines(raw)) as answer:
            status, headers = answer.status, _told_on(answer)
            # As they came: joined, they would be in memory twice.
            parts = [part async for part, _ in answer.content.iter_chunks()]
        num_bytes = sum(map(len, parts))
        if num_bytes <= _SMALL_BYTES:
            return web.Response(body=b"".join(parts), status=status, headers=headers)
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = num_bytes
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        return response

    async def _relay(self, request: web.Request) -> web.StreamResponse:
        """One turn, whose pieces go to its client as they come."""
        raw = await request.read()
        response: web.StreamResponse | None = None
        try:
            async with self._asked(request, raw) as answer:
                if answer.content_length is not None:
                    # A whole one goes in a single write with its head.
                    return web.Response(body=await answer.read(), status=answer.status, headers=_told_on(answer))
                response = web.StreamResponse(status=answer.status, headers=_told_on(answer))
                await response.prepare(request)
                async for part in answer.content.iter_any():
                    await response.write(part)
        except ModelLost:
            if response is None:
                raise
            # The client has been told a part: it sees an answer that breaks off.
            if request.transport is not None:
                request.transport.abort()
        return response

    @asynccontextmanager
    async def _asked(self, request: web.Request, raw: bytes, size: int = 1) -> AsyncIterator[aiohttp.ClientResponse]:
        """What a model's process answers to so many turns, once the model is here for them.

        Raises: ModelLost: its process has ended.
        """
        key = request.match_info["key"]
        if key not in self.table:
            raise ModelLost(f"The engine host does not know the model {key[:12]}.")
        told = {name: request.headers[name] for name in _ASKED if name in request.headers}
        async with self._turn(key, asker_in(request.headers), size=size) as turn:
            if (child := self._children.get((key, turn.place))) is None:
                # It ended between the turn's beginning and this line.
                raise ModelLost(f"The process of {self._wanted[key].label} ended before it answered.")
            try:
                url = f"http://model{request.path.removeprefix(f'/models/{key}')}"
                async with child.session.post(url, data=raw, headers=told) as answer:
                    yield answer
                turn.is_answered = True
            except (aiohttp.ClientError, ConnectionResetError) as error:
                if request.transport is not None and not request.transport.is_closing():
                    await child.wait_until_gone()
                raise ModelLost(f"The process of {self._wanted[key].label} ended while it answered.") from error

    async def _empty(self, request: web.Request) -> web.StreamResponse:
        place = self._place(request.match_info["place"])
        if place in self.table.accounts:
            self._do(self.table.empty(place))
        return await self._list(request)

    def _places(self, wanted: Wanted) -> dict[str, Place]:
        """By its account, each place of a model as its asker names it."""
        return {self._place(one.device): one for one in wanted.place.each}

    def _place(self, device: str) -> str:
        """The account of a device, however it is named."""
        return self._gpus.named(device) if self._gpus and device != CPU else device

    async def _keep(self, request: web.Request) -> web.StreamResponse:
        """A floor, as its client's last line says, until there are no more or none in time."""
        floor = object()
        try:
            while True:
                async with asyncio.timeout(self._floor_seconds):
                    line = await request.content.readline()
                if not line:
                    break
                try:
                    self._floors[floor] = FLOOR_LINE.checked(line).keys
                except ValueError as error:
                    raise EngineUnavailable(f"The engine host cannot read a floor's line: {error}.") from None
                self._renew()
        except TimeoutError:
            _log.warning("a floor was not renewed for %g s, and is gone", self._floor_seconds)
        finally:
            self._floors.pop(floor, None)
            self._renew()
        return web.json_response({})

    def _renew(self) -> None:
        self.table.keep({key for keys in self._floors.values() for key in keys})
        self._step()

    async def _alive(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(table_body(self._seen()))

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=page(self._seen()), headers={"Content-Type": CONTENT_TYPE})

    def _seen(self) -> Table:
        pids = {at: child.pid for at, child in self._children.items()}
        return table_of(self.table, pids, {key: wanted.model_id for key, wanted in self._wanted.items()})

    # --- turns ---

    @asynccontextmanager
    async def _turn(self, key: str, asker: Asker, *, size: int = 1) -> "AsyncIterator[_Turn]":
        """A turn of the model, once it is here.

        Raises: HeadraceError: it cannot come.
        """
        ticket = self.table.enter(key, work_class=asker.work_class, size=size, tenants=asker.tenants)
        future = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        self.num_requests += 1
        turn = _Turn()
        try:
            self._step()
            await future
            turn.place = ticket.place
            yield turn
        finally:
            self._waiting.pop(ticket, None)
            at = (key, turn.place)
            try:
                if turn.is_answered and at in self._children and self.table.has_rough_part(*at):
                    # Weights are in memory once they were used, and the last look may have been before.
                    self._measure(*at)
            finally:
                # Whatever a look meets: a turn that stays at work would keep its model in memory for good.
                self.table.leave(ticket, is_answered=turn.is_answered)
                self._step()

    def _step(self) -> None:
        """Does what the table says, until it says nothing more."""
        while not self._is_closing and (steps := self.table.next_steps()):
            self._do(steps)

    def _do(self, steps: list[Step]) -> None:
        for step in steps:
            match step:
                case Load(key=key, place=place):
                    self._run(self._life(key, place))
                case Stop(key=key, place=place, why=why, at_once=at_once):
                    _log.info("%s leaves: %s", self._wanted[key].label, why)
                    self._run(self._children[key, place].stop(at_once=at_once))
                case Sleep(key=key, place=place):
                    self._run(self._sleep(key, place))
                case Wake(key=key, place=place):
                    self._run(self._wake(key, place))
                case Start(ticket=ticket):
                    if not (future := self._waiting[ticket]).done():
                        future.set_result(None)
                case Refuse(ticket=ticket, error=error):
                    if not (future := self._waiting[ticket]).done():
                        future.set_exception(error)

    # --- processes ---

    async def _life(self, key: str, place: str) -> None:
        """Of one process, from its start to its end."""
        wanted, started = self._wanted[key], time.monotonic()
        self._num_started += 1
        file = Path(f"{self._file}.{self._num_started}")
        child = self._children[key, place] = ChildProcess(wanted, self._places(wanted)[place], file)
        _log.info("%s comes", wanted.label)
        try:
            self._facts[key] = await child.opened()
        except Exception as error:  # noqa: BLE001 (whatever it is, the model cannot come, and who waits is told)
            was_killed = child.was_killed
            await child.stop(at_once=True)
            await child.ended()
            why = told_of(error, wanted)
            _log.info("%s cannot come: %s", wanted.label, why)
            if was_killed:
                # Nothing is wrong with the model: it comes again, as after a kill in its work.
                self.table.gone(key, place)
            else:
                self.table.not_loaded(key, place, why)
        else:
            self._measure(key, place)
            child.begin_looks()
            self.table.loaded(
                key,
                place,
                seconds=time.monotonic() - started,
                num_at_once=self._facts[key].num_at_once,
                # Its process lets live turns in between the steps of bulk work.
                live_is_beside=True,
                can_sleep=self._facts[key].can_sleep,
            )
            self._remember()
            self._step()
            how = await child.ended()
            if not self._is_closing and self.table.state(key, place) is not State.LEAVING:
                _log.warning("the process of %s ended by itself: %s", wanted.label, how)
            self.table.gone(key, place)
        del self._children[key, place]
        child.is_gone.set()
        self._step()

    async def _sleep(self, key: str, place: str) -> None:
        child = self._children[key, place]
        if await self._is_done(key, child, child.sleep()):
            _log.info("%s sleeps", self._wanted[key].label)
            self._measure(key, place)
            held = child.held()
            self.table.asleep(key, place, home_mib=held.own_mib, home_components=held.files)
            child.begin_looks()
            self._step()

    async def _wake(self, key: str, place: str) -> None:
        child, started = self._children[key, place], time.monotonic()
        if await self._is_done(key, child, child.wake()):
            self._measure(key, place)
            child.begin_looks()
            self.table.awake(key, place, seconds=time.monotonic() - started)
            self._step()

    async def _is_done(self, key: str, child: ChildProcess, told: Coroutine[Any, Any, None]) -> bool:
        """Whether the process did what it was told; one that did not is ended, and its end is noted as any."""
        try:
            await told
        except (HeadraceError, aiohttp.ClientError, OSError) as error:
            _log.warning("%s neither sleeps nor wakes: %s", self._wanted[key].label, error)
            await child.stop(at_once=True)
            return False
        return not child.is_gone.is_set()

    def _measure(self, key: str, place: str) -> None:
        child = self._children[key, place]
        if self._gpus is None or place == CPU:
            held = child.held()
            self.table.measured(key, place, held.own_mib, components=held.files, most_mib=held.most_mib)
        else:
            self.table.measured(key, place, self._gpus.held_mib(place, child.pid))

    async def keep_looking(self) -> None:
        """Measures the processes, those without work, too, and lets time's own steps happen."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                for (key, place), child in self._children.items():
                    if child.pid and self.table.state(key, place) is not State.ABSENT:
                        self._measure(key, place)
                    self._end_if_stopped(key, child)
                self._step()
            except Exception:  # noqa: BLE001 (one look that fails must not end the later ones: somebody waits)
                _log.exception("a look failed")

    def _end_if_stopped(self, key: str, child: ChildProcess) -> None:
        """What it was asked is asked again of the next one, as after any end of a process."""
        if child.stopped_seconds(time.monotonic()) >= self._silent_seconds:
            why = f"it had been stopped for {self._silent_seconds:g} s, and was ended"
            _log.warning("the process of %s does nothing: %s", self._wanted[key].label, why)
            self._run(child.stop(at_once=True, why=why))

    async def close(self) -> None:
        """Ends all processes; who still waits is told nothing more."""
        self._is_closing = True
        self._remember()
        await asyncio.gather(*(child.stop() for child in self._children.values()), return_exceptions=True)
        for task in list(self._tasks):
            with suppress(Exception):
                await task

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _told_on(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {name: answer.headers[name] for name in _HEADERS if name in answer.headers}


class _Turn:
    """`is_answered`: the model's process has answered it, whatever it said. `place`: where that process is."""

    is_answered = False
    place = ""
