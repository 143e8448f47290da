"""What of this machine's CPU picks the code that a library computes with, read without importing the library.

Another instruction set adds in another order, so the last bits of a sum differ: an engine that computes here is the
same build only on a CPU of the same kind. Not in it: sizes of caches, which some libraries go by as well, and
ATEN_CPU_CAPABILITY, by which a user can have PyTorch take fewer instructions than there are.
"""

import platform
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# PyTorch's own rule (ATen/native/DispatchStub.cpp), best first: its name of the kernels, and the flags that they need.
_KERNELS = {
    "AVX512": {"avx512f", "avx512vl", "avx512bw", "avx512dq", "fma"},
    "AVX2": {"avx2", "fma"},
}
# What oneDNN and MKL ask for besides: matrices in bfloat16 and float16 are added in other units.
_UNITS = {"AVX512_BF16": "avx512_bf16", "AVX512_FP16": "avx512_fp16", "AMX": "amx_tile"}
_VENDORS = {"AuthenticAMD": "AMD", "GenuineIntel": "Intel"}
# Of other processors, what their libraries choose by.
_ARM_UNITS = ("sve", "sve2", "bf16", "i8mm")


@cache
def cpu_kind() -> str:
    """Such as `Intel AVX512 AVX512_BF16 AMX`."""
    return cpu_kind_of(_CPUINFO.read_text(errors="replace") if _CPUINFO.is_file() else "", platform.machine())


def cpu_kind_of(cpuinfo: str, machine: str) -> str:
    """The kind of CPU that Linux describes so; of an unknown one the machine's name alone."""
    facts: dict[str, str] = {}
    # All cores of a machine are alike, and a large one has hundreds.
    for line in cpuinfo.partition("\n\n")[0].splitlines():
        name, _, value = line.partition(":")
        facts[name.strip()] = value.strip()
    if flags := {*facts.get("flags", "").split()}:
        vendor = facts.get("vendor_id", "")
        kernels = next((name for name, needed in _KERNELS.items() if needed <= flags), "DEFAULT")
        units = [name for name, flag in _UNITS.items() if flag in flags]
        return " ".join([_VENDORS.get(vendor, vendor), kernels, *units]).strip()
    features = {*facts.get("Features", "").split()}
    return " ".join([machine, *(name for name in _ARM_UNITS if name in features)])
