"""This machine's devices for a gang: its GPUs, or its CPU. The run worker asks without torch."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

# Without GPUs: enough for a real gang; more ranks than cores only add copies of the model.
_CPU_RANKS = 2
_MIB = 1024 * 1024
# The instructions' names in /proc/cpuinfo: two of x86, one of ARM. tests/upstream compares them with torch.
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
# Measured with AVX2 on a model of 135M parameters: 54 s of CPU against 3.5.
SLOW_BF16 = "this CPU has no bf16 instructions: a training step in bf16 takes about 15 times as long as in fp32"


@dataclass(frozen=True, kw_only=True)
class Devices:
    """`num_gpus`: 0 without a GPU; `memory_mib`: free memory of the smallest GPU, or of the whole machine.

    `computes_bf16`: False if bf16 is emulated (`cpu_computes_bf16`).
    """

    num_gpus: int
    memory_mib: int | None
    computes_bf16: bool = True

    @property
    def kind(self) -> str:
        return "cuda" if self.num_gpus else "cpu"

    def num_ranks(self, wanted: int | None) -> int:
        return wanted or self.num_gpus or _CPU_RANKS

    def memory_mib_per_rank(self, num_ranks: int) -> int | None:
        if self.memory_mib is None or self.num_gpus:
            return self.memory_mib
        return self.memory_mib // num_ranks


def detect_devices(environment: Mapping[str, str]) -> Devices:
    """The GPUs that CUDA_VISIBLE_DEVICES allows ("" allows none), otherwise all of this machine."""
    present = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        given = [device for device in visible.split(",") if device.strip()]
        # As in CUDA: everything after a device that does not exist, such as -1, is invisible.
        num_gpus = min(present, next((i for i, device in enumerate(given) if device.strip() == "-1"), len(given)))
    else:
        num_gpus = present
    if num_gpus:
        return Devices(num_gpus=num_gpus, memory_mib=_gpu_memory_mib(environment))
    return Devices(num_gpus=0, memory_mib=psutil.virtual_memory().available // _MIB, computes_bf16=cpu_computes_bf16())


def cpu_computes_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU has instructions for bf16; True if /proc/cpuinfo does not tell."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return True
    flags = [set(words.split()) for name, _, words in (line.partition(":") for line in lines) if _is_flags(name)]
    return not flags or any(not _BF16_FLAGS.isdisjoint(found) for found in flags)


def _is_flags(name: str) -> bool:
    return name.strip() in {"flags", "Features"}


def _gpu_memory_mib(environment: Mapping[str, str]) -> int | None:
    """Free memory of the GPU with least of it; None if nvidia-smi cannot tell."""
    command = shutil.which("nvidia-smi", path=environment.get("PATH", os.defpath))
    if command is None:
        return None
    ids = environment.get("CUDA_VISIBLE_DEVICES")
    query = [command, "--query-gpu=memory.free", "--format=csv,noheader,nounits", *([f"--id={ids}"] if ids else [])]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
        return min(int(line) for line in output.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
