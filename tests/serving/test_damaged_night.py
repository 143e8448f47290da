"""A night in which a claim, a session's pin and a gateway's evidence are damaged, and both candidates go back.

One store with a campaign and a service, each with a candidate on trial. What is damaged is named, and costs itself
alone.
"""

from pathlib import Path
from typing import Any

import pytest

from headrace.clock import FixedClock
from headrace.errors import RepinRequired
from headrace.handoff.collecting import plan_collection
from headrace.rollout.gates import GateSettings
from headrace.rollout.live_evidence import EvidenceWriter
from headrace.rollout.plan import Plan
from headrace.rollout.routing import Pin, RoutingTable
from headrace.rollout.ticking import Rollout
from headrace.serving.sessions import Held, SessionPins
from headrace.serving.subject import ServiceSubject
from headrace.store.small_objects import PassedOver
from tests.generation.builders import make_site
from tests.serving.builders import CANDIDATE, STABLE, Plans, make_service

SERVICE = "assistant"
PLAN = Plan(gate=GateSettings(pass_rate_margin=None, heldout_margin=None, margins={"error": 0.05}))


def test_damage_in_the_night_holds_no_rollback_up(tmp_path: Path) -> None:
    clock = FixedClock()
    campaign = make_site(tmp_path)
    store: Any = campaign.objects
    candidate = campaign.start(2)
    claim = campaign.open_claim()
    service = make_service(SERVICE)
    live = Plans(store, SERVICE, clock)
    live.initialize()
    live.start()
    for gateway in ("g1", "g2", "g3"):
        writer = EvidenceWriter(store, SERVICE, gateway, clock)
        for number in range(600):
            arm, is_error = (CANDIDATE, number % 5 == 0) if number % 2 else (STABLE, False)
            writer.record(2, arm, {"error": float(is_error)}, client=f"key {number % 7}", entry=2)
        writer.flush()
    pins = SessionPins(store, SERVICE, clock, lease_seconds=600.0, by="g1")
    drawn = Pin(CANDIDATE, 2, "weight", live.state.trial)
    begun = pins.hold("a session", lambda: table(live), lambda _: pins.chosen(drawn)).record
    assert begun.version_set == CANDIDATE

    claim_key = only(store, "claims", "/a0001.json")
    pin_key = only(store, f"rollout/{SERVICE}/sessions", ".json")
    evidence_key = only(store, f"rollout/{SERVICE}/evidence/00000002/g3", ".json")
    for key, body in ((claim_key, b""), (pin_key, b"{}"), (evidence_key, store.read(evidence_key)[:-9])):
        store.delete(key)
        store.create(key, body)

    # The service: its gate decides on what the other two gateways saw, and says what it left out.
    damaged = PassedOver()
    actions = Rollout(store, SERVICE, clock).tick(ServiceSubject.of(service, store), (), damaged=damaged)
    assert actions[0].kind == "abort"
    assert live.state.aborted == {CANDIDATE}
    assert damaged.keys == [evidence_key]
    # The session: with the stable set from its next turn on, at every gateway.
    held = SessionPins(store, SERVICE, clock, lease_seconds=600.0, by="g2").hold(
        "a session", lambda: table(live), nothing_to_choose
    )
    assert (held.record.version_set, held.record.reason) == (STABLE, "repinned")
    # The campaign: somebody rolls its candidate back; the worker that holds the claim publishes nothing.
    damaged = campaign.abort_by_hand()
    assert campaign.state.aborted == {candidate}
    assert damaged.keys == [claim_key]
    with pytest.raises(RepinRequired):
        campaign.generate(claim)
    assert campaign.handoffs.versions("generated_content", campaign.partition.key) == []
    # The partition is made on the stable set when somebody says so, and garbage collection goes on.
    content = campaign.generate(campaign.open_claim("run-2", regenerate="current_set")).content
    assert content.attributes["version_set"] == campaign.state.stable
    assert plan_collection(store, clock, grace_seconds=0)


def only(store: Any, prefix: str, ending: str) -> str:
    (key,) = [key for key in store.list(prefix) if key.endswith(ending)]
    return key


def table(live: Plans) -> RoutingTable:
    return RoutingTable.of(live.state, SERVICE)


def nothing_to_choose(_: object) -> Held:
    raise AssertionError("The session has a pin.")
