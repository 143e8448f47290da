"""Where a run finds an engine host, and with what it starts one: what `HEADRACE_ENGINE_HOST` means."""

import hashlib
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace.engines.host.wanted import StoreAddress
from headrace.errors import InvalidInput
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore

ENGINE_HOST = "HEADRACE_ENGINE_HOST"
OFF, ON = "off", "on"
# As other variables that are on or off are written.
_WORDS = {"on": ON, "true": ON, "yes": ON, "1": ON, "off": OFF, "false": OFF, "no": OFF, "0": OFF}
_MODULE = "headrace.engines.host"
# Hosts of another one do not understand what is asked of them: raise it with every change of the wire.
_PROTOCOL = 1
# The path of a Unix socket has 107 bytes, and those of the models' processes are longer.
_PATH_BYTES_MAX = 100
# Where processes are measured, and die with their host.
_HAS_PROC = Path("/proc/self/statm").exists()
_IN_A_POD = "KUBERNETES_SERVICE_HOST"
# Devices of NVIDIA's and AMD's drivers: there a run without a fleet may compute on a GPU.
_GPUS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))


@dataclass(frozen=True, kw_only=True)
class HostAddress:
    """`is_started`: a host is started there if none listens; `log`: what it says then. `takes_all`: also engines that
    load no more than a run would notice are asked there. `silent_seconds`: a host that says nothing for so long is not
    waited for."""

    socket_file: Path
    store: StoreAddress
    is_started: bool = False
    takes_all: bool = True
    log: Path | None = None
    # A busy machine pauses any process for seconds.
    silent_seconds: float = 60.0

    @property
    def command(self) -> tuple[str, ...]:
        return (sys.executable, "-m", _MODULE, "--socket", str(self.socket_file))


def host_address(word: str, objects: ObjectStore, environment: Mapping[str, str]) -> HostAddress | None:
    """The engine host of a run; None: it opens its engines itself.

    Args:
        word: `off`; a host's socket; `on`: this node's host for this store, which is started if it is not there.
        environment: of the run's process.

    Raises: InvalidInput: `word` is none of these.
    """
    # A run that has a GPU, or may take one, is not a host's yet: its memory is in no account.
    word, store = checked_word(word), store_address(objects)
    if word == OFF or store is None or not (_is_without_gpu(environment) and _HAS_PROC):
        return None
    if word == ON:
        if _IN_A_POD in environment:
            # The pod ends with its run, and so would a host in it.
            return None
        log = objects.node_directory() / "engine_host.log"
        return HostAddress(socket_file=default_socket(objects), store=store, is_started=True, takes_all=False, log=log)
    return HostAddress(socket_file=Path(word), store=store)


def checked_word(text: str) -> str:
    """What `HEADRACE_ENGINE_HOST` says: `off`, `on`, or the path of a socket. Raises: InvalidInput: neither."""
    if word := _WORDS.get(text.lower()):
        return word
    if not text.startswith("/") or "\0" in text:
        raise InvalidInput(f"must be off, on, or the absolute path of an engine host's socket, got {text!r}.")
    if len(text.encode()) > _PATH_BYTES_MAX:
        raise InvalidInput(f"must be a path of at most {_PATH_BYTES_MAX} bytes, got one of {len(text.encode())}.")
    return text


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
    if len(str(base).encode()) > _PATH_BYTES_MAX // 2:
        base = Path("/tmp")
    directory = base / f"headrace-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InvalidInput(
            f"{directory} must be a directory that only you may enter, and it is not: remove it, or set "
            f"{ENGINE_HOST}=off."
        )
    return directory


def _is_without_gpu(environment: Mapping[str, str]) -> bool:
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    return visible == "" or (visible is None and not any(device.exists() for device in _GPUS))
