"""Events from a stream of a real NATS server, in a running gateway: each once and in order, whoever is killed."""

import asyncio
import json
import os
import random
import re
import shutil
import signal
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import nats
import pytest
from nats.js import JetStreamContext
from typer.testing import CliRunner

from headrace.command_line.main import app
from headrace.inbox.kept import OFFSET, in_order
from headrace.inbox.schema import FILE, open_to_read
from headrace.inbox.sealed import sealed_windows, window_events
from simulation.servers.gateway_site import GatewayProcess, Site
from simulation.servers.nats import NatsServer
from tests.command_line.builders import checked_json
from tests.serving.gateway.test_inbox import options
from tests.waiting import eventually

pytestmark = pytest.mark.process
T = TypeVar("T")
# Nothing is sealed while a test looks into the log.
OPEN = {"window_seconds": 86_400, "close_seconds": 3_600}


def on(server: NatsServer, work: Callable[[JetStreamContext], Awaitable[T]], **login: Any) -> T:
    """With a connection of somebody else's."""

    async def scenario() -> T:
        connection = await nats.connect(server.url, **login)
        try:
            return await work(connection.jetstream())
        finally:
            await connection.close()

    return asyncio.run(scenario())


def send(server: NatsServer, *names: str, subject: str = "orders.new", **attributes: Any) -> None:
    async def publish(jetstream: JetStreamContext) -> None:
        for name in names:
            event = {"id": name, "source": "shop", "data": {"product": name}, **attributes}
            await jetstream.publish(subject, json.dumps(event).encode())

    on(server, publish)


def make_stream(server: NatsServer, **config: Any) -> None:
    on(server, lambda jetstream: jetstream.add_stream(name="ORDERS", subjects=["orders.>"], **config))


def ids(directory: Path) -> list[str]:
    """Of the events in the log, in the order in which they were taken."""
    if not (directory / "log" / FILE).exists():
        return []
    with closing(open_to_read(directory / "log")) as connection:
        parts = [part for (part,) in connection.execute("SELECT part FROM parts")]
        tables = [in_order(connection, part).select([OFFSET, "id"]).to_pylist() for part in parts]
    return [row["id"] for row in sorted(chain(*tables), key=lambda row: row[OFFSET])]


def figure(gateway: GatewayProcess, name: str) -> float:
    with urllib.request.urlopen(f"{gateway.url}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    found = re.search(rf'^headrace_gateway_inbox_{name}{{campaign="slogans"}} (\S+)$', page, re.MULTILINE)
    return float(found[1]) if found else 0.0


def why(gateway: GatewayProcess, event: str) -> list[str]:
    return [record["why"] for record in gateway.records("gateway") if record["event"] == event]


class Place:
    """A NATS server, and a site whose gateways read its stream ORDERS."""

    def __init__(self, site: Site, directory: Path, *, server: NatsServer | None = None, **rules: Any) -> None:
        self.site, self.directory = site, directory
        self.server = (server or NatsServer(directory / "nats")).start()
        site.initialize()
        stream = {"servers": [self.server.url], "stream": "ORDERS", **rules.pop("nats", {})}
        self.options = options(directory, **(OPEN | rules), nats=stream)

    def start(self, **environment: str) -> GatewayProcess:
        return self.site.start(*self.options, wait="listening", environment=environment)

    def call(self, *words: str) -> Any:
        return CliRunner().invoke(app, ["inbox", *words, "--inbox-log", str(self.directory / "log")])


@pytest.fixture
def make_place(make_site: Callable[..., Site], tmp_path: Path) -> Iterator[Callable[..., Place]]:
    made: list[Place] = []

    def make(**rules: Any) -> Place:
        made.append(Place(make_site(), tmp_path, **rules))
        return made[-1]

    yield make
    for place in made:
        place.server.kill()


def kill(gateway: GatewayProcess) -> None:
    os.kill(gateway.pid, signal.SIGKILL)
    gateway.process.wait()


def test_messages_become_rows_of_sealed_windows_and_what_is_none_is_listed(make_place: Callable[..., Place]) -> None:
    place = make_place(window_seconds=60, close_seconds=0.5)
    make_stream(place.server)
    send(place.server, "1", "2", time="2026-11-22T12:53:44Z")
    send(place.server, "2", "3", time="2026-11-22T12:53:44Z")
    on(place.server, lambda jetstream: jetstream.publish("orders.new", b'{"id": 4, "so'))
    send(place.server, "5", campaign="other")
    headers = {"ce-id": "6", "ce-source": "shop", "ce-time": "2026-11-22T12:53:45Z"}
    on(place.server, lambda jetstream: jetstream.publish("orders.old", b'{"product": "6"}', headers=headers))
    gateway = place.start()

    def sealed() -> list[str]:
        windows = sealed_windows(place.site.store, "slogans")
        return [row for one in windows for row in window_events(place.site.store, one).column("id").to_pylist()]

    eventually(lambda: sorted(sealed()) == ["1", "2", "3", "6"], "all events are sealed")
    refused = checked_json(place.call("refused", "--json"), "inbox-refused")["messages"]
    assert [(one["sequence"], one["subject"]) for one in refused] == [(5, "orders.new"), (6, "orders.new")]
    assert "it must be JSON" in refused[0]["reason"]
    assert refused[0]["text"] == '{"id": 4, "so'
    assert "campaign must be 'slogans'" in refused[1]["reason"]
    eventually(lambda: figure(gateway, "stream_refused_messages") == 2, "they are counted")
    assert figure(gateway, "stream_reading") == 1
    assert figure(gateway, "stream_messages") == 0
    status = checked_json(
        CliRunner().invoke(
            app,
            ["inbox", "status", "--store", place.site.store.url, "--inbox-log", str(place.directory / "log"), "--json"],
        ),
        "inbox-status",
    )
    [stream] = status["streams"]
    assert (stream["stream"], stream["sequence"], stream["num_refused"], stream["note"]) == ("ORDERS", 7, 2, None)

    async def left(jetstream: JetStreamContext) -> tuple[int | None, int | None]:
        found = await jetstream.consumer_info("ORDERS", "headrace-slogans")
        return found.num_ack_pending, found.num_pending

    eventually(lambda: on(place.server, left) == (0, 0), "all are acknowledged, and the broken ones are given up")


def test_whoever_is_killed_each_message_is_taken_once_and_in_the_streams_order(
    make_place: Callable[..., Place],
) -> None:
    """The gateway is killed (-9) six times, the server three times, while somebody sends; some messages are sent twice,
    and somebody else pulls and acknowledges some at the gateway's consumer."""
    place = make_place()
    make_stream(place.server)
    draw = random.Random(7)
    names = [str(number) for number in range(3_000)]
    sent = 0
    gateway = place.start()
    for round_number in range(6):
        some = names[sent : sent + 500]
        sent += len(some)
        send(place.server, *some, *some[:20])
        if round_number % 2:
            on(place.server, thief)
        if round_number % 2 == 0:
            time.sleep(draw.uniform(0.0, 0.3))
            place.server.kill()
            time.sleep(draw.uniform(0.0, 0.5))
            place.server.start()
        time.sleep(draw.uniform(0.0, 0.4))
        kill(gateway)
        gateway = place.start()
    eventually(lambda: len(ids(place.directory)) >= len(names), "all messages are taken")
    assert ids(place.directory) == names


async def thief(jetstream: JetStreamContext) -> None:
    """Gets what the gateway should, and says that it was taken: JetStream believes it."""
    subscription = await jetstream.pull_subscribe_bind("headrace-slogans", "ORDERS")
    try:
        for message in await subscription.fetch(40, timeout=1):
            await message.ack()
    except TimeoutError:
        pass  # the gateway was faster


def test_a_stream_that_was_purged_or_made_anew_is_said_and_read_on(make_place: Callable[..., Place]) -> None:
    place = make_place()
    make_stream(place.server)
    send(place.server, "1", "2")
    gateway = place.start()
    eventually(lambda: ids(place.directory) == ["1", "2"])
    kill(gateway)
    send(place.server, "3", "4")
    on(place.server, lambda jetstream: jetstream.purge_stream("ORDERS"))
    send(place.server, "5")
    gateway = place.start()
    eventually(lambda: ids(place.directory) == ["1", "2", "5"])
    said = "2 messages of stream ORDERS, from 3 on, are gone, and were not read: it was purged, or keeps no more."
    assert eventually(lambda: why(gateway, "stream lacks messages")) == [said]
    assert figure(gateway, "missing_messages_total") == 2

    async def remake(jetstream: JetStreamContext) -> None:
        await jetstream.delete_stream("ORDERS")
        await jetstream.add_stream(name="ORDERS", subjects=["orders.>"])

    on(place.server, remake)
    send(place.server, "6", "2")
    eventually(lambda: ids(place.directory) == ["1", "2", "5", "6"], "the new one is read, and its event 2 is known")
    [note] = eventually(lambda: why(gateway, "stream has changed"))
    assert "Stream ORDERS was made anew at" in note
    shown = place.call("status", "--store", place.site.store.url)
    assert "was made anew" in " ".join(shown.output.split())


def test_a_tenants_quota_holds_its_stream_back_and_nothing_is_refused(make_place: Callable[..., Place]) -> None:
    place = make_place(tenants={"acme": {"waiting_max": 3}}, nats={"tenant": "acme"})
    make_stream(place.server)
    send(place.server, *"12345")
    gateway = place.start()
    eventually(lambda: why(gateway, "stream waits"), "the stream waits")
    assert ids(place.directory) == list("123")
    assert "events of tenant 'acme' wait in campaign slogans, its limit is 3" in why(gateway, "stream waits")[0]
    assert figure(gateway, "stream_refused_messages") == 0


@pytest.mark.parametrize("num_later", [1, 2, 3])
def test_a_server_that_is_set_back_to_an_earlier_state_is_read_again(
    make_place: Callable[..., Place], num_later: int
) -> None:
    """As by a machine that lost its power and what was not synced: its numbers are given to other messages."""
    place = make_place()
    make_stream(place.server)
    send(place.server, "1", "2")
    gateway = place.start()
    eventually(lambda: ids(place.directory) == ["1", "2"])
    place.server.kill()
    before = place.directory / "before"
    shutil.copytree(place.server.files, before)
    place.server.start()
    send(place.server, "3", "4")
    eventually(lambda: ids(place.directory) == list("1234"))
    place.server.kill()
    shutil.rmtree(place.server.files)
    shutil.copytree(before, place.server.files)
    kill(gateway)
    place.server.start()
    later = [f"later-{number}" for number in range(num_later)]
    send(place.server, *later)
    gateway = place.start()
    eventually(lambda: ids(place.directory) == [*"1234", *later])
    [said] = eventually(lambda: why(gateway, "stream has changed"))
    assert "Stream ORDERS has lost messages: it was read up to 4, and" in said


def test_a_server_may_ask_for_a_token_over_tls(make_place: Callable[..., Place], tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-days", "2", "-subj", "/CN=nats", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*made, "-out", str(certificate), "-keyout", str(key)], check=True, capture_output=True)
    options = (
        f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}',
        'authorization { token: "not for everybody" }',
    )
    place = make_place(
        server=NatsServer(tmp_path / "nats", *options, scheme="tls"),
        nats={"token_variable": "NATS_TOKEN", "ca_file": str(certificate)},
    )

    async def fill(jetstream: JetStreamContext) -> None:
        await jetstream.add_stream(name="ORDERS", subjects=["orders.>"])
        await jetstream.publish("orders.new", b'{"id": "1", "source": "shop", "data": {}}')

    trusted = ssl.create_default_context(cafile=str(certificate))
    on(place.server, fill, token="not for everybody", tls=trusted)
    gateway = place.start(NATS_TOKEN="a wrong one")
    [said] = eventually(lambda: why(gateway, "stream not read"))
    assert "Authorization Violation" in said
    kill(gateway)
    gateway = place.start(NATS_TOKEN="not for everybody")
    eventually(lambda: ids(place.directory) == ["1"])
    assert "not for everybody" not in gateway.log.read_text()


def test_one_campaign_reads_some_subjects_of_a_work_queue(make_place: Callable[..., Place]) -> None:
    place = make_place(nats={"subject": "orders.new.>", "consumer": "slogans"})
    make_stream(place.server, retention="workqueue")
    send(place.server, "1", "3", subject="orders.new.a")
    send(place.server, "2", subject="orders.old")
    send(place.server, "4", subject="orders.new.b")
    place.start()
    eventually(lambda: ids(place.directory) == ["1", "3", "4"])

    async def left(jetstream: JetStreamContext) -> int:
        return (await jetstream.stream_info("ORDERS")).state.messages

    eventually(lambda: on(place.server, left) == 1, "what was taken has left the queue, and others' has not")


def test_a_stream_that_cannot_be_read_stops_nobody_and_says_why(make_place: Callable[..., Place]) -> None:
    place = make_place()
    gateway = place.start()
    eventually(lambda: why(gateway, "stream not read"))
    assert "JetStream refuses: stream not found" in why(gateway, "stream not read")[0]
    assert figure(gateway, "stream_reading") == 0
    make_stream(place.server)
    send(place.server, "1")
    eventually(lambda: ids(place.directory) == ["1"], "it is read once it is there")
    place.server.kill()
    eventually(lambda: len(why(gateway, "stream not read")) > 1, "the server is gone")
    place.server.start()
    send(place.server, "2")
    eventually(lambda: ids(place.directory) == ["1", "2"], "it is read again")
    eventually(lambda: figure(gateway, "stream_reading") == 1)


def test_a_consumer_that_others_have_made_for_something_else_is_not_used(make_place: Callable[..., Place]) -> None:
    place = make_place(nats={"consumer": "theirs"})
    make_stream(place.server)

    async def make_theirs(jetstream: JetStreamContext) -> None:
        await jetstream.add_consumer("ORDERS", durable_name="theirs", ack_policy="all", max_deliver=3)

    on(place.server, make_theirs)
    gateway = place.start()
    [said] = eventually(lambda: why(gateway, "stream not read"))
    assert "Consumer theirs of stream ORDERS has ack_policy all, wanted explicit; max_deliver 3, wanted -1." in said
