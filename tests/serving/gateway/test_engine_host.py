"""Gateways whose models an engine host holds: the answers of a gateway that opens its own, one copy for everybody, and
nothing that outlives a killed process."""

import base64
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from headrace.engines.asking import answers_of, close
from headrace.engines.conformance import opened, turn
from headrace.engines.event_loop import LoopThread
from headrace.engines.host.table_view import ModelRow
from headrace.engines.registry import open_engine
from simulation.servers.gateway_site import GatewayProcess, Site, role
from tests.engines.host.hosts import RunningHost, is_alive, running_host, started_host, stopped
from tests.serving.gateway.test_batches import at_end, begin, jsonl, line
from tests.waiting import eventually

pytestmark = pytest.mark.process

HELLO: Any = [{"role": "user", "content": "Tell me of the mill."}]
MEMORY = ("--memory-mib", "3000")
Clients = Callable[..., openai.OpenAI]
PAINTER = {key: value for key, value in role(picture={"width": 64, "height": 64}).items() if key != "decoding"}
PAINTS = {"roles": {"writer": role(), "painter": PAINTER}, "chain": ["writer", "painter"]}


@pytest.fixture
def host() -> Iterator[RunningHost]:
    with running_host(*MEMORY) as running:
        yield running


def start_on(host: RunningHost, site: Site, *arguments: str, **options: Any) -> GatewayProcess:
    return site.start(*arguments, environment={"HEADRACE_ENGINE_HOST": str(host.socket_file)}, **options)


def row_of(host: RunningHost, label: str = "tiny 1 (echo)") -> ModelRow:
    return host.models[label]


def text_of(client: openai.OpenAI, seed: int = 7) -> str:
    made = client.chat.completions.create(model="assistant", messages=HELLO, seed=seed)
    return made.choices[0].message.content or ""


def pieces_of(client: openai.OpenAI) -> list[str]:
    made = client.chat.completions.create(model="assistant", messages=HELLO, seed=7, stream=True)
    return [chunk.choices[0].delta.content or "" for chunk in made if chunk.choices]


def page_of(gateway: GatewayProcess) -> list[str]:
    with urllib.request.urlopen(f"{gateway.url}/metrics") as response:
        return response.read().decode().splitlines()


def test_a_gateway_and_bulk_work_share_one_model_and_clients_get_the_same_answers(
    host: RunningHost, make_site: Callable[..., Site], client_of: Clients
) -> None:
    site = make_site()
    stable = site.initialize()
    hosted, alone = start_on(host, site), site.start()
    there, here = client_of(hosted), client_of(alone)
    assert [text_of(there, seed) for seed in (1, 2)] == [text_of(here, seed) for seed in (1, 2)]
    assert pieces_of(there) == pieces_of(here)

    member = stable.members[0]
    bulk = open_engine(member, stable.engine_of(member.role), site.store, host.deployment(site.store))
    loop = LoopThread()
    assert len(loop.run(answers_of(bulk, [turn(seed=1), turn(seed=2)]))) == 2
    loop.run(close(bulk))
    loop.close()
    [row] = host.table.data
    assert (row.model, row.loads, row.is_kept) == ("tiny 1 (echo)", 1, True)
    assert row.hits >= 5

    labels = f'key="{row.id[:12]}",model="tiny 1 (echo)",place="cpu"'
    assert f"headrace_host_model_kept{{{labels}}} 1.0" in page_of(hosted)
    assert f"headrace_host_model_loads_total{{{labels}}} 1.0" in page_of(hosted)
    assert not any(line.startswith("headrace_host_") for line in page_of(alone))
    # For a dispatcher of gateways: the model is there.
    assert [next(iter(client.models.list())).to_dict().get("come_seconds") for client in (there, here)] == [0.0, None]


def test_two_campaigns_and_a_live_service_share_a_host_with_memory_for_two_of_their_three_models(
    make_site: Callable[..., Site], client_of: Clients
) -> None:
    """The campaigns' models take turns, the service's stays, and nobody's answers are others than alone."""
    site = make_site()
    site.initialize()
    loop, seeds = LoopThread(), range(8)
    with running_host("--memory-mib", "130") as host, ThreadPoolExecutor(3) as threads:
        client = client_of(start_on(host, site))
        live = [text_of(client, seed) for seed in seeds]

        def campaign(num_threads: int) -> list[list[Any]]:
            engine = opened("echo", deployment=host.deployment(site.store), num_threads=num_threads)
            batches = [loop.run(answers_of(engine, [turn(seed=seed)])) for seed in seeds]
            loop.run(close(engine))
            return batches

        campaigns = [threads.submit(campaign, num_threads) for num_threads in (2, 3)]
        num_asked, tables = 0, [host.table]
        while not all(one.done() for one in campaigns):
            tables.append(host.table)
            assert text_of(client, num_asked % len(seeds)) == live[num_asked % len(seeds)]
            num_asked += 1
        alone = opened("echo")
        whole = [loop.run(answers_of(alone, [turn(seed=seed)])) for seed in seeds]
        assert [one.result() for one in campaigns] == [whole, whole]
        rows = host.table.data
    loop.close()
    assert [row.loads for row in rows if row.is_kept] == [1]
    assert len(rows) == 3
    assert sum(bool(row.pid) for row in rows) == 2, "there is no room for the third"
    assert max(table.accounts[0].reserved_mib for table in tables) <= 130
    assert num_asked


def batch_lines_of(host: RunningHost) -> tuple[int, int]:
    """How many the model works on, and how many wait."""
    row = row_of(host)
    return row.at_work_by_class["batch"], row.waiting_by_class["batch"]


def test_lines_of_a_batch_give_way_to_live_units_at_the_model(
    host: RunningHost, make_site: Callable[..., Site], client_of: Clients
) -> None:
    site = make_site()
    site.initialize()
    # More lines at once than the 32 turns of a class that the model does at once.
    client = client_of(start_on(host, site, "--batches", "--batch-lines", "48"))
    whole, model = text_of(client), row_of(host).pid
    assert model
    with ThreadPoolExecutor(1) as thread:
        with stopped(model):
            batch = begin(client, jsonl(*[line(f"l-{number}") for number in range(60)]))
            # How many of them one piece of work has depends on how close together they came.
            eventually(lambda: sum(batch_lines_of(host)) == 48, "all lines that may be are at the host")
            at_work, waiting = batch_lines_of(host)
            assert at_work <= 32 < waiting + at_work
            live = thread.submit(text_of, client)
            eventually(lambda: row_of(host).at_work_by_class["live"] == 1, "a live unit passes them")
            assert batch_lines_of(host) == (at_work, waiting)
        assert live.result() == whole
    assert at_end(client, batch).request_counts.completed == 60


def test_pictures_are_the_same_too(host: RunningHost, make_site: Callable[..., Site], client_of: Clients) -> None:
    site = make_site(**PAINTS)
    site.initialize()
    clients = [client_of(gateway) for gateway in (start_on(host, site), site.start())]
    made = [
        client.images.generate(model="assistant", prompt="a mill", extra_body={"seed": 5}, response_format="b64_json")
        for client in clients
    ]
    pictures = [base64.b64decode(one.data[0].b64_json or "") for one in made if one.data]
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(b"\x89PNG")


def test_a_killed_gateways_floor_ends_and_a_live_ones_stays(host: RunningHost, make_site: Callable[..., Site]) -> None:
    sites = [make_site(), make_site(roles={"writer": role(model="other")})]
    for site in sites:
        site.initialize()
    gateways = [start_on(host, site) for site in sites]
    for label in ("tiny 1 (echo)", "other 1 (echo)"):
        eventually(lambda label=label: row_of(host, label).is_kept, f"{label} is kept")
    gateways[0].process.kill()
    eventually(lambda: not row_of(host).is_kept, "its floor is gone")
    assert row_of(host, "other 1 (echo)").is_kept


def test_a_candidate_is_kept_as_the_stable_set_is_while_units_are_sent_to_it(
    host: RunningHost, make_site: Callable[..., Site]
) -> None:
    site = make_site()
    site.initialize()
    start_on(host, site)
    candidate = site.start_candidate(site.version_set(writer={"version": "2"}), weight=0.5)
    for label in ("tiny 1 (echo)", "tiny 2 (echo)"):
        eventually(lambda label=label: label in host.models and row_of(host, label).is_kept, f"{label} is kept")
    site.append("aborted", candidate, evict=True)
    eventually(lambda: not row_of(host, "tiny 2 (echo)").is_kept, "it serves nobody any more")
    assert row_of(host).is_kept


def test_a_host_that_is_killed_under_live_work_costs_that_unit_and_no_later_one(
    host: RunningHost, make_site: Callable[..., Site], client_of: Clients
) -> None:
    site = make_site()
    site.initialize()
    client = client_of(start_on(host, site))
    whole, model = text_of(client), row_of(host).pid
    assert model
    with ThreadPoolExecutor(2) as threads:
        with stopped(model):
            asked = [threads.submit(text_of, client), threads.submit(pieces_of, client)]
            eventually(lambda: row_of(host).at_work_by_class["live"] == 2, "both are with the model")
            host.process.kill()
            host.process.wait()
        for one in asked:
            with pytest.raises(openai.InternalServerError):
                one.result()
    eventually(lambda: not is_alive(model), "the model's process ends with its host")
    host.process = started_host(host.socket_file, *MEMORY).process
    assert text_of(client) == whole
    eventually(lambda: row_of(host).is_kept, "the next host is told of the floor")


def test_a_set_that_is_rolled_back_while_it_loads_serves_nobody_and_keeps_nothing(
    host: RunningHost, make_site: Callable[..., Site], client_of: Clients
) -> None:
    site = make_site()
    stable = site.initialize()
    gateway = start_on(host, site)
    client = client_of(gateway)
    # The host can start no process for it while it is stopped, and the gateway waits for it.
    with stopped(host.process.pid):
        candidate = site.start_candidate(site.version_set(writer={"version": "2"}), weight=1.0)
        eventually(lambda: (plan := last_plan(gateway)) and plan["candidate"] == candidate.id, "the trial is followed")
        site.append("aborted", candidate, evict=True)
        eventually(lambda: (plan := last_plan(gateway)) and plan["candidate"] is None, "the abort is followed")
    text_of(client)
    eventually(lambda: gateway.event("set loaded") and "tiny 2 (echo)" in host.models, "it came all the same")
    eventually(lambda: loaded_sets(gateway, client) == [stable.id], "and was closed")
    units = eventually(lambda: gateway.records("unit"), "the unit is recorded")
    assert {unit["version_set"] for unit in units} == {stable.id}
    assert (row_of(host, "tiny 2 (echo)").is_kept, row_of(host, "tiny 2 (echo)").at_work) == (False, 0)


def last_plan(gateway: GatewayProcess) -> dict[str, Any] | None:
    plans = [record for record in gateway.records("gateway") if record["event"] == "plan"]
    return plans[-1] if plans else None


def loaded_sets(gateway: GatewayProcess, client: openai.OpenAI) -> list[str]:
    return client.get("/rollout", cast_to=dict[str, Any])["loaded"]


@pytest.mark.parametrize("port", ["99999", "-1"])
def test_a_port_that_is_none_ends_the_gateway_with_what_was_wanted(make_site: Callable[..., Site], port: str) -> None:
    site = make_site()
    with pytest.raises(AssertionError, match="ended with 2"):
        site.start("--port", port)
    errors = (site.directory / "gateway-0.errors").read_text()
    assert "Traceback" not in errors
    assert "Invalid value for '--port' (env var: 'HEADRACE_GATEWAY_PORT')" in errors


def test_an_engine_host_that_is_no_path_ends_the_gateway_with_what_was_wanted(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    with pytest.raises(AssertionError, match="ended with 2"):
        site.start("--engine-host", "warm")
    errors = (site.directory / "gateway-0.errors").read_text()
    assert "--engine-host (HEADRACE_ENGINE_HOST) must be off, on, cpu, or the absolute path of an engine host" in errors
