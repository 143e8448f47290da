"""Results sent to a webhook by a running gateway: signed, none left out, whatever happens to either side."""

import base64
import hashlib
import hmac
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace.command_line.main import app
from headrace.inbox.sealed import sealed_windows
from simulation.servers.gateway_site import GatewayProcess, Site
from tests.command_line.builders import checked_json
from tests.inbox_builders import finish_window
from tests.serving.gateway.test_inbox import LINES, event, figure, lines, options, post
from tests.waiting import eventually

pytestmark = pytest.mark.process
SECRET = "whsec_" + base64.b64encode(b"a secret of the tests alone").decode()


class Receiver:
    """A server on loopback. `status_of`: what it answers, by event. `headers`, `bodies`: what came, in its order."""

    def __init__(self) -> None:
        self.status_of: Callable[[str], int] = lambda _: 200
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.status_of(json.loads(body)["data"]["event"])
                if self.path == "/hook":
                    receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
                    receiver.bodies.append(body)
                else:
                    status = 599
                self.send_response(status)
                if status == 302:
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name that it has there)
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def events(self) -> list[str]:
        return [json.loads(body)["data"]["event"] for body in self.bodies]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()


class Place:
    """A site whose gateway sends results to a receiver."""

    def __init__(self, site: Site, directory: Path, receiver: Receiver, **webhook: Any) -> None:
        self.site = site
        site.initialize()
        given = {"url": receiver.url, "secret_variable": "HOOK_SECRET", **webhook}
        self.options = options(directory, rows_max=5, close_seconds=600, results={"webhook": given})
        self.log = directory / "log"

    def start(self) -> GatewayProcess:
        return self.site.start(*self.options, wait="listening", environment={"HOOK_SECRET": SECRET})

    def send(self, gateway: GatewayProcess, num_windows: int) -> list[str]:
        """Events of so many windows, sealed and finished; their ids."""
        names = [str(number) for number in range(5 * num_windows)]
        assert post(gateway, lines(*[event(name) for name in names]), kind=LINES)[0] == 200
        eventually(lambda: len(sealed_windows(self.site.store, "slogans")) == num_windows, "all windows are sealed")
        for window in sealed_windows(self.site.store, "slogans"):
            finish_window(self.site.store, window)
        return names


def test_each_result_is_sent_and_signed(make_site: Callable[..., Site], tmp_path: Path, receiver: Receiver) -> None:
    place = Place(make_site(), tmp_path, receiver)
    gateway = place.start()
    names = place.send(gateway, 2)
    eventually(lambda: len(receiver.bodies) == 10, "all results are sent")
    assert sorted(receiver.events) == sorted(names)
    secret = base64.b64decode(SECRET.removeprefix("whsec_"))
    for headers, body in zip(receiver.headers, receiver.bodies, strict=True):
        content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body.decode()}".encode()
        wanted = base64.b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{wanted}"
        assert headers["content-type"] == "application/json"
    assert len({headers["webhook-id"] for headers in receiver.headers}) == 10
    told = json.loads(receiver.bodies[0])
    assert told["type"] == "event.result"
    assert told["data"]["rows"][0]["output"] == f"answer to {told['data']['event']}"
    assert figure(gateway, "delivering") == 1
    assert SECRET not in gateway.log.read_text()


def test_a_gateway_that_is_killed_leaves_no_result_out(
    make_site: Callable[..., Site], tmp_path: Path, receiver: Receiver
) -> None:
    """Killed (-9) three times while it sends to a receiver that fails now and then."""
    place = Place(make_site(), tmp_path, receiver, concurrency=2)
    gateway = place.start()
    names = place.send(gateway, 20)
    receiver.status_of = lambda _: 503 if len(receiver.bodies) % 7 == 3 else 200
    for _ in range(3):
        before = len(receiver.bodies)
        eventually(lambda before=before: len(receiver.bodies) > before + 10, "results are sent")
        os.kill(gateway.pid, signal.SIGKILL)
        gateway.process.wait()
        gateway = place.start()
    receiver.status_of = lambda _: 200
    eventually(lambda: set(receiver.events) == set(names), "all results are sent")
    ids = {name: set[str]() for name in names}
    for headers, name in zip(receiver.headers, receiver.events, strict=True):
        ids[name].add(headers["webhook-id"])
    assert {len(one) for one in ids.values()} == {1}


def test_what_a_receiver_refuses_is_listed_and_sent_again_when_somebody_says_so(
    make_site: Callable[..., Site], tmp_path: Path, receiver: Receiver
) -> None:
    place = Place(make_site(), tmp_path, receiver)
    gateway = place.start()
    receiver.status_of = lambda name: 422 if name == "3" else 200
    place.send(gateway, 1)
    eventually(lambda: figure(gateway, "given_up_results") == 1, "it is given up")
    call = CliRunner().invoke
    shown = call(app, ["inbox", "undelivered", "--inbox-log", str(place.log), "--json"])
    [listed] = checked_json(shown, "inbox-undelivered")["results"]
    assert (listed["event"], listed["num_attempts"], listed["reason"]) == ("3", 1, "the receiver answered 422")
    assert "the receiver answered 422" in call(app, ["inbox", "undelivered", "--inbox-log", str(place.log)]).output
    receiver.status_of = lambda _: 200
    again = call(app, ["inbox", "redeliver", "--inbox-log", str(place.log), "--campaign", "slogans"])
    assert again.output == "1 result is sent again.\n"
    eventually(lambda: receiver.events.count("3") == 2, "it is sent again")
    shown = call(app, ["inbox", "undelivered", "--inbox-log", str(place.log)])
    eventually(lambda: figure(gateway, "given_up_results") == 0, "nothing is given up")
    nothing = call(app, ["inbox", "redeliver", "--inbox-log", str(place.log), "--event", "3"])
    assert nothing.exit_code == 2
    assert "No result of these is undelivered" in nothing.output


def test_a_redirect_is_not_followed(make_site: Callable[..., Site], tmp_path: Path, receiver: Receiver) -> None:
    place = Place(make_site(), tmp_path, receiver)
    gateway = place.start()
    receiver.status_of = lambda _: 302
    place.send(gateway, 1)
    told = eventually(lambda: gateway.event("results not delivered"), "the receiver counts as away")
    assert told["why"] == "the receiver answered 302"
    assert figure(gateway, "delivering") == 0


def test_without_its_secret_a_gateway_says_so_and_ends(
    make_site: Callable[..., Site], tmp_path: Path, receiver: Receiver
) -> None:
    place = Place(make_site(), tmp_path, receiver)
    with pytest.raises(AssertionError, match="ended with 2"):
        place.site.start(*place.options, wait="listening")
    said = (place.site.directory / "gateway-0.errors").read_text()
    assert "The environment variable HOOK_SECRET (secret_variable of the webhook) has no secret" in said
