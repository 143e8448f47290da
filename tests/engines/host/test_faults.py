"""A host, a model's process or a client is killed (-9) while a turn is answered: what was asked is answered all the
same, and no process stays."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.engines.asking import answers_of, close
from headrace.engines.base import Answer, Engine, EngineFailed, Piece
from headrace.engines.conformance import opened, turn
from headrace.engines.deployment import Deployment
from headrace.engines.event_loop import LoopThread
from headrace.engines.host.address import HostAddress, host_address, store_address
from headrace.engines.host.connection import table_of
from headrace.engines.host.lines import media_lines
from headrace.engines.media import MediaAnswer, MediaTurn
from headrace.engines.media_conformance import opened as media_opened
from headrace.engines.media_conformance import painter
from headrace.errors import EngineUnavailable
from headrace.store.local import LocalStore
from headrace.unix_sockets import is_listened_on
from tests.engines.host.hosts import RunningHost, is_alive, running_host, started_host, stopped
from tests.waiting import eventually

pytestmark = pytest.mark.process
TURNS = [turn(seed=seed) for seed in range(5)]
LABEL = "model 1 (echo)"


@pytest.fixture
def own_host() -> Iterator[RunningHost]:
    with running_host("--memory-mib", "1000") as host:
        yield host


@pytest.fixture
def whole(loop: LoopThread) -> list[Any]:
    """What the turns are answered with in this process."""
    return loop.run(answers_of(opened("echo"), TURNS))


def asked_while(loop: LoopThread, engine: Engine, pid: int, then: Callable[[], object]) -> list[Any]:
    """The answers to a batch in whose middle the process of that number stands still, and something happens."""
    with ThreadPoolExecutor(1) as thread:
        with stopped(pid):
            answers = thread.submit(loop.run, answers_of(engine, TURNS))
            then()
        return answers.result()


def pid_of(host: RunningHost) -> int:
    pid = host.models[LABEL].pid
    assert pid
    return pid


def is_at_work(host: RunningHost) -> bool:
    return host.models[LABEL].at_work == 1


def test_a_batch_whose_models_process_is_killed_is_answered_by_the_next(
    own_host: RunningHost, loop: LoopThread, whole: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    engine = opened("echo", deployment=own_host.deployment())
    first = pid_of(own_host)

    def kill() -> None:
        eventually(lambda: is_at_work(own_host), "the batch is with the model")
        os.kill(first, signal.SIGKILL)

    assert asked_while(loop, engine, first, kill) == whole
    assert pid_of(own_host) != first
    assert own_host.models[LABEL].loads == 2
    [told] = [one.getMessage() for one in caplog.records]
    assert told.startswith(f"The process of {LABEL} in the engine host at {own_host.socket_file} was lost while it ")
    assert told.endswith("It is brought anew, and what was asked of it is asked again.")
    loop.run(close(engine))


def test_a_batch_whose_host_is_killed_fails_for_now_and_is_no_rows_fault(
    own_host: RunningHost, loop: LoopThread, whole: list[Any]
) -> None:
    engine = opened("echo", deployment=own_host.deployment())
    model = pid_of(own_host)

    def kill() -> None:
        eventually(lambda: is_at_work(own_host), "the batch is with the model")
        own_host.process.kill()
        own_host.process.wait()

    answers = asked_while(loop, engine, model, kill)
    assert {type(one) for one in answers} == {EngineFailed}
    assert not any(one.may_be_the_turn for one in answers)
    eventually(lambda: not is_alive(model), "the model's process ends with its host")
    # Another one at the same place is found by who asks again, and what the first one left is gone.
    own_host.process = started_host(own_host.socket_file, "--memory-mib", "1000").process
    assert loop.run(answers_of(engine, TURNS)) == whole
    assert sorted(path.name for path in own_host.socket_file.parent.iterdir()) == [
        "host.sock",
        "host.sock.1",
        "host.sock.models.json",
    ]
    loop.run(close(engine))


def test_a_batch_whose_models_process_is_stopped_is_answered_by_the_next_and_its_memory_comes_free(
    loop: LoopThread, whole: list[Any]
) -> None:
    with running_host("--memory-mib", "1000", "--silent-seconds", "2") as host:
        engine = opened("echo", deployment=host.deployment())
        first = pid_of(host)
        reserved_mib = host.table.accounts[0].reserved_mib
        assert asked_while(loop, engine, first, lambda: eventually(lambda: not is_alive(first), "it is ended")) == whole
        assert pid_of(host) != first
        assert host.models[LABEL].loads == 2
        assert host.table.accounts[0].reserved_mib <= reserved_mib, "the stopped one's part is free"
        loop.run(close(engine))


def test_who_asks_for_a_model_whose_process_is_killed_while_it_loads_gets_the_next(
    own_host: RunningHost, loop: LoopThread, whole: list[Any]
) -> None:
    with ThreadPoolExecutor(1) as thread:
        opening = thread.submit(lambda: opened("echo", deployment=own_host.deployment()))
        pid = eventually(lambda: next((row.pid for row in own_host.table.data if row.pid), None), "it comes")
        os.kill(pid, signal.SIGKILL)
        engine = opening.result()
    assert pid_of(own_host) != pid
    assert loop.run(answers_of(engine, TURNS)) == whole
    loop.run(close(engine))


def test_who_asks_for_a_model_whose_process_is_stopped_while_it_loads_is_told(loop: LoopThread) -> None:
    with running_host("--memory-mib", "1000", "--silent-seconds", "2") as host, ThreadPoolExecutor(1) as thread:
        asked = thread.submit(opened, "echo", deployment=host.deployment())
        pid = eventually(lambda: next((row.pid for row in host.table.data), None), "it loads")
        told = pytest.raises(EngineUnavailable, match="ended while it loaded .it had been stopped for 2 s")
        with stopped(pid), told:
            asked.result()
        eventually(lambda: host.table.accounts[0].reserved_mib == 0, "nothing stays taken")


def test_a_killed_clients_turn_ends_with_it_and_comes_back_to_who_waits(
    own_host: RunningHost, loop: LoopThread, whole: list[Any]
) -> None:
    script = f"""
import sys
from tests.engines.host.test_faults import TURNS, answers_of, opened, LoopThread
from tests.engines.host.hosts import RunningHost
from pathlib import Path
host = RunningHost(None, Path({str(own_host.socket_file)!r}))
engine = opened("echo", deployment=host.deployment())
print("opened", flush=True)
sys.stdin.readline()
# More than a model takes at once, so that it begins alone.
LoopThread().run(answers_of(engine, TURNS * 20))
"""
    root = Path(__file__).resolve().parents[3]
    client = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)
    assert client.stdin
    assert client.stdout
    assert client.stdout.readline() == b"opened\n"
    other = opened("echo", deployment=own_host.deployment())
    with ThreadPoolExecutor(1) as thread:
        with stopped(pid_of(own_host)):
            client.stdin.write(b"\n")
            client.stdin.flush()
            eventually(lambda: is_at_work(own_host), "the batch is with the model")
            waits = thread.submit(loop.run, answers_of(other, TURNS))
            eventually(lambda: own_host.models[LABEL].waiting_by_class["batch"] == 1, "another one waits for it")
            client.kill()
            client.communicate()
            eventually(lambda: own_host.models[LABEL].waiting == 0, "the turn is the other one's")
            assert is_at_work(own_host)
        assert waits.result() == whole
    loop.run(close(other))


def test_a_client_that_sleeps_keeps_the_model_from_nobody(own_host: RunningHost, loop: LoopThread) -> None:
    member = painter(width=512, height=512)
    engine = media_opened("echo", member, deployment=own_host.deployment())
    [row] = own_host.table.data
    turns = [MediaTurn(unit=str(seed), text="mill", seed=seed) for seed in range(8)]
    body = media_lines(turns, row.id, is_speech=False)
    with socket.socket(socket.AF_UNIX) as sleeper:
        sleeper.connect(str(own_host.socket_file))
        head = f"POST /models/{row.id}/v1/batches HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
        sleeper.sendall(head.encode() + body)
        # More than a socket holds, and nobody reads it.
        eventually(lambda: own_host.models[LABEL].hits == 1, "the batch is made, and the model is free")
        assert own_host.models[LABEL].at_work == 0
        made = loop.run(engine.make_together(turns))
        assert sum(len(one.content) for one in made if isinstance(one, MediaAnswer)) > 500_000
    loop.run(close(engine))


def test_a_stream_whose_models_process_is_killed_before_its_first_piece_begins_anew(
    own_host: RunningHost, loop: LoopThread, whole: list[Any]
) -> None:
    engine = opened("echo", deployment=own_host.deployment())
    first = pid_of(own_host)

    async def pieces() -> list[Piece]:
        return [piece async for piece in engine.stream(TURNS[0])]

    with ThreadPoolExecutor(1) as thread, stopped(first):
        made = thread.submit(loop.run, pieces())
        eventually(lambda: is_at_work(own_host), "the turn is with the model")
        os.kill(first, signal.SIGKILL)
    assert "".join(piece.text for piece in made.result()) == whole[0].text
    loop.run(close(engine))


def test_a_host_that_was_stopped_is_told_to_who_waits_for_it_and_answers_again_when_it_goes_on(
    own_host: RunningHost, loop: LoopThread, whole: list[Any]
) -> None:
    deployment = own_host.deployment()
    assert deployment.host
    patient = replace(deployment, host=replace(deployment.host, silent_seconds=4.0))
    engine = opened("echo", deployment=patient)
    with stopped(own_host.process.pid):
        answers = loop.run(answers_of(engine, TURNS))
        with pytest.raises(EngineUnavailable, match=f"kill -CONT {own_host.process.pid}") as refused:
            opened("echo", deployment=patient, num_threads=2)
    assert [(type(one), getattr(one, "may_be_the_turn", None)) for one in answers] == [(EngineFailed, False)] * 5
    assert "has answered nothing for 4 s: it was stopped, or hangs" in str(answers[0])
    assert str(refused.value) == str(answers[0])
    assert loop.run(answers_of(engine, TURNS)) == whole
    loop.run(close(engine))


def test_who_gives_up_a_turn_whose_host_was_lost_leaves_nothing_that_waits(
    own_host: RunningHost, loop: LoopThread
) -> None:
    engine = opened("echo", deployment=own_host.deployment())
    with stopped(pid_of(own_host)), socket.socket(socket.AF_UNIX) as silent:
        silent.settimeout(60)

        def next_request() -> socket.socket:
            # Whoever only looks whether somebody listens sends nothing.
            while not (there := silent.accept()[0]).recv(1):
                there.close()
            return there

        async def given_up() -> None:
            asked = asyncio.create_task(answers_of(engine, TURNS))
            await asyncio.to_thread(eventually, lambda: is_at_work(own_host), "the batch is with the model")
            own_host.socket_file.unlink()
            silent.bind(str(own_host.socket_file))
            silent.listen()
            own_host.process.kill()
            with await asyncio.to_thread(next_request) as there:
                there.settimeout(60)
                asked.cancel()
                with suppress(asyncio.CancelledError):
                    await asked
                # In a thread that waits, it would be open as long as the host is silent.
                await asyncio.to_thread(lambda: [*iter(lambda: there.recv(65536), b"")])

        loop.run(given_up())
    loop.run(close(engine))


def test_a_run_without_a_host_at_its_socket_opens_its_engine_itself(tmp_path: Path, loop: LoopThread) -> None:
    address = host_address(str(tmp_path / "nobody.sock"), LocalStore(tmp_path), {"CUDA_VISIBLE_DEVICES": ""})
    engine = opened("echo", deployment=Deployment(host=address))
    assert type(engine).__name__ == "EchoEngine"


def test_a_host_that_a_setting_keeps_from_starting_is_told_with_the_setting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HEADRACE_ENGINE_HOST_MIB", "lots")
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hr-") as short:
        log = Path(short, "engine_host.log")
        log.write_text("an earlier host's last word\n")
        store = store_address(LocalStore(Path(short)))
        assert store
        address = HostAddress(socket_file=Path(short, "host.sock"), store=store, is_started=True, log=log)
        engine = opened("echo", deployment=Deployment(host=address))
    assert type(engine).__name__ == "EchoEngine", "it is opened here"
    [warning] = [record.getMessage() for record in caplog.records if "engine host" in record.getMessage()]
    assert "has ended: Error: Invalid value for '--memory-mib' (env var: 'HEADRACE_ENGINE_HOST_MIB'): " in warning
    assert "earlier" not in warning


def test_a_model_without_room_waits_for_another_to_be_idle_and_says_so(
    loop: LoopThread, whole: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with running_host("--memory-mib", "450") as host:
        first = opened("echo", deployment=host.deployment())
        with stopped(pid_of(host)), ThreadPoolExecutor(2) as threads:
            busy = threads.submit(loop.run, answers_of(first, TURNS))
            eventually(lambda: is_at_work(host), "the batch is with the model")
            second = threads.submit(lambda: opened("echo", deployment=host.deployment(), num_threads=2))
            eventually(lambda: len(host.table.data) == 2, "the second one is asked for")
            waiting = next(row for row in host.table.data if not row.pid)
            assert (waiting.state, host.table.accounts[0].reserved_mib <= 450) == ("absent", True)
            told = eventually(lambda: [one.getMessage() for one in caplog.records], "what it waits for is said")
            at = f"{LABEL} is not in the memory of the engine host at {host.socket_file} yet: it is absent since 20"
            assert told[0].startswith(at)
            assert len(told) == 1, "the first one is there, and says nothing"
            os.kill(pid_of_first(host), signal.SIGCONT)
            assert busy.result() == whole
            engine = second.result()
        assert loop.run(answers_of(engine, TURNS)) == whole
        for one in (first, engine):
            loop.run(close(one))


def pid_of_first(host: RunningHost) -> int:
    return next(row.pid for row in host.table.data if row.pid)


def test_a_host_that_a_run_starts_is_nobodys_and_leaves_when_nobody_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: LoopThread, whole: list[Any]
) -> None:
    monkeypatch.setenv("HEADRACE_ENGINE_HOST_IDLE_SECONDS", "1")
    monkeypatch.setenv("HEADRACE_RUN_ID", "a-run")
    store = LocalStore(tmp_path)
    address = host_address("on", store, {"CUDA_VISIBLE_DEVICES": ""})
    assert address
    log = address.log
    assert log
    # As the run's, this engine would be opened here: it loads nothing.
    asked = host_address(str(address.socket_file), store, {"CUDA_VISIBLE_DEVICES": ""})
    assert asked
    deployments = [
        Deployment(host=type(asked)(socket_file=asked.socket_file, store=asked.store, is_started=True, log=log))
        for _ in range(3)
    ]
    with ThreadPoolExecutor(3) as threads:
        engines = list(threads.map(lambda deployment: opened("echo", deployment=deployment), deployments))
    table = table_of(address.socket_file)
    assert table
    [row] = table.data
    assert row.loads == 1, "three that ask at once get one host, and one model"
    assert row.pid
    host = int(Path(f"/proc/{row.pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert os.getpid() not in parents_of(host)
    assert b"HEADRACE_RUN_ID=-engine-host\0" in Path(f"/proc/{host}/environ").read_bytes()

    os.kill(host, signal.SIGKILL)
    eventually(lambda: not is_alive(host), "the host is gone")
    for engine in engines:
        answers = loop.run(answers_of(engine, TURNS))
        assert [type(one) for one in answers] == [Answer] * 5, "who asks starts another"
        assert answers == whole
        loop.run(close(engine))
    eventually(lambda: not is_listened_on(address.socket_file), "it leaves after its last client")
    eventually(lambda: "ended" in log.read_text().splitlines()[-1], "its log says so")


def parents_of(pid: int) -> set[int]:
    found: set[int] = set()
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.add(pid)
    return found
