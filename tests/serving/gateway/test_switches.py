"""Gateways through a rollout: one set a unit, prepared before it starts, gone within a second of an abort."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from headrace.rollout.live_evidence import read_live
from headrace.rollout.preparation import preparations
from headrace.store.sealed_directory import seal_directory
from headrace.version_sets.sets import Decoding, EngineSpec, VersionSets
from simulation.servers.gateway_site import GatewayProcess, Site, role
from tests.waiting import eventually

pytestmark = pytest.mark.process

HELLO: Any = [{"role": "user", "content": "Tell me of the mill."}]
Sites = Callable[..., Site]
Clients = Callable[..., openai.OpenAI]


@contextmanager
def load_on(gateways: list[GatewayProcess], client_of: Clients, *, threads: int = 2) -> Iterator[list[Exception]]:
    """Requests one after the other, from some threads a gateway; the errors that clients saw."""
    ended, errors = threading.Event(), []

    def ask(gateway: GatewayProcess, number: int) -> None:
        client, turn = client_of(gateway), 0
        while not ended.is_set():
            turn += 1
            headers = {"X-Headrace-Session": f"s-{number}-{turn // 5}"} if turn % 2 else {}
            try:
                client.chat.completions.create(model="assistant", messages=HELLO, extra_headers=headers)
            except openai.OpenAIError as error:
                errors.append(error)

    running = [
        threading.Thread(target=ask, args=(gateway, 10 * place + number))
        for place, gateway in enumerate(gateways)
        for number in range(threads)
    ]
    for thread in running:
        thread.start()
    try:
        yield errors
    finally:
        ended.set()
        for thread in running:
            thread.join()


def units(gateways: list[GatewayProcess]) -> list[dict[str, Any]]:
    time.sleep(0.2)
    return [record for gateway in gateways for record in gateway.records("unit")]


def until_on_both(gateways: list[GatewayProcess]) -> None:
    """Until units of both sets have ended."""
    eventually(lambda: len({unit["version_set"] for unit in units(gateways)}) == 2, "units on both sets")


def test_no_unit_starts_on_an_aborted_candidate_a_second_later_at_three_gateways(
    make_site: Sites, client_of: Clients
) -> None:
    roles = {"writer": role(), "editor": role(model="small")}
    site = make_site(roles=roles, chain=["writer", "editor"])
    stable = site.initialize()
    candidate = site.version_set(writer={"version": "2"}, editor={"version": "2"})
    site.start_candidate(candidate, weight=0.5)
    gateways = [site.start() for _ in range(3)]
    with load_on(gateways, client_of) as errors:
        until_on_both(gateways)
        site.append("aborted", candidate, evict=True)
        aborted_at = time.time()
        eventually(lambda: any(unit["started_at"] > aborted_at + 1.0 for unit in units(gateways)), "a later unit")
    found = units(gateways)
    assert errors == []
    assert {unit["version_set"] for unit in found} == {stable.id, candidate.id}
    last = max(unit["started_at"] for unit in found if unit["version_set"] == candidate.id)
    assert last - aborted_at <= 1.0
    for gateway in gateways:
        sets: dict[str, set[str]] = {}
        steps = gateway.records("step")
        for record in [*steps, *gateway.records("unit")]:
            sets.setdefault(record["request"], set()).add(record["version_set"])
        assert {len(of_unit) for of_unit in sets.values()} == {1}
        assert [step["role"] for step in steps[:2]] == ["writer", "editor"]


def test_a_proposal_is_prepared_under_traffic_and_its_evidence_collected(make_site: Sites, client_of: Clients) -> None:
    judge = {"role": "judge", "share": 1.0, "score_max": 100.0}
    priced = role(model="priced")
    prices = {"priced": {"prompt": 1.0, "output": 2.0}, "priced:2": {"output": 3.0}}
    site = make_site(
        roles={"writer": priced, "judge": role(model="judge")}, judge=judge, shadow_share=1.0, prices=prices
    )
    stable, candidate = site.initialize(), site.version_set(writer={"version": "2"})
    gateways = [site.start("--node", f"node-{number}") for number in range(2)]
    with load_on(gateways, client_of, threads=1) as errors:
        site.append("proposed", candidate)
        proposal = site.journal.head()
        eventually(lambda: len(preparations(site.store, "assistant", proposal)) == 2)
        records = preparations(site.store, "assistant", proposal)
        assert [(record.node, record.ok, record.members) for record in records] == [
            ("node-0", True, ("judge", "writer")),
            ("node-1", True, ("judge", "writer")),
        ]
        site.start_candidate(candidate, weight=0.5)
        trial = site.journal.head()
        eventually(lambda: set(read_live(site.store, "assistant", trial)) == {stable.id, candidate.id})
        time.sleep(0.5)
    for gateway in gateways:
        assert gateway.terminate() == 0
    assert errors == []
    arms = read_live(site.store, "assistant", trial)
    # A session's first turn counts, which drew its set; no later one does.
    fair = [unit for unit in units(gateways) if unit["trial"] == trial and unit["reason"] == "weight"]
    for version_set in (stable.id, candidate.id):
        mine = [unit for unit in fair if unit["version_set"] == version_set]
        assert arms[version_set]["error"].num <= len(mine)
        assert arms[version_set]["error"].num >= 0.9 * len(mine)
        assert arms[version_set]["error"].total == 0
        assert {"latency_seconds", "output_tokens"} <= set(arms[version_set])
        a_prompt, an_output = (1.0, 2.0) if version_set == stable.id else (0.0, 3.0)
        costs = [a_prompt * unit["prompt_tokens"] + an_output * unit["output_tokens"] for unit in mine]
        assert arms[version_set]["cost"].num == arms[version_set]["error"].num
        assert 0.8 * sum(costs) <= arms[version_set]["cost"].total * 1e6 <= sum(costs) + 1e-6
    copies = [record for gateway in gateways for record in gateway.records("shadow")]
    assert copies
    assert {copy["version_set"] for copy in copies} == {candidate.id}
    assert {copy["beside"] for copy in copies} == {stable.id}
    judged = [record for gateway in gateways for record in gateway.records("judgement")]
    assert {record["judge_set"] for record in judged} == {stable.id}


def test_a_set_that_cannot_be_loaded_is_refused_in_words_and_disturbs_nobody(
    make_site: Sites, client_of: Clients
) -> None:
    site = make_site(limits={"num_attempts": 1, "unit_seconds_max": 2.0})
    stable = site.initialize()
    # Nothing listens on the port, so the first prompt fails.
    engine = {"name": "openai_http", "base_url": "http://127.0.0.1:9/v1", "model": "none"}
    broken = site.version_set(writer={"version": "2", "engine": engine})
    gateway = site.start("--node", "node-0")
    with load_on([gateway], client_of, threads=1) as errors:
        site.append("proposed", broken)
        assert eventually(lambda: preparations(site.store, "assistant", 2))
    [record] = preparations(site.store, "assistant", 2)
    assert (record.node, record.ok, record.members) == ("node-0", False, ())
    assert record.error
    # Started all the same, by a quorum of others: here its units go to the stable set.
    site.append("withdrawn", broken)
    site.start_candidate(broken, weight=1.0)
    # The plan is read by the router and by whoever prepares sets, each when it looks.
    asked = client_of(gateway).chat.completions.with_raw_response
    eventually(lambda: asked.create(model="assistant", messages=HELLO) and units([gateway])[-1]["reason"] == "degraded")
    assert errors == []
    assert {unit["version_set"] for unit in units([gateway])} == {stable.id}


def test_retired_sets_are_closed_unless_a_session_keeps_them(make_site: Sites, client_of: Clients) -> None:
    site = make_site()
    first, second = site.initialize(), site.version_set(writer={"version": "2"})
    gateway = site.start()
    session = client_of(gateway, X_Headrace_Session="s-1")
    session.chat.completions.create(model="assistant", messages=HELLO)
    promote(site, second)
    eventually(lambda: [plan for plan in gateway.records("gateway") if plan.get("stable") == second.id])
    kept = session.chat.completions.with_raw_response.create(model="assistant", messages=HELLO)
    other = client_of(gateway).chat.completions.with_raw_response.create(model="assistant", messages=HELLO)
    assert kept.headers["x-headrace-version-set"] == first.id
    assert other.headers["x-headrace-version-set"] == second.id
    third = site.version_set(writer={"version": "3"})
    promote(site, third)
    closed = gateway.wait_for("set closed")
    assert closed["version_set"] == second.id
    again = session.chat.completions.with_raw_response.create(model="assistant", messages=HELLO)
    assert again.headers["x-headrace-version-set"] == first.id


def promote(site: Site, version_set: Any) -> None:
    site.start_candidate(version_set, weight=1.0)
    time.sleep(0.8)
    site.append("promoted", version_set)


def test_a_model_in_this_process_answers_and_streams(make_site: Sites, client_of: Clients, tiny_model: Path) -> None:
    site = make_site()
    sealed = seal_directory(site.store, tiny_model)
    wanted = site.version_set()
    engine = EngineSpec(name="transformers", dtype="float32")
    decoding = Decoding(temperature=0.0, top_p=1.0, max_new_tokens=8)
    member = replace(wanted.members[0], weights_digest=sealed.digest, engine=engine, decoding=decoding)
    version_set = replace(wanted, members=(member,))
    VersionSets(site.store).put(version_set)
    site.initialize(version_set)
    client = client_of(site.start())
    whole = client.chat.completions.create(model="assistant", messages=HELLO)
    pieces = client.chat.completions.create(model="assistant", messages=HELLO, stream=True)
    assert whole.system_fingerprint == version_set.id
    assert "".join([piece.choices[0].delta.content or "" for piece in pieces]) == whole.choices[0].message.content
