import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import HeadraceError
from headrace.placement.discovery import (
    Discovery,
    FleetUnavailable,
    InvalidFleet,
    local_fleet,
    parse_simulated,
    read_fleet_file,
    source_of,
    summary,
)
from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.placement.nvml import read_nvml
from headrace.this_machine import available_mib_here, cpu_milli_here, memory_mib_here
from tests.placement.fake_nvml import GPU_IS_LOST, UNKNOWN, Device, FakeNvml

FLEET = """
nodes:
  - {name: node-a, gpus: "2xH100:81559", cpus: 95.5, memory_mib: 1000000}
  - name: node-b
    gpus:
      - {device: GPU-5f2c, model: NVIDIA A100-SXM4-40GB, memory_mib: 40960, healthy: false}
      - {device: 1, model: L4, memory_mib: 23034}
  - name: node-c
"""


def simulated(text: str) -> Node:
    return parse_simulated(text, node="node-a", cpu_milli=4000, memory_mib=16_000)


def make_inventory(text: str = "2xH100:81559") -> Inventory:
    return Inventory(nodes=(simulated(text),))


def test_a_simulated_machine_numbers_its_gpus_in_order() -> None:
    node = simulated("2xA100:40960, 1 x NVIDIA L4:23034")
    assert node == Node(
        name="node-a",
        gpus=(
            Gpu(device="0", model="A100", memory_mib=40_960),
            Gpu(device="1", model="A100", memory_mib=40_960),
            Gpu(device="2", model="L4", memory_mib=23_034),
        ),
        cpu_milli=4000,
        memory_mib=16_000,
    )
    assert simulated("0xH100:81559").gpus == ()


@pytest.mark.parametrize(
    "text",
    ["", "4", "H100", "4xH100", "4x:81559", "-1xH100:1", "4xH100:81559,", "99999xH100:1", "4xH100:1e3", "٤xH100:1"],
)
def test_a_simulation_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidFleet, match=r'^The simulated fleet is .*, but must be as "4xH100:81559" or "2xA100'):
        simulated(text)


@given(text=st.text(max_size=30) | st.from_regex(r"[0-9]{1,6}x[A-Z0-9 ]{0,6}:[0-9]{0,12}(,2xT4:15)?", fullmatch=True))
def test_any_text_simulates_a_machine_within_bounds_or_is_refused(text: str) -> None:
    try:
        node = simulated(text)
    except InvalidFleet:
        return
    assert len(node.gpus) <= 10_000
    assert [gpu.device for gpu in node.gpus] == [str(index) for index in range(len(node.gpus))]
    assert all(0 <= gpu.memory_mib < 10**9 and gpu.model for gpu in node.gpus)


@pytest.fixture
def fleet_file(tmp_path: Path) -> Path:
    file = tmp_path / "fleet.yaml"
    file.write_text(FLEET)
    return file


def test_a_fleet_file_lists_nodes(fleet_file: Path) -> None:
    assert read_fleet_file(fleet_file) == Inventory(
        nodes=(
            Node(
                name="node-a",
                gpus=tuple(Gpu(device=str(index), model="H100", memory_mib=81_559) for index in range(2)),
                cpu_milli=95_500,
                memory_mib=1_000_000,
            ),
            Node(
                name="node-b",
                gpus=(
                    Gpu(device="GPU-5f2c", model="A100", memory_mib=40_960, healthy=False),
                    Gpu(device="1", model="L4", memory_mib=23_034),
                ),
            ),
            Node(name="node-c"),
        )
    )


GPU_FIELDS = "device: GPU-1, model: H100, memory_mib: 1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "1:1 must be a mapping of keys to values, got an empty file."),
        ("[1]", "1:1 must be a mapping of keys to values, got [1]."),
        ("nodes: []", "1:8: nodes must be a list of at least one node, got []."),
        ("nodes: [", "1:9 is not readable as YAML: while parsing a flow node, expected the node content, but found"),
        ("nodes: [{name: 1}]", "1:16: nodes[0]: name must be a string, got 1."),
        ("nodes: [{name: ''}]", "1:16: nodes[0]: name must have at least 1 character, got ''."),
        ("nodes: [{name: a, gpu: 1}]", "1:19: nodes[0] has an unknown key 'gpu'; did you mean 'gpus'?"),
        ("nodes: [{name: a, gpus: 8}]", '1:25: nodes[0]: gpus must be a text as "8xH100:81559" or a list, got 8.'),
        ("nodes: [{name: a, gpus: 8xH100}]", """1:25: nodes[0]: gpus is '8xH100', but must be as "4xH100:81559" or"""),
        ("nodes: [{name: a, cpus: -1}]", "1:25: nodes[0]: cpus must be between 0 and 1,000,000,000, got -1."),
        ("nodes: [{name: a, cpus: .nan}]", "1:25: nodes[0]: cpus must be a number within ±2^63, got nan."),
        ("nodes: [{name: a, cpus: true}]", "1:25: nodes[0]: cpus must be a number, got True."),
        ("nodes: [{name: a, memory_mib: 1.5}]", "1:31: nodes[0]: memory_mib must be a whole number, got 1.5."),
        ("nodes: [{name: a}, {name: a}]", "1:8: nodes: the name a stands 2 times; it must be unique."),
        ("nodes: [{name: a, gpus: [1]}]", "1:26: nodes[0]: gpus[0] must be a mapping of keys to values, got 1."),
        (
            "nodes: [{name: a, gpus: [{device: 0, model: H100}]}]",
            "1:26: nodes[0]: gpus[0] lacks the key 'memory_mib'.",
        ),
        (
            "nodes: [{name: a, gpus: [{device: 'a,b', model: H100, memory_mib: 1}]}]",
            "1:35: nodes[0]: gpus[0]: device must be what CUDA_VISIBLE_DEVICES takes for one, got 'a,b'.",
        ),
        (
            "nodes: [{name: a, gpus: [{device: 0, model: '?', memory_mib: 1}]}]",
            "1:45: nodes[0]: gpus[0]: model must be the name of a GPU model, got '?'.",
        ),
        (
            f"nodes: [{{name: a, gpus: [{{{GPU_FIELDS}, healthy: 1}}]}}]",
            "1:79: nodes[0]: gpus[0]: healthy must be true or false, got 1.",
        ),
        (
            f"nodes: [{{name: a, gpus: [{{{GPU_FIELDS}}}, {{{GPU_FIELDS}}}]}}]",
            "1:25: nodes[0]: gpus: the device GPU-1 stands 2 times; it must be unique.",
        ),
    ],
)  # fmt: skip
def test_a_fleet_file_that_describes_no_fleet_is_refused_by_node_and_field(
    tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(content)
    with pytest.raises(InvalidFleet) as refused:
        read_fleet_file(file)
    assert str(refused.value).startswith(f"Fleet file {file}:{message}")


def test_every_fault_of_a_fleet_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(
        "nodes:\n  - {gpus: 8xH100, cpus: -1}\n  - {name: b, gpus: [{device: 0, model: T4, healthy: no}]}\n"
    )
    with pytest.raises(InvalidFleet) as refused:
        read_fleet_file(file)
    places = [line.replace(str(file), "").split(" ")[0] for line in str(refused.value).split("\n  ")[1:]]
    assert places == [":2:5:", ":2:12:", ":2:26:", ":3:22:", ":3:54:"]


def test_a_missing_fleet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFleet, match=r"^Fleet file .*none\.yaml does not exist\.$"):
        read_fleet_file(tmp_path / "none.yaml")


def test_a_fleet_is_this_machine_a_file_or_an_inventory(fleet_file: Path) -> None:
    (here,) = source_of("local", simulated="1xT4:15360")().nodes
    assert here.name == socket.gethostname()
    assert here.gpus == (Gpu(device="0", model="T4", memory_mib=15_360),)
    assert (here.cpu_milli, here.memory_mib) == (cpu_milli_here(), memory_mib_here())
    assert source_of(str(fleet_file))().num_gpus == 4
    assert source_of(make_inventory())() == make_inventory()


def test_this_machine_can_be_looked_at() -> None:
    (node,) = local_fleet(node="laptop")().nodes
    assert node.name == "laptop"
    assert node.cpu_milli >= 1
    assert node.memory_mib >= 1


class Machines:
    """A source that a test changes or breaks."""

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self.failure: Exception | None = None
        self.num_looks = 0

    def __call__(self) -> Inventory:
        self.num_looks += 1
        if self.failure:
            raise self.failure
        return self.inventory


def test_a_look_is_kept_until_it_is_too_old() -> None:
    machines = Machines(make_inventory())
    discovery = Discovery(machines, refresh_seconds=30)
    for now in (100, 129.9, 130, 131, 50):
        discovery.look(now)
    assert machines.num_looks == 3, "at 100, at 130, and at 50, when the clock had gone back"


def test_gpus_that_vanish_disappear_and_return() -> None:
    machines = Machines(make_inventory("4xH100:81559"))
    discovery = Discovery(machines)
    assert discovery.look(0).num_gpus == 4
    machines.inventory = make_inventory("3xH100:81559")
    assert discovery.look(60).num_gpus == 3
    machines.inventory = make_inventory("4xH100:81559")
    assert discovery.look(120) == make_inventory("4xH100:81559")


@pytest.mark.parametrize("failure", [HeadraceError("No answer."), OSError("No answer.")])
def test_a_failing_look_keeps_the_machines_and_trusts_none(failure: Exception) -> None:
    machines = Machines(make_inventory())
    discovery = Discovery(machines)
    discovery.look(0)
    machines.failure = failure
    kept = discovery.look(60)
    assert [gpu.device for gpu in kept.nodes[0].gpus] == ["0", "1"]
    assert not any(gpu.healthy for gpu in kept.nodes[0].gpus)
    assert discovery.failure == "No answer."
    machines.failure = None
    assert discovery.look(120) == make_inventory()
    assert discovery.failure is None


def test_a_first_look_that_fails_is_refused() -> None:
    machines = Machines(make_inventory())
    machines.failure = HeadraceError("No answer.")
    with pytest.raises(FleetUnavailable, match=r"^The fleet cannot be looked at: No answer\.$"):
        Discovery(machines).look(0)


def test_a_mistake_of_ours_is_not_taken_for_a_sick_machine() -> None:
    machines = Machines(make_inventory())
    discovery = Discovery(machines)
    discovery.look(0)
    machines.failure = AssertionError()
    with pytest.raises(AssertionError):
        discovery.look(60)


def test_a_gpu_too_sick_to_tell_its_model_keeps_it() -> None:
    nvml = FakeNvml(devices=[Device(uuid="GPU-1"), Device(uuid="GPU-2")])
    discovery = Discovery(lambda: Inventory(nodes=(Node(name="node-a", gpus=read_nvml(nvml)),)))
    first = discovery.look(0)
    nvml.devices[0].name_error = GPU_IS_LOST
    (sick, well) = discovery.look(60).nodes[0].gpus
    assert (sick.model, sick.memory_mib, sick.healthy) == ("H100", 81_559, False)
    assert well.healthy
    nvml.devices[0].name_error = None
    assert discovery.look(120) == first


def test_a_driver_that_fails_makes_all_gpus_sick() -> None:
    nvml = FakeNvml(devices=[Device(uuid="GPU-1")])
    discovery = Discovery(lambda: Inventory(nodes=(Node(name="node-a", gpus=read_nvml(nvml)),)))
    discovery.look(0)
    nvml.count_error = UNKNOWN
    (gpu,) = discovery.look(60).nodes[0].gpus
    assert (gpu.device, gpu.healthy) == ("GPU-1", False)
    assert discovery.failure == "NVML does not list the GPUs: Unknown Error. See whether nvidia-smi does."


def test_a_fleet_is_summed_up_for_people(fleet_file: Path) -> None:
    assert summary(make_inventory("4xH100:81559")) == "4 GPUs on 1 node: node-a 4×H100 (81,559 MiB)"
    assert summary(Inventory()) == "0 GPUs on 0 nodes"
    assert summary(read_fleet_file(fleet_file)) == (
        "4 GPUs on 3 nodes: node-a 2×H100 (81,559 MiB); node-b 1×A100 (40,960 MiB), 1×L4 (23,034 MiB), 1 of them sick; "
        "node-c no GPU"
    )


def test_a_control_group_limits_what_a_machine_has(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/runs/daemon\n")
    inner = tmp_path / "runs/daemon"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    (inner / "memory.max").write_text("max\n")
    assert cpu_milli_here(tmp_path, own) == cpu_milli_here(tmp_path / "none", tmp_path / "none")
    (tmp_path / "runs/cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text(f"{512 * 2**20}\n")
    assert cpu_milli_here(tmp_path, own) == 500
    assert memory_mib_here(tmp_path, own) == 512


@pytest.mark.parametrize(
    ("group", "directory", "limit", "used", "inactive_file"),
    [
        ("0::/runs", "runs", "memory.max", "memory.current", "inactive_file"),
        ("9:memory:/runs", "memory/runs", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_what_a_control_group_uses_is_not_available_but_files_pages_are(
    tmp_path: Path, group: str, directory: str, limit: str, used: str, inactive_file: str
) -> None:
    own, files = tmp_path / "own", tmp_path / directory
    own.write_text(f"{group}\n")
    files.mkdir(parents=True)
    (files / limit).write_text(f"{64 * 2**20}\n")
    (files / used).write_text(f"{48 * 2**20}\n")
    (files / "memory.stat").write_text(f"anon 1\n{inactive_file} {8 * 2**20}\n")
    assert available_mib_here(tmp_path, own) == 24


def test_a_control_group_of_the_first_version_limits_too(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("4:cpu,cpuacct:/pod\n3:memory:/pod\n")
    for controller in ("cpu", "memory"):
        (tmp_path / controller / "pod").mkdir(parents=True)
    (tmp_path / "cpu/pod/cpu.cfs_quota_us").write_text("25000\n")
    (tmp_path / "cpu/pod/cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "memory/pod/memory.limit_in_bytes").write_text(f"{256 * 2**20}\n")
    assert cpu_milli_here(tmp_path, own) == 250
    assert memory_mib_here(tmp_path, own) == 256


def test_what_vanished_is_remembered_as_seen() -> None:
    looks = [
        Inventory(nodes=(node_of("a", "0", "1"), node_of("b", "0"))),
        Inventory(nodes=(node_of("a", "1"),)),
    ]
    discovery = Discovery(lambda: looks.pop(0), refresh_seconds=10)
    discovery.look(0)
    assert discovery.look(20) == Inventory(nodes=(node_of("a", "1"),))
    assert {node.name: len(node.gpus) for node in discovery.ever_seen.nodes} == {"a": 2, "b": 1}


def node_of(name: str, *devices: str) -> Node:
    gpus = tuple(Gpu(device=device, model="H100", memory_mib=81_559) for device in devices)
    return Node(name=name, gpus=gpus)
