"""The environment variables that tell a run's processes their devices; every rank and subprocess inherits them.

`CUDA_VISIBLE_DEVICES` is always set ("" without devices, since unset would mean all); a container's
`NVIDIA_VISIBLE_DEVICES` is left alone. A run that shares its GPU is limited by inherited settings:
`per_process_memory_fraction` in PyTorch's allocator settings (torch 2.13 has it, pytorch#161035; it does what
`torch.cuda.set_per_process_memory_fraction` does, for every process, without touching its code), and the limits of
NVIDIA MPS, which only hold where the MPS control daemon runs. The allocator's limit is for each process, and for
PyTorch alone: CUDA contexts and other libraries' buffers come on top.
"""

from collections.abc import Mapping, Sequence

from headrace.placement.demand import WHOLE

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
# For people who inspect the processes.
GPU_MILLI = "HEADRACE_GPU_MILLI"
"""Set in every process of a run with GPUs: thousandths of each visible device."""
NODE = "HEADRACE_NODE"
"""Set in every process of a run with GPUs: the node's name. For a gateway: the option `--node`."""
# Written where `ps e` and /proc show them, also for forked workers.
SHOWN = (VISIBLE_DEVICES, GPU_MILLI, NODE)

_ORDER = "CUDA_DEVICE_ORDER"
_FRACTION = "per_process_memory_fraction"
# PyTorch reads only the first one that is set.
_ALLOCATOR_SETTINGS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
_MPS_THREADS = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
_MPS_MEMORY = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"


def visible_devices(environment: Mapping[str, str]) -> str:
    """The devices that a run's process was given, as it was given them; empty: none."""
    return environment.get(VISIBLE_DEVICES, "")


def device_environment(
    devices: Sequence[str],
    milli: int,
    *,
    node: str,
    memory_mib: int | None,
    inherited: Mapping[str, str],
    limit_memory: bool = True,
) -> dict[str, str]:
    """The variables to add to `inherited`, the environment that the run would otherwise have.

    Args:
        milli: thousandths of each device.
        memory_mib: of the shared device, if known: MPS accepts no fraction of memory.
        limit_memory: False for an older torch, which would refuse to allocate at all with this setting.
    """
    ours = {VISIBLE_DEVICES: ",".join(devices), GPU_MILLI: str(milli if devices else 0), NODE: node}
    if devices:
        # Numbers in a fleet file are nvidia-smi's; by default CUDA counts the fastest GPU first.
        ours[_ORDER] = inherited.get(_ORDER, "PCI_BUS_ID")
    if devices and milli < WHOLE:
        if limit_memory:
            ours |= _with_fraction(inherited, milli / WHOLE)
        ours[_MPS_THREADS] = str(max(1, milli * 100 // WHOLE))
        if memory_mib:
            # MPS counts the devices that the run sees, of which the shared one is the first.
            ours[_MPS_MEMORY] = f"0={memory_mib * milli // WHOLE}M"
    return ours


def _with_fraction(inherited: Mapping[str, str], fraction: float) -> dict[str, str]:
    """The allocator settings with the fraction; keeps the user's other settings."""
    name = next((name for name in _ALLOCATOR_SETTINGS if name in inherited), _ALLOCATOR_SETTINGS[0])
    others = [
        setting
        for setting in inherited.get(name, "").split(",")
        if setting.strip() and not setting.strip().startswith(f"{_FRACTION}:")
    ]
    return {name: ",".join([*others, f"{_FRACTION}:{fraction:g}"])}
