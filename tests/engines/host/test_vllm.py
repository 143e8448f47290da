"""The engine `vllm` with a server process that answers as vLLM's does, at its HTTP: no model, no GPU."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.engines.asking import answers_of, close
from headrace.engines.base import Answer
from headrace.engines.conformance import opened, turn
from headrace.engines.event_loop import LoopThread
from headrace.errors import InvalidInput
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from headrace.this_machine import descendants
from headrace.version_sets.sets import Member
from simulation.servers.processes import ROOT
from tests.engines.host.hosts import is_alive, running_host
from tests.generation.builders import make_member
from tests.waiting import eventually

pytestmark = pytest.mark.process
TURNS = [turn(text, seed=1) for text in ("A wheel.", "A race.")]


@pytest.fixture
def objects(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def member(objects: LocalStore, tmp_path: Path) -> Member:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    sealed = seal_directory(objects, weights)
    return replace(make_member(), weights_digest=sealed.digest, weights_uri=sealed.uri)


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command of that name on PATH."""
    command = tmp_path / "bin" / "vllm"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m simulation.servers.vllm "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("vllm")
def test_a_server_sleeps_and_wakes_by_its_own_calls_and_ends_with_its_model(
    objects: LocalStore, member: Member, loop: LoopThread
) -> None:
    with running_host("--memory-mib", "3000", "--idle-seconds", "1") as host:
        engine = opened("vllm", objects=objects, member=member, deployment=host.deployment(objects))
        assert texts_of(loop.run(answers_of(engine, TURNS))) == ["A wheel.", "A race."]
        eventually(lambda: host.table.data[0].state == "asleep", "it sleeps")
        [row] = host.table.data
        assert row.pid
        [server] = descendants(row.pid)
        assert texts_of(loop.run(answers_of(engine, TURNS))) == ["A wheel.", "A race."]
        [again] = host.table.data
        assert (again.pid, again.wakes, again.loads, descendants(row.pid)) == (row.pid, 1, 1, [server])
        os.kill(row.pid, signal.SIGKILL)
        eventually(lambda: not is_alive(server), "the server ends with the process that began it")
        assert texts_of(loop.run(answers_of(engine, TURNS))) == ["A wheel.", "A race."]
        loop.run(close(engine))


def texts_of(answers: Sequence[object]) -> list[str]:
    return [one.text for one in answers if isinstance(one, Answer)]


def test_without_the_command_it_is_said_how_to_get_it(
    objects: LocalStore, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InvalidInput, match="needs the command vllm, which is not on PATH"):
        opened("vllm", objects=objects, member=member)
