"""Finds an engine host, or starts one that belongs to nobody: no run's end ends it."""

import fcntl
import logging
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.engines.host.address import HostAddress
from headrace.text.visible import one_line
from headrace.unix_sockets import is_listened_on

_log = logging.getLogger(__name__)
# A busy machine starts Python in seconds.
_START_SECONDS_MAX = 60.0
_LOOK_SECONDS = 0.02
_LOG_END_BYTES, _LOG_LINE_CHARACTERS = 4096, 500
# By this variable a run's processes are found. A word with a dash names none.
_RUN_MARKER, _NO_RUN = "HEADRACE_RUN_ID", "-engine-host"


def found_or_started(host: HostAddress) -> bool:
    """Whether somebody listens there by now. A host that cannot be started is none; its log says why."""
    if is_listened_on(host.socket_file):
        return True
    if not host.is_started:
        return False
    try:
        with _alone(host.socket_file):
            # Another run may have started it meanwhile.
            return is_listened_on(host.socket_file) or _started(host)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        _log.warning("no engine host can be started at %s: %s", host.socket_file, error)
        return False


def _started(host: HostAddress) -> bool:
    assert host.log
    host.log.parent.mkdir(parents=True, exist_ok=True)
    with host.log.open("ab") as log:
        num_bytes_before = log.tell()
        # The shell ends at once, so that the host is nobody's child.
        shell = subprocess.run(
            ["/bin/sh", "-c", '"$@" </dev/null >&2 & echo $!', "engine-host", *host.command],
            env={**os.environ, _RUN_MARKER: _NO_RUN, "CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            check=True,
        )
    pid = int(shell.stdout)
    ends = time.monotonic() + _START_SECONDS_MAX
    while time.monotonic() < ends and _is_alive(pid):
        if is_listened_on(host.socket_file):
            return True
        time.sleep(_LOOK_SECONDS)
    how = "does not answer" if _is_alive(pid) else "has ended"
    said = _said_since(host.log, num_bytes_before)
    _log.warning("the engine host that was started at %s %s%s; its log: %s", host.socket_file, how, said, host.log)
    return False


def _said_since(log: Path, num_bytes: int) -> str:
    """The last line of a log, if there is more than so many bytes: a host that ends at once ends with its reason."""
    with log.open("rb") as file:
        file.seek(max(num_bytes, log.stat().st_size - _LOG_END_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return f": {one_line(lines[-1])[:_LOG_LINE_CHARACTERS].rstrip('.')}" if lines else ""


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


@contextmanager
def _alone(socket_file: Path) -> Iterator[None]:
    with socket_file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
