"""This machine's GPUs according to its driver, by NVML (package `nvidia-ml-py`, imported only here).

Devices are named by UUID, not by index: NVML counts in bus order, CUDA by default by speed, and both renumber when a
GPU fails. A GPU that is divided into MIG slices is listed as its slices. NVML ignores CUDA_VISIBLE_DEVICES.
"""

import importlib
from pathlib import Path
from typing import Any

from headrace.errors import Transient
from headrace.placement.gpu_models import short_model
from headrace.placement.inventory import Gpu

UNKNOWN_MODEL = "UNKNOWN"
_DRIVER_DEVICE = Path("/dev/nvidiactl")
_MIB = 2**20


class NvmlUnavailable(Transient):
    """The driver does not answer, so the GPUs and their health are unknown."""


def read_nvml(pynvml: Any = None, *, driver_device: Path = _DRIVER_DEVICE) -> tuple[Gpu, ...]:
    """All GPUs and MIG slices; none on a machine without an NVIDIA driver.

    A GPU is sick if NVML fails on it ("GPU is lost"), if it had uncorrected memory errors since its last reset, or if
    rows or pages of its memory wait for a reset to be replaced.

    Args:
        pynvml: the module, or an object that behaves like it.

    Raises:
        NvmlUnavailable: the driver exists but does not answer, or `nvidia-ml-py` is not installed.
    """
    if pynvml is None:
        try:
            pynvml = importlib.import_module("pynvml")
        except ImportError as error:
            if not driver_device.exists():
                return ()
            raise NvmlUnavailable(
                f"This machine has an NVIDIA driver ({driver_device}), but its GPUs cannot be read: install "
                "nvidia-ml-py, or say what there is in HEADRACE_GPUS."
            ) from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if not driver_device.exists():
            return ()
        raise NvmlUnavailable(f"NVML does not start: {error}. See whether nvidia-smi does.") from error
    try:
        return _Reading(pynvml).gpus()
    except pynvml.NVMLError as error:
        raise NvmlUnavailable(f"NVML does not list the GPUs: {error}. See whether nvidia-smi does.") from error
    finally:
        _quietly(pynvml, pynvml.nvmlShutdown)


class _Reading:
    def __init__(self, pynvml: Any) -> None:
        self._nvml = pynvml

    def gpus(self) -> tuple[Gpu, ...]:
        found: list[Gpu] = []
        for index in range(self._nvml.nvmlDeviceGetCount()):
            try:
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                uuid = _text(self._nvml.nvmlDeviceGetUUID(handle))
            except self._nvml.NVMLError:
                # A device without a name cannot be called sick: it counts as gone.
                continue
            healthy = self._is_healthy(handle)
            if self._has_mig(handle):
                found += self._slices(handle, healthy)
            else:
                found.append(self._gpu(handle, uuid, healthy))
        return tuple(found)

    def _gpu(self, handle: Any, device: str, healthy: bool) -> Gpu:
        try:
            model = short_model(_text(self._nvml.nvmlDeviceGetName(handle))) or UNKNOWN_MODEL
            memory_mib = self._nvml.nvmlDeviceGetMemoryInfo(handle).total // _MIB
        except self._nvml.NVMLError:
            return Gpu(device=device, model=UNKNOWN_MODEL, memory_mib=0, healthy=False)
        return Gpu(device=device, model=model, memory_mib=memory_mib, healthy=healthy)

    def _has_mig(self, handle: Any) -> bool:
        mode = _quietly(self._nvml, self._nvml.nvmlDeviceGetMigMode, handle)
        return mode is not None and mode[0] == self._nvml.NVML_DEVICE_MIG_ENABLE

    def _slices(self, handle: Any, healthy: bool) -> list[Gpu]:
        found = []
        for index in range(_quietly(self._nvml, self._nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
            try:
                part = self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
                device = _text(self._nvml.nvmlDeviceGetUUID(part))
            except self._nvml.NVMLError:
                # A place for a slice may be empty.
                continue
            found.append(self._gpu(part, device, healthy))
        return found

    def _is_healthy(self, handle: Any) -> bool:
        """A query that the device does not support, or hides here, says nothing of its health; other failures do."""
        nvml = self._nvml
        silent = (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND, nvml.NVML_ERROR_NO_PERMISSION)
        checks = (
            lambda: nvml.nvmlDeviceGetTotalEccErrors(
                handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            ),
            # Rows that were replaced, after corrected or uncorrected errors, are well again: only the last two counts
            # matter.
            lambda: any(nvml.nvmlDeviceGetRemappedRows(handle)[2:]),
            lambda: nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle),
        )
        for check in checks:
            try:
                if check():
                    return False
            except nvml.NVMLError as error:
                if error.value not in silent:
                    return False
        return True


def _quietly(pynvml: Any, call: Any, *arguments: Any) -> Any:
    """The call's result; None if NVML refuses."""
    try:
        return call(*arguments)
    except pynvml.NVMLError:
        return None


def _text(name: str | bytes) -> str:
    """Older versions of nvidia-ml-py give bytes."""
    return name.decode(errors="replace") if isinstance(name, bytes) else name
