"""Which CPUs compute bf16: torch knows, and so does the kernel, without an import of torch."""

import torch

from headrace.training.devices import cpu_computes_bf16


def test_torch_and_the_kernels_flags_agree_on_bf16() -> None:
    capabilities = torch.cpu.get_capabilities()
    known = [capabilities[name] for name in ("avx512_bf16", "amx_bf16", "bf16") if name in capabilities]
    assert known, f"torch names none of them: {sorted(capabilities)}"
    assert cpu_computes_bf16() == any(known)
