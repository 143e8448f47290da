"""What a gang over several hosts says through the store: hosts need no shared directory, and only the ranks' ports.

Below `training/<training id>/gangs/<attempt>/`, each object made by one writer, who counts from 1:
    task.json                  the run worker: what to train, and on which hosts
    worker/000001.json …       the run worker: that it lives, and what it wants of the hosts
    meeting.json               host 0's agent: where the ranks meet
    hosts/<host>/000001.json … a host's agent: that it lives, rows of progress, in the end its report

    gang_hosts/<host>/00000001.json …    the run worker: that there is a task for this host

Objects that only say "alive" are made without fsync. The run worker deletes a gang's objects when it has ended; those
of a worker that was killed go with the next attempt's end.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from headrace.errors import InvalidInput, ObjectMissing
from headrace.store.chain import Chain
from headrace.store.objects import ObjectStore, new_nonce
from headrace.store.small_objects import Kind, create_object, encode_object, read_object
from headrace.training.attempts import training_key
from headrace.training.gang_report import GangReport

GANGS = "gangs"
HOSTS_ROOT = "gang_hosts"
_WORKER, _HOSTS = "worker", "hosts"
_REMEDY = "The gang is given up; the run's retry makes it anew."

Rows = list[dict[str, Any]]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class GangTask:
    """`run_json`: the run's task as its ranks read it; an agent sets work directory and worker to its own.

    `hosts`: their agents' names, in the order of their ranks. `silence_seconds`: after which one counts as lost.
    """

    run_json: str
    hosts: tuple[str, ...]
    silence_seconds: float


@dataclass(frozen=True, kw_only=True)
class Notice:
    """There is a task for a host."""

    training_id: str
    attempt: int


@dataclass(frozen=True, kw_only=True)
class WorkerSays:
    """`stop`: end all ranks; `asks_stacks`: the gang is stuck, where are they?"""

    stop: bool = False
    asks_stacks: bool = False


@dataclass(frozen=True, kw_only=True)
class MeetingPlace:
    address: str
    port: int


@dataclass(frozen=True, kw_only=True)
class HostSays:
    """`rows`: new rows of progress, a line of JSON each. `report`: at the end, or where ranks are when asked.

    `is_stuck`: the report is of a gang that goes on. `beats`: of each rank its number, step and point.
    """

    rows: str = ""
    beats: tuple[tuple[int, int, int], ...] = ()
    report: GangReport | None = None
    is_stuck: bool = False

    @property
    def has_ended(self) -> bool:
        return self.report is not None and not self.is_stuck


TASK = Kind(noun="Gang's task", shape=GangTask, remedy=_REMEDY)
NOTICE = Kind(noun="Notice to a host", shape=Notice, remedy="The host passes it over: start the run again.")
WORKER_SAYS = Kind(noun="Word of a run worker", shape=WorkerSays, remedy=_REMEDY)
HOST_SAYS = Kind(noun="Word of a host", shape=HostSays, remedy=_REMEDY)
MEETING = Kind(noun="Meeting of a gang", shape=MeetingPlace, remedy=_REMEDY)


@dataclass(frozen=True)
class GangObjects:
    """The objects of one attempt's gang."""

    store: ObjectStore
    training_id: str
    attempt: int

    def key(self, *segments: str) -> str:
        return training_key(self.training_id, GANGS, f"{self.attempt:06d}", *segments)

    def create_task(self, task: GangTask) -> None:
        create_object(self.store, self.key("task.json"), TASK, task)

    def task(self) -> GangTask:
        """Raises: ObjectMissing: the gang has ended, and its objects are gone."""
        return read_object(self.store, self.key("task.json"), TASK)

    def create_meeting(self, place: MeetingPlace) -> None:
        create_object(self.store, self.key("meeting.json"), MEETING, place)

    def meeting(self) -> MeetingPlace | None:
        try:
            return read_object(self.store, self.key("meeting.json"), MEETING)
        except ObjectMissing:
            return None

    def worker(self) -> "Words[WorkerSays]":
        return Words(self.store, self.key(_WORKER), WORKER_SAYS)

    def host(self, name: str) -> "Words[HostSays]":
        return Words(self.store, self.key(_HOSTS, name), HOST_SAYS)

    def delete(self) -> None:
        """Also those of earlier attempts, whose workers were killed."""
        for number in self.store.children(training_key(self.training_id, GANGS)):
            if number.isdigit() and int(number) <= self.attempt:
                self.store.delete_prefix(training_key(self.training_id, GANGS, number))


class Words(Generic[T]):
    """One writer's words, numbered from 1; a reader hears each once, in order."""

    def __init__(self, store: ObjectStore, prefix: str, kind: Kind[T]) -> None:
        self._store, self._prefix, self._kind = store, prefix, kind
        self._number = 0

    def say(self, word: T) -> None:
        """Raises: InvalidInput: somebody else says the same writer's words."""
        self._number += 1
        key = self._key(self._number)
        raw = encode_object(key, self._kind, word, nonce=new_nonce())
        if not self._store.create(key, raw, durable=False) and self._store.read(key) != raw:
            writer = self._prefix.rpartition("/")[2]
            raise InvalidInput(
                f"{self._kind.noun} {self._store.uri(key)} was written by another process: two are named {writer}. "
                "Give each host's agent a name of its own, and run one on a host."
            )

    def new(self) -> list[T]:
        words = []
        while (word := self._next()) is not None:
            words.append(word)
        return words

    def _next(self) -> T | None:
        try:
            word = read_object(self._store, self._key(self._number + 1), self._kind)
        except ObjectMissing:
            return None
        self._number += 1
        return word

    def _key(self, number: int) -> str:
        return f"{self._prefix}/{number:06d}.json"


def notices(store: ObjectStore, host: str) -> Chain[Notice]:
    """The tasks that a host was told of; old ones may be deleted."""
    return Chain(
        store=store, prefix=f"{HOSTS_ROOT}/{host}", kind=NOTICE, may_lack="oldest", remedy="Start the run again."
    )


def notify(store: ObjectStore, host: str, notice: Notice) -> None:
    chain = notices(store, host)
    while not chain.create(chain.newest() + 1, notice, is_listed=True).won:
        pass


def rows_text(rows: Iterable[dict[str, Any]]) -> str:
    """Gradients may be infinite, which is no value of JSON, but of Python's."""
    return "\n".join(json.dumps(row, separators=(",", ":")) for row in rows)


def rows_of(text: str) -> Rows:
    return [json.loads(line) for line in text.splitlines()]
