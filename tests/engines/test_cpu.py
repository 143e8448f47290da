"""The kind of CPU: read from the system alone, and the same as PyTorch finds it."""

import pytest
import torch

from headrace.engines.cpu import cpu_kind, cpu_kind_of

CASCADE = "vendor_id\t: GenuineIntel\nflags\t\t: fpu fma avx2 avx512f avx512dq avx512bw avx512vl avx512_vnni\n"
RAPIDS = CASCADE.replace("vnni", "vnni avx512_bf16 amx_bf16 avx512_fp16 amx_tile amx_int8")
ZEN = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu fma avx2\n\nvendor_id\t: GenuineIntel\nflags\t\t: fpu\n"


@pytest.mark.skipif(not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="PyTorch has no word for it")
def test_kernels_and_units_are_those_that_pytorch_finds() -> None:
    _, kernels, *units = cpu_kind().split()
    assert kernels == torch.backends.cpu.get_cpu_capability()
    found = {
        "AVX512_BF16": torch.cpu._is_avx512_bf16_supported(),
        "AMX": torch.cpu._is_amx_tile_supported(),
    }
    assert {name: name in units for name in found} == found


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "kind"),
    [
        (CASCADE, "x86_64", "Intel AVX512"),
        (RAPIDS, "x86_64", "Intel AVX512 AVX512_BF16 AVX512_FP16 AMX"),
        (ZEN, "x86_64", "AMD AVX2"),
        (ZEN.replace(" fma", ""), "x86_64", "AMD DEFAULT"),
        ("processor\t: 0\nFeatures\t: fp asimd sve bf16\n", "aarch64", "aarch64 sve bf16"),
        ("", "arm64", "arm64"),
    ],
)
def test_the_kind_of_a_cpu(cpuinfo: str, machine: str, kind: str) -> None:
    assert cpu_kind_of(cpuinfo, machine) == kind
