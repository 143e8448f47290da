"""A host's models on GPUs: who gets which, what they hold, and what a coordinator is told. No GPU computes anything."""

import asyncio
import json
import math
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from headrace.engines.asking import answers_of
from headrace.engines.base import Engine
from headrace.engines.conformance import opened, turn
from headrace.engines.event_loop import LoopThread
from headrace.engines.host.gpu_memory import GpuMemory
from headrace.engines.host.table_view import AccountRow, ModelRow, Table, table_body
from headrace.errors import EngineUnavailable
from headrace.placement.engine_hosts import EngineHost
from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.placement.residency import Residency
from headrace.placement.snapshot import Eviction
from tests.engines.host.gpu_host import MEMORY_MIB, UUIDS
from tests.engines.host.hosts import RunningHost, is_alive, running_host, stopped
from tests.placement.fake_nvml import UNKNOWN, Device, FakeNvml
from tests.waiting import eventually

FIRST, SECOND = UUIDS


def make_inventory(*devices: str) -> Inventory:
    gpus = tuple(Gpu(device=device, model="H100", memory_mib=MEMORY_MIB) for device in devices)
    return Inventory(nodes=(Node(name="node-a", gpus=gpus),))


@pytest.fixture
def gpu_host() -> Iterator[RunningHost]:
    with running_host("--memory-mib", "1000", module="tests.engines.host.gpu_host") as host:
        yield host


def opened_at(host: RunningHost, device: str) -> Engine:
    return opened("echo", deployment=host.deployment(device=device))


def left(engine: Engine) -> None:
    LoopThread().run(engine.close())


@pytest.mark.process
def test_a_model_comes_to_the_gpu_that_its_run_has_and_is_measured_there(gpu_host: RunningHost) -> None:
    for device in (FIRST, "1"):
        left(opened_at(gpu_host, device))
    rows = {row.place: row for row in gpu_host.table.data}
    assert set(rows) == {FIRST, SECOND}
    assert {row.model_id for row in rows.values()} == {rows[FIRST].model_id}, "one model, in two places"
    for seen, place in ((FIRST, FIRST), ("1", SECOND)):
        assert f"CUDA_VISIBLE_DEVICES={seen}" in Path(f"/proc/{rows[place].pid}/environ").read_text().split("\0")
    assert rows[FIRST].mib > 10
    accounts = {one.place: one for one in gpu_host.table.accounts}
    assert accounts[FIRST].mib == MEMORY_MIB * 9 // 10
    assert accounts[FIRST].reserved_mib == rows[FIRST].reserved_mib
    assert accounts["cpu"].reserved_mib == 0


@pytest.mark.process
def test_a_gpu_that_the_host_has_not_is_told(gpu_host: RunningHost) -> None:
    with pytest.raises(EngineUnavailable, match=f"This engine host has cpu, {FIRST}, {SECOND}, and .* on GPU-9999"):
        opened_at(gpu_host, "GPU-9999")


@pytest.mark.process
def test_a_coordinator_is_told_what_is_where_and_has_it_leave(gpu_host: RunningHost) -> None:
    left(opened_at(gpu_host, SECOND))
    [row] = gpu_host.table.data
    assert row.bring_seconds
    host = EngineHost("node-a", gpu_host.socket_file, clock=lambda: 0.0)
    found = host.look(make_inventory(*UUIDS))
    assert found == Residency(
        nodes=frozenset({"node-a"}),
        loaded={("node-a", SECOND): frozenset({row.model_id})},
        bring_seconds={row.model_id: row.bring_seconds},
        labels={row.model_id: "model 1 (echo)"},
    )
    assert host.look(make_inventory("0", "1")).loaded == {("node-a", "1"): frozenset({row.model_id})}
    assert host.look(make_inventory()) == Residency()

    host.empty((Eviction(node="node-a", device="1", models=(), for_run_id="train"),))
    eventually(lambda: not host.look(make_inventory(*UUIDS)).loaded, "it has left")
    assert row.pid
    assert not is_alive(row.pid)


@pytest.mark.process
def test_a_model_whose_queue_is_long_comes_to_a_second_gpu_of_its_asker(gpu_host: RunningHost) -> None:
    engine, loop = opened("echo", deployment=gpu_host.deployment(device="1,0")), LoopThread()
    [row] = gpu_host.table.data
    assert row.place == SECOND, "the first that its asker names"
    assert row.pid
    assert row.bring_seconds
    turns = [turn(seed=seed) for seed in range(engine.num_at_once)]
    # A second each, as nothing is known of them yet.
    num_batches = math.ceil(3 * row.bring_seconds) + 2

    async def answered() -> list[Any]:
        return await asyncio.gather(*(answers_of(engine, turns) for _ in range(num_batches)))

    with ThreadPoolExecutor(1) as thread:
        with stopped(row.pid):
            answers = thread.submit(loop.run, answered())
            eventually(
                lambda: gpu_host.table.data[0].hits == num_batches - 1, "the other GPU's copy answers the others"
            )
            assert {one.place: one.at_work for one in gpu_host.table.data} == {SECOND: 1, FIRST: 0}
        whole = loop.run(answers_of(opened("echo"), turns))
        assert answers.result() == [whole] * num_batches
    loop.run(engine.close())
    loop.close()


@pytest.mark.process
def test_a_model_at_work_is_not_made_to_leave(gpu_host: RunningHost) -> None:
    engine = opened_at(gpu_host, SECOND)
    [row] = gpu_host.table.data
    assert row.pid
    loop = LoopThread()
    host = EngineHost("node-a", gpu_host.socket_file, clock=lambda: 0.0)
    with ThreadPoolExecutor(1) as thread:
        with stopped(row.pid):
            answers = thread.submit(loop.run, answers_of(engine, [turn(seed=1)]))
            eventually(lambda: gpu_host.table.data[0].at_work == 1, "it is at work")
            host.empty((Eviction(node="node-a", device=SECOND, models=(), for_run_id="train"),))
            assert host.look(make_inventory(*UUIDS)).loaded
        assert answers.result()
    loop.run(engine.close())
    loop.close()


@pytest.mark.process
def test_a_stopped_host_holds_nobody_and_a_dead_one_has_nothing(gpu_host: RunningHost) -> None:
    left(opened_at(gpu_host, FIRST))
    now = [0.0]
    host, inventory = EngineHost("node-a", gpu_host.socket_file, clock=lambda: now[0]), make_inventory(*UUIDS)
    known = host.look(inventory)
    assert known.loaded
    with stopped(gpu_host.process.pid):
        assert host.look(inventory) == known, "what it has stays where it is"
        host.empty((Eviction(node="node-a", device=FIRST, models=(), for_run_id="train"),))
    gpu_host.process.kill()
    gpu_host.process.wait()
    assert host.look(inventory) == known, "it is left alone for a while"
    now[0] = 5.0
    assert host.look(inventory) == Residency()


@pytest.mark.process
@pytest.mark.parametrize("look_seconds", [10.0, 50.0])
def test_a_gpu_that_is_not_emptied_in_two_minutes_is_given_away_all_the_same(
    gpu_host: RunningHost, look_seconds: float
) -> None:
    left(opened_at(gpu_host, FIRST))
    now = [0.0]
    host, inventory = EngineHost("node-a", gpu_host.socket_file, clock=lambda: now[0]), make_inventory(*UUIDS)
    assert host.look(inventory).loaded
    eviction = (Eviction(node="node-a", device=FIRST, models=(), for_run_id="train"),)
    with stopped(gpu_host.process.pid):
        while now[0] < 120.0:
            assert host.look(inventory).loaded
            host.empty(eviction)
            now[0] += look_seconds
        assert host.look(inventory).loaded == {}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"accounts": 1, "data": []}',
        b'{"accounts": [], "data": [{"id": "a"}]}',
        b"\xff" * 100,
        b'{"accounts": [{"place": "%s", "mib": 1, "reserved_mib": 0}], "data": []}' % FIRST.encode() + b" " * 2**22,
    ],
    ids=["nothing", "a list", "another shape", "a row without fields", "no text", "more than a host has to say"],
)
def test_what_is_no_table_is_no_knowledge(body: bytes, tmp_path: Path) -> None:
    with telling(body, tmp_path) as file:
        host = EngineHost("node-a", file, clock=lambda: 0.0)
        assert host.look(make_inventory(*UUIDS)) == Residency()


@pytest.mark.parametrize(
    ("wake_seconds", "told"), [(2.5, 2.5), (None, 10.0), (-1.0, 10.0)], ids=["measured", "never", "a lie"]
)
def test_a_coordinator_is_told_how_long_what_sleeps_takes_to_wake(
    wake_seconds: float | None, told: float, tmp_path: Path
) -> None:
    row = ModelRow(
        id="key",
        model="painter 3",
        model_id="painter",
        place=FIRST,
        state="asleep",
        state_seconds=9.0,
        mib=5,
        reserved_mib=5,
        peak_mib=80,
        bring_seconds=20.0,
        wake_seconds=wake_seconds,
    )
    table = Table(accounts=(AccountRow(place=FIRST, mib=100, reserved_mib=5),), data=(row,))
    with telling(json.dumps(table_body(table)).encode(), tmp_path) as file:
        found = EngineHost("node-a", file, clock=lambda: 0.0).look(make_inventory(*UUIDS))
    assert found.loaded == {("node-a", FIRST): frozenset({"painter"})}
    assert found.asleep == {("node-a", FIRST): {"painter": told}}


@contextmanager
def telling(body: bytes, tmp_path: Path) -> Iterator[Path]:
    """The socket of something that answers one request with a body."""
    file = Path("/tmp") / f"hr-{tmp_path.name}.sock"[:90]
    file.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(file))
        listener.listen()

        def answer() -> None:
            there, _ = listener.accept()
            with there:
                there.recv(65536)
                there.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

        thread = threading.Thread(target=answer)
        thread.start()
        yield file
        thread.join()
    file.unlink()


def test_memory_is_counted_by_gpu_and_by_process() -> None:
    import os

    devices = [
        Device(uuid=FIRST, memory_mib=1000, processes={os.getpid(): 300, 1: 200}),
        Device(uuid=b"GPU-2", memory_mib=2000, processes={os.getpid(): None}),
        Device(uuid="GPU-3", slices=[None]),
        Device(uuid="GPU-4", handle_error=UNKNOWN),
    ]
    memory = GpuMemory(FakeNvml(devices=devices))
    assert memory.accounts() == {FIRST: 900, "GPU-2": 1800}
    assert (memory.free_mib(FIRST), memory.held_mib(FIRST, os.getpid())) == (500, 300)
    assert memory.held_mib("GPU-2", os.getpid()) == 0
    assert [memory.named(name) for name in ("0", "1", "7", FIRST[:8], "GPU-9")] == [FIRST, "GPU-2", "7", FIRST, "GPU-9"]


@pytest.mark.parametrize(
    "driver", [FakeNvml(init_error=9), FakeNvml(count_error=UNKNOWN)], ids=["none", "a broken one"]
)
def test_without_a_driver_there_is_no_account(driver: Any) -> None:
    assert GpuMemory(driver).accounts() == {}
    assert math.isfinite(sum(GpuMemory(driver).accounts().values()))
