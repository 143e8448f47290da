from decimal import Decimal

import pytest

from headrace.errors import InvalidInput
from headrace.kube.resources import NVIDIA, GpuResources, amount, effective_request, gpus_asked, mib, milli
from tests.kube.builders import GPU, SHARED, SLICE


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        ("500m", Decimal("0.5")),
        (2, Decimal(2)),
        ("0.1", Decimal("0.1")),
        ("1e3", Decimal(1000)),
        ("1E3", Decimal(1000)),
        ("2k", Decimal(2000)),
        ("3Ki", Decimal(3072)),
        ("64Gi", Decimal(64 << 30)),
        ("100n", Decimal("1e-7")),
    ],
)
def test_quantities_are_read_as_kubernetes_writes_them(quantity: object, value: Decimal) -> None:
    assert amount(quantity) == value


@pytest.mark.parametrize("quantity", ["", "many", "1 Gi", "1GiB", "--1", True, None, "0x10"])
def test_what_is_no_quantity_says_so(quantity: object) -> None:
    with pytest.raises(InvalidInput, match="is not a Kubernetes quantity such as 2, 500m or 64Gi"):
        amount(quantity)


def test_cpus_and_memory_are_counted_in_milli_and_mib() -> None:
    assert (milli("7910m"), mib("65843204Ki")) == (7910, 64300)


def test_a_pod_takes_the_sum_of_its_containers_or_its_largest_first_step() -> None:
    def container(count: int) -> dict[str, object]:
        return {"resources": {"limits": {GPU: count}}}

    pod = {"containers": [container(1), container(1)], "initContainers": [container(4), container(1)]}
    assert effective_request(pod, GPU) == 4
    assert effective_request({"containers": [container(3), {}]}, GPU) == 3


def test_gpus_are_found_at_any_depth_and_under_any_vendors_name() -> None:
    config = {"a": [{"resources": {"limits": {"amd.com/gpu": 1, "cpu": 1}}}], "b": {"requests": {SLICE: "2", GPU: 0}}}
    assert gpus_asked(config, NVIDIA) == {"amd.com/gpu": "1", SLICE: "2"}
    assert gpus_asked({"limits": {"example.com/card": 1}}, GpuResources(whole="example.com/card")) == {
        "example.com/card": "1"
    }
    assert gpus_asked(None, NVIDIA) == {}


@pytest.mark.parametrize(("shared", "shared_milli"), [(SHARED, 0), ("", 250), (SHARED, 1001), (SHARED, -1)])
def test_a_shared_unit_has_a_name_and_a_size(shared: str, shared_milli: int) -> None:
    with pytest.raises(InvalidInput, match="set both, the second to the thousandths"):
        GpuResources(shared=shared, shared_milli=shared_milli)


def test_a_resource_without_a_domain_is_no_gpu() -> None:
    with pytest.raises(InvalidInput, match="names such as nvidia.com/gpu, got 'gpu'"):
        GpuResources(whole="gpu")


def test_a_devices_name_says_what_a_pod_asks_for() -> None:
    gpus = GpuResources(shared=SLICE, shared_milli=142)
    assert gpus.resource_of("3") == GPU
    assert gpus.resource_of(gpus.shared_device(3)) == SLICE
    assert gpus.resource_of("GPU-5c07") is None
    assert NVIDIA.resource_of(f"{SLICE}#3") is None
