"""What a host promises to a model's process that holds much for a moment which no look need see: a real one."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace.engines.asking import answer_of, close
from headrace.engines.conformance import turn
from headrace.engines.event_loop import LoopThread
from tests.engines.host.hosts import is_alive
from tests.engines.host.scripted_engine import host_with_it, opened, pid_of
from tests.waiting import eventually

pytestmark = pytest.mark.process
# A process of this engine is about 60 MiB.
MOMENT_MIB, SMALL_MIB = 300, 200
MOMENT = f"held = b'x' * ({MOMENT_MIB} * 2**20); del held"
WAITS = "import os, time\nwhile not os.path.exists({0!r}):\n    time.sleep(0.01)"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    directory = tmp_path / "site-packages"
    directory.mkdir()
    return directory


def test_a_moment_of_loading_is_promised_until_the_model_has_answered_and_the_next_time_it_loads(
    tmp_path: Path, site: Path, loop: LoopThread
) -> None:
    goes_on = tmp_path / "goes-on"
    goes_on.touch()
    with host_with_it(site, "--memory-mib", "1000") as host, ThreadPoolExecutor(1) as thread:
        engine = opened(host, as_it_loads=f"{MOMENT}\n{WAITS.format(str(goes_on))}")
        [row] = host.table.data
        assert row.peak_mib >= MOMENT_MIB > SMALL_MIB > row.mib
        assert row.reserved_mib >= MOMENT_MIB
        loop.run(answer_of(engine, turn()))
        assert host.table.data[0].reserved_mib < SMALL_MIB
        goes_on.unlink()
        os.kill(pid_of(host), signal.SIGKILL)
        answer = thread.submit(loop.run, answer_of(engine, turn()))
        eventually(lambda: [row.state for row in host.table.data] == ["loading"], "it comes again")
        assert host.table.data[0].reserved_mib >= MOMENT_MIB
        goes_on.touch()
        assert answer.result().text == "done"
        assert host.table.data[0].reserved_mib < SMALL_MIB
        loop.run(close(engine))


def test_a_moment_of_a_turn_stays_promised(site: Path, loop: LoopThread) -> None:
    with host_with_it(site, "--memory-mib", "1000") as host:
        engine = opened(host, for_a_turn=MOMENT)
        assert host.table.data[0].peak_mib < SMALL_MIB
        loop.run(answer_of(engine, turn()))
        [row] = host.table.data
        assert row.mib < SMALL_MIB < MOMENT_MIB <= row.reserved_mib
        loop.run(close(engine))


def test_a_model_that_grows_without_work_is_ended_too(tmp_path: Path, site: Path, loop: LoopThread) -> None:
    grows = tmp_path / "grows"
    hidden = f"def grow():\n    {WAITS.format(str(grows)).replace(chr(10), chr(10) + '    ')}\n"
    hidden += f"    globals()['held'] = b'x' * ({MOMENT_MIB} * 2**20)\n"
    with host_with_it(site, "--memory-mib", "250") as host:
        engine = opened(
            host, as_it_loads=f"{hidden}import threading\nthreading.Thread(target=grow, daemon=True).start()"
        )
        loop.run(answer_of(engine, turn()))
        pid = pid_of(host)
        grows.touch()
        eventually(lambda: not is_alive(pid), "it is ended")
        eventually(lambda: host.table.accounts[0].reserved_mib == 0, "what was promised is back")
        loop.run(close(engine))
