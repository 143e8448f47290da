"""Unix sockets that a process listens on, as files: a dead process's is replaced, a live one's never.

A socket with a listener, or another kind of file, stays as it is. Check, removal and the new socket are one step to
others: the directory is locked meanwhile.
"""

import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.errors import InvalidInput

BACKLOG = 2048


def listen_on_file(file: Path, whose: str) -> socket.socket:
    """Args: whose: who wants to listen, as the beginning of a refusal: "The gateway".

    Raises:
        InvalidInput: somebody listens there, or there is a file of another kind.
        OSError: no socket can be there.
    """
    with _locked(file.parent):
        if (found := _mode(file)) is not None:
            if not stat.S_ISSOCK(found):
                raise InvalidInput(
                    f"{whose} cannot listen on {file}: there is a file of another kind, which may be somebody's. "
                    "Move it away, or choose another path."
                )
            if is_listened_on(file):
                raise InvalidInput(
                    f"{whose} cannot listen on {file}: somebody listens there already. End that process first, "
                    "or choose another path."
                )
            file.unlink()
        # While the directory is locked: between `bind` and `listen` a socket looks dead.
        with listening(socket.AF_UNIX) as listener:
            listener.bind(str(file))
    return listener


def leave_file(file: Path, made: tuple[int, int] | None) -> None:
    """Removes the socket's file at the end, if it is still ours. `made`: its `identity` when it was created."""
    if made is None:
        return
    with _locked(file.parent):
        if identity(file) == made:
            file.unlink()


def identity(file: Path | None) -> tuple[int, int] | None:
    """Identifies the file at that path; None: there is none."""
    try:
        found = file.lstat() if file else None
    except FileNotFoundError:
        return None
    return (found.st_dev, found.st_ino) if found else None


def is_listened_on(file: Path) -> bool:
    """Whether a process listens on a socket; of one that is there, only a refused connection proves that none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # So that a full backlog answers at once too.
        probe.setblocking(False)
        return probe.connect_ex(str(file)) not in (errno.ECONNREFUSED, errno.ENOENT)


def listener_pid(file: Path) -> int | None:
    """The process that listens on a socket, whether it runs or was stopped; None: none does, or it cannot be told."""
    credentials = getattr(socket, "SO_PEERCRED", None)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if credentials is None or probe.connect_ex(str(file)):
            return None
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, credentials, struct.calcsize("3i")))
    return pid or None


@contextmanager
def listening(family: socket.AddressFamily) -> Iterator[socket.socket]:
    """A socket that listens once the block has bound it.

    At once: the log names the address before the server takes it over, and if two processes only bind to one port, the
    second learns of the conflict late, inside its server.
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


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
