"""The part of `pynvml` that Headrace calls, answering from a description of GPUs; names and numbers are NVML's own."""

from dataclasses import dataclass, field
from types import SimpleNamespace


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return {9: "Driver Not Loaded", 15: "GPU is lost", 999: "Unknown Error"}.get(self.value, str(self.value))


NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, DRIVER_NOT_LOADED, FUNCTION_NOT_FOUND, GPU_IS_LOST, UNKNOWN = (
    3, 4, 6, 9, 13, 15, 999,
)  # fmt: skip


@dataclass(kw_only=True)
class Device:
    """A number in place of an answer is the error that NVML gives for it."""

    uuid: str | bytes
    name: str | bytes = "NVIDIA H100 80GB HBM3"
    memory_mib: int = 81_559
    handle_error: int | None = None
    name_error: int | None = None
    mig_error: int | None = NOT_SUPPORTED
    slices: "list[Device | None] | None" = None  # None: not in MIG mode; a None in it: a place that is free
    ecc_errors: int = 0
    ecc_error: int | None = None
    remapped_rows: tuple[int, int, int, int] = (0, 0, 0, 0)
    remapped_error: int | None = None
    retired_pages_pending: int = 0
    retired_error: int | None = NOT_SUPPORTED
    processes: "dict[int, int | None]" = field(default_factory=dict)  # pid → MiB; None: the driver may not tell


@dataclass(kw_only=True)
class FakeNvml:
    devices: list[Device] = field(default_factory=list)
    init_error: int | None = None
    count_error: int | None = None
    num_open: int = 0

    NVMLError = NVMLError
    NVML_ERROR_NOT_SUPPORTED = NOT_SUPPORTED
    NVML_ERROR_NO_PERMISSION = NO_PERMISSION
    NVML_ERROR_FUNCTION_NOT_FOUND = FUNCTION_NOT_FOUND
    NVML_DEVICE_MIG_ENABLE = 1
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0

    def nvmlInit(self) -> None:  # noqa: N802 (NVML's name; so are all below)
        _raise(self.init_error)
        self.num_open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.num_open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        _raise(self.count_error)
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Device:  # noqa: N802
        _raise(self.devices[index].handle_error)
        return self.devices[index]

    def nvmlDeviceGetUUID(self, handle: Device) -> str | bytes:  # noqa: N802
        return handle.uuid

    def nvmlDeviceGetName(self, handle: Device) -> str | bytes:  # noqa: N802
        _raise(handle.name_error)
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: Device) -> SimpleNamespace:  # noqa: N802
        total = handle.memory_mib * 2**20
        held = sum(one.usedGpuMemory or 0 for one in self.nvmlDeviceGetComputeRunningProcesses(handle))
        return SimpleNamespace(total=total, used=held, free=total - held)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Device) -> list[SimpleNamespace]:  # noqa: N802
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=None if mib is None else mib * 2**20)
            for pid, mib in handle.processes.items()
        ]

    def nvmlDeviceGetMigMode(self, handle: Device) -> tuple[int, int]:  # noqa: N802
        if handle.slices is None:
            _raise(handle.mig_error)
            return 0, 0
        return 1, 1

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Device) -> int:  # noqa: N802
        return len(handle.slices or ())

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Device, index: int) -> Device:  # noqa: N802
        part = (handle.slices or [])[index]
        if part is None:
            raise NVMLError(NOT_FOUND)
        return part

    def nvmlDeviceGetTotalEccErrors(self, handle: Device, kind: int, counter: int) -> int:  # noqa: N802
        assert (kind, counter) == (1, 0), "uncorrected, since the last reset"
        _raise(handle.ecc_error)
        return handle.ecc_errors

    def nvmlDeviceGetRemappedRows(self, handle: Device) -> tuple[int, int, int, int]:  # noqa: N802
        _raise(handle.remapped_error)
        return handle.remapped_rows

    def nvmlDeviceGetRetiredPagesPendingStatus(self, handle: Device) -> int:  # noqa: N802
        _raise(handle.retired_error)
        return handle.retired_pages_pending


def _raise(error: int | None) -> None:
    if error is not None:
        raise NVMLError(error)
