"""Code server, daemon and webserver of a project's instance, as child processes under one lock.

`headrace run`, `make demo` and `make dev` all start them here, so that one project never has two daemons (two would
start a run twice: dagster#33962). The daemon inherits the lock's descriptor, so the lock is free only when the daemon
is gone, whichever process was killed. Children get SIGTERM when their parent dies; runs do not: they have their own
sessions and continue.
"""

import contextlib
import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from headrace.command_line.project import Project
from headrace.errors import HeadraceError, InvalidInput
from headrace.parent_death import die_with_parent
from headrace.settings import DEFAULT_PORT, port_of
from headrace.text.terminal import say

# A stopping daemon needs a few seconds; its successor waits this long for the lock.
LOCK_WAIT_SECONDS = 40.0
START_WAIT_SECONDS = 120.0
_LOCK = "services.lock"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LOG_END_BYTES, _LOG_LINE_CHARACTERS = 4096, 300


class ServicesUnavailable(HeadraceError):
    """The instance's daemon or webserver cannot be started; the text gives the cause."""


class ServiceEnded(ServicesUnavailable):
    """A service that was started ended by itself; starting all of them again may help."""


class RunByAnother(ServicesUnavailable):
    """Another process of ours runs them, or is about to."""


def ui_port(text: str | None) -> int:
    """The Dagster UI's port, from HEADRACE_PORT.

    Raises:
        ServicesUnavailable: it is not a port.
    """
    try:
        return port_of(text) if text else DEFAULT_PORT
    except InvalidInput as error:
        raise ServicesUnavailable(f"HEADRACE_PORT {error}") from None


@dataclass
class Services:
    port: int
    logs: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def check_alive(self) -> None:
        """Raises: ServiceEnded: gives the service's name, its exit code, and the end of its log."""
        for name, process in self.processes.items():
            code = process.poll()
            if code is not None:
                log = self.logs / f"{name}.log"
                # Who is killed says nothing of it.
                ended = f"ended with code {code}: {_last_line(log)}" if code >= 0 else f"was ended by signal {-code}."
                raise ServiceEnded(f"The Dagster {name} {ended} Log: {log}. Runs under way go on.")

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def services(
    project: Project,
    home: Path,
    *,
    port: int,
    environment: dict[str, str],
    before_start: Callable[[], object] = lambda: None,
) -> Iterator[Services]:
    """Starts all three, waits until the webserver answers, stops them at the end.

    Args:
        home: the project's state directory.
        before_start: called with the lock held and no daemon running.

    Raises:
        ServicesUnavailable: the port is taken, another daemon serves this instance, or a service ended while starting
            (`ServiceEnded`).
    """
    logs = home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    running = Services(port=port, logs=logs)
    instance = environment.get("DAGSTER_HOME", "")
    with (
        locked(home / _LOCK, port=port, dagster_home=instance) as lock,
        tempfile.TemporaryDirectory(prefix="headrace-") as directory,
    ):
        code_socket = Path(directory) / "code"
        try:
            _refuse_foreign_daemon(instance)
            _refuse_taken_port(port)
            before_start()
            for name, command in _commands(project, code_socket, port).items():
                running.processes[name] = _start(command, logs / f"{name}.log", environment, project.root, lock)
                if name == "code-server":
                    _wait_until(code_socket.exists, running, name)
            _wait_until(lambda: _listens(running.processes["webserver"].pid, port), running, "webserver")
            yield running
        finally:
            running.stop()


def running_webserver(home: Path, *, dagster_home: str | None = None) -> str | None:
    """The URL of the webserver that another process has started for this project; None: there is none.

    Args: dagster_home: only one of this instance; None: of whichever instance the project's processes have.
    """
    try:
        pid, port, *instance = (home / _LOCK).read_text().split(" ", 2)
        holder, at = int(pid), int(port)
    except (OSError, ValueError):
        return None
    if dagster_home is not None and instance != [str(Path(dagster_home).expanduser().resolve())]:
        return None
    return f"http://127.0.0.1:{at}" if _is_held(home / _LOCK) and _serves(holder, at) else None


def unheeded_variables(home: Path, environment: Mapping[str, str], beginning: str) -> list[str]:
    """Variables that this process has, and the daemon that another one started has not, a sentence for each.

    Args:
        home: the project's state directory.
        environment: what this process would give to runs.
        beginning: of the variables' names.
    """
    try:
        pid = int((home / _LOCK).read_text().split(" ", 1)[0])
    except (OSError, ValueError):
        return []
    try:
        theirs: Mapping[str, str] | None = psutil.Process(pid).environ()
    except psutil.NoSuchProcess:
        # It has just ended: whoever follows it finds out.
        return []
    except psutil.Error:
        theirs = None
    there = {} if theirs is None else {name: f", where it is {theirs.get(name) or 'not set'}" for name in environment}
    return [
        f"{name}={value} has no effect on these runs, which have the environment of the daemon that process "
        f"{pid} started{there.get(name, '')}: stop that one and call this again, or start it with that value."
        for name, value in sorted(environment.items())
        if name.startswith(beginning) and value and (theirs is None or theirs.get(name) != value)
    ]


def _is_held(path: Path) -> bool:
    """Whether a process of ours is alive: one that is gone left numbers that other programs may have by now."""
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _commands(project: Project, code_socket: Path, port: int) -> dict[str, list[str]]:
    """One code server for daemon and webserver, as `dagster dev` does; else the daemon starts a new one each minute."""
    workspace = code_socket.with_name("workspace.yaml")
    # By the name that the project gives it: schedules and sensors are identified by their location's name.
    server = f"{{socket: {code_socket}, location_name: {project.location}}}"
    workspace.write_text(f"load_from:\n  - grpc_server: {server}\n")
    binaries = Path(sys.executable).parent
    location = ["--module-name", project.code_module, "--location-name", project.location]
    code_server = [str(binaries / "dagster"), "code-server", "start", "--socket", str(code_socket), *location]
    webserver = [str(binaries / "dagster-webserver"), "-h", "127.0.0.1", "-p", str(port), "-w", str(workspace)]
    daemon = [str(binaries / "dagster-daemon"), "run", "-w", str(workspace)]
    return {"code-server": code_server, "daemon": daemon, "webserver": webserver}


@contextlib.contextmanager
def locked(path: Path, *, port: int = 0, dagster_home: str = "") -> Iterator[int]:
    """Holds the project's lock and yields its inheritable descriptor.

    Args: port, dagster_home: of the webserver that its holder starts.

    Raises:
        ServicesUnavailable: a living process holds it (raised at once), or a daemon that outlived its parent does not
            end.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        instance = str(Path(dagster_home).expanduser().resolve()) if dagster_home else ""
        _take(descriptor, path, f"{os.getpid()} {port} {instance}")
        yield descriptor
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path, holder: str) -> None:
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    said = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 32, 0).decode().partition(" ")[0].strip()
            if pid.isdigit() and psutil.pid_exists(int(pid)):
                raise RunByAnother(
                    f"Process {pid} (make demo, make dev or headrace run) already runs this project's daemon, and they "
                    "share one. Stop it with Ctrl-C in its terminal, then run again."
                ) from None
            if time.monotonic() > deadline:
                raise ServicesUnavailable(
                    f"A daemon that process {pid} left behind still runs after {LOCK_WAIT_SECONDS:.0f} s; "
                    f"end it, then run again. Lock: {path}"
                ) from None
            if not said:
                say("Waiting for the previous daemon to end …", error=True)
                said = True
            time.sleep(0.5)
        else:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode(), 0)
            os.set_inheritable(descriptor, True)
            return


def _refuse_foreign_daemon(home: str | None) -> None:
    """Finds `dagster dev` or `dg dev` by its process, since they do not take our lock when started by hand."""
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if not any(daemon in command for daemon in ("dagster-daemon run", "dagster._daemon run")):
            continue
        with contextlib.suppress(psutil.Error):
            theirs = process.environ().get("DAGSTER_HOME")
            if home and theirs and os.path.realpath(theirs) == os.path.realpath(home):
                raise ServicesUnavailable(
                    f"Another Dagster daemon (pid {process.info['pid']}) serves this instance, started by hand; "
                    "two daemons would run a run twice. Stop it (dagster dev, dg dev) and run again."
                )


def _refuse_taken_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise
            raise ServicesUnavailable(
                f"Port {port}, wanted for the Dagster UI, is in use; set HEADRACE_PORT to a free one and run again."
            ) from None


def _start(
    command: list[str], log: Path, environment: dict[str, str], root: Path, lock: int
) -> subprocess.Popen[bytes]:
    parent = os.getpid()

    def begin() -> None:
        # A script's background job ignores SIGINT, and Dagster would then ignore SIGTERM too, down to every run's
        # worker.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent(parent, signal.SIGTERM)

    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=environment,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # A Ctrl-C in the terminal reaches only the parent, which then stops them in order.
            start_new_session=True,
            pass_fds=(lock,),
            preexec_fn=begin,
        )


def _wait_until(is_ready: Callable[[], bool], running: Services, name: str) -> None:
    deadline = time.monotonic() + START_WAIT_SECONDS
    while not is_ready():
        running.check_alive()
        if time.monotonic() > deadline:
            raise ServicesUnavailable(
                f"The Dagster {name} was not ready in {START_WAIT_SECONDS:.0f} s. Its log: {running.logs / name}.log"
            )
        time.sleep(0.2)


def _serves(holder: int, port: int) -> bool:
    """Whether the process that has the lock, or a child, listens on a port: a port alone may be another project's."""
    try:
        return any(_listens(one, port) for one in (holder, *(child.pid for child in psutil.Process(holder).children())))
    except psutil.Error:
        return False


def _listens(pid: int, port: int) -> bool:
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections)


def _last_line(log: Path) -> str:
    """What a log ends with: of a stack, the error."""
    with contextlib.suppress(OSError):
        end = _COLOUR.sub("", log.read_bytes()[-_LOG_END_BYTES:].decode(errors="replace"))
        if said := [line.strip() for line in end.splitlines() if line.strip()]:
            return f"{said[-1][:_LOG_LINE_CHARACTERS].rstrip('.')}."
    return "it said nothing."
