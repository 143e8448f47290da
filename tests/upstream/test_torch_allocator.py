"""What PyTorch's allocator reads from the environment, undocumented, that shared GPUs rest on.

A failure here reads: PyTorch changed, look at headrace_dagster/launchers/device_environment.py.
"""

from importlib.util import find_spec
from pathlib import Path


def allocator_header() -> str:
    spec = find_spec("torch")
    assert spec
    assert spec.origin
    return (Path(spec.origin).parent / "include/c10/cuda/CUDAAllocatorConfig.h").read_text()


def test_the_allocator_takes_a_memory_fraction_from_the_environment() -> None:
    """A build without CUDA has the header alone: what the setting does there is not tried."""
    assert '"per_process_memory_fraction",' in allocator_header()


def test_of_the_two_names_the_older_one_wins_alone() -> None:
    header = allocator_header()

    assert header.index('get_env("PYTORCH_CUDA_ALLOC_CONF")') < header.index('get_env("PYTORCH_ALLOC_CONF")')
    assert header.count("inst->parseArgs(") == 1
