"""Calls that are erased: their objects, what segments have of them, and turn events that a log has of calls that ended.

A segment has what all calls of a gateway said at one moment, so what is left of it takes its place. Who may write a
call once more (a gateway that has it, one that takes it) looks for erasures itself: see `headrace.voice.kept`, and
`headrace.inbox.erasing` for what an erasure waits for.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.handoff.erasures import ErasedData
from headrace.rollout.layout import ROOT, What, rollout_prefix
from headrace.store.chain import Head
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import replace_object
from headrace.voice.kept import KeptCall, call_chain
from headrace.voice.segments import SEGMENT, notes_prefix, segment_chain, writers

# Each has a directory for each call, below the first two letters of its name.
_CALLS: tuple[What, ...] = ("calls", "recordings")


@dataclass(frozen=True, kw_only=True)
class FoundCall:
    """A call in the store. `kept`: as it was written down last; None: none of its objects can be read."""

    service: str
    call: str
    kept: KeptCall | None

    @property
    def key(self) -> str:
        return self.kept.key if self.kept else ""


def calls_in(objects: ObjectStore) -> Iterator[FoundCall]:
    """Every call that the store has, of all services. A read for each."""
    for service, call in _names(objects):
        chain, kept = call_chain(objects, service, call), None
        if not (numbers := chain.made()):
            continue  # its directory alone
        for number in reversed(numbers):
            with suppress(ObjectMissing, HandoffCorrupt):
                kept = chain.read(number)
                break
        yield FoundCall(service=service, call=call, kept=kept)


def erase_calls(objects: ObjectStore, data: ErasedData) -> None:
    """Raises: HandoffCorrupt: a segment is damaged, so that nobody can tell whose it is."""
    for prefix, call in _directories(objects):
        if data.has("call", call):
            # Whatever lies there, read or not; each durably, then what a directory leaves.
            for key in objects.list(prefix):
                objects.delete(key)
            objects.delete_prefix(prefix)
    for key, _, _ in _segments(objects):
        with suppress(ObjectMissing):  # no call needed it any more
            replace_object(
                objects,
                key,
                SEGMENT,
                lambda one: replace(one, rows=tuple(row for row in one.rows if not data.has("call", row[0]))),
            )
    for key, call in _notes(objects):
        if data.has("call", call):
            objects.delete(key)


def remaining_calls(objects: ObjectStore, data: ErasedData) -> list[str]:
    """Where something of erased calls still is, a phrase each."""
    found = [
        f"{prefix} of call {call[:12]} is kept"
        for prefix, call in _directories(objects)
        if data.has("call", call) and objects.list(prefix)
    ]
    for key, writer, number in _segments(objects):
        try:
            rows = segment_chain(objects, *writer).read(number).rows
        except ObjectMissing:
            continue
        if any(data.has("call", row[0]) for row in rows):
            found.append(f"{key} has turns of it")
    return found


def ended_calls(objects: ObjectStore, log: str, turns: Sequence[tuple[str, int, int]]) -> Mapping[str, tuple[int, int]]:
    """Calls of which a log has turn events that nobody reads any more: they are over, or have gone on elsewhere since.

    Args:
        log: the log's nonce.
        turns: calls, with the last number of each epoch, as `LogReader.calls` gives them.

    Returns: as `EventLog.forget_turns` takes them.
    """
    named = {call: (epoch, sequence) for call, epoch, sequence in turns}
    there = {call: service for service, call in _names(objects) if call in named}
    found: dict[str, tuple[int, int]] = {}
    for call, last in named.items():
        head = call_chain(objects, there[call], call).head() if call in there else Head(0, None)
        # One that is damaged is nobody's to judge.
        sources = head.value.sources if head.value else ()
        if not head.number or (sources and not any(source.log == log for source in sources)):
            found[call] = last
    return found


def _directories(objects: ObjectStore) -> Iterator[tuple[str, str]]:
    """Where calls are, and their audio on its way to where it is recorded; and whose it is."""
    for service in objects.children(ROOT):
        for what in _CALLS:
            root = rollout_prefix(service, what)
            for shard in objects.children(root):
                for call in objects.children(f"{root}/{shard}"):
                    yield f"{root}/{shard}/{call}", call


def _names(objects: ObjectStore) -> Iterator[tuple[str, str]]:
    """Service and call."""
    for service in objects.children(ROOT):
        root = rollout_prefix(service, "calls")
        for shard in objects.children(root):
            for call in objects.children(f"{root}/{shard}"):
                yield service, call


def _segments(objects: ObjectStore) -> Iterator[tuple[str, tuple[str, str], int]]:
    """Key, service and writer, number."""
    for service in objects.children(ROOT):
        for writer in writers(objects, service):
            chain = segment_chain(objects, service, writer)
            for number in chain.made():
                yield chain.key(number), (service, writer), number


def _notes(objects: ObjectStore) -> Iterator[tuple[str, str]]:
    """Key and call, of what takers left for those who had a call."""
    for service in objects.children(ROOT):
        for writer in writers(objects, service):
            prefix = notes_prefix(service, writer)
            for name in objects.children(prefix):
                yield f"{prefix}/{name}", name.rpartition(".")[0]
