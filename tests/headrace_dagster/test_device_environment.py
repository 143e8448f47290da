"""Which environment variables tell a run's processes of their devices."""

import pytest

from headrace_dagster.launchers.device_environment import device_environment


def environment_of(
    devices: list[str],
    milli: int = 1000,
    *,
    memory_mib: int | None = 81559,
    inherited: dict[str, str] | None = None,
    limit_memory: bool = True,
) -> dict[str, str]:
    return device_environment(
        devices, milli, node="here", memory_mib=memory_mib, inherited=inherited or {}, limit_memory=limit_memory
    )


def test_a_run_without_a_gpu_is_told_that_there_is_none() -> None:
    assert environment_of([], 0) == {"CUDA_VISIBLE_DEVICES": "", "HEADRACE_GPU_MILLI": "0", "HEADRACE_NODE": "here"}


def test_whole_gpus_are_not_bounded() -> None:
    seen = environment_of(["0", "3"], inherited={"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"})

    assert seen == {
        "CUDA_VISIBLE_DEVICES": "0,3",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "HEADRACE_GPU_MILLI": "1000",
        "HEADRACE_NODE": "here",
    }


def test_a_shared_gpu_is_bounded_in_memory_and_threads() -> None:
    seen = environment_of(["2"], 250)

    assert seen["PYTORCH_CUDA_ALLOC_CONF"] == "per_process_memory_fraction:0.25"
    assert seen["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "25"
    assert seen["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=20389M"


def test_memory_that_nobody_knows_is_left_to_the_allocators_fraction() -> None:
    assert "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT" not in environment_of(["2"], 250, memory_mib=None)


def test_a_torch_that_knows_no_fraction_gets_none() -> None:
    assert "PYTORCH_CUDA_ALLOC_CONF" not in environment_of(["2"], 250, limit_memory=False)


@pytest.mark.parametrize(
    ("inherited", "expected"),
    [
        pytest.param(
            {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
            {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True,per_process_memory_fraction:0.5"},
            id="the user's settings stay",
        ),
        pytest.param(
            {"PYTORCH_CUDA_ALLOC_CONF": "per_process_memory_fraction:0.9"},
            {"PYTORCH_CUDA_ALLOC_CONF": "per_process_memory_fraction:0.5"},
            id="another fraction goes",
        ),
        pytest.param(
            {"PYTORCH_ALLOC_CONF": "backend:native"},
            {"PYTORCH_ALLOC_CONF": "backend:native,per_process_memory_fraction:0.5"},
            id="the newer name, where only that is set: the older would hide it",
        ),
    ],
)
def test_the_fraction_joins_the_allocators_other_settings(inherited: dict[str, str], expected: dict[str, str]) -> None:
    seen = environment_of(["0"], 500, inherited=inherited)

    assert {name: value for name, value in seen.items() if name.startswith("PYTORCH")} == expected
