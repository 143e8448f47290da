"""The fleet and the queue as people see them, from a plan made by hand: every kind of answer is there."""

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest
from rich.console import Console

from headrace.command_line.output import json_value
from headrace.placement.demand import Demand
from headrace.placement.inventory import Inventory
from headrace.placement.placements import Placement
from headrace.placement.residency import Residency
from headrace.placement.snapshot import Plan, Preemption, Running, Snapshot
from headrace_dagster.launchers.signs_of_life import SILENT_TAG, Silence, silence_tag
from headrace_dagster.queue_views.queue_json import queue_body
from headrace_dagster.queue_views.queue_lines import facts, heading, headline, plain_lines, waits_for_rows
from headrace_dagster.queue_views.queue_table import queue_table
from headrace_dagster.queue_views.queue_view import QueueView, RunView, queue_view
from tests.command_line.builders import checked_body
from tests.headrace_dagster.queue_builders import (
    GANG,
    MINUTE,
    NEVER,
    NEXT,
    NOW,
    PICTURES,
    PREP,
    SMALL,
    TEXTS,
    TRAINING,
    made_up_view,
    make_node,
    make_run,
    make_running,
    run_id,
    shares,
)


def the_run(beginning: str, view: QueueView | None = None) -> RunView:
    found = (view or made_up_view()).run(run_id(beginning))
    assert found
    return found


def view_of_running(
    running: Running, status: dg.DagsterRunStatus, *, tags: Mapping[str, str] | None = None, **planned: Any
) -> RunView:
    snapshot = Snapshot(inventory=Inventory(nodes=(make_node("node-a"),)), running=(running,))
    runs = {running.run_id: make_run(running.run_id[:8], job_name="nightly", status=status, tags=tags or {})}
    return queue_view(snapshot, Plan(**planned), runs, NOW).running[0]


def drawn(view: QueueView, *, width: int, **options: Any) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, highlight=False, no_color=True)
    console.print(queue_table(view, **{"limit": 30, "width": width, **options}))
    return out.getvalue().replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "")


def test_a_held_run_says_why_for_whom_it_waits_and_until_when() -> None:
    held = the_run(GANG)
    assert (held.state, held.why) == ("held", "Needs 8 GPUs, 6 are free or kept for it: waits for 1c07aaaa.")
    (other,) = held.waits_for
    assert (other.name, other.until) == ("trained_model[qwen|base]", NOW + 15 * MINUTE)
    assert held.latest == NOW + 15 * MINUTE
    assert {node for node, _ in held.reserved} == {"node-c"}


def test_what_a_host_has_loaded_is_shown_beside_its_gpu() -> None:
    residency = Residency(
        nodes=frozenset({"node-a"}),
        loaded={("node-a", "1"): frozenset({"9b07aaaabbbbcccc", "3fa1"})},
        labels={"3fa1": "painter 3 (diffusers)"},
    )
    snapshot = Snapshot(inventory=Inventory(nodes=(make_node("node-a", num_gpus=2),)), residency=residency)
    view = queue_view(snapshot, Plan(), {}, NOW)
    [node] = view.nodes
    assert [device.models for device in node.devices] == [(), ("model 9b07aaaa", "painter 3 (diffusers)")]
    assert "free, has model 9b07aaaa, painter 3 (diffusers) loaded" in drawn(view, width=120)
    header, *rows = [line.split() for line in plain_lines(view, limit=9)[2:5]]
    assert header[-1] == "LOADED"
    assert [row[-1] for row in rows] == ["-", "(diffusers)"]
    assert queue_body(view).nodes[0].gpus[1].loaded == ("model 9b07aaaa", "painter 3 (diffusers)")


def test_the_queue_is_in_the_planners_order() -> None:
    queued = made_up_view().queued
    assert [(run.run_id[:8], run.state) for run in queued] == [
        (NEXT, "next"),
        (GANG, "held"),
        (SMALL, "held"),
        (NEVER, "impossible"),
    ]
    assert queued[0].why == "Starts when the daemon looks next, on node-b (GPU 1)."


@pytest.mark.parametrize(
    ("status", "ending", "state", "why"),
    [
        ("QUEUED", False, "admitted", "Is admitted to node-a (GPUs 0, 1), and about to be launched."),
        ("STARTING", False, "starting", "Is starting on node-a (GPUs 0, 1); should end about"),
        ("STARTED", False, "running", "Runs on node-a (GPUs 0, 1); should end about"),
        ("CANCELING", True, "ending", "Is ending: its processes have not all gone, and hold node-a (GPUs 0, 1)"),
        ("SUCCESS", True, "ending", "Is ending: its processes have not all gone, and hold node-a (GPUs 0, 1)"),
    ],
)
def test_a_run_that_holds_gpus_says_where_it_is(status: str, ending: bool, state: str, why: str) -> None:
    running = make_running(TRAINING, Placement(gpus=shares("node-a", "01")), ending=ending)
    found = view_of_running(running, dg.DagsterRunStatus(status))
    assert (found.state, found.since) == (state, NOW - 30 * MINUTE)
    assert found.run
    assert found.run.status == dg.DagsterRunStatus(status)
    assert found.why.startswith(why)


def test_a_run_without_a_sign_of_life_is_not_shown_as_running() -> None:
    running = make_running(TRAINING, Placement(gpus=shares("node-a", "01")))
    silence = Silence(since=NOW - 12 * MINUTE, what="worker process 7 sleeps")
    tags = {SILENT_TAG: silence_tag(running.run_id, silence)}
    found = view_of_running(running, dg.DagsterRunStatus.STARTED, tags=tags)
    assert found.state == "silent"
    assert found.why.startswith("Holds node-a (GPUs 0, 1), and gives no sign of life since")
    assert found.why.endswith("(12 min ago): worker process 7 sleeps.")


def test_a_run_started_past_the_queue_is_not_counted() -> None:
    found = view_of_running(make_running(TRAINING, Placement(), started=0.0), dg.DagsterRunStatus.STARTED)
    assert (found.state, found.since, found.until) == ("uncounted", None, None)
    assert "past the queue" in found.why


def test_a_run_that_will_be_preempted_names_its_successor() -> None:
    running = make_running(TRAINING, Placement(gpus=shares("node-a", "01")))
    preemption = Preemption(run_id=running.run_id, for_run_id=run_id(GANG), sentence="")
    found = view_of_running(running, dg.DagsterRunStatus.STARTED, preemptions=(preemption,))
    assert found.makes_room_for == run_id(GANG)
    assert "stopped for a1b2eeee, and will be queued again" in found.why


def test_a_device_that_left_the_inventory_stays_visible_while_a_run_holds_it() -> None:
    running = make_running(TRAINING, Placement(gpus=(*shares("node-a", "37"), *shares("lost", "0"))))
    snapshot = Snapshot(inventory=Inventory(nodes=(make_node("node-a"),)), running=(running,))
    view = queue_view(snapshot, Plan(), {}, NOW)
    assert [node.node.name for node in view.nodes] == ["node-a", "lost"]
    assert [device.gpu.device for device in view.nodes[0].devices] == ["0", "1", "2", "3", "7"]
    assert [device.health for node in view.nodes for device in node.devices][3:] == ["healthy", "gone", "gone"]
    assert headline(view).startswith("4 GPUs on 2 nodes: 1 in use, 3 free, 2 gone")
    assert "not in the inventory any more" in drawn(view, width=100)


def test_the_headline_counts_shares_and_sick_devices() -> None:
    view = made_up_view()
    beginning = "12 GPUs on 3 nodes: 4.8 in use, 6.2 free, 1 sick · 4 runs queued"
    assert headline(view).startswith(f"{beginning} · {len(view.running)} in progress · ")
    limited = headline(replace(view, num_slots=0))
    assert limited.startswith(f"{beginning} · {len(view.running)} in progress, 0 more may start (max_concurrent_runs)")


@pytest.mark.parametrize("width", [60, 80, 140])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, drawn(made_up_view(daemon_silent_seconds=800.0), width=width).splitlines())) <= width


def test_equal_neighbours_share_a_line_and_holders_of_one_gpu_have_one_each() -> None:
    lines = drawn(made_up_view(), width=120).splitlines()
    assert [line for line in lines if line.startswith("  0–3   ████████  1c07aaaa")]
    (first, second) = [line for line in lines if "generated_content" in line]
    assert "████" in first
    assert (PICTURES in first, TEXTS in second) == (True, True)
    assert [line for line in lines if "kept for a1b2eeee" in line and line.startswith("  0–3")]
    assert [line for line in lines if "no GPU" in line and PREP in line]
    assert [line for line in lines if line.startswith("  3     ✕✕✕✕✕✕✕✕") and "sick" in line]


def test_reasons_are_whole_at_any_width() -> None:
    text = " ".join(drawn(made_up_view(), width=60).split())
    for run in made_up_view().queued:
        assert run.why in text


def test_a_pipe_gets_a_line_for_each_gpu_and_holder() -> None:
    lines = plain_lines(made_up_view(), limit=30)
    assert len([line for line in lines if line.startswith("node-")]) == 13
    assert len([line for line in lines if "1c07aaaa  trained_model" in line]) == 4
    assert not set("\x1b│█░") & set("".join(lines))


def test_a_limit_says_how_many_more_there_are() -> None:
    view = made_up_view()
    for text in (drawn(view, width=100, limit=1), "\n".join(plain_lines(view, limit=1))):
        assert "… and 3 more: headrace queue --limit 4" in text
        assert GANG not in text.replace(f"kept for {GANG}", "")
    body = json_value(queue_body(view, limit=1))
    assert (len(body["queued"]), body["num_queued"]) == (1, 4)


def test_a_low_terminal_shows_fewer_nodes_and_says_so() -> None:
    text = drawn(made_up_view(), width=100, height=20)
    assert "node-b" in text
    assert "… and 1 more node: without --watch all are shown" in text
    assert "… and 3 more: headrace queue --limit 4" in text
    assert len(text.splitlines()) <= 20


def test_an_empty_instance_says_that_there_is_nothing() -> None:
    view = queue_view(Snapshot(inventory=Inventory()), Plan(), {}, NOW)
    view = replace(view, daemon_silent_seconds=float("inf"))
    text = drawn(view, width=100)
    assert "No node is known." in text
    assert "Nothing is queued." in text
    assert "has never looked at this queue" in text


def test_names_cannot_steer_a_terminal() -> None:
    view = made_up_view()
    evil = replace(view.queued[0], run=make_run(NEXT, job_name="x\x1b[31m\ny"), why="a\x1b]0;b")
    view = replace(view, queued=(evil,))
    for text in (drawn(view, width=100), "\n".join(plain_lines(view, limit=5))):
        assert not {"\x1b[31m", "\x1b]0"} & set(text.split())
        assert "x\\x1b[31m y" in text


def keys(body: Mapping[str, Any]) -> set[str]:
    return set(body)


def test_json_keeps_its_keys() -> None:
    """Programs read them: a key may be added here, never taken away."""
    body = checked_body(json_value(queue_body(made_up_view())), "queue")
    assert keys(body) == {"at", "daemon_silent_seconds", "nodes", "running", "queued", "num_queued"}
    node = body["nodes"][1]
    assert keys(node) == {"node", "cpus", "cpus_held", "memory_mib", "memory_mib_held", "gpus"}
    gpu = node["gpus"][0]
    assert keys(gpu) == {"device", "model", "memory_mib", "health", "free", "reserved_for", "held_by", "loaded"}
    assert gpu["held_by"] == [
        {"run_id": run_id(PICTURES), "share": 0.5},
        {"run_id": run_id(TEXTS), "share": 0.3},
    ]
    run = body["queued"][1]
    assert keys(run) == {
        *("run_id", "state", "status", "why", "name", "job", "partition", "demand", "queue", "priority", "stage"),
        *("submitted", "since", "until", "ended", "latest", "placement", "waits_for", "reserved", "makes_room_for"),
    }
    assert keys(run["waits_for"][0]) == {"run_id", "name", "job", "partition", "until"}
    assert keys(run["demand"]) == {
        *("text", "num_gpus", "gpu_share", "gpu_memory_mib", "gpu_models", "gang", "cpus", "memory_mib")
    }
    assert (run["latest"], run["reserved"][0]) == ("2026-09-21T14:28:20Z", {"node": "node-c", "device": "0"})
    assert body["running"][0]["placement"] == {
        "gpus": [{"node": "node-a", "device": device, "share": 1.0} for device in "0123"],
        "hosts": [{"node": "node-a", "cpus": 32.0, "memory_mib": 131_072}],
    }


def test_an_answer_leaves_out_what_nobody_knows() -> None:
    held = the_run(GANG)
    assert heading(held) == "Run a1b2eeee is held"
    told = dict(facts(held, NOW))
    assert told["asks for"] == "8 whole GPUs on any nodes"
    assert told["kept for it"] == "node-c: 0–3"
    assert told["queue"] == "default, priority 5"
    assert "where" not in told
    assert waits_for_rows(held.waits_for, NOW)[0][:3] == [
        TRAINING,
        "trained_model[qwen|base]",
        "node-a (GPUs 0–3)",
    ]
    assert dict(facts(the_run(SMALL), NOW))["at the latest"] == "nobody can say"
    assert dict(facts(the_run(TRAINING), NOW))["where"] == "node-a (GPUs 0–3)"


def test_a_run_that_dagster_does_not_know_has_no_name_and_breaks_nothing() -> None:
    running = make_running(TRAINING, Placement(gpus=shares("node-a", "01")), demand=Demand(num_gpus=2))
    snapshot = Snapshot(inventory=Inventory(nodes=(make_node("node-a"),)), running=(running,))
    view = queue_view(snapshot, Plan(), {}, NOW)
    assert TRAINING in drawn(view, width=80)
    assert queue_body(view).running[0].job is None
