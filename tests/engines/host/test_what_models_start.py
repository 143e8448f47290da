"""Processes that a model's process has started, in its session or out of it: counted as its own, and ended with it."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace.engines.asking import answer_of, close
from headrace.engines.conformance import turn
from headrace.engines.event_loop import LoopThread
from headrace.errors import EngineUnavailable
from tests.engines.host.hosts import is_alive, started_host
from tests.engines.host.scripted_engine import ROOT, host_with_it, opened, pid_of
from tests.waiting import eventually

pytestmark = pytest.mark.process
HELD_MIB = 200
# Forked without exec, so that it has all that was open, the pipe to the host, too. `DAEMON`: in no session of ours,
# and nobody's child.
WORKER = """
import os, time
if not os.fork():
    {leaves}
    held = b"x" * ({held} * 2**20)
    with open({file!r} + ".partial", "w") as written:
        written.write(str(os.getpid()))
    os.rename({file!r} + ".partial", {file!r})
    time.sleep(3600)
while not os.path.exists({file!r}):
    time.sleep(0.01)
"""
DAEMON = "os.setsid() or os.fork() and os._exit(0)"


def starting(file: Path, leaves: str = "pass") -> str:
    return WORKER.format(leaves=leaves, held=HELD_MIB, file=str(file))


@pytest.mark.parametrize("leaves", ["pass", DAEMON], ids=["a fork", "a daemon"])
def test_what_a_model_has_started_is_its_own_and_goes_with_it(tmp_path: Path, loop: LoopThread, leaves: str) -> None:
    file = tmp_path / "pid"
    site = tmp_path / "site-packages"
    site.mkdir()
    with host_with_it(site, "--memory-mib", "2000") as host:
        engine = opened(host, as_it_loads=starting(file, leaves))
        first, started = pid_of(host), int(file.read_text())
        [row] = host.table.data
        assert row.reserved_mib >= row.mib >= HELD_MIB
        file.unlink()
        os.kill(first, signal.SIGKILL)
        assert loop.run(answer_of(engine, turn())).text == "done", "it comes again, though what it had forked lived on"
        assert pid_of(host) != first
        assert not is_alive(started)
        second = int(file.read_text())
        loop.run(close(engine))
    assert not is_alive(second)


def test_what_models_of_a_killed_host_had_started_ends_before_the_next_one_has_models(
    tmp_path: Path, loop: LoopThread
) -> None:
    file, site = tmp_path / "pid", tmp_path / "site-packages"
    site.mkdir()
    with host_with_it(site, "--memory-mib", "2000") as host:
        engine = opened(host, as_it_loads=starting(file))
        model, started = pid_of(host), int(file.read_text())
        loop.run(close(engine))
        host.process.kill()
        host.process.wait()
        eventually(lambda: not is_alive(model), "the model's process ends with its host")
        assert is_alive(started), "it is tied to nobody"
        host.process = started_host(host.socket_file, "--memory-mib", "2000", python_path=(site, ROOT)).process
        eventually(lambda: not is_alive(started), "the next host ends it")


def test_a_model_that_dies_as_it_loads_is_told_though_what_it_has_started_lives(tmp_path: Path) -> None:
    dies = f"{starting(tmp_path / 'pid', DAEMON)}\nos._exit(3)"
    site = tmp_path / "site-packages"
    site.mkdir()
    with host_with_it(site, "--memory-mib", "2000") as host, ThreadPoolExecutor(1) as thread:
        with pytest.raises(EngineUnavailable, match=r"ended while it loaded \(exit code 3\)"):
            thread.submit(opened, host, as_it_loads=dies).result(timeout=60)
        assert not is_alive(int((tmp_path / "pid").read_text()))
        eventually(lambda: host.table.accounts[0].reserved_mib == 0, "what was promised is back")
