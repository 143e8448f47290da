"""Whether each line of a batch has one outcome, by OpenAI's client, while the gateway is killed again and again."""

import io
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import openai

from benchmarks.measuring import at_least, at_most, progress
from benchmarks.parts import Options, Outcome
from pipelines.object_store import free_ports
from simulation.servers.gateway_site import KEY, GatewayProcess, Site, http_role, seen, slow_server

_CHAT = "/v1/chat/completions"
_NUM_CLIENTS = 2
_NUM_LINES = (1, 200)
# Of the lines: what no service answers, for the error file.
_BROKEN_SHARE = 0.05
# Of the batches: cancelled at some moment.
_CANCELLED_SHARE = 0.15
# A life of a gateway, from when it listens: the middle of an upload, of a batch, of its files.
_LIFE_SECONDS = (0.02, 2.5)
_LINE_SECONDS = (0.002, 0.03)
_AWAY_SECONDS = 0.05
_ENDS_SECONDS_MAX = 300.0
_NUM_KILLS_A_LINE = 10
_ENDED = ("completed", "failed", "expired", "cancelled")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BatchOptions(Options):
    batch_kills: int


@dataclass
class Seen:
    """What the clients saw. `acknowledged`: names of files and batches that they were answered."""

    statuses: Counter[int] = field(default_factory=Counter[int])
    acknowledged: set[str] = field(default_factory=set[str])
    ended: threading.Event = field(default_factory=threading.Event)


@dataclass
class Judged:
    """Over all batches, those too whose client never heard of them."""

    num_batches: int = 0
    num_lines: int = 0
    num_output: int = 0
    num_errors: int = 0
    num_lost: int = 0
    num_twice: int = 0
    num_wrong_counts: int = 0
    num_cancelled: int = 0
    num_acknowledged_and_gone: int = 0


def measure_batches(given: BatchOptions, directory: Path) -> Outcome:
    [port] = free_ports(1)
    low, high = _LINE_SECONDS
    with slow_server(seconds_min=low, seconds_max=high) as engine:
        site = Site.make(directory / "site", {"roles": {"writer": http_role(engine)}})
        site.initialize()
        try:
            body, bars = _measure(given.batch_kills, site, port, engine)
        finally:
            site.close()
    return Outcome(body=body, bars=bars)


def _measure(num_kills: int, site: Site, port: int, engine: str) -> tuple[dict[str, Any], dict[str, Any]]:
    found = Seen()
    gateway = _started(site, port)
    clients = [threading.Thread(target=_use, args=(number, gateway.url, found)) for number in range(_NUM_CLIENTS)]
    for client in clients:
        client.start()
    draw = random.Random(17)
    for kill in range(num_kills):
        time.sleep(draw.uniform(*_LIFE_SECONDS))
        os.kill(gateway.pid, signal.SIGKILL)
        gateway.process.wait()
        gateway = _started(site, port)
        if (kill + 1) % _NUM_KILLS_A_LINE == 0:
            progress.print(f"batches: {kill + 1} of {num_kills} kills, {len(found.acknowledged)} answers kept")
    found.ended.set()
    for client in clients:
        client.join()
    judged = _judge(_client(gateway.url, found), found)
    num_5xx = sum(number for status, number in found.statuses.items() if status >= 500)
    num_asked = seen(engine)["began"]
    body = {
        "kills": num_kills,
        "answers": found.statuses.total(),
        "answers_5xx": num_5xx,
        "lines_asked": num_asked,
        **vars(judged),
    }
    return body, {
        "batches_kills": at_least(num_kills, 1),
        "batches_lines": at_least(judged.num_lines, num_kills),
        "batches_lost": at_most(judged.num_lost, 0),
        "batches_twice": at_most(judged.num_twice, 0),
        "batches_wrong_counts": at_most(judged.num_wrong_counts, 0),
        "batches_acknowledged_and_gone": at_most(judged.num_acknowledged_and_gone, 0),
        "batches_5xx": at_most(num_5xx, 0),
        "batches_answers": at_least(found.statuses.total(), num_kills),
    }


def _started(site: Site, port: int) -> GatewayProcess:
    return site.start("--batches", "--port", str(port), wait="listening")


def _client(url: str, found: Seen) -> openai.OpenAI:
    """OpenAI's own, which retries nothing, so that every answer is counted."""
    counting = httpx2.Client(event_hooks={"response": [lambda answer: found.statuses.update([answer.status_code])]})
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, http_client=counting)


def _insisted(call: Callable[[], T]) -> T:
    """Asks again while nobody answers, as who holds the data does."""
    while True:
        try:
            return call()
        except openai.APIConnectionError:
            time.sleep(_AWAY_SECONDS)


def _use(number: int, url: str, found: Seen) -> None:
    """Uploads, begins batches, looks at them, cancels some, until the kills have ended."""
    client, draw = _client(url, found), random.Random(number)
    while not found.ended.is_set():
        lines = [_line(f"{number}-{draw.random()}-{row}", draw) for row in range(draw.randint(*_NUM_LINES))]
        body = "".join(json.dumps(line) + "\n" for line in lines).encode()
        file = _insisted(lambda body=body: client.files.create(file=("a.jsonl", io.BytesIO(body)), purpose="batch"))
        wanted: Any = {"input_file_id": file.id, "endpoint": _CHAT, "completion_window": "24h"}
        batch = _insisted(lambda wanted=wanted: client.batches.create(**wanted))
        found.acknowledged |= {file.id, batch.id}
        cancels_at = draw.randint(0, 5) if draw.random() < _CANCELLED_SHARE else None
        for look in range(1_000):
            if found.ended.is_set():
                break
            if look == cancels_at:
                _cancel(client, batch.id)
            if _insisted(lambda batch=batch: client.batches.retrieve(batch.id)).status in _ENDED:
                break
            time.sleep(0.1)


def _cancel(client: openai.OpenAI, batch: str) -> None:
    with suppress(openai.ConflictError):  # it has ended already
        _insisted(lambda: client.batches.cancel(batch))


def _line(custom_id: str, draw: random.Random) -> dict[str, Any]:
    body = {"model": "assistant", "messages": [{"role": "user", "content": custom_id}]}
    if draw.random() < _BROKEN_SHARE:
        body["temperature"] = 5
    return {"custom_id": custom_id, "method": "POST", "url": _CHAT, "body": body}


def _judge(client: openai.OpenAI, found: Seen) -> Judged:
    ends = time.monotonic() + _ENDS_SECONDS_MAX
    while any(batch.status not in _ENDED for batch in client.batches.list(limit=100)):
        assert time.monotonic() < ends, "Batches did not end, though nobody killed the gateway any more."
        time.sleep(0.5)
    judged = Judged()
    batches = list(client.batches.list(limit=100))
    names = {batch.id for batch in batches} | {file.id for file in client.files.list()}
    judged.num_acknowledged_and_gone = len(found.acknowledged - names)
    for batch in batches:
        if batch.status == "cancelled" and not (batch.request_counts and batch.request_counts.total):
            continue  # before its file was read: it has no lines
        wanted = _ids(client, batch.input_file_id)
        output, errors = _ids(client, batch.output_file_id), _ids(client, batch.error_file_id)
        times = Counter(output + errors)
        counts = batch.request_counts
        judged.num_batches += 1
        judged.num_lines += len(wanted)
        judged.num_output += len(output)
        judged.num_errors += len(errors)
        judged.num_lost += len(set(wanted) - times.keys())
        judged.num_twice += sum(times.values()) - len(times)
        judged.num_cancelled += batch.status == "cancelled"
        judged.num_wrong_counts += counts is None or (counts.total, counts.completed, counts.failed) != (
            len(wanted),
            len(output),
            len(errors),
        )
    return judged


def _ids(client: openai.OpenAI, file: str | None) -> list[str]:
    return [json.loads(line)["custom_id"] for line in client.files.content(file).text.splitlines()] if file else []
