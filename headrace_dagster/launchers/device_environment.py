"""What a run's processes are told of their devices: environment variables, inherited by every rank and subprocess.

`CUDA_VISIBLE_DEVICES` is always set ("" where there is none: unset would mean all of them); a container's
`NVIDIA_VISIBLE_DEVICES` is left alone. A run that shares its GPU is bounded by what its processes inherit:
`per_process_memory_fraction` in PyTorch's allocator settings (torch 2.13 has it, pytorch#161035; what
`torch.cuda.set_per_process_memory_fraction` does, for every process, without touching its code) and the limits of
NVIDIA MPS, which bind only where the MPS control daemon runs. The allocator's bound is one of each process, and of
PyTorch alone: CUDA contexts and other libraries' buffers come on top.
"""

from collections.abc import Mapping, Sequence

from headrace.placement.demand import WHOLE

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
# For whoever looks at the processes: thousandths of each visible device, and the node's name.
GPU_MILLI = "HEADRACE_GPU_MILLI"
NODE = "HEADRACE_NODE"
# Written where `ps e` and /proc show them, also for workers that were forked.
SHOWN = (VISIBLE_DEVICES, GPU_MILLI, NODE)

_ORDER = "CUDA_DEVICE_ORDER"
_FRACTION = "per_process_memory_fraction"
# PyTorch reads the first one that is set, and only that.
_ALLOCATOR_SETTINGS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
_MPS_THREADS = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
_MPS_MEMORY = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"


def device_environment(
    devices: Sequence[str],
    milli: int,
    *,
    node: str,
    memory_mib: int | None,
    inherited: Mapping[str, str],
    limit_memory: bool = True,
) -> dict[str, str]:
    """What to add to `inherited`, the environment that the run would have had.

    Args:
        milli: thousandths of each device.
        memory_mib: of the device that is shared, if it is known: MPS takes no fraction of memory.
        limit_memory: False for a torch from before that setting, which would refuse to allocate at all.
    """
    ours = {VISIBLE_DEVICES: ",".join(devices), GPU_MILLI: str(milli if devices else 0), NODE: node}
    if devices:
        # Numbers in a fleet file are nvidia-smi's; CUDA by default counts the fastest GPU first.
        ours[_ORDER] = inherited.get(_ORDER, "PCI_BUS_ID")
    if devices and milli < WHOLE:
        if limit_memory:
            ours |= _with_fraction(inherited, milli / WHOLE)
        ours[_MPS_THREADS] = str(max(1, milli * 100 // WHOLE))
        if memory_mib:
            # MPS counts the devices that the run sees: the shared one is its first.
            ours[_MPS_MEMORY] = f"0={memory_mib * milli // WHOLE}M"
    return ours


def _with_fraction(inherited: Mapping[str, str], fraction: float) -> dict[str, str]:
    """The user's other settings stay."""
    name = next((name for name in _ALLOCATOR_SETTINGS if name in inherited), _ALLOCATOR_SETTINGS[0])
    others = [
        setting
        for setting in inherited.get(name, "").split(",")
        if setting.strip() and not setting.strip().startswith(f"{_FRACTION}:")
    ]
    return {name: ",".join([*others, f"{_FRACTION}:{fraction:g}"])}
