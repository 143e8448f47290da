"""Where a run finds an engine host, and with what it starts one: what `HEADRACE_ENGINE_HOST` means."""

import hashlib
import math
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from headrace.engines.host.wanted import CPU, StoreAddress, is_device
from headrace.errors import InvalidInput
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore

ENGINE_HOST = "HEADRACE_ENGINE_HOST"
# For a host that a run starts: the MiB of all models on the CPU, and after how long a model and the host leave.
HOST_MIB, HOST_IDLE_SECONDS = f"{ENGINE_HOST}_MIB", f"{ENGINE_HOST}_IDLE_SECONDS"
OFF, ON, CPU_ONLY = "off", "on", "cpu"
# As other variables that are on or off are written.
_WORDS = {"cpu": CPU_ONLY, "on": ON, "true": ON, "yes": ON, "1": ON, "off": OFF, "false": OFF, "no": OFF, "0": OFF}
_MODULE = "headrace.engines.host"
# Hosts of another one do not understand what is asked of them: raise it with every change of the wire.
_PROTOCOL = 3
# The path of a Unix socket has 107 bytes, and those of the models' processes are longer.
PATH_BYTES_MAX = 100
# Whoever says nothing for so long is not waited for. A busy machine pauses any process for seconds.
SILENT_SECONDS = 60.0
# Where processes are measured, and die with their host.
_HAS_PROC = Path("/proc/self/statm").exists()
_IN_A_POD = "KUBERNETES_SERVICE_HOST"
# Devices of NVIDIA's and AMD's drivers: there a run without a fleet may compute on a GPU.
_GPUS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))


@dataclass(frozen=True, kw_only=True)
class HostAddress:
    """`is_started`: a host is started there if none listens; `log`: what it says then. `takes_all`: also engines that
    load no more than a run would notice are asked there. `device`: where models are asked for. `silent_seconds`: a host
    that says nothing for so long is not waited for."""

    socket_file: Path
    store: StoreAddress
    is_started: bool = False
    takes_all: bool = True
    log: Path | None = None
    device: str = CPU
    silent_seconds: float = SILENT_SECONDS

    @property
    def command(self) -> tuple[str, ...]:
        return (sys.executable, "-m", _MODULE, "--socket", str(self.socket_file))


def host_address(word: str, objects: ObjectStore, environment: Mapping[str, str]) -> HostAddress | None:
    """The engine host of a run; None: it opens its engines itself.

    Args:
        word: `off`; `on`: this node's host for this store, which is started if it is not there; `cpu`: the same for
            runs without a GPU, and none for others; a host's socket.
        environment: of the run's process.

    Raises: InvalidInput: `word` is none of these.
    """
    word, store, device = checked_word(word), store_address(objects), device_of(environment)
    if word == OFF or store is None or device is None or not _HAS_PROC or (word == CPU_ONLY and device != CPU):
        return None
    if word in (ON, CPU_ONLY):
        if _IN_A_POD in environment:
            # The pod ends with its run, and so would a host in it.
            return None
        log = objects.node_directory() / "engine_host.log"
        return HostAddress(
            socket_file=default_socket(objects), store=store, is_started=True, takes_all=False, log=log, device=device
        )
    return HostAddress(socket_file=Path(word), store=store, device=device)


def checked_word(text: str) -> str:
    """What `HEADRACE_ENGINE_HOST` says: `off`, `on`, `cpu`, or the path of a socket. Raises: InvalidInput: neither."""
    if word := _WORDS.get(text.lower()):
        return word
    if not text.startswith("/") or "\0" in text:
        raise InvalidInput(f"must be off, on, cpu, or the absolute path of an engine host's socket, got {text!r}.")
    if len(os.fsencode(text)) > PATH_BYTES_MAX:
        raise InvalidInput(f"must be a path of at most {PATH_BYTES_MAX} bytes, got one of {len(os.fsencode(text))}.")
    return text


def checked_mib(text: str) -> int:
    """Raises: InvalidInput: no host would start with it."""
    if not (text.isascii() and text.isdecimal()) or not int(text[:18]):
        raise InvalidInput(f"must be a positive whole number of MiB, got {text!r}.")
    return int(text[:18])


def checked_idle_seconds(text: str) -> float:
    """Raises: InvalidInput: no host would start with it."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise InvalidInput(f"must be a number of seconds, 0 or more, got {text!r}.")
    return seconds


def default_socket(objects: ObjectStore) -> Path:
    """The same for all of this user's processes on this node that use one store with one interpreter."""
    whose = f"{_PROTOCOL} {objects.node_directory()} {sys.executable}"
    name = hashlib.sha256(whose.encode()).hexdigest()[:16]
    return _runtime_directory() / f"{name}.sock"


def store_address(objects: ObjectStore) -> StoreAddress | None:
    """How another process opens the store; None: it cannot."""
    if isinstance(objects, LocalStore):
        return StoreAddress(url=objects.directory.absolute().as_uri())
    cache = getattr(objects, "cache", None)
    if not (url := getattr(objects, "url", "")) or cache is None:
        return None
    return StoreAddress(url=url, cache=str(cache.directory), cache_bytes=cache.num_bytes_max)


def _runtime_directory() -> Path:
    """A directory that is this user's alone; its path is short, as a socket's must be.

    Raises: InvalidInput: somebody else made it.
    """
    base = Path(tempfile.gettempdir())
    if len(str(base).encode()) > PATH_BYTES_MAX // 2:
        base = Path("/tmp")
    directory = base / f"headrace-{os.getuid()}"
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InvalidInput(
            f"{directory} must be a directory that only you may enter, and it is not: remove it, or set "
            f"{ENGINE_HOST}=off."
        )
    return directory


def device_of(environment: Mapping[str, str]) -> str | None:
    """Where a run computes: the CPU, or the GPUs that it was given, a model on each. None: on a slice, on whichever it
    likes, or on one that is only simulated; no account of a host's has these."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    has_driver = any(device.exists() for device in _GPUS)
    if visible == "" or (visible is None and not has_driver):
        return CPU
    return visible if visible and visible != CPU and is_device(visible) and has_driver else None
