"""The agent of one host: starts this host's ranks of gangs that run workers elsewhere ask for.

    python -m headrace.training.host_agent --name host-b --address 10.0.0.2 --work /scratch

It hears of a gang through the store (HEADRACE_STORE, or `--store`), starts its ranks below torchrun, and tells of them
there. Its ranks end with it, and with the run worker: whoever is silent for too long counts as gone. One gang at a
time: the run's placement decides which hosts it gets. Ranks inherit this process's environment.
"""

import argparse
import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from headrace.errors import HandoffCorrupt, HeadraceError, InvalidInput, ObjectMissing, StoreUnavailable, reason_of
from headrace.store.objects import ObjectStore
from headrace.store.opening import open_store
from headrace.text.terminal import say
from headrace.training.gang_runner import LocalRunner
from headrace.training.gang_store import (
    GangObjects,
    GangTask,
    HostSays,
    MeetingPlace,
    Notice,
    Words,
    WorkerSays,
    notices,
    rows_text,
)
from headrace.training.guard import Worker
from headrace.training.launch_plan import Meeting, plan_launch
from headrace.training.run_config import RunConfig

_POLL_SECONDS = 1.0
_TICK_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class HostAgent:
    """`address`: of this host in the network of the others; `work_root`: scratch space for ranks' logs and progress."""

    store: ObjectStore
    name: str
    address: str
    work_root: Path
    environment: Mapping[str, str]

    def serve(self) -> None:
        """Until it is killed: takes each gang that is asked for from now on."""
        chain = notices(self.store, self.name)
        number = chain.newest()
        print(f"agent {self.name} waits for gangs in {self.store.url}", flush=True)
        while True:
            try:
                notice = chain.following(number)
            except StoreUnavailable as error:
                print(f"{reason_of(error)} Asked again.", flush=True)
                notice = None
            except HandoffCorrupt as error:
                print(reason_of(error), flush=True)
                number += 1
                continue
            if notice is None:
                time.sleep(_POLL_SECONDS)
                continue
            number += 1
            try:
                self.run(notice)
            except (HeadraceError, OSError) as error:
                # The next gang is another's: this one's run worker hears nothing, and gives it up.
                print(f"gang {notice.training_id} attempt {notice.attempt}: {reason_of(error)}", flush=True)

    def run(self, notice: Notice) -> None:
        """One gang's ranks of this host, to their end.

        Raises:
            InvalidInput: the task is not for this host, or not for this release; another agent has this one's name.
        """
        objects = GangObjects(self.store, notice.training_id, notice.attempt)
        try:
            task = objects.task()
        except ObjectMissing:
            return
        given = self._given(task)
        mouth, ear = objects.host(self.name), _Ear(objects.worker(), task.silence_seconds)
        mouth.say(HostSays())
        meeting = self._meeting(objects, task, mouth, ear)
        if meeting is None:
            return
        work = self.work_of(notice)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        config = replace(given, work_directory=str(work), worker=Worker.this_process())
        plan = plan_launch(
            run_json=config.write(work / "run.json"),
            world_size=config.world_size,
            device=config.device,
            work_directory=work,
            marker=f"{config.training_id}/{config.attempt}/{self.name}",
            environment=self.environment,
            meeting=meeting,
        )
        runner = LocalRunner(plan, config)
        try:
            runner.start()
            self._watch(runner, mouth, ear, task.silence_seconds)
        finally:
            runner.kill()
        shutil.rmtree(work, ignore_errors=True)

    def work_of(self, notice: Notice) -> Path:
        """Its own, also where hosts share their scratch space."""
        return self.work_root / self.name / notice.training_id / f"{notice.attempt:06d}"

    def _given(self, task: GangTask) -> RunConfig:
        if self.name not in task.hosts:
            raise InvalidInput(
                f"its task is for {', '.join(task.hosts) or 'no host'}, and this agent is {self.name}. Start the agent "
                "with the name that the run's hosts have."
            )
        try:
            return RunConfig.checked(task.run_json)
        except ValueError as error:
            raise InvalidInput(
                f"its task cannot be read here: {error}. Install the run worker's release of Headrace on this host."
            ) from error

    def _watch(self, runner: LocalRunner, mouth: "Words[HostSays]", ear: "_Ear", silence_seconds: float) -> None:
        said_at, told = time.monotonic(), runner.reached()
        while not runner.ended(_TICK_SECONDS):
            ear.listen()
            if ear.is_told_to_stop:
                runner.kill()
                break
            rows, beats = runner.progress(), runner.reached()
            report = runner.report(is_stuck=True) if ear.asks_stacks else None
            ear.asks_stacks = False
            if rows or report or beats != told or time.monotonic() - said_at > silence_seconds / 6:
                mouth.say(
                    HostSays(
                        rows=rows_text(rows),
                        beats=tuple((rank, *point) for rank, point in beats.items()),
                        report=report,
                        is_stuck=report is not None,
                    )
                )
                said_at, told = time.monotonic(), beats
        if not ear.is_silent:
            mouth.say(HostSays(rows=rows_text(runner.progress()), report=runner.report()))

    def _meeting(self, objects: GangObjects, task: GangTask, mouth: "Words[HostSays]", ear: "_Ear") -> Meeting | None:
        """Where the ranks meet: the first host says it. None: the gang was given up meanwhile."""
        node = task.hosts.index(self.name)
        if node == 0:
            objects.create_meeting(MeetingPlace(address=self.address, port=free_port(self.address)))
        while (place := objects.meeting()) is None:
            ear.listen()
            if ear.is_told_to_stop:
                return None
            mouth.say(HostSays())
            time.sleep(_POLL_SECONDS)
        return Meeting(
            node=node,
            num_nodes=len(task.hosts),
            address=place.address,
            port=place.port,
            own_address=self.address,
            interface=interface_of(self.address),
        )


class _Ear:
    """What the run worker wants; its silence for too long is its end."""

    def __init__(self, words: "Words[WorkerSays]", silence_seconds: float) -> None:
        self._words, self._silence = words, silence_seconds
        self._heard_at = time.monotonic()
        self._stop = False
        self.asks_stacks = False

    def listen(self) -> None:
        for word in self._words.new():
            self._heard_at = time.monotonic()
            self._stop |= word.stop
            self.asks_stacks |= word.asks_stacks

    @property
    def is_silent(self) -> bool:
        """Then nobody would read a last word, nor delete it."""
        return time.monotonic() - self._heard_at > self._silence

    @property
    def is_told_to_stop(self) -> bool:
        return self._stop or self.is_silent


def free_port(address: str) -> int:
    """A port of this host that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def interface_of(address: str) -> str:
    """The network interface that has an address.

    Raises:
        InvalidInput: none of this host's has it.
    """
    interfaces = psutil.net_if_addrs()
    for name, addresses in interfaces.items():
        if any(one.address == address for one in addresses):
            return name
    known = ", ".join(
        one.address for addresses in interfaces.values() for one in addresses if one.family == socket.AF_INET
    )
    raise InvalidInput(f"--address must be one of this host's, got {address!r}; it has {known}.")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m headrace.training.host_agent", description=__doc__)
    parser.add_argument("--name", required=True, help="this host's name, as the run's hosts are told")
    parser.add_argument("--address", required=True, help="its address in the network that the hosts share")
    parser.add_argument("--work", type=Path, required=True, help="scratch directory for logs and progress")
    parser.add_argument("--store", default=os.environ.get("HEADRACE_STORE"), help="default: HEADRACE_STORE")
    given = parser.parse_args()
    if not given.store:
        parser.error("no store: set HEADRACE_STORE, or give --store")
    try:
        interface_of(given.address)
        HostAgent(
            store=open_store(given.store),
            name=given.name,
            address=given.address,
            work_root=given.work,
            environment=dict(os.environ),
        ).serve()
    except HeadraceError as error:
        say(str(error), error=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
