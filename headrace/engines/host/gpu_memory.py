"""Memory of this machine's GPUs for an engine host, by NVML (package `nvidia-ml-py`, imported when it is used).

Which GPUs there are for whom is the coordinator's to know (`headrace.placement.nvml`); a host only has to know how much
each holds. A GPU goes by its UUID; who asks by index means NVML's order, which is CUDA's with
`CUDA_DEVICE_ORDER=PCI_BUS_ID`. GPUs in MIG mode have no account: a run on a slice opens its engines itself.
"""

import importlib
from typing import Any

import psutil

# The rest of a GPU is for CUDA's own contexts, one a process.
_SHARE = 0.9
_MIB = 2**20


class GpuMemory:
    """The driver's answers, one connection for a host's life. Without a driver: no GPU."""

    def __init__(self, pynvml: Any = None) -> None:
        """Args: pynvml: the module, or an object that behaves like it."""
        self._nvml: Any = pynvml
        self._handles: dict[str, Any] = {}
        try:
            self._nvml = pynvml or importlib.import_module("pynvml")
            self._nvml.nvmlInit()
        except ImportError:
            return
        except self._nvml.NVMLError:
            return
        for index in range(self._asked(0, self._nvml.nvmlDeviceGetCount)):
            if (handle := self._asked(None, self._nvml.nvmlDeviceGetHandleByIndex, index)) is None:
                continue
            uuid = self._asked("", self._nvml.nvmlDeviceGetUUID, handle)
            uuid = uuid.decode(errors="replace") if isinstance(uuid, bytes) else uuid
            mode = self._asked(None, self._nvml.nvmlDeviceGetMigMode, handle)
            has_slices = mode is not None and mode[0] == self._nvml.NVML_DEVICE_MIG_ENABLE
            if uuid and not has_slices:
                self._handles[uuid] = handle

    def accounts(self) -> dict[str, int]:
        """MiB for models, by UUID, in NVML's order."""
        found = {uuid: self._memory(handle) for uuid, handle in self._handles.items()}
        return {uuid: int(memory.total / _MIB * _SHARE) for uuid, memory in found.items() if memory is not None}

    def named(self, device: str) -> str:
        """The account of a device that is named by UUID or by index; an unknown one as it is."""
        if device.isdecimal() and int(device) < len(self._handles):
            return list(self._handles)[int(device)]
        return next((uuid for uuid in self._handles if device and uuid.startswith(device)), device)

    def free_mib(self, device: str) -> int:
        """What nobody holds now; 0: the GPU does not answer, so that nothing new is put there."""
        memory = self._memory(self._handles[device])
        return 0 if memory is None else memory.free // _MIB

    def held_mib(self, device: str, pid: int) -> int:
        """What a process and its descendants hold there; 0: NVML tells of none of them."""
        try:
            process = psutil.Process(pid)
            pids = {pid, *(child.pid for child in process.children(recursive=True))}
        except psutil.Error:
            return 0
        there = self._asked([], self._nvml.nvmlDeviceGetComputeRunningProcesses, self._handles[device])
        # A driver that may not tell a process's memory says None.
        return -(-sum(one.usedGpuMemory or 0 for one in there if one.pid in pids) // _MIB)

    def _memory(self, handle: Any) -> Any:
        return self._asked(None, self._nvml.nvmlDeviceGetMemoryInfo, handle)

    def _asked(self, otherwise: Any, call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except self._nvml.NVMLError:
            return otherwise
