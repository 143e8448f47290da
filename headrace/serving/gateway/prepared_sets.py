"""The version sets that can serve here: loaded, tried, and kept as long as a unit or session may need them.

A set is loaded whole or not at all: each member is fetched, compared with its digest (opening an engine does that),
loaded and asked something. Members that differ only in their prompts share an engine, so two sets with the same weights
use the memory of one.

Any exception while loading is kept as the reason why a set is missing, and so is a load that hangs: its thread is
abandoned, and the next load gets another one.

A set is closed when the plan does not name it, no unit uses it and no session that was seen here can return to it. If
another gateway's session needs it later, it is loaded again.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar

from headrace.clock import Clock
from headrace.engines.asking import close
from headrace.engines.base import Engine, LoadedModel
from headrace.engines.chain import LoadedRole, RoleChain, try_listener, try_maker, try_role
from headrace.engines.hearing import HearingEngine
from headrace.engines.media import MediaEngine
from headrace.engines.media_chain import LoadedMaker, MediaChain
from headrace.engines.registry import EngineKey, engine_key
from headrace.engines.spoken_chain import LoadedListener, SpokenChain
from headrace.errors import EngineUnavailable, HeadraceError, InvalidInput, reason_of
from headrace.serving.daemon_threads import DaemonThreads
from headrace.serving.gateway.metrics import Metrics
from headrace.serving.gateway.records import Records
from headrace.serving.service import Service
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import EngineSpec, Member, VersionSet, VersionSets

_CLOSE_SECONDS_MAX = 30.0
# Delay before a failed set is tried again; doubles up to the second figure.
_AGAIN_SECONDS, _AGAIN_SECONDS_MAX = 2.0, 60.0

_T = TypeVar("_T")
OpenEngine = Callable[[Member, EngineSpec], LoadedModel]
AnyChain = RoleChain | MediaChain | SpokenChain


@dataclass(kw_only=True, eq=False)
class LoadedSet:
    """A set with its engines. `num_units`: units under way; at 0 the set may be closed. `roles`: those that write.
    `residents`: the names of its models at an engine host."""

    id: str
    chain: AnyChain
    roles: dict[str, LoadedRole]
    engine_keys: tuple[EngineKey, ...]
    residents: frozenset[str] = frozenset()
    num_units: int = 0
    # When the last pin of a session that was seen here ends at the latest: seconds since the Unix epoch.
    pinned_until: float = 0.0
    # `X-Headrace-Version-Set`, ready to send.
    header: tuple[bytes, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.header = (b"x-headrace-version-set", self.id.encode())


@dataclass(kw_only=True)
class _Engine:
    engine: LoadedModel
    num_users: int = 0


@dataclass(kw_only=True)
class _Failure:
    error: HeadraceError
    num_tries: int
    again_at: float


class PreparedSets:
    """Used from one event loop; threads load the weights."""

    def __init__(
        self,
        service: Service,
        store: ObjectStore,
        open_engine: OpenEngine,
        *,
        records: Records,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._service = service
        self._sets = VersionSets(store)
        self._open_engine = open_engine
        self._records = records
        self._metrics = metrics
        self._clock = clock
        self._loaded: dict[str, LoadedSet] = {}
        self._engines: dict[EngineKey, _Engine] = {}
        self._loading: dict[str, asyncio.Task[LoadedSet]] = {}
        self._failures: dict[str, _Failure] = {}
        # One at a time: loading two models at once would take twice as much memory bandwidth from the traffic.
        self._turn = asyncio.Lock()
        self._threads = _loading_thread()
        # For one member: a proposal that takes longer is withdrawn.
        self._seconds_max = service.plan.prepare_seconds

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(self._loaded)

    def get(self, set_id: str) -> LoadedSet | None:
        return self._loaded.get(set_id)

    def failure(self, set_id: str) -> HeadraceError | None:
        """Why a set that was tried is missing."""
        failed = self._failures.get(set_id)
        return failed.error if failed else None

    async def ensure(self, set_id: str, *, at_once: bool = False) -> LoadedSet:
        """Returns the set, after loading it if it is missing; concurrent callers share one load, which none can cancel.

        Args:
            at_once: try again even right after a failure.

        Raises:
            HeadraceError: the set cannot be loaded here, or recently could not.
        """
        if (loaded := self._loaded.get(set_id)) is not None:
            return loaded
        failed = self._failures.get(set_id)
        if failed and not at_once and time.monotonic() < failed.again_at:
            raise failed.error
        task = self._loading.get(set_id)
        if task is None:
            task = self._loading[set_id] = asyncio.create_task(self._load(set_id), name=f"load {set_id[:12]}")
            # `_failures` keeps a failure that nobody awaits; reading it here keeps asyncio from complaining.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def keep(self, wanted: Collection[str], evicted: Collection[str] = ()) -> None:
        """Closes sets that are not `wanted`, not in use, and not pinned by a session (unless `evicted`)."""
        now = self._clock.now()
        for loaded in list(self._loaded.values()):
            is_pinned = loaded.pinned_until > now and loaded.id not in evicted
            if loaded.id not in wanted and not loaded.num_units and not is_pinned:
                del self._loaded[loaded.id]
                self._records.event("set closed", version_set=loaded.id)
                await self._release(loaded.engine_keys)
        for set_id in [set_id for set_id in self._failures if set_id not in wanted]:
            del self._failures[set_id]

    async def close(self) -> None:
        for task in list(self._loading.values()):
            task.cancel()
            # Also accepts a load that fails right now; one that hangs ends with the process.
            await asyncio.wait({task}, timeout=_CLOSE_SECONDS_MAX)
        self._loaded.clear()
        for shared in self._engines.values():
            await self._close_engine(shared.engine)
        self._engines.clear()

    async def _load(self, set_id: str) -> LoadedSet:
        started = time.monotonic()
        try:
            async with self._turn:
                version_set = await self._in_thread(self._sets.get, set_id)
                loaded = await self._open(version_set)
        except Exception as failure:
            error = _ours(failure, f"Version set {set_id[:12]}")
            before = self._failures.get(set_id)
            num_tries = before.num_tries + 1 if before else 1
            pause = min(_AGAIN_SECONDS * 2 ** (num_tries - 1), _AGAIN_SECONDS_MAX)
            self._failures[set_id] = _Failure(error=error, num_tries=num_tries, again_at=time.monotonic() + pause)
            self._metrics.prepared("failed")
            self._records.event("set not loaded", version_set=set_id, error=str(error))
            raise error from failure
        finally:
            self._loading.pop(set_id, None)
        self._failures.pop(set_id, None)
        self._loaded[set_id] = loaded
        self._metrics.prepared("loaded")
        self._records.event("set loaded", version_set=set_id, seconds=round(time.monotonic() - started, 3))
        return loaded

    async def _open(self, version_set: VersionSet) -> LoadedSet:
        keys: list[EngineKey] = []
        roles: dict[str, LoadedRole] = {}
        makers: dict[str, LoadedMaker] = {}
        listeners: dict[str, LoadedListener] = {}
        self._check_kinds(version_set)
        try:
            for member in version_set.members:
                spec = version_set.engine_of(member.role)
                key = engine_key(member, spec)
                shared = self._engines.get(key)
                if shared is None:
                    shared = self._engines[key] = _Engine(engine=await self._opened(member, spec))
                shared.num_users += 1
                keys.append(key)
                engine = shared.engine
                if isinstance(engine, HearingEngine):
                    listeners[member.role] = LoadedListener(member=member, engine=engine)
                    await try_listener(member, engine)
                elif isinstance(engine, MediaEngine):
                    facts = await try_maker(member, engine)
                    makers[member.role] = LoadedMaker(member=member, engine=engine, facts=facts)
                else:
                    assert isinstance(engine, Engine), "an engine writes, hears, or makes media"
                    roles[member.role] = LoadedRole(member=member, engine=engine)
                    await try_role(roles[member.role])
            chain = self._chain(version_set, roles, makers, listeners)
        except BaseException:
            await self._release(keys)
            raise
        residents = frozenset(name for key in keys if (name := self._engines[key].engine.resident))
        return LoadedSet(id=version_set.id, chain=chain, roles=roles, engine_keys=tuple(keys), residents=residents)

    def _check_kinds(self, version_set: VersionSet) -> None:
        """Raises: InvalidInput: the set lacks a role of the service's chain, or has one that makes something else."""
        for role in self._service.chain:
            wanted, found = self._service.roles[role].kind, version_set.member(role).kind
            if found != wanted:
                raise InvalidInput(
                    f"{role} of version set {version_set.id[:12]} makes {found}, and in this gateway's service file "
                    f"{wanted}: start the gateway with the file of which the set was made."
                )

    def _chain(
        self,
        version_set: VersionSet,
        roles: dict[str, LoadedRole],
        makers: dict[str, LoadedMaker],
        listeners: dict[str, LoadedListener],
    ) -> AnyChain:
        *_, last = order = self._service.chain
        if self._service.hears:
            first, *between = order[:-1]
            writing = RoleChain(id=version_set.id, roles=tuple(roles[role] for role in between))
            return SpokenChain(id=version_set.id, listener=listeners[first], writers=writing, speaker=makers[last])
        if last in makers:
            writers = tuple(roles[role] for role in order if role != last)
            return MediaChain(id=version_set.id, writers=writers, maker=makers[last])
        return RoleChain.of(
            version_set,
            order,
            {name: role.engine for name, role in roles.items()},
            client_decoding=self._service.client_decoding == "allowed",
        )

    async def _opened(self, member: Member, spec: EngineSpec) -> LoadedModel:
        """Raises: HeadraceError: the engine cannot be loaded, or not in time."""
        named = f"{member.role} ({member.model_name} {member.model_version})"
        opening = asyncio.ensure_future(self._in_thread(self._open_engine, member, spec))
        try:
            done, _ = await asyncio.wait({opening}, timeout=self._seconds_max)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_late)
            raise
        if not done:
            opening.add_done_callback(_close_late)
            self._threads = _loading_thread()
            raise EngineUnavailable(f"{named} was not loaded within {self._seconds_max:g} s.", version_set=named)
        try:
            return opening.result()
        except Exception as error:
            # Libraries have their own errors; a set that cannot be loaded must never crash the gateway.
            raise _ours(error, named) from error

    async def _in_thread(self, work: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def _release(self, keys: Collection[EngineKey]) -> None:
        for key in keys:
            shared = self._engines[key]
            shared.num_users -= 1
            if not shared.num_users:
                del self._engines[key]
                await self._close_engine(shared.engine)

    async def _close_engine(self, engine: LoadedModel) -> None:
        """Closes an engine; a failure is logged, and the other sets are still closed."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS_MAX):
                await close(engine)
        except Exception as error:  # noqa: BLE001
            self._records.event("engine not closed", engine=engine.name, error=reason_of(error))


def _ours(error: Exception, what: str) -> HeadraceError:
    return error if isinstance(error, HeadraceError) else InvalidInput(f"{what} cannot be loaded: {reason_of(error)}.")


def _loading_thread() -> DaemonThreads:
    return DaemonThreads(1, "prepared-sets")


def _close_late(opening: "asyncio.Future[LoadedModel]") -> None:
    """Closes an engine that nobody waits for any more."""
    if not opening.cancelled() and opening.exception() is None:
        asyncio.get_running_loop().create_task(close(opening.result()), name="close late")
