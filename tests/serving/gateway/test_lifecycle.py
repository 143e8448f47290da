"""A gateway that is told to go, is killed, loses its client, its store or its engine."""

import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from headrace.clock import SystemClock
from headrace.errors import InvalidInput
from headrace.serving.gateway.first_set import initialize
from simulation.servers.gateway_site import GatewayProcess, Site, http_role, role, seen, slow_server
from tests.waiting import eventually

pytestmark = pytest.mark.process

HELLO: Any = [{"role": "user", "content": "Tell me of the mill."}]
Sites = Callable[..., Site]
Clients = Callable[..., openai.OpenAI]


def get(gateway: GatewayProcess, path: str) -> tuple[int, dict]:  # pyright: ignore[reportMissingTypeArgument]
    try:
        with urllib.request.urlopen(gateway.url + path, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_stream_under_way_ends_after_sigterm_while_new_units_are_refused(
    make_site: Sites, client_of: Clients
) -> None:
    # All that is asked of the gateway while it drains has so long.
    with slow_server(seconds_min=5, seconds_max=5) as base_url:
        site = make_site(roles={"writer": http_role(base_url)})
        site.initialize()
        gateway = site.start()
        client = client_of(gateway)
        stream = client.chat.completions.create(model="assistant", messages=HELLO, stream=True)
        first = next(stream)
        gateway.process.send_signal(signal.SIGTERM)
        gateway.wait_for("draining")
        assert get(gateway, "/readyz") == (
            503,
            {"status": "not ready", "reasons": ["draining"], "degraded": False},
        )
        assert get(gateway, "/healthz")[0] == 200
        with pytest.raises(openai.InternalServerError, match="going down") as refused:
            client.chat.completions.create(model="assistant", messages=HELLO)
        assert refused.value.response.headers["retry-after"] == "2"
        rest = list(stream)
        assert gateway.process.wait(60) == 0
    text = "".join([event.choices[0].delta.content or "" for event in [first, *rest] if event.choices])
    assert text.split() == [f"word{number}" for number in range(8)]
    assert rest[-1].choices[0].finish_reason == "stop"
    assert [record["status"] for record in gateway.records("unit")] == [200]


def test_a_stream_that_outlives_the_drain_is_cut_off_and_its_client_told(make_site: Sites, client_of: Clients) -> None:
    with slow_server(seconds_min=20, seconds_max=20, num_words=200) as base_url:
        site = make_site(roles={"writer": http_role(base_url)}, limits={"drain_seconds": 0.3})
        site.initialize()
        gateway = site.start()
        stream = client_of(gateway).chat.completions.create(model="assistant", messages=HELLO, stream=True)
        next(stream)
        gateway.process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="went down"):
            list(stream)
        assert gateway.process.wait(60) == 0
        assert eventually(lambda: seen(base_url)["given_up"] == 1)
    [unit] = gateway.records("unit")
    assert (unit["status"], unit["error"]) == (503, "draining")


def test_a_client_that_closes_its_stream_ends_the_engines_work(make_site: Sites, client_of: Clients) -> None:
    with slow_server(seconds_min=20, seconds_max=20, num_words=200) as base_url:
        site = make_site(roles={"writer": http_role(base_url)})
        site.initialize()
        gateway = site.start()
        stream = client_of(gateway).chat.completions.create(model="assistant", messages=HELLO, stream=True)
        next(stream)
        stream.close()
        assert eventually(lambda: seen(base_url)["given_up"] == 1)
        was_given_up(gateway)


def test_a_client_that_does_not_wait_for_an_answer_ends_the_engines_work(make_site: Sites, client_of: Clients) -> None:
    with slow_server(seconds_min=20, seconds_max=20) as base_url:
        site = make_site(roles={"writer": http_role(base_url)})
        site.initialize()
        gateway = site.start()
        with pytest.raises(openai.APITimeoutError):
            client_of(gateway).with_options(timeout=0.5).chat.completions.create(model="assistant", messages=HELLO)
        assert eventually(lambda: seen(base_url)["given_up"] == 1)
        was_given_up(gateway)


def was_given_up(gateway: GatewayProcess) -> None:
    eventually(lambda: gateway.records("unit"))
    [unit] = gateway.records("unit")
    assert (unit["status"], unit["error"]) == (499, "client gone")
    assert [step["error"] for step in gateway.records("step")] == ["cancelled"]


def test_a_unit_that_takes_too_long_is_ended_with_504(make_site: Sites, client_of: Clients) -> None:
    with slow_server(seconds_min=3, seconds_max=3) as base_url:
        site = make_site(roles={"writer": http_role(base_url)}, limits={"unit_seconds_max": 0.4})
        site.initialize()
        gateway = site.start()
        with pytest.raises(openai.InternalServerError) as refused:
            client_of(gateway).chat.completions.create(model="assistant", messages=HELLO)
        assert refused.value.status_code == 504
        assert refused.value.code == "timed_out"
        assert eventually(lambda: seen(base_url)["given_up"] >= 1)


def test_more_requests_than_places_are_told_to_come_back(make_site: Sites, client_of: Clients) -> None:
    with slow_server(seconds_min=0.7, seconds_max=0.7) as base_url:
        limits = {"num_units_max": 1, "num_waiting_max": 1, "waiting_seconds_max": 30.0}
        site = make_site(roles={"writer": http_role(base_url)}, limits=limits)
        site.initialize()
        gateway = site.start()
        outcomes: list[object] = []

        def ask() -> None:
            try:
                outcomes.append(client_of(gateway).chat.completions.create(model="assistant", messages=HELLO))
            except openai.RateLimitError as error:
                outcomes.append(int(error.response.headers["retry-after"]))

        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    refused = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert len(refused) == 3
    assert all(1 <= seconds <= 60 for seconds in refused)


def test_a_dead_engine_is_a_502_and_never_a_crash(make_site: Sites, client_of: Clients) -> None:
    with slow_server(seconds_min=0.01, seconds_max=0.01) as base_url:
        site = make_site(roles={"writer": http_role(base_url)}, limits={"unit_seconds_max": 2.0})
        site.initialize()
        gateway = site.start()
        client_of(gateway).chat.completions.create(model="assistant", messages=HELLO)
    with pytest.raises(openai.InternalServerError) as failed:
        client_of(gateway).chat.completions.create(model="assistant", messages=HELLO)
    assert failed.value.status_code in (502, 504)
    assert get(gateway, "/healthz")[0] == 200


def test_a_gateway_that_was_killed_starts_again_on_the_same_set_and_session(
    make_site: Sites, client_of: Clients
) -> None:
    site = make_site()
    stable, candidate = site.initialize(), site.version_set(writer={"version": "2"})
    site.start_candidate(candidate, weight=1.0)
    before = site.start()
    pinned = client_of(before, X_Headrace_Session="s-1").chat.completions.with_raw_response.create(
        model="assistant", messages=HELLO
    )
    assert pinned.headers["x-headrace-version-set"] == candidate.id
    # A session's first pin on a candidate is made whole just after its first turn.
    pins = site.store.directory / "rollout" / "assistant" / "sessions"
    eventually(lambda: len(list(pins.rglob("*.json"))) == 2)
    before.process.kill()
    before.process.wait()
    site.append("reweighted", candidate, weight=0.0)
    after = site.start()
    again = client_of(after, X_Headrace_Session="s-1").chat.completions.with_raw_response.create(
        model="assistant", messages=HELLO
    )
    other = client_of(after).chat.completions.with_raw_response.create(model="assistant", messages=HELLO)
    assert again.headers["x-headrace-version-set"] == candidate.id
    assert other.headers["x-headrace-version-set"] == stable.id


def test_a_store_that_went_away_stops_no_unit_and_shows_as_degraded(make_site: Sites, client_of: Clients) -> None:
    site = make_site()
    stable = site.initialize()
    site.start_candidate(site.version_set(writer={"version": "2"}), weight=0.5)
    gateway = site.start()
    away = site.directory / "away"
    site.store.directory.rename(away)
    # A link to itself: every read and every write below it fails, for root too.
    site.store.directory.symlink_to(site.store.directory)
    state = eventually(lambda: (found := get(gateway, "/readyz")[1])["degraded"] and found)
    assert state["status"] == "degraded"  # pyright: ignore
    assert "could not be read for a second" in state["reasons"][0]  # pyright: ignore
    unpinned(site, gateway, client_of)
    raws = [
        client_of(gateway).chat.completions.with_raw_response.create(model="assistant", messages=HELLO)
        for _ in range(8)
    ]
    assert {raw.headers["x-headrace-version-set"] for raw in raws} == {stable.id}
    site.store.directory.unlink()
    away.rename(site.store.directory)
    assert eventually(lambda: get(gateway, "/readyz")[1]["status"] == "ready")


def unpinned(site: Site, gateway: GatewayProcess, client_of: Clients) -> None:
    """A new session where nothing can be written: answered, and told that it is not pinned."""
    raw = client_of(gateway, X_Headrace_Session="new").chat.completions.with_raw_response.create(
        model="assistant", messages=HELLO
    )
    assert raw.headers["x-headrace-session"] == "unpinned"
    assert raw.parse().choices[0].message.content


def test_keys_are_read_again_on_sighup(make_site: Sites, client_of: Clients) -> None:
    site = make_site()
    site.initialize()
    gateway = site.start()
    client_of(gateway).models.list()
    site.keys.write_text("somebody-else:" + "0" * 64 + "\n")
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_for("keys read")
    with pytest.raises(openai.AuthenticationError):
        client_of(gateway).models.list()
    site.keys.write_text("not a key\n")
    gateway.process.send_signal(signal.SIGHUP)
    assert "line 1" in gateway.wait_for("keys not read")["error"]
    assert get(gateway, "/healthz")[0] == 200


def test_a_gateway_that_cannot_start_says_why_in_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headrace.serving.gateway", "--store", str(tmp_path), "--port", "0"]
    ended = subprocess.run(
        [*command, "--service", str(tmp_path / "none.yaml")], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("Service file")
    assert ended.stderr.count("\n") == 1


def test_a_service_without_a_plan_is_alive_and_not_ready(make_site: Sites, client_of: Clients) -> None:
    gateway = make_site().start(wait="listening")
    status, body = get(gateway, "/readyz")
    assert (status, body["status"]) == (503, "not ready")
    assert "names no stable set yet" in body["reasons"][0]
    assert get(gateway, "/healthz")[0] == 200
    with pytest.raises(openai.InternalServerError, match="is not known") as refused:
        client_of(gateway).chat.completions.create(model="assistant", messages=HELLO)
    assert refused.value.status_code == 503


def test_a_service_in_front_of_servers_begins_from_its_file(make_site: Sites, client_of: Clients) -> None:
    site = make_site()
    first, second = site.start("--initialize"), site.start("--initialize")
    for gateway in (first, second):
        raw = client_of(gateway).chat.completions.with_raw_response.create(model="assistant", messages=HELLO)
        assert raw.headers["x-headrace-version-set"] == site.version_set().id
    assert site.journal.head() == 1


def test_a_service_of_registered_models_does_not_begin_from_its_file(make_site: Sites) -> None:
    site = make_site(roles={"writer": role(registered=True)})
    with pytest.raises(InvalidInput, match="writer asks for registered models"):
        initialize(site.service, site.store, SystemClock())


def test_a_gateway_never_imports_mlflow_or_dagster() -> None:
    """Nor torch, as long as no set asks for an engine that needs it."""
    script = (
        "import sys, headrace.serving.gateway.__main__, headrace.engines.openai.client, "
        "headrace.engines.echo; print([name for name in ('mlflow', 'dagster', 'torch', 'transformers') "
        "if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
