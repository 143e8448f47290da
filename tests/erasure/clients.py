"""Clients of a service, with files, batches and calls in the store: what an erasure takes of them, and leaves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.clock import FixedClock
from headrace.erasure.carrying_out import Carried, carry_out
from headrace.erasure.deciding import decide, erasures_of, plan
from headrace.erasure.scope import Asked
from headrace.inbox.batches import states
from headrace.inbox.batches.files import File, Files
from headrace.inbox.batches.kept import Batches, Kept
from headrace.inbox.batches.outcomes import OUTPUTS, Answered, Settled, settled
from headrace.inbox.batches.places import FILE, name_of
from headrace.inbox.batches.states import Counts
from headrace.store.objects import ObjectStore
from headrace.voice.erasing import calls_in
from headrace.voice.kept import KeptCall, Source, call_chain, call_name
from headrace.voice.segments import event_text, leave_note, segment_chain, writers
from headrace.voice.turns import CallState, TurnEvent, applied
from tests.batch_builders import ENDPOINT, make_batch, seal_file

CLOCK = FixedClock()
SERVICE, LINES_A_PART = "assistant", 2
# Longer than leases, however often somebody is killed.
_LONG = 365 * 86_400


def secret(name: str) -> str:
    """What a client says in a line or a call."""
    return f"xyzzy-{name}-plugh"


def line(name: str) -> dict[str, Any]:
    body = {"model": SERVICE, "messages": [{"role": "user", "content": secret(name)}]}
    return {"custom_id": f"id-{name}", "method": "POST", "url": ENDPOINT, "body": body}


@dataclass
class Client:
    """Attributes:
    log: that has the turn events of its calls.
    names: of its four lines.
    """

    objects: ObjectStore
    key: str
    log: str = "log-1"

    def __post_init__(self) -> None:
        self.files, self.batches = Files(self.objects, SERVICE, CLOCK), Batches(self.objects, SERVICE)

    @property
    def names(self) -> list[str]:
        return [f"{self.key}-{number}" for number in range(4)]

    def send(self, names: list[str]) -> File:
        text = "".join(json.dumps(line(name)) + "\n" for name in names)
        return seal_file(self.files, self.key, text.encode(), now=CLOCK.now(), seconds=_LONG)

    def begin(self, file: File) -> Kept:
        kept = self.batches.create(self.key, make_batch(file, now=CLOCK.now(), metadata={"of": secret(self.key)}))
        begun = states.begun(kept.batch, file.num_lines, LINES_A_PART, int(CLOCK.now()))
        return self.batches.advance(kept, begun)

    def settle(self, kept: Kept, part: int, names: list[str]) -> Settled:
        """Each line is answered; every second one with an error."""
        made = [
            Answered(
                custom_id=f"id-{name}",
                status=200 if number % 2 == 0 else 400,
                request_id=name,
                body=json.dumps({"echo": secret(name)}).encode(),
            )
            for number, name in enumerate(names)
        ]
        return self.batches.settle(self.key, kept.batch.id, part, settled(kept.batch.id, made))

    def end(self, kept: Kept, names: list[str]) -> Kept:
        """The batch has its files, as a gateway leaves it."""
        made = [self.settle(kept, part, names[2 * part : 2 * part + 2]) for part in range(2)]
        now, counts, files = int(CLOCK.now()), Counts(), dict[str, str]()
        for one in made:
            counts = counts.plus(one.counts)
        kept = self.batches.advance(kept, states.finalizing(kept.batch, counts, now))
        for ending in OUTPUTS:
            new = self.files.new(self.key, name_of(FILE, now, kept.batch.id, ending))
            for one in made:
                new.write((one.output if ending == "output" else one.errors).encode())
            files[ending] = new.seal("out.jsonl", "batch_output", created_at=now, expires_at=now + _LONG).id
        ended = self.batches.advance(kept, states.ended(kept.batch, counts, files["output"], files["error"], now))
        self.batches.close(self.key, kept.batch.id)
        return ended

    def say(self, session: str) -> None:
        """A call of two turns: the first is written down, the second in a segment alone, beside another call's."""
        call = call_name(self.key, session)
        events = [
            TurnEvent(kind="said", item=f"u{number}", text=secret(f"{self.key}-{session}")) for number in range(2)
        ]
        source = Source(writer="writer-1", segment=1, log=self.log, epoch=1)
        chain = call_chain(self.objects, SERVICE, call)
        for number in (1, 2):
            state = applied(CallState(), events[: number - 1])
            chain.create(number, KeptCall(at=1.0, state=state, sources=(source,), key=self.key), is_listed=True)
        segments = segment_chain(self.objects, SERVICE, "writer-1")
        number = (segments.made() or [0])[-1] + 1
        rows = [(call, 1, place, event_text(event)) for place, event in enumerate(events)]
        rows.append(("another call", 1, number, event_text(TurnEvent(kind="cut"))))
        segments.create(number, {"rows": rows}, is_listed=True)
        leave_note(self.objects, SERVICE, "writer-0", call, 1)


def make_clients(objects: ObjectStore, *, log: str = "log-1") -> tuple[Kept, Kept]:
    """Ada's and Bob's: each has a batch that has ended, one that goes on, and a call. Returns Bob's two batches."""
    for key in ("ada-ltd", "bob"):
        client = Client(objects, key, log)
        ended = client.end(client.begin(client.send(client.names)), client.names)
        others = [f"{name}-again" for name in client.names]
        under_way = client.begin(client.send(others))
        client.settle(under_way, 0, others[:2])
        client.say("sess-1")
    return ended, under_way


def ask(objects: ObjectStore, asked: Asked) -> Carried:
    """As the command does, once."""
    decide(objects, CLOCK, plan(objects, CLOCK, asked), by="ana", reason="ticket 812")
    return [carry_out(objects, CLOCK, erasure) for erasure in erasures_of(objects, asked)][-1]


def seen(objects: ObjectStore) -> Mapping[str, Any]:
    """What clients and gateways see of the store, without what differs from one run to the next."""
    found: dict[str, Any] = {}
    for key in ("ada-ltd", "bob"):
        client = Client(objects, key)
        for name in client.files.names(key):
            if file := client.files.find(key, name):
                text = b"".join(client.files.pieces(key, file))
                assert (len(text), text.count(b"\n")) == (file.num_bytes, file.num_lines)
                found[name] = text
        for name in client.batches.names(key):
            if kept := client.batches.find(key, name):
                parts = {
                    part: client.batches.settled(key, name, part) for part in client.batches.settled_parts(key, name)
                }
                found[name] = (kept.batch, parts)
    for one in calls_in(objects):
        found[one.call] = one.kept
    for writer in writers(objects, SERVICE):
        chain = segment_chain(objects, SERVICE, writer)
        for number in chain.made():
            found[chain.key(number)] = chain.read(number).rows
    found["open"] = Batches(objects, SERVICE).open()
    parts = [key for key in objects.list("batch_api") if "/parts/" in key]
    found["parts"] = sorted(part.rpartition("-")[0] for part in parts)
    return found


def directories(store: Path) -> str:
    return "\n".join(sorted(str(file.relative_to(store)) for file in store.rglob("*")))
