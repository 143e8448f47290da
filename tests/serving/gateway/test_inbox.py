"""`POST /v1/events` on a running gateway: what is taken, what is refused, and what a kill leaves."""

import json
import os
import re
import signal
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.clock import FixedClock, SystemClock
from headrace.handoff.versions import HandoffStore
from headrace.inbox.schema import FILE
from headrace.inbox.sealed import sealed_windows, window_events
from simulation.servers.gateway_site import KEY, GatewayProcess, Site
from tests.serving.gateway.raw_clients import RawClient
from tests.waiting import eventually

pytestmark = pytest.mark.process
LINES = "application/x-ndjson"


def event(event_id: str, **attributes: Any) -> dict[str, Any]:
    usual = {"id": event_id, "source": "shop", "campaign": "slogans", "time": "2026-11-22T12:53:44Z"}
    return {**usual, "data": {"product": event_id}, **attributes}


def lines(*events: dict[str, Any] | str) -> bytes:
    return "\n".join(one if isinstance(one, str) else json.dumps(one) for one in events).encode()


def post(
    gateway: GatewayProcess, body: bytes, *, kind: str = "application/json", key: str = KEY
) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of the answer."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": kind}
    request = urllib.request.Request(f"{gateway.url}/v1/events", data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), json.load(error)


def options(directory: Path, **rules: Any) -> list[str]:
    """Of a gateway with an inbox; makes its campaigns."""
    campaigns = directory / "campaigns"
    campaigns.mkdir(exist_ok=True)
    usual = {"window_seconds": 60, "close_seconds": 0.5, **rules}
    (campaigns / "slogans.yaml").write_text(json.dumps({"name": "slogans", "prompts": {"inbox": usual}}))
    (campaigns / "glossary.yaml").write_text("name: glossary\nprompts: {files: a.jsonl}\n")
    return ["--inbox", str(campaigns), "--inbox-log", str(directory / "log"), "--timezone", "Europe/Berlin"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with one gateway, whose windows are closed half a second after their first event."""
    directory = tmp_path_factory.mktemp("inbox")
    site = Site.make(directory / "site", {})
    site.initialize()
    with site.started(*options(directory)):
        yield site


@pytest.fixture
def gateway(site: Site) -> GatewayProcess:
    return site.gateways[0]


def sealed_ids(site: Site) -> list[str]:
    windows = sealed_windows(site.store, "slogans")
    return [row for window in windows for row in window_events(site.store, window).column("id").to_pylist()]


def test_an_event_becomes_a_row_of_a_sealed_window(site: Site, gateway: GatewayProcess) -> None:
    status, _, body = post(gateway, lines(event("first")))
    assert (status, body) == (200, {"object": "events", "taken": 1, "repeated": 0, "refused": []})
    eventually(lambda: "first" in sealed_ids(site), "the window is sealed")
    (window,) = [one for one in sealed_windows(site.store, "slogans") if one.number == 1]
    assert window.partition == "2026-11-22|slogans-w000001"
    (row,) = window_events(site.store, window).to_pylist()
    assert (row["tenant"], row["class"], json.loads(row["data"])) == ("tests", "batch", {"product": "first"})


def test_a_broken_event_costs_no_other_one(gateway: GatewayProcess) -> None:
    body = lines(event("good"), "{", event("bad", time="noon"), event("good"), event("lost", campaign="glossary"))
    status, _, answer = post(gateway, body, kind=f"{LINES}; charset=utf-8")
    assert (status, answer["taken"], answer["repeated"]) == (200, 1, 1)
    assert [(one["index"], one["reason"][:38]) for one in answer["refused"]] == [
        (1, "it must be JSON: EOF while parsing an "),
        (2, "time must be a time from 1970 on with "),
        (4, "campaign 'glossary' takes no events he"),
    ]


def test_a_list_of_events_is_taken_as_lines_are(gateway: GatewayProcess) -> None:
    status, _, answer = post(gateway, json.dumps([event("in a list"), 7]).encode())
    assert (status, answer["taken"]) == (200, 1)
    assert answer["refused"] == [{"index": 1, "reason": "it must be a JSON object, got 7", "retry_after_seconds": None}]


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (lines(event("", source="shop")), "application/json", 400, "The event was not taken: id must be a text"),
        (b"{", "application/json", 400, "must be an event in JSON, or with Content-Type application/x-ndjson"),
        (b"", "application/json", 400, "must be an event in JSON"),
        (b"\n \n", LINES, 400, "The request has no event"),
        (b"[]", "application/json", 400, "The request has no event"),
        (b"{}\n" * 1_001, LINES, 413, "A request may have 1,000 events, got 1,001"),
        (b"x" * (8 * 2**20 + 1), LINES, 413, "A request may have 8388608 bytes"),
    ],
)
def test_a_request_that_is_wrong_as_a_whole_is_told_so(
    gateway: GatewayProcess, body: bytes, kind: str, status: int, message: str
) -> None:
    got, _, answer = post(gateway, body, kind=kind)
    assert got == status
    assert message in answer["error"]["message"]


def test_events_need_a_key(gateway: GatewayProcess) -> None:
    status, _, answer = post(gateway, lines(event("b")), key="sk-wrong")
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")


def test_a_thousand_events_are_one_request(site: Site, gateway: GatewayProcess) -> None:
    many = [event(f"many-{number}", data={"text": "x" * 900}) for number in range(1_000)]
    status, _, answer = post(gateway, lines(*many), kind=LINES)
    assert (status, answer["taken"]) == (200, 1_000)
    assert post(gateway, lines(*many), kind=LINES)[2]["repeated"] == 1_000
    eventually(lambda: Counter(sealed_ids(site)).get("many-999") == 1, "they are sealed")
    counts = Counter(sealed_ids(site))
    assert all(counts[one["id"]] == 1 for one in many)


def request_of(body: bytes, *headers: str, kind: str = "application/json", key: str = KEY) -> bytes:
    usual = [f"Authorization: Bearer {key}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    head = "\r\n".join(["POST /v1/events HTTP/1.1", "Host: g", *usual, *headers, "", ""])
    return head.encode() + body


@pytest.mark.parametrize(
    ("body", "headers", "kind", "key", "status"),
    [
        (lines(event("piece")), [], "application/json", KEY, 200),
        (lines(event("piece", sequence="7", tenant="north")), ["X-Request-Id: mine"], "application/json", KEY, 200),
        (lines(event("piece")), [], LINES, KEY, 200),
        (b"[%s]" % lines(event("piece")), [], "application/json", KEY, 200),
        (lines(event("piece", **{"class": "urgent"})), [], "application/json", KEY, 400),
        (lines(event("piece", campaign="glossary")), [], "application/json", KEY, 400),
        (lines(event("piece"))[:-1], [], "application/json", KEY, 400),
        (lines(event("piece")), ["Content-Type: text/plain"], "application/json", KEY, 400),
        (lines(event("piece")), [], "application/json", "sk-wrong", 401),
    ],
)
def test_a_request_is_answered_the_same_in_one_piece_and_in_several(
    gateway: GatewayProcess, body: bytes, headers: list[str], kind: str, key: str, status: int
) -> None:
    post(gateway, lines(event("piece")))
    whole = request_of(body, *headers, kind=kind, key=key)
    client = RawClient(gateway)
    answers = [client.send(whole).answer()]
    for part in (whole[:20], whole[20:-5], whole[-5:]):
        client.send(part)
        time.sleep(0.02)
    answers.append(client.answer())
    client.close()
    assert [one.status for one in answers] == [status, status]
    assert json.loads(answers[0].body) == json.loads(answers[1].body)
    assert answers[0].headers.keys() == answers[1].headers.keys()
    wanted = "mine" if "X-Request-Id: mine" in headers else answers[0].headers["x-request-id"]
    assert answers[0].headers["x-request-id"] == wanted
    assert (wanted == answers[1].headers["x-request-id"]) == (wanted == "mine")


def test_requests_that_come_at_once_on_one_connection_are_answered_in_their_order(gateway: GatewayProcess) -> None:
    bodies = [lines(event("row-1")), lines(event("row-1")), b"{", lines(event("row-2"))]
    last = request_of(bodies[-1], "Connection: close", "Expect: 100-continue")
    raw = RawClient(gateway).send(b"".join([*map(request_of, bodies[:-1]), last])).until_closed().raw
    said = [(int(one[:3]), one.rpartition(b"\r\n\r\n")[2]) for one in raw.split(b"HTTP/1.1 ")[1:]]
    assert [status for status, _ in said] == [200, 200, 400, 100, 200]
    assert [json.loads(body or "{}").get("repeated") for _, body in said] == [0, 1, None, None, 0]


def test_a_client_that_does_not_wait_for_its_answer_sent_its_event_all_the_same(
    site: Site, gateway: GatewayProcess
) -> None:
    RawClient(gateway).send(request_of(lines(event("left")))).close()
    eventually(lambda: "left" in sealed_ids(site), "it is sealed")
    assert post(gateway, lines(event("left")))[2]["repeated"] == 1


def test_events_that_the_disk_does_not_take_are_refused_in_either_way(
    make_site: Callable[..., Site], tmp_path: Path
) -> None:
    site = make_site()
    site.initialize()
    gateway = site.start(*options(tmp_path))
    post(gateway, lines(event("a")))
    # Another program has the file: the log waits for five seconds, and takes nothing.
    with closing(sqlite3.connect(tmp_path / "log" / FILE, isolation_level=None)) as file:
        file.execute("BEGIN IMMEDIATE")
        whole = request_of(lines(event("b")))
        clients = [RawClient(gateway).send(whole), RawClient(gateway).send(whole[:40])]
        time.sleep(0.05)
        clients[1].send(whole[40:])
        refused = [client.answer() for client in clients]
        file.execute("ROLLBACK")
    assert [(one.status, one.error["code"]) for one in refused] == [(503, "inbox_unavailable")] * 2
    assert RawClient(gateway).send(whole).answer().body == b'{"object":"events","taken":1,"repeated":0,"refused":[]}'


def figure(gateway: GatewayProcess, name: str) -> float | None:
    with urllib.request.urlopen(f"{gateway.url}/metrics", timeout=60) as answer:
        page = answer.read().decode()
    found = re.search(rf'^headrace_gateway_inbox_{name}{{[^}}]*campaign="slogans"[^}}]*}} (\S+)$', page, re.MULTILINE)
    return float(found[1]) if found else None


def test_the_page_of_figures_says_what_waits(gateway: GatewayProcess) -> None:
    post(gateway, lines(event("counted")))
    assert (figure(gateway, "events_total") or 0) >= 1
    assert figure(gateway, "sealing") == 1
    eventually(lambda: figure(gateway, "unsealed_events") == 0, "everything is sealed")
    assert (figure(gateway, "waiting_events") or 0) >= 0
    assert (figure(gateway, "lag_seconds") or 0) >= 0


def test_the_openapi_page_has_events_where_there_is_an_inbox(gateway: GatewayProcess) -> None:
    with urllib.request.urlopen(f"{gateway.url}/openapi.json", timeout=60) as answer:
        page = json.load(answer)
    responses = page["paths"]["/v1/events"]["post"]["responses"]
    assert {"200", "400", "401", "413", "429", "503"} <= responses.keys()


def test_a_class_has_to_wait_once_the_backlog_takes_longer_than_its_limit(
    make_site: Callable[..., Site], tmp_path: Path
) -> None:
    """One window is worked off, two rows in two seconds; ten more wait."""
    site = make_site()
    site.initialize()
    given = options(tmp_path, rows_max=2, close_seconds=600, backlog_seconds={"live": 5, "flex": 3_600})
    gateway = site.start(*given)
    post(gateway, lines(*[event(str(number)) for number in range(12)]), kind=LINES)
    eventually(lambda: len(sealed_windows(site.store, "slogans")) == 6, "the six windows are sealed")
    windows = sealed_windows(site.store, "slogans")
    clock = FixedClock(2.0 + SystemClock().now())

    HandoffStore(site.store, clock).publish(
        "generated_content", windows[0].partition, pa.table({"row": [1, 2]}), code_version="1", run_id="r"
    )
    eventually(lambda: (figure(gateway, "backlog_seconds") or 0) > 5, "the drain is measured")
    status, headers, answer = post(gateway, lines(event("now", **{"class": "live"})))
    assert (status, answer["error"]["code"]) == (429, "overloaded")
    assert int(headers["retry-after"]) >= 1
    mixed = lines(event("live", **{"class": "live"}), event("flex", **{"class": "flex"}), event("batch"))
    status, _, answer = post(gateway, mixed, kind=LINES)
    assert (status, answer["taken"], [one["index"] for one in answer["refused"]]) == (200, 2, [0])
    assert answer["refused"][0]["retry_after_seconds"] > 0
    status, headers, _ = post(
        gateway, lines(event("a", **{"class": "live"}), event("b", **{"class": "live"})), kind=LINES
    )
    assert (status, "retry-after" in headers) == (429, True)


def test_a_tenant_has_to_wait_by_its_own_limits(make_site: Callable[..., Site], tmp_path: Path) -> None:
    site = make_site()
    site.initialize()
    tenants = {"acme": {"waiting_max": 3}, "*": {"events_per_second": 0.5}}
    gateway = site.start(*options(tmp_path, close_seconds=600, tenants=tenants))
    status, _, answer = post(gateway, lines(*[event(str(number), tenant="acme") for number in range(5)]), kind=LINES)
    assert (status, answer["taken"]) == (200, 3)
    refused = answer["refused"]
    assert [one["index"] for one in refused] == [3, 4]
    assert refused[0]["reason"] == "3 events of tenant 'acme' wait in campaign slogans, its limit is 3"
    status, headers, answer = post(gateway, lines(event("a", tenant="acme")))
    assert (status, int(headers["retry-after"])) == (429, 60)
    assert "tenant 'acme'" in answer["error"]["message"]
    status, _, answer = post(gateway, lines(*[event(f"b-{number}") for number in range(7)]), kind=LINES)
    assert (status, answer["taken"]) == (200, 5)
    status, headers, answer = post(gateway, lines(event("c")))
    assert (status, int(headers["retry-after"])) == (429, 2)
    assert "tenant 'tests' sends more events a second than it may" in answer["error"]["message"]


def test_a_gateway_that_is_killed_keeps_every_event_that_it_took(
    make_site: Callable[..., Site], tmp_path: Path
) -> None:
    """Four producers send; the gateway is killed (-9) five times; who got no answer sends the same again."""
    site = make_site()
    site.initialize()
    given = options(tmp_path, rows_max=40, close_seconds=0.3)
    present = [site.start(*given, wait="listening")]
    ends = threading.Event()
    taken: list[list[str]] = [[] for _ in range(4)]

    def produce(producer: int) -> None:
        number = 0
        while not ends.is_set():
            own = [f"{producer}-{number + row}" for row in range(5)]
            try:
                status, _, answer = post(present[-1], lines(*map(event, own)), kind=LINES)
            except (OSError, ValueError):  # killed before, or in the middle of, its answer
                continue
            if status == 200:
                assert answer["taken"] + answer["repeated"] == 5, answer
                taken[producer] += own
                number += 5

    threads = [threading.Thread(target=produce, args=(producer,)) for producer in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        before = sum(map(len, taken))
        eventually(lambda before=before: sum(map(len, taken)) > before + 100, "producers go on")
        os.kill(present[-1].pid, signal.SIGKILL)
        present[-1].process.wait()
        present.append(site.start(*given, wait="listening"))
    before = sum(map(len, taken))
    eventually(lambda: sum(map(len, taken)) > before, "producers go on")
    ends.set()
    for thread in threads:
        thread.join()
    wanted = Counter(name for own in taken for name in own)
    eventually(lambda: wanted.keys() <= set(sealed_ids(site)), "everything is sealed")
    assert present[-1].terminate() == 0
    found = Counter(sealed_ids(site))
    assert [name for name, times in found.items() if times > 1] == []
    # The last request of a producer may have been written, and its answer lost.
    assert len(found) - len(wanted) <= 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: given[:2], "--inbox also needs --inbox-log"),
        (lambda given: [*given[:-1], "Europe/Atlantis"], "--timezone must be a time zone"),
        (lambda given: ["--inbox", "/nowhere", *given[2:]], "There is no directory of campaigns at /nowhere"),
    ],
)
def test_a_gateway_without_what_an_inbox_needs_says_so_and_ends(
    tmp_path: Path, make_site: Callable[..., Site], change: Callable[[list[str]], list[str]], message: str
) -> None:
    site = make_site()
    site.initialize()
    with pytest.raises(AssertionError, match="ended with 2"):
        site.start(*change(options(tmp_path)), wait="listening")
    assert message in (site.directory / "gateway-0.errors").read_text()


def test_a_second_gateway_gets_neither_the_log_nor_the_campaigns_of_the_first(
    tmp_path: Path, make_site: Callable[..., Site]
) -> None:
    site = make_site()
    site.initialize()
    given = options(tmp_path)
    site.start(*given, wait="listening")
    with pytest.raises(AssertionError, match="ended with 2"):
        site.start(*given, wait="listening")
    assert "is another gateway's, which runs now" in (site.directory / "gateway-1.errors").read_text()
    own = [*given[:3], str(tmp_path / "another"), *given[4:]]
    with pytest.raises(AssertionError, match="ended with 2"):
        site.start(*own, wait="listening")
    assert "are another log's" in (site.directory / "gateway-2.errors").read_text()
