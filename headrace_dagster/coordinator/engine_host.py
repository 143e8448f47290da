"""The engine host of the runs of this node, if runs with a GPU have one: what the daemon's environment says of it.

The daemon and the runs must see the same `HEADRACE_ENGINE_HOST`, `HEADRACE_STORE` and working directory, as for
`HEADRACE_GPUS`; where they do not, no model is known and no run goes anywhere else.
"""

import os
import socket
import time
from pathlib import Path

from headrace.engines.host.address import CPU_ONLY, OFF, ON, default_socket
from headrace.errors import HeadraceError
from headrace.placement.engine_hosts import EngineHost
from headrace.settings import settings_of
from headrace.store.local import LocalStore


def engine_host() -> EngineHost | None:
    """None: runs with a GPU open their models themselves, or there is nothing here to find a host by."""
    try:
        settings = settings_of(os.environ, Path.cwd())
        if settings.engine_host in (OFF, CPU_ONLY):
            return None
        if settings.engine_host != ON:
            file = Path(settings.engine_host)
        else:
            objects = settings.open_store()
            if isinstance(objects, LocalStore) and not objects.directory.is_dir():
                return None
            file = default_socket(objects)
    except HeadraceError:
        # Whoever opens a model there is told what is wrong with the settings.
        return None
    return EngineHost(socket.gethostname(), file, clock=time.monotonic)
