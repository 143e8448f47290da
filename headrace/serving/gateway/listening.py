"""Where the gateway listens, and how many connections the process has descriptors for.

A Unix socket that a killed gateway left behind is replaced; one that somebody listens on, or a file of another kind,
never is. The look, the removal and the new socket are one step to others: the directory is locked for its time.
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

# Descriptors for everything but clients and servers of models: the log, the store, threads, Python's own.
_NUM_OWN_DESCRIPTORS = 48
# Below this a gateway would be busy with turning clients away.
_NUM_CONNECTIONS_MIN = 16
BACKLOG = 2048
# What the kernel may hold of an answer before it is sent; its default is some megabytes a connection.
_UNSENT_BYTES_MAX = 16_384


def listen(*, host: str, port: int, uds: Path | None, reuse_port: bool) -> socket.socket:
    """Raises: InvalidInput: the address is taken, not this machine's, or a file that is none of ours."""
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
    """Take the socket's file away at the end, if it is still ours. `made`: as `identity` said when it was."""
    listener.close()
    if uds is None or made is None:
        return
    with _locked(uds.parent):
        if identity(uds) == made:
            uds.unlink()


def identity(file: Path | None) -> tuple[int, int] | None:
    """Which file stands at that path; None: none."""
    try:
        found = file.lstat() if file else None
    except FileNotFoundError:
        return None
    return (found.st_dev, found.st_ino) if found else None


def num_connections_for(limits: Limits) -> int:
    """How many connections for clients the process has descriptors for, at most as many as the service allows.

    The soft limit is raised as far as needed and allowed: it is low for the sake of `select`, which nothing here uses.

    Raises:
        InvalidInput: there are too few to serve anybody.
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
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # Inherited by every connection.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES_MAX)
        listener.bind((host, port))
        # At once: the address is said to listen before the server takes it over, and of two that are only bound to
        # one port the second would learn it later, inside the server.
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
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
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(file))
            # While the directory is locked: between `bind` and `listen` a socket looks like a dead one.
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    listener.setblocking(False)
    return listener


def _mode(file: Path) -> int | None:
    try:
        return file.lstat().st_mode
    except FileNotFoundError:
        return None


def _is_alive(file: Path) -> bool:
    """Whether somebody listens on a socket; only a refused connection says that nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A backlog that is full answers at once too.
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
