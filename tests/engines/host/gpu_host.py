"""`python -m tests.engines.host.gpu_host`: an engine host on a machine with two GPUs, as far as NVML tells.

Nothing computes on them. Of memory, the fake driver tells what the models' processes hold of the machine's.
"""

import os
import sys
from types import SimpleNamespace
from typing import Any

import psutil
import typer

from tests.placement.fake_nvml import Device, FakeNvml

UUIDS = ("GPU-00000000-aaaa", "GPU-11111111-bbbb")
MEMORY_MIB = 10_000


class Driver(FakeNvml):
    def nvmlDeviceGetComputeRunningProcesses(self, handle: Device) -> list[Any]:  # noqa: N802 (NVML's name)
        return [
            SimpleNamespace(pid=child.pid, usedGpuMemory=child.memory_info().rss)
            for child in psutil.Process(os.getpid()).children(recursive=True)
            if child.environ().get("CUDA_VISIBLE_DEVICES") == handle.uuid
        ]


if __name__ == "__main__":
    sys.modules["pynvml"] = Driver(devices=[Device(uuid=uuid, memory_mib=MEMORY_MIB) for uuid in UUIDS])  # type: ignore[assignment]
    from headrace.engines.host.__main__ import main

    typer.run(main)
