"""What somebody without a key can do to a gateway, over sockets that speak by hand. One gateway for all of it."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulation.servers.gateway_site import KEY, GatewayProcess, Site, http_role, slow_server
from tests.serving.gateway.raw_clients import Answer, RawClient, chat, chunked, post
from tests.waiting import eventually

pytestmark = pytest.mark.process

GET = b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n"
LIMITS = {
    "num_units_max": 2,
    "num_waiting_max": 2,
    "waiting_seconds_max": 20.0,
    "request_bytes_max": 20_000,
    "num_connections_max": 60,
    "num_headers_max": 20,
    "head_bytes_max": 16_000,
    "url_bytes_max": 2_000,
    # Long enough that an honest client of a busy machine is never taken for one that dawdles.
    "head_seconds_max": 2.0,
    "body_seconds_max": 2.0,
    "idle_seconds_max": 4.0,
    "stalled_seconds_max": 1.0,
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Its engine's streams are as long as they are asked for, in words of 120 bytes."""
    with slow_server(seconds_min=0.2, seconds_max=0.2, num_words=4000, word_bytes=120) as base_url:
        site = Site.make(
            tmp_path_factory.mktemp("strangers") / "site",
            {"roles": {"writer": http_role(base_url, decoding=_decoding(4000))}, "limits": LIMITS},
        )
        site.initialize()
        with site.started() as running:
            yield running


@pytest.fixture(autouse=True)
def everybody_else_is_served(gateway: GatewayProcess) -> Iterator[None]:
    """After each of these an honest request is answered, on a connection of its own."""
    yield
    assert RawClient(gateway).send(post(b"Connection: close")).until_closed().status == 200
    assert gateway.process.poll() is None


def _decoding(num_tokens: int) -> dict[str, float]:
    return {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": num_tokens}


def ask(gateway: GatewayProcess, *parts: bytes) -> Answer:
    return RawClient(gateway).send(*parts).until_closed()


def cuts(gateway: GatewayProcess) -> list[dict[str, Any]]:
    return [record for record in gateway.records("gateway") if record["event"] == "connection cut"]


# --- how much ---


HEADS: dict[str, tuple[bytes, int, str]] = {
    "too many headers": (
        post(*[b"X-%d: y" % number for number in range(30)], key=None),
        431,
        "may have 20 headers, got 32",
    ),
    "one header too large": (post(b"X: " + b"y" * 20_000, key=None), 431, "may have 16000 bytes"),
    "a first header without end": (b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000, 431, "may have 16000 bytes"),
    "many large ones": (post(*[b"X-%d: %s" % (n, b"y" * 2000) for n in range(15)], key=None), 431, "16000 bytes"),
    "a long URL": (b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: g\r\n\r\n", 414, "URL may have 2000 bytes"),
    "a URL without end": (b"GET /" + b"a" * 20_000, 414, "URL may have 2000 bytes"),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00", 400, "no HTTP/1.1 request"),
    "a header over two lines": (post(b"X: a\r\n b", key=None), 400, "no HTTP/1.1 request"),
    "two lengths": (post(b"Content-Length: 3"), 400, "no HTTP/1.1 request"),
    "a length and chunks": (post(b"Content-Length: 3", b"Transfer-Encoding: chunked"), 400, "no HTTP/1.1"),
    "a tunnel": (b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: g\r\n\r\n", 405, "a proxy's business"),
}


@pytest.mark.parametrize("case", HEADS)
def test_a_head_beyond_the_limits_is_refused_with_the_limit(gateway: GatewayProcess, case: str) -> None:
    request, status, words = HEADS[case]
    answer = ask(gateway, request)
    assert answer.status == status
    assert words in answer.error["message"]
    assert answer.headers["connection"] == "close"


def test_an_answers_head_does_not_travel_alone(gateway: GatewayProcess) -> None:
    client = RawClient(gateway).send(GET)
    assert client.socket.recv(65_536).endswith(b'\r\n\r\n{"status":"alive"}')
    client.socket.close()


def test_an_answer_without_a_body_is_not_kept_back_for_one(gateway: GatewayProcess) -> None:
    client = RawClient(gateway)
    for _ in range(2):
        client.send(GET.replace(b"GET", b"HEAD"))
        assert client.socket.recv(65_536).endswith(b"\r\ncontent-length: 18\r\n\r\n")
    client.socket.close()


def test_a_cut_stands_in_the_log_with_its_reason_and_the_id_that_its_client_was_told(gateway: GatewayProcess) -> None:
    answer = ask(gateway, post(b"X: " + b"swordfish" * 2_000, key=None))
    said = eventually(lambda: [cut for cut in cuts(gateway) if cut.get("request") == answer.headers["x-request-id"]])
    assert (said[0]["why"], said[0]["status"]) == ("headers_too_large", 431)
    assert said[0]["client"].startswith("127.0.0.1:")
    assert "swordfish" not in gateway.log.read_text()


def test_headers_without_end_cost_no_memory(gateway: GatewayProcess) -> None:
    before = _resident_bytes(gateway)
    for _ in range(3):
        client = RawClient(gateway).send(b"GET / HTTP/1.1\r\nHost: g\r\nX: ")
        client.send(*[b"a" * 1_000_000] * 40).close()
    assert _resident_bytes(gateway) - before < 8_000_000


def _resident_bytes(gateway: GatewayProcess) -> int:
    pages = Path(f"/proc/{gateway.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_a_few_requests_may_stand_in_line_on_one_connection_and_many_may_not(gateway: GatewayProcess) -> None:
    few = RawClient(gateway).send(GET * 9 + GET.replace(b"Host", b"Connection: close\r\nHost")).until_closed()
    assert few.raw.count(b"HTTP/1.1 200") == 10
    assert RawClient(gateway).send(GET * 1000).is_closed_within(60)


# --- how long ---


def test_a_head_that_does_not_come_to_its_end_is_ended_however_it_drips(gateway: GatewayProcess) -> None:
    client = RawClient(gateway)
    for byte in b"GET /healthz HTTP/1.1\r\nHost: gateway\r\nX: ":
        client.send(bytes([byte]))
        time.sleep(0.06)
    answer = client.until_closed()
    assert answer.status == 408
    assert "head must come within 2 s" in answer.error["message"]


def test_a_connection_that_says_nothing_is_closed(gateway: GatewayProcess) -> None:
    assert RawClient(gateway).until_closed().raw == b""


def test_a_body_that_does_not_come_to_its_end_is_ended(gateway: GatewayProcess) -> None:
    answer = ask(gateway, post(length=500))
    assert answer.status == 408
    assert "body must come within 2 s" in answer.error["message"]


def test_a_body_without_a_key_is_not_waited_for(gateway: GatewayProcess) -> None:
    answer = ask(gateway, post(key=None, length=500))
    assert answer.status == 401


def test_a_kept_connection_is_closed_in_the_end_and_its_next_request_has_its_own_time(gateway: GatewayProcess) -> None:
    client = RawClient(gateway)
    for _ in range(3):
        # Each within the time that a connection is kept, all of them longer than one head may take.
        time.sleep(0.8)
        assert client.send(GET).answer().status == 200
    assert client.is_closed_within(60)
    late = RawClient(gateway)
    assert late.send(GET).answer().status == 200
    assert late.send(b"GET /hea").until_closed().status == 408


# --- what is not heard ---


@pytest.mark.parametrize("trailer", [b"Authorization: Bearer " + KEY.encode(), b"authorization:Bearer " + KEY.encode()])
def test_a_key_in_a_trailer_is_no_key(gateway: GatewayProcess, trailer: bytes) -> None:
    request = post(b"Transfer-Encoding: chunked", b"Connection: close", body=chunked(chat(), trailer), key=None)
    assert ask(gateway, request).status == 401


def test_names_in_trailers_are_not_heard(gateway: GatewayProcess) -> None:
    trailers = [b"X-Headrace-Unit: theirs", b"X-Request-Id: theirs", b"X-Headrace-Version-Set: candidate"]
    body = chunked(chat(), *trailers)
    headers = [b"Transfer-Encoding: chunked", b"Connection: close", b"X-Headrace-Unit: ours", b"X-Request-Id: ours-1"]
    answer = ask(gateway, post(*headers, body=body))
    assert answer.status == 200
    assert answer.headers["x-headrace-unit"] == "ours"
    assert answer.headers["x-request-id"] == "ours-1"


@pytest.mark.parametrize(
    "header",
    [
        b"Authorization: Bearer " + KEY.encode(),
        b"X-Headrace-Session: a",
        b"X-Headrace-Unit: a",
        b"X-Headrace-Version-Set: stable",
        b"X-Request-Id: a",
        b"Content-Type: application/json",
        b"Host: gateway",
    ],
)
def test_a_header_that_decides_something_may_be_sent_once(gateway: GatewayProcess, header: bytes) -> None:
    name = header.split(b":")[0].lower().decode()
    answer = ask(gateway, post(header, header.upper().replace(b"STABLE", b"stable"), b"Connection: close"))
    assert answer.status == 400
    assert answer.error["code"] == "repeated_header"
    assert answer.error["message"].startswith(f"Header {name} may be sent once")


def test_other_headers_may_be_repeated(gateway: GatewayProcess) -> None:
    assert ask(gateway, post(b"Accept: text/html", b"Accept: */*", b"Connection: close")).status == 200


@pytest.mark.parametrize("split", [0, 10, 400])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_an_offer_of_another_protocol_is_passed_over(gateway: GatewayProcess, is_chunked: bool, split: int) -> None:
    offer = [
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA",
    ]
    chunks = post(*offer, b"Transfer-Encoding: chunked", body=chunked(chat()))
    request = chunks if is_chunked else post(*offer)
    client = RawClient(gateway)
    for part in (request[:split], request[split:]):
        client.send(part)
        time.sleep(0.05)
    assert client.answer().status == 200
    # The connection goes on as it would have without the offer.
    assert client.send(GET.replace(b"Host", b"Connection: close\r\nHost")).until_closed().status == 200


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_with_http2_gets_its_answer(gateway: GatewayProcess) -> None:
    command = [
        "curl",
        "-sS",
        "--http2",
        "--max-time",
        "60",
        "-w",
        "\n%{http_code}",
        f"{gateway.url}/v1/chat/completions",
    ]
    command += ["-H", f"Authorization: Bearer {KEY}", "-d", chat().decode()]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    body, status = ended.stdout.rsplit("\n", 1)
    assert (status, "word0" in body) == ("200", True)


# --- who does not read ---


def test_a_client_that_does_not_read_loses_its_place_to_one_that_does(gateway: GatewayProcess) -> None:
    stalling = [
        RawClient(gateway, receive_bytes=4096).send(
            post(b"X-Request-Id: stalls-%d" % number, body=chat(stream=True, max_tokens=4000))
        )
        for number in range(LIMITS["num_units_max"])
    ]
    answer = ask(gateway, post(b"Connection: close"))
    assert answer.status == 200
    units = eventually(
        lambda: (
            [unit for unit in gateway.records("unit") if unit["request"] in ("stalls-0", "stalls-1")][1:]
            and [unit for unit in gateway.records("unit") if unit["request"] in ("stalls-0", "stalls-1")]
        )
    )
    assert {(unit["status"], unit["error"]) for unit in units} == {(499, "client stalled")}
    for client in stalling:
        client.close()


def test_a_client_that_never_reads_its_pages_is_cut(gateway: GatewayProcess) -> None:
    client = RawClient(gateway, receive_bytes=4096)
    pages = b"GET /openapi.json HTTP/1.1\r\nHost: gateway\r\n\r\n"
    for _ in range(60):
        client.send(pages * 20)
        time.sleep(0.01)
    eventually(lambda: [cut for cut in cuts(gateway) if cut["client"].endswith(f":{client.socket.getsockname()[1]}")])
    client.close()


# --- how many ---


def test_when_all_connections_are_taken_the_one_that_waited_longest_gives_way(gateway: GatewayProcess) -> None:
    """Three times as many as there are, each of which has begun a request."""
    idle = [RawClient(gateway).send(b"POST /v1/ch") for _ in range(3 * LIMITS["num_connections_max"])]
    assert RawClient(gateway).send(GET).answer().status == 200
    assert ask(gateway, post(b"Connection: close")).status == 200
    assert eventually(lambda: any(cut["why"] == "gave way" for cut in cuts(gateway)))
    assert idle[0].is_closed_within(60)
    for client in idle:
        client.close()
