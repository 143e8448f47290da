"""What a client can make the gate see: what the sets did that it could not choose, and nothing else."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from benchmarks.gateway_site import KEY_NAME, GatewayProcess, Site, http_role, seen, slow_server
from headrace.rollout.live_evidence import read_drawn, totals
from headrace.rollout.sequential.samples import Sample

pytestmark = pytest.mark.process

HELLO: Any = [{"role": "user", "content": "Tell me of the mill."}]
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
    """Half of the units on a candidate, on the same server as the stable set."""
    site = Site.make(tmp_path / "site", {"roles": {"writer": http_role(engine)}})
    site.initialize()
    site.start_candidate(site.version_set(writer={"version": "2"}), weight=0.5)
    gateway = site.start()
    gateway.wait_for("set loaded")
    while len([event for event in gateway.records("gateway") if event["event"] == "set loaded"]) < 2:
        time.sleep(0.1)
    # Loaded is not yet drawn: on a busy machine the gateway's next look at the plan takes its time.
    time.sleep(1.5)
    try:
        yield site, gateway
    finally:
        site.close()


def evidence(site: Site, gateway: GatewayProcess) -> Drawn:
    """What the gateway leaves behind when it ends."""
    assert gateway.terminate() == 0
    return read_drawn(site.store, "assistant", site.journal.head())


def errors(found: Drawn) -> Sample:
    return sum((metrics["error"] for metrics in totals(found).values() if "error" in metrics), Sample())


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
    asked = {"model": "assistant", "messages": HELLO, "stream": True}
    num_given_up = seen(engine)["given_up"]
    for _ in range(4):
        with (
            httpx.Client(headers={"Authorization": "Bearer sk-of-the-tests-only"}) as client,
            client.stream("POST", f"{gateway.url}/v1/chat/completions", json=asked) as response,
        ):
            assert response.headers["x-headrace-version-set"]
            next(response.iter_bytes())
    found = evidence(site, gateway)
    assert errors(found) == Sample.of_counts(4, 0)
    samples = [metrics for metrics in totals(found).values() if metrics]
    assert sum(metrics["output_tokens"].total for metrics in samples) == 4 * 8
    assert all(metrics["latency_seconds"].mean > 0.35 for metrics in samples)
    assert seen(engine)["given_up"] == num_given_up
    assert {unit["status"] for unit in gateway.records("unit")} == {499}
