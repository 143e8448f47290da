"""The gateway's listening socket, and the number of connections for which the process has descriptors."""

import resource
import socket
from pathlib import Path

from headrace.errors import InvalidInput
from headrace.serving.gateway.connections import NUM_HEALTH_CONNECTIONS
from headrace.serving.service import Limits
from headrace.unix_sockets import leave_file, listen_on_file, listening

# Descriptors for everything except clients and model servers: the log, the store, threads, Python's own.
_NUM_OWN_DESCRIPTORS = 48
# With fewer, a gateway would only turn clients away.
_NUM_CONNECTIONS_MIN = 16
# How much of an answer the kernel may hold unsent; its default is some megabytes a connection.
_UNSENT_BYTES_MAX = 16_384


def listen(*, host: str, port: int, uds: Path | None, reuse_port: bool) -> socket.socket:
    """Raises: InvalidInput: the address is taken, not this machine's, or a foreign file."""
    try:
        if uds is not None:
            return listen_on_file(uds, "The gateway")
        return _listen_on_port(host, port, reuse_port=reuse_port)
    except OSError as error:
        raise InvalidInput(
            f"The gateway cannot listen on {uds or f'{host}:{port}'}: {error.strerror or error}; choose another "
            "address."
        ) from error


def leave(listener: socket.socket, uds: Path | None, made: tuple[int, int] | None) -> None:
    """Closes it, and removes its file, if that is still ours. `made`: the file's identity when it was created."""
    listener.close()
    if uds is not None:
        leave_file(uds, made)


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
    with listening(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # Every connection inherits it.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES_MAX)
        listener.bind((host, port))
    return listener
