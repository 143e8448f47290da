"""What an engine host has on this node's GPUs, as a coordinator asks for it: seldom, briefly, and with a memory.

A host may be dead, stopped, of another release or a liar. It is asked once a look, and waited for a moment. One that
did not answer in time is left alone for a while, twice as long each time: what it told last is taken for true, since
a stopped host's models stay where they are. Where nobody listens there is nothing: a host's models end with it.
What is read is checked here and nowhere else.
"""

import logging
import math
from collections.abc import Callable
from pathlib import Path

from headrace.engines.host.table_view import ModelRow, Table
from headrace.engines.host.wanted import CPU
from headrace.errors import EngineUnavailable
from headrace.placement.inventory import Inventory
from headrace.placement.residency import Device, Residency
from headrace.placement.snapshot import Eviction

# In memory, or on the way there or away. Other states are told of models that take no memory of a GPU.
_THERE = frozenset({"loading", "on the device", "falling asleep", "asleep", "waking", "leaving"})
_ASLEEP = frozenset({"falling asleep", "asleep"})
_ANSWER_SECONDS_MAX = 0.5
_PAUSE_SECONDS_MIN, _PAUSE_SECONDS_MAX = 5.0, 300.0
# A GPU that a host was asked to empty, and has not, after so long is given away all the same: nothing waits forever.
_EMPTY_SECONDS_MAX = 120.0
# Asked again and again in between; a later wish is a new one. A daemon that launches many runs looks seldom: that its
# wishes are far apart makes none of them new.
_ASKED_AGAIN_SECONDS, _ASKED_AGAIN_LOOKS = 30.0, 3
_BRING_SECONDS_MAX = 86_400.0
_LABEL_LENGTH_MAX = 200

_log = logging.getLogger(__name__)


class EngineHost:
    """One node's host. Methods block for `_ANSWER_SECONDS_MAX` at most."""

    def __init__(self, node: str, socket_file: Path, *, clock: Callable[[], float]) -> None:
        """Args: clock: monotonic seconds."""
        self._node, self._socket_file, self._clock = node, socket_file, clock
        self._last: Table | None = None
        self._pause_seconds = 0.0
        self._asked_again_at = -math.inf
        self._num_looks = 0
        # By device: when it was first asked to empty it, and when last, in seconds and in looks.
        self._emptying: dict[Device, tuple[float, float, int]] = {}

    def look(self, inventory: Inventory) -> Residency:
        """What is where, as far as the host tells; of models without a GPU, nothing."""
        devices = [gpu.device for node in inventory.nodes if node.name == self._node for gpu in node.gpus]
        if not devices:
            return Residency()
        self._num_looks += 1
        if self._clock() >= self._asked_again_at:
            self._read()
        return self._residency(devices, self._last) if self._last else Residency()

    def empty(self, evictions: tuple[Eviction, ...]) -> None:
        """Asks the host to take off its devices what nobody uses; whether it does, later looks tell."""
        now = self._clock()
        for one in evictions:
            device = (one.node, one.device)
            first = self._emptying[device][0] if device in self._emptying else now
            self._emptying[device] = (first, now, self._num_looks)
            if one.node != self._node or now < self._asked_again_at:
                continue
            from headrace.engines.host.connection import empty_place

            try:
                empty_place(self._socket_file, self._place(one.device), seconds_max=_ANSWER_SECONDS_MAX)
            except EngineUnavailable as error:
                self._pauses(error)

    def _read(self) -> None:
        # Imported here: aiohttp takes a third of a second, which a coordinator without a host never pays.
        from headrace.engines.host.connection import table_of

        try:
            self._last = table_of(self._socket_file, seconds_max=_ANSWER_SECONDS_MAX)
        except EngineUnavailable as error:
            self._pauses(error)
        else:
            self._pause_seconds = 0.0

    def _pauses(self, error: EngineUnavailable) -> None:
        self._pause_seconds = min(max(_PAUSE_SECONDS_MIN, 2 * self._pause_seconds), _PAUSE_SECONDS_MAX)
        self._asked_again_at = self._clock() + self._pause_seconds
        _log.warning("The engine host is left alone for %.0f s: %s", self._pause_seconds, error)

    def _place(self, device: str) -> str:
        """The host's name of a device: a number counts its GPUs."""
        places = [one.place for one in self._last.accounts if one.place != CPU] if self._last else []
        return places[int(device)] if device.isdecimal() and int(device) < len(places) else device

    def _residency(self, devices: list[str], table: Table) -> Residency:
        places = {one.place for one in table.accounts}
        by_place = {self._place(device): device for device in devices if self._place(device) in places}
        loaded: dict[Device, set[str]] = {}
        asleep: dict[Device, dict[str, float]] = {}
        bring_seconds: dict[str, float] = {}
        labels: dict[str, str] = {}
        for row in table.data:
            if row.place not in by_place or not row.model_id:
                continue
            labels[row.model_id] = row.model[:_LABEL_LENGTH_MAX]
            if _is_plausible(row):
                # As slow as the slowest place: a shorter time would have runs load what they could wait for.
                bring_seconds[row.model_id] = max(bring_seconds.get(row.model_id, 0.0), row.bring_seconds or 0.0)
            if row.state in _THERE:
                device = (self._node, by_place[row.place])
                loaded.setdefault(device, set()).add(row.model_id)
                if row.state in _ASLEEP:
                    asleep.setdefault(device, {})[row.model_id] = _wake_seconds(row)
        now = self._clock()
        self._emptying = {
            device: asked
            for device, asked in self._emptying.items()
            if device in loaded
            and (now - asked[1] <= _ASKED_AGAIN_SECONDS or self._num_looks - asked[2] <= _ASKED_AGAIN_LOOKS)
        }
        return Residency(
            nodes=frozenset([self._node]) if by_place else frozenset(),
            loaded={
                device: frozenset(models)
                for device, models in loaded.items()
                if now - self._emptying.get(device, (now,))[0] < _EMPTY_SECONDS_MAX
            },
            asleep=asleep,
            bring_seconds=bring_seconds,
            labels=labels,
        )


def _is_plausible(row: ModelRow) -> bool:
    return row.bring_seconds is not None and 0 < row.bring_seconds <= _BRING_SECONDS_MAX


def _wake_seconds(row: ModelRow) -> float:
    """Until one has woken, half of what coming takes is thought to be the process itself, as the host thinks."""
    if row.wake_seconds is not None and 0 < row.wake_seconds <= _BRING_SECONDS_MAX:
        return row.wake_seconds
    return 0.5 * (row.bring_seconds or 0.0) if _is_plausible(row) else 0.0
