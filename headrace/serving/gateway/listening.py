"""The gateway's listening socket, and the number of connections for which the process has descriptors.

A killed gateway's Unix socket is replaced; a socket with a listener, or another kind of file, never is. Check, removal
and the new socket are one step to others: the directory is locked meanwhile.
"""

import errno
import fcntl
import os
import resource
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.errors import InvalidInput
from headrace.serving.gateway.connections import NUM_HEALTH_CONNECTIONS
from headrace.serving.service import Limits

# Descriptors for everything except clients and model servers: the log, the store, threads, Python's own.
_NUM_OWN_DESCRIPTORS = 48
# With fewer, a gateway would only turn clients away.
_NUM_CONNECTIONS_MIN = 16
BACKLOG = 2048
# How much of an answer the kernel may hold unsent; its default is some megabytes a connection.
_UNSENT_BYTES_MAX = 16_384


def listen(*, host: str, port: int, uds: Path | None, reuse_port: bool) -> socket.socket:
    """Raises: InvalidInput: the address is taken, not this machine's, or a foreign file."""
    try:
        if uds is not None:
            return _listen_on_file(uds)
        return _listen_on_port(host, port, reuse_port=reuse_port)
    except OSError as error:
        raise InvalidInput(
            f"The gateway cannot listen on {uds or f'{host}:{port}'}: {error.strerror or error}; choose another "
            "address."
        ) from error


def leave(listener: socket.socket, uds: Path | None, made: tuple[int, int] | None) -> None:
    """Removes the socket's file at the end, if it is still ours. `made`: its `identity` when it was created."""
    listener.close()
    if uds is None or made is None:
        return
    with _locked(uds.parent):
        if identity(uds) == made:
            uds.unlink()


def identity(file: Path | None) -> tuple[int, int] | None:
    """Identifies the file at that path; None: there is none."""
    try:
        found = file.lstat() if file else None
    except FileNotFoundError:
        return None
    return (found.st_dev, found.st_ino) if found else None


def num_connections_for(limits: Limits) -> int:
    """How many client connections the process has descriptors for, up to the service's limit.

    Raises the soft limit as far as needed and allowed; it is only low because of `select`, which is not used here.

    Raises:
        InvalidInput: there are too few descriptors to serve anybody.
    """
    others = _NUM_OWN_DESCRIPTORS + limits.num_units_max + NUM_HEALTH_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = others + limits.num_connections_max
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = min(limits.num_connections_max, soft - others)
    if room < min(_NUM_CONNECTIONS_MIN, limits.num_connections_max):
        raise InvalidInput(
            f"This process may open {soft} files; with num_units_max={limits.num_units_max} it needs at least "
            f"{others + _NUM_CONNECTIONS_MIN}. Raise the limit (`ulimit -n`), or lower num_units_max."
        )
    return room


def _listen_on_port(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    with _listening(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # Every connection inherits it.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES_MAX)
        listener.bind((host, port))
    return listener


def _listen_on_file(file: Path) -> socket.socket:
    with _locked(file.parent):
        if (found := _mode(file)) is not None:
            if not stat.S_ISSOCK(found):
                raise InvalidInput(
                    f"The gateway cannot listen on {file}: there is a file of another kind, which may be somebody's. "
                    "Move it away, or choose another path."
                )
            if _is_alive(file):
                raise InvalidInput(
                    f"The gateway cannot listen on {file}: somebody listens there already. End that process first, "
                    "or choose another path."
                )
            file.unlink()
        # While the directory is locked: between `bind` and `listen` a socket looks dead.
        with _listening(socket.AF_UNIX) as listener:
            listener.bind(str(file))
    return listener


@contextmanager
def _listening(family: socket.AddressFamily) -> Iterator[socket.socket]:
    """A socket that listens once the block has bound it.

    At once: the log names the address before the server takes it over, and if two gateways only bind to one port, the
    second learns of the conflict late, inside the server.
    """
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        yield listener
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)


def _mode(file: Path) -> int | None:
    try:
        return file.lstat().st_mode
    except FileNotFoundError:
        return None


def _is_alive(file: Path) -> bool:
    """Whether a process listens on a socket; only a refused connection proves that none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # So that a full backlog answers at once too.
        probe.setblocking(False)
        return probe.connect_ex(str(file)) != errno.ECONNREFUSED


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
