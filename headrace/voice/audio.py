"""The audio of recorded calls on its way to its sealed hour: a few seconds of one call an object, never in the log.

`rollout/<name>/recordings/<first two>/<call>/<epoch>.<number>.pcm`: samples, end to end. A turn event says where its
own are (a *place*: number, offset, bytes, digest) before they are written, so nobody waits for them. A gateway that is
killed loses the last seconds of its calls' audio, and no text of theirs.

A store that takes nothing for minutes costs audio, the oldest first: memory is bounded.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field

import xxhash

from headrace.errors import HeadraceError, ObjectMissing
from headrace.rollout.layout import rollout_prefix
from headrace.store.objects import ObjectStore

# As soon as a call has so much, or its oldest has waited so long, it is written.
_PACK_BYTES = 2**20
_PACK_SECONDS = 5.0
_LOOK_SECONDS = 1.0
# Of all calls: half an hour of one call, some seconds of a full gateway.
_WAITING_BYTES_MAX = 128 * 2**20
_PLACE = re.compile(r"(\d{1,8})/(\d{1,10})/(\d{1,10})/([0-9a-f]{16})")

_Name = tuple[str, int]
"""Call and epoch."""


@dataclass(eq=False)
class _Pack:
    """An object that is not written yet."""

    key: str
    begun: float
    content: bytearray = field(default_factory=bytearray)


class AudioWriter:
    """Writes the audio of one gateway's calls. In the event loop. `num_bytes_lost`: what the store never took."""

    def __init__(
        self, store: ObjectStore, service: str, *, threads: Executor, lost: Callable[[int], None] = lambda num: None
    ) -> None:
        """Args: lost: told of each loss, in bytes."""
        self._store, self._service, self._threads, self._lost = store, service, threads, lost
        self._open: dict[_Name, _Pack] = {}
        self._numbers: dict[_Name, int] = {}
        self._full: dict[_Name, list[_Pack]] = {}
        self._num_bytes = 0
        self._writing = asyncio.Lock()
        self._task = asyncio.get_running_loop().create_task(self._always(), name="recordings")

    def put(self, call: str, epoch: int, pcm: bytes) -> str:
        """Takes samples. Returns their place."""
        if not pcm:
            return ""
        name = (call, epoch)
        pack = self._open.get(name)
        if pack is None:
            number = self._numbers[name] = self._numbers.get(name, 0) + 1
            pack = self._open[name] = _Pack(audio_key(self._service, call, epoch, number), time.monotonic())
        place = f"{self._numbers[name]}/{len(pack.content)}/{len(pcm)}/{xxhash.xxh3_64_hexdigest(pcm)}"
        pack.content += pcm
        self._num_bytes += len(pcm)
        if len(pack.content) >= _PACK_BYTES:
            self._close_pack(name)
        self._make_room()
        return place

    async def end(self, call: str, epoch: int) -> None:
        """Writes what is left of a call, if the store takes it now; otherwise soon."""
        self._close_pack((call, epoch))
        self._numbers.pop((call, epoch), None)
        await self._write()

    async def erase(self, is_erased: Callable[[str], bool]) -> None:
        """Drops what waits of these calls: it returns once nothing of them is being written any more."""
        async with self._writing:
            for name in [name for name in {**self._open, **self._full} if is_erased(name[0])]:
                self._close_pack(name)
                self._numbers.pop(name, None)
                self._num_bytes -= sum(len(pack.content) for pack in self._full.pop(name, ()))

    async def close(self) -> None:
        """Writes what it can, once."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for name in list(self._open):
            self._close_pack(name)
        await self._write()

    async def _always(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            before = time.monotonic() - _PACK_SECONDS
            for name in [name for name, pack in self._open.items() if pack.begun < before]:
                self._close_pack(name)
            await self._write()

    def _close_pack(self, name: _Name) -> None:
        if (pack := self._open.pop(name, None)) is not None:
            self._full.setdefault(name, []).append(pack)

    def _make_room(self) -> None:
        while self._num_bytes > _WAITING_BYTES_MAX and self._full:
            name = next(iter(self._full))
            pack = self._full[name].pop(0)
            self._forget(name)
            self._num_bytes -= len(pack.content)
            self._lost(len(pack.content))

    def _forget(self, name: _Name) -> None:
        if not self._full.get(name):
            self._full.pop(name, None)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._writing:
            for name in list(self._full):
                for pack in list(self._full.get(name, ())):
                    try:
                        # One writer names it, so one that is there is this one.
                        await loop.run_in_executor(self._threads, self._store.create, pack.key, bytes(pack.content))
                    except (HeadraceError, OSError):
                        return  # at the next look
                    if pack in self._full.get(name, ()):
                        self._full[name].remove(pack)
                        self._num_bytes -= len(pack.content)
                    self._forget(name)


def audio_of(store: ObjectStore, service: str, call: str, epoch: int, places: Iterable[str]) -> list[bytes | None]:
    """The samples at each place; None: they are lost, or were never kept."""
    found: list[bytes | None] = []
    for place in places:
        match = _PLACE.fullmatch(place)
        if match is None:
            found.append(None)
            continue
        number, offset, num_bytes = (int(part) for part in match.groups()[:3])
        try:
            [body] = store.read_ranges(audio_key(service, call, epoch, number), [(offset, num_bytes)])
        except ObjectMissing:
            found.append(None)
            continue
        pcm = bytes(body)
        found.append(pcm if xxhash.xxh3_64_hexdigest(pcm) == match[4] else None)
    return found


def drop_audio(store: ObjectStore, service: str, call: str, epoch: int) -> None:
    """Deletes what was written of a call in that epoch: its hour has it now."""
    directory = _directory(service, call)
    for name in store.children(directory):
        if name.startswith(f"{epoch}."):
            store.delete(f"{directory}/{name}", durable=False)


def sweep_audio(store: ObjectStore, service: str, *, before: float) -> int:
    """Deletes audio that was written before, in seconds since the epoch. Returns how many objects."""
    old = [entry.key for entry in store.entries(rollout_prefix(service, "recordings")) if entry.modified_at < before]
    for key in old:
        store.delete(key, durable=False)
    return len(old)


def _directory(service: str, call: str) -> str:
    return f"{rollout_prefix(service, 'recordings')}/{call[:2]}/{call}"


def audio_key(service: str, call: str, epoch: int, number: int) -> str:
    """Where one object of a call's audio is."""
    return f"{_directory(service, call)}/{epoch}.{number:06d}.pcm"
