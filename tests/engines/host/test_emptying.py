"""Work that takes the machine whole has the models leave that nobody uses."""

from pathlib import Path

import pytest

from headrace.engines.conformance import opened
from headrace.engines.event_loop import LoopThread
from headrace.engines.host.emptying import empty_memory
from headrace.store.local import LocalStore
from tests.engines.host.hosts import running_host, stopped
from tests.waiting import eventually


@pytest.fixture
def objects(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.mark.process
def test_models_that_wait_for_work_leave_and_it_is_said(objects: LocalStore, loop: LoopThread) -> None:
    said: list[str] = []
    with running_host("--memory-mib", "1000") as host:
        loop.run(opened("echo", deployment=host.deployment()).close())
        empty_memory(str(host.socket_file), objects, {}, said.append)
        [sentence] = said
        assert sentence.endswith(" MiB of models leave the engine host's memory: model 1 (echo).")
        eventually(lambda: host.table.data[0].state == "absent", "its process ends")
        # A run with a GPU takes no memory that a model here has.
        loop.run(opened("echo", deployment=host.deployment()).close())
        empty_memory(str(host.socket_file), objects, {"CUDA_VISIBLE_DEVICES": "GPU-1234"}, said.append)
        assert host.table.data[0].state == "on the device"
    assert said == [sentence]


@pytest.mark.process
def test_a_host_that_does_not_answer_keeps_nothing_from_beginning(
    objects: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    empty_memory(str(objects.directory / "nobody.sock"), objects, {}, said.append)
    empty_memory("off", objects, {}, said.append)
    assert said == []
    monkeypatch.setattr("headrace.engines.host.emptying._SECONDS_MAX", 0.2)
    with running_host() as host, stopped(host.process.pid):
        empty_memory(str(host.socket_file), objects, {}, said.append)
    [sentence] = said
    assert sentence.startswith("The engine host keeps its models beside this: ")
