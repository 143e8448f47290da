"""Any order of submissions, ends, crashes and lost devices: no GPU, CPU or MiB is promised twice, no gang is in parts.

The model keeps nothing of its own: what is held is read from tags, statuses and what the machine still runs. Node a has
an engine host as a server of the test: it tells any table or nonsense, dies, and empties a GPU when asked or never.
"""

import shutil
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterEventType
from dagster._core.errors import DagsterUserCodeUnreachableError
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from headrace.engines.host.table_view import AccountRow, ModelRow, Table, table_body
from headrace.engines.host.wanted import CPU
from headrace.placement.discovery import Discovery, source_of
from headrace.placement.engine_hosts import EngineHost
from headrace_dagster.coordinator.admission import GATE_TAG, admission_of
from headrace_dagster.coordinator.dequeuing import Dequeuing
from tests.headrace_dagster.coordinator.builders import DaemonKilled, Deployment, killed_at_commit
from tests.headrace_dagster.coordinator.builders import settings as dagster_settings
from tests.headrace_dagster.coordinator.told_host import PLACES, ToldHost

NODES = {
    "a": '{name: a, gpus: "2xH100:80000", cpus: 8, memory_mib: 1000}',
    "b": '{name: b, gpus: "2xL4:24000", cpus: 8}',
}
DEMANDS: list[dict[str, str]] = [
    {},
    {"gpus": "1"},
    {"gpus": "2"},
    {"gpus": "2", "gang": "any"},
    {"gpus": "3", "gang": "any"},
    {"gpus": "0.4"},
    {"gpu_memory_mib": "30000"},
    {"gpus": "1", "gpu_models": "L4"},
    {"gpus": "1", "cpus": "5"},
    {"cpus": "3"},
    {"memory_mib": "600"},
    {"gpus": "1", "loads": "m1"},
    {"gpus": "1", "loads": "m1|m2"},
    {"gpus": "2", "loads": "m2"},
    {"gpu_memory_mib": "30000", "loads": "m3"},
    {"gpus": "3"},  # impossible: no node has three
    {"gpus": "-1"},
]
UNDER_WAY = {"STARTING", "STARTED", "CANCELING"}


ROWS = st.lists(
    st.builds(
        ModelRow,
        id=st.sampled_from(["k1", "k2", "k3"]),
        model=st.just("model"),
        model_id=st.sampled_from(["m1", "m2", "m3", ""]),
        place=st.sampled_from([*PLACES, CPU, "elsewhere"]),
        state=st.sampled_from(["on the device", "asleep", "loading", "leaving", "absent", "wild"]),
        state_seconds=st.just(1.0),
        mib=st.just(100),
        reserved_mib=st.just(100),
        peak_mib=st.just(100),
        bring_seconds=st.sampled_from([None, 3.0, 1e4, -1.0, 1e300]),
        wake_seconds=st.sampled_from([None, 0.1, 1e300]),
    ),
    max_size=5,
)
ACCOUNTS = tuple(AccountRow(place=place, mib=1000, reserved_mib=0) for place in (CPU, *PLACES))
NONSENSE: list[Any] = [[], {"data": 1}, {"accounts": [{}], "data": []}, "x" * 1000]


class QueueMachine(RuleBasedStateMachine):
    @initialize(cap=st.sampled_from([-1, 3]), threads=st.booleans())
    def begin(self, cap: int, threads: bool) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="headrace-queue-model-"))
        self.nodes = self.directory / "nodes.yaml"
        self.present = set(NODES)
        self.write_nodes()
        config: dict[str, Any] = {"inventory": str(self.nodes), "max_concurrent_runs": cap}
        config |= {"max_user_code_failure_retries": 1, "user_code_failure_retry_delay": 0}
        if threads:
            config |= {"dequeue_use_threads": True, "dequeue_num_workers": 2}
        self.threads = threads
        self.cap = cap
        self.demands: dict[str, dict[str, str]] = {}
        self.host = ToldHost(self.directory / "host.sock")
        self.host_now = 0.0
        self.deployment = Deployment(self.directory / "home", dagster_settings(coordinator=config))
        self.watch_nodes()

    def write_nodes(self) -> None:
        empty = "{name: c, cpus: 0.001}"
        self.nodes.write_text(f"nodes: [{', '.join([NODES[name] for name in sorted(self.present)] + [empty])}]")

    def watch_nodes(self) -> None:
        """The file is read, and the host asked, in every iteration."""
        dequeuing: Dequeuing = self.deployment.instance.run_coordinator._dequeuing  # pyright: ignore[reportAttributeAccessIssue]
        dequeuing.discovery = Discovery(source_of(str(self.nodes)), refresh_seconds=0.0)
        dequeuing.host = EngineHost("a", self.host.socket_file, clock=lambda: self.host_now)

    def iterated(self, seconds: float = 20.0) -> list[str]:
        self.host_now += seconds
        return self.deployment.iterate()

    def teardown(self) -> None:
        if hasattr(self, "deployment"):
            self.host.close()
            self.deployment.close()
            shutil.rmtree(self.directory)

    def runs_in(self, *statuses: str) -> list[str]:
        runs = self.deployment.instance.get_runs()
        return sorted(run.run_id for run in runs if run.status.value in statuses)

    def one_of(self, data: st.DataObject, *statuses: str) -> str | None:
        runs = self.runs_in(*statuses)
        return runs[data.draw(st.integers(0, len(runs) - 1))] if runs else None

    @rule(
        demands=st.lists(st.sampled_from(DEMANDS), min_size=1, max_size=4),
        priority=st.integers(-1, 1),
        failing=st.sampled_from([None, None, "raises", "unreachable"]),
    )
    def submit(self, demands: list[dict[str, str]], priority: int, failing: str | None) -> None:
        for demand in demands:
            tags = {f"headrace/{name}": text for name, text in demand.items()} | {"dagster/priority": str(priority)}
            run_id = self.deployment.submit(tags=tags)
            self.demands[run_id] = demand
            if failing:
                error = ValueError("no") if failing == "raises" else DagsterUserCodeUnreachableError("no")
                self.deployment.machine.failing[run_id] = error
                failing = None

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        parent = self.one_of(data, "FAILURE", "CANCELED")
        if parent:
            run = self.deployment.run(parent)
            run_id = self.deployment.create(tags=run.tags, parent_run_id=parent, root_run_id=run.root_run_id or parent)
            self.deployment.enqueue(run_id)
            self.demands[run_id] = self.demands[parent]

    @rule(times=st.integers(1, 2))
    def iterate(self, times: int) -> None:
        for _ in range(times):
            for run_id in self.iterated():
                admission = self.deployment.admission(run_id)
                assert admission
                assert {share.node for share in admission.placement.gpus} <= self.present

    @rule(write=st.integers(1, 5))
    @precondition(lambda self: not self.threads)
    def iterate_and_die(self, write: int) -> None:
        with killed_at_commit(write), suppress(DaemonKilled):
            self.iterated()
        self.restart()

    @rule(rows=ROWS, empties=st.booleans())
    def the_host_has(self, rows: list[ModelRow], empties: bool) -> None:
        self.host.tell(table_body(Table(accounts=ACCOUNTS, data=tuple(rows))), empties=empties)

    @rule(body=st.sampled_from(NONSENSE))
    def the_host_lies(self, body: Any) -> None:
        self.host.tell(body)

    @rule()
    def the_host_dies(self) -> None:
        self.host.close()

    @rule()
    def restart(self) -> None:
        self.deployment.restart()
        self.watch_nodes()

    @rule(data=st.data(), end=st.sampled_from(["start", "finish", "fail", "cancel", "canceled", "suspend", "delete"]))
    def change(self, data: st.DataObject, end: str) -> None:
        deployment = self.deployment
        if end == "start" and (run_id := self.one_of(data, "STARTING")):
            deployment.start(run_id)
        elif end == "cancel" and (run_id := self.one_of(data, "QUEUED", "STARTED")):
            deployment.cancel(run_id)
        elif end == "canceled" and (run_id := self.one_of(data, "CANCELING")):
            deployment.instance.report_run_canceled(deployment.run(run_id))
        elif end == "fail" and (run_id := self.one_of(data, *UNDER_WAY)):
            deployment.instance.report_run_failed(deployment.run(run_id), "It failed.")
        elif end == "finish" and (run_id := self.one_of(data, "STARTED")):
            deployment.report(run_id, DagsterEventType.RUN_SUCCESS)
        elif end == "suspend" and (run_id := self.one_of(data, "STARTED")):
            deployment.report(run_id, DagsterEventType.RUN_SUSPENDED)
        elif end == "delete" and (run_id := self.one_of(data, "QUEUED")):
            deployment.instance.delete_run(run_id)

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        if run_id := self.one_of(data, "SUSPENDED"):
            self.deployment.report(run_id, DagsterEventType.RUN_ENQUEUED)

    @rule()
    def processes_end(self) -> None:
        self.deployment.machine.occupied &= set(self.runs_in(*UNDER_WAY))

    @rule(node=st.sampled_from(sorted(NODES)))
    def lose_or_return(self, node: str) -> None:
        self.present ^= {node}
        self.write_nodes()

    @invariant()
    def nothing_is_promised_twice(self) -> None:
        if not hasattr(self, "deployment"):
            return
        milli: Counter[tuple[str, str]] = Counter()
        cpu: Counter[str] = Counter()
        memory: Counter[str] = Counter()
        for run in self.deployment.instance.get_runs():
            admission = admission_of(run)
            occupies = run.run_id in self.deployment.machine.occupied
            promised = run.status.value == "QUEUED" and run.tags.get(GATE_TAG) == "admitted"
            if not admission or not (occupies or promised or run.status.value in UNDER_WAY):
                continue
            for share in admission.placement.gpus:
                milli[share.node, share.device] += share.milli
            for host in admission.placement.hosts:
                cpu[host.node] += host.cpu_milli
                memory[host.node] += host.memory_mib
            self.all_or_nothing(run.run_id, len(admission.placement.gpus))
        assert all(count <= 1000 for count in milli.values()), milli
        assert all(count <= 8000 for count in cpu.values()), cpu
        assert all(count <= 1000 for count in memory.values()), memory

    def all_or_nothing(self, run_id: str, num_devices: int) -> None:
        gpus = float(self.demands[run_id].get("gpus", "0"))
        wanted = int(gpus) if gpus >= 1 else int(gpus > 0 or "gpu_memory_mib" in self.demands[run_id])
        assert num_devices == wanted

    @invariant()
    def no_run_is_launched_without_its_promise(self) -> None:
        if not hasattr(self, "deployment"):
            return
        under_way = self.runs_in(*UNDER_WAY)
        assert self.cap == -1 or len(under_way) <= self.cap
        for run_id in under_way:
            assert self.deployment.admission(run_id)

    @rule()
    def everything_that_can_ends(self) -> None:
        """Bounded waiting: with all ends reported and all devices there, the queue runs empty."""
        self.present = set(NODES)
        self.write_nodes()
        machine = self.deployment.machine
        machine.failing.clear()
        for run_id in self.runs_in("SUSPENDED"):
            self.deployment.fail(run_id)
        for _ in range(8 * len(self.demands) + 10):
            for run_id in self.runs_in(*UNDER_WAY):
                self.deployment.fail(run_id)
            machine.occupied.clear()
            if not self.runs_in("QUEUED"):
                return
            # As a daemon whose launches take long: what a host was asked for, it is asked for seldom.
            self.iterated(50.0)
        raise AssertionError(f"These still wait: {[self.deployment.why(run_id) for run_id in self.runs_in('QUEUED')]}.")


@pytest.mark.usefixtures("no_fsync")
def test_any_order_of_events_promises_nothing_twice() -> None:
    run_state_machine_as_test(
        QueueMachine,
        settings=settings(
            max_examples=settings().max_examples // 2,
            # A second an example: shrinking one would take longer than a test may.
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
        ),
    )
