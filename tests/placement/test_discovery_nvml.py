import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.placement.gpu_models import short_model
from headrace.placement.inventory import Gpu
from headrace.placement.nvml import NvmlUnavailable, read_nvml
from tests.placement.fake_nvml import (
    DRIVER_NOT_LOADED,
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    NO_PERMISSION,
    NOT_SUPPORTED,
    UNKNOWN,
    Device,
    FakeNvml,
)


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    device = tmp_path / "nvidiactl"
    device.touch()
    return device


def read(*devices: Device) -> tuple[Gpu, ...]:
    return read_nvml(FakeNvml(devices=list(devices)))


def test_gpus_are_named_by_uuid_with_their_short_model_and_memory() -> None:
    gpus = read(Device(uuid="GPU-1"), Device(uuid=b"GPU-2", name=b"NVIDIA A100-SXM4-40GB", memory_mib=40_960))
    assert gpus == (
        Gpu(device="GPU-1", model="H100", memory_mib=81_559),
        Gpu(device="GPU-2", model="A100", memory_mib=40_960),
    )


def test_a_gpu_in_mig_mode_is_its_slices() -> None:
    part = Device(uuid="MIG-a", name="NVIDIA A100-SXM4-40GB MIG 1g.5gb", memory_mib=4864)
    gpus = read(Device(uuid="GPU-1", slices=[part, None]), Device(uuid="GPU-2"))
    assert gpus == (
        Gpu(device="MIG-a", model="A100-1G.5GB", memory_mib=4864),
        Gpu(device="GPU-2", model="H100", memory_mib=81_559),
    )


def test_the_slices_of_a_sick_gpu_are_sick() -> None:
    (gpu,) = read(Device(uuid="GPU-1", ecc_errors=1, slices=[Device(uuid="MIG-a")]))
    assert not gpu.healthy


@pytest.mark.parametrize(
    "troubled",
    [
        {"ecc_errors": 1},
        {"ecc_error": GPU_IS_LOST},
        {"ecc_error": UNKNOWN},
        {"remapped_rows": (0, 1, 1, 0)},
        {"remapped_rows": (0, 0, 0, 1)},
        {"retired_error": None, "retired_pages_pending": 1},
        {"name_error": GPU_IS_LOST},
    ],
)
def test_a_gpu_in_trouble_is_sick_and_keeps_its_place(troubled: dict[str, Any]) -> None:
    sick, well = read(Device(uuid="GPU-1", **troubled), Device(uuid="GPU-2"))
    assert (sick.device, sick.healthy) == ("GPU-1", False)
    assert well.healthy


@pytest.mark.parametrize("error", [NOT_SUPPORTED, FUNCTION_NOT_FOUND, NO_PERMISSION])
def test_what_a_gpu_does_not_tell_is_no_sickness(error: int) -> None:
    (gpu,) = read(Device(uuid="GPU-1", ecc_error=error, remapped_error=error, retired_error=error, mig_error=error))
    assert gpu.healthy


def test_rows_that_have_been_replaced_are_no_sickness() -> None:
    (gpu,) = read(Device(uuid="GPU-1", remapped_rows=(3, 1, 0, 0)))
    assert gpu.healthy


def test_a_gpu_that_cannot_say_its_name_is_gone() -> None:
    (gpu,) = read(Device(uuid="GPU-1", handle_error=GPU_IS_LOST), Device(uuid="GPU-2"))
    assert gpu.device == "GPU-2"


def test_nvml_is_shut_down_after_each_reading(driver: Path) -> None:
    nvml = FakeNvml(devices=[Device(uuid="GPU-1")])
    read_nvml(nvml)
    assert nvml.num_open == 0
    nvml.count_error = UNKNOWN
    with pytest.raises(
        NvmlUnavailable, match=r"^NVML does not list the GPUs: Unknown Error\. See whether nvidia-smi does\.$"
    ):
        read_nvml(nvml, driver_device=driver)
    assert nvml.num_open == 0


def test_a_machine_without_a_driver_has_no_gpus(tmp_path: Path) -> None:
    assert read_nvml(FakeNvml(init_error=DRIVER_NOT_LOADED), driver_device=tmp_path / "none") == ()


def test_a_driver_that_does_not_start_is_no_empty_machine(driver: Path) -> None:
    with pytest.raises(NvmlUnavailable, match=r"^NVML does not start: Driver Not Loaded\."):
        read_nvml(FakeNvml(init_error=DRIVER_NOT_LOADED), driver_device=driver)


def test_without_the_package_a_machine_with_a_driver_asks_for_it(
    driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_nvml(driver_device=tmp_path / "none") == ()
    with pytest.raises(NvmlUnavailable, match=r"install nvidia-ml-py, or say what there is in HEADRACE_GPUS\.$"):
        read_nvml(driver_device=driver)


def test_the_package_has_what_is_called() -> None:
    """Of the installed one, if it is: a name that it drops would be found on a machine with GPUs only."""
    try:
        pynvml = importlib.import_module("pynvml")
    except ImportError:
        pytest.skip("nvidia-ml-py is not installed")
    ours = [name for name in dir(FakeNvml) if name.startswith(("nvml", "NVML"))]
    assert [name for name in ours if not hasattr(pynvml, name)] == []
    numbers = [name for name in ours if isinstance(getattr(FakeNvml, name), int)]
    assert {name: getattr(pynvml, name) for name in numbers} == {name: getattr(FakeNvml, name) for name in numbers}


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100"),
        ("NVIDIA H100 NVL", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("A100-PCIE-40GB", "A100"),
        ("NVIDIA A100 80GB PCIe MIG 3g.40gb", "A100-3G.40GB"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", "H100-1G.10GB+ME"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Tesla P100-PCIE-16GB", "P100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("rtx4090", "RTX4090"),
        ("NVIDIA RTX A6000", "A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX6000ADA"),
        ("h100", "H100"),
        ("V100M32", "V100M32"),
        ("", None),
        ("NVIDIA", None),
        ("Ｈ100", None),
        ("H100\x00", None),
        ("x" * 201, None),
    ],
)
def test_one_model_has_one_short_name(name: str, short: str | None) -> None:
    assert short_model(name) == short
    assert short is None or short_model(short) == short
