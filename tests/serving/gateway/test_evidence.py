"""What a client can make the gate see: what the sets did that it could not choose, and nothing else."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from headrace.rollout.live_evidence import read_drawn, totals
from headrace.rollout.sequential.samples import Sample
from simulation.servers.gateway_site import KEY, KEY_NAME, GatewayProcess, Site, http_role, role, seen, slow_server
from tests.serving.gateway.raw_clients import RawClient, chat, post
from tests.waiting import eventually

pytestmark = pytest.mark.process

HELLO: Any = [{"role": "user", "content": "Tell me of the mill."}]
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
REFUSED: Any = [{"role": "user", "content": "refuse this"}]
Clients = Callable[..., openai.OpenAI]
Drawn = Any


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    """A server whose answers take some 0.4 s."""
    with slow_server(seconds_min=0.4, seconds_max=0.4) as base_url:
        yield base_url


@pytest.fixture
def trial(tmp_path: Path, engine: str) -> Iterator[tuple[Site, GatewayProcess]]:
    with a_trial(tmp_path, engine) as found:
        yield found


@contextmanager
def a_trial(directory: Path, engine: str) -> Iterator[tuple[Site, GatewayProcess]]:
    """Half of the units on a candidate, on the same server as the stable set."""
    # Places for 32 units: four streams of one client are followed at once.
    service = {
        "roles": {"writer": http_role(engine), "judge": role(model="judge")},
        "judge": {"role": "judge", "share": 1.0, "score_max": 100.0},
        "limits": {"num_units_max": 32},
    }
    site = Site.make(directory / "site", service)
    site.initialize()
    site.start_candidate(site.version_set(writer={"version": "2"}), weight=0.5)
    with site.started() as gateway:
        _until(lambda: _draws(gateway), "Sets are drawn")
        yield site, gateway


def _draws(gateway: GatewayProcess) -> bool:
    said = httpx.get(f"{gateway.url}/v1/rollout", headers=AUTHORIZED).json()
    return bool(said["fresh"] and said["candidate"] and len(said["loaded"]) == 2)


def _until(is_so: Callable[[], bool], what: str) -> None:
    eventually(is_so, what)


def evidence(site: Site, gateway: GatewayProcess) -> Drawn:
    """What the gateway leaves behind when it ends."""
    assert gateway.terminate() == 0
    return read_drawn(site.store, "assistant", site.journal.head())


def errors(found: Drawn) -> Sample:
    return sum((metrics["error"] for metrics in totals(found).values() if "error" in metrics), Sample())


def leave_streams(gateway: GatewayProcess, *, num: int) -> None:
    """Begin so many streams at once, and leave them all after their first bytes."""
    asked = {"model": "assistant", "messages": HELLO, "stream": True}
    with httpx.Client(headers=AUTHORIZED) as client, ExitStack() as streams:
        begun = [client.stream("POST", f"{gateway.url}/v1/chat/completions", json=asked) for _ in range(num)]
        responses = [streams.enter_context(stream) for stream in begun]
        for response in responses:
            assert response.headers["x-headrace-version-set"]
            next(response.iter_bytes())


def ask(client: openai.OpenAI, messages: Any = HELLO, **headers: str) -> None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    client.chat.completions.create(model="assistant", messages=messages, extra_headers=named)


def test_names_sessions_and_sets_that_a_client_chose_are_no_evidence(
    trial: tuple[Site, GatewayProcess], client_of: Clients
) -> None:
    site, gateway = trial
    client = client_of(gateway)
    for _ in range(2):
        ask(client, X_Headrace_Unit="chosen")
        ask(client, X_Headrace_Version_Set="candidate")
        ask(client, X_Headrace_Session="chosen")
        ask(client, X_Request_Id="chosen")
    found = evidence(site, gateway)
    # The session's first turn, and the two requests whose id was chosen: their sets were drawn all the same.
    assert errors(found) == Sample.of_counts(3, 0)
    assert {client for client, _ in found} == {KEY_NAME}
    assert {entry for _, entry in found} == {site.journal.head()}


def test_what_a_client_did_wrong_counts_against_no_set(trial: tuple[Site, GatewayProcess], client_of: Clients) -> None:
    site, gateway = trial
    client = client_of(gateway)
    for _ in range(10):
        with pytest.raises(openai.UnprocessableEntityError):
            ask(client, REFUSED)
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.1))
    assert evidence(site, gateway) == {}


def test_a_client_that_goes_when_it_sees_its_set_is_measured_like_one_that_stays(
    trial: tuple[Site, GatewayProcess], engine: str
) -> None:
    site, gateway = trial
    num_given_up = seen(engine)["given_up"]
    leave_streams(gateway, num=4)
    # Nor can it hide from the judge what it knows the set of.
    _until(lambda: len(gateway.records("judgement")) == 4, "Four answers are judged")
    found = evidence(site, gateway)
    assert errors(found) == Sample.of_counts(4, 0)
    samples = [metrics for metrics in totals(found).values() if metrics]
    assert sum(metrics["output_tokens"].total for metrics in samples) == 4 * 8
    assert all(metrics["latency_seconds"].mean > 0.35 for metrics in samples)
    assert seen(engine)["given_up"] == num_given_up
    assert {unit["status"] for unit in gateway.records("unit")} == {499}


def test_streams_beyond_an_eighth_of_the_places_are_not_read_to_their_end_for_a_client_that_left(
    tmp_path: Path,
) -> None:
    # Answers that take long enough for all of them to be under way at once.
    with slow_server(seconds_min=4.0, seconds_max=4.0) as engine, a_trial(tmp_path, engine) as (site, gateway):
        leave_streams(gateway, num=7)
        found = evidence(site, gateway)
        # Whether a stream is followed is decided before its set is drawn: of four here, whatever sets they got.
        assert errors(found) == Sample.of_counts(4, 0)
        assert sum(metrics["first_piece_seconds"].num for metrics in totals(found).values() if metrics) == 7
        assert seen(engine)["given_up"] == 3


def test_a_client_that_goes_during_its_second_request_on_a_connection_is_noticed(
    trial: tuple[Site, GatewayProcess], engine: str
) -> None:
    _, gateway = trial
    num_given_up = seen(engine)["given_up"]
    client = RawClient(gateway)
    # Both stand in line at once: the second begins while the first one's answer is put away.
    client.send(post(body=chat(stream=True)) + post(body=chat(stream=True, max_tokens=None)))
    raw = b""
    while raw.count(b"HTTP/1.1 200") < 2:
        raw += client.socket.recv(65_536)
    client.close()
    _until(lambda: len(gateway.records("unit")) == 2, "Both units end")
    assert [unit["status"] for unit in gateway.records("unit")] == [200, 499]
    assert seen(engine)["given_up"] == num_given_up
