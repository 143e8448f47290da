from pathlib import Path

from headrace.training.launch_plan import MARKER, LaunchPlan, Meeting, plan_launch
from headrace.training.run_config import RunConfig
from tests.training_builders import make_run_config


def make_plan(work: Path, *, device: str = "cpu", environment: dict[str, str] | None = None) -> LaunchPlan:
    return plan_launch(
        run_json=work / "run.json",
        world_size=2,
        device=device,
        work_directory=work,
        marker="id/1",
        environment=environment or {},
        python="/venv/python",
    )


def test_ranks_are_started_by_torchrun_as_a_module_on_a_port_that_the_kernel_picks(tmp_path: Path) -> None:
    argv = make_plan(tmp_path).argv
    assert argv[:3] == ("/venv/python", "-m", "torch.distributed.run")
    assert "--nproc-per-node=2" in argv
    assert "--rdzv-endpoint=127.0.0.1:0" in argv
    assert argv[-4:] == ("-m", "headrace.training.train", "--run-json", str(tmp_path / "run.json"))


def test_a_lost_rank_is_never_restarted_in_place(tmp_path: Path) -> None:
    assert "--max-restarts=0" in make_plan(tmp_path).argv


def test_on_a_cpu_each_rank_has_one_thread_and_gloo(tmp_path: Path) -> None:
    environment = make_plan(tmp_path).environment
    assert environment["DS_ACCELERATOR"] == "cpu"
    assert environment["OMP_NUM_THREADS"] == "1"


def test_on_a_cpu_no_rank_loads_torchs_compiler(tmp_path: Path) -> None:
    assert make_plan(tmp_path).environment["TORCHDYNAMO_DISABLE"] == "1"
    assert "TORCHDYNAMO_DISABLE" not in make_plan(tmp_path, device="cuda").environment


def test_a_given_number_of_threads_is_kept(tmp_path: Path) -> None:
    assert make_plan(tmp_path, environment={"OMP_NUM_THREADS": "8"}).environment["OMP_NUM_THREADS"] == "8"


def test_on_gpus_the_runs_own_devices_pass_through_untouched(tmp_path: Path) -> None:
    environment = make_plan(tmp_path, device="cuda", environment={"CUDA_VISIBLE_DEVICES": "3,5"}).environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "3,5"
    assert "DS_ACCELERATOR" not in environment


def test_extensions_are_compiled_where_no_other_run_leaves_locks(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, environment={"TORCH_EXTENSIONS_DIR": "/shared"})
    assert plan.environment["TORCH_EXTENSIONS_DIR"] == str(tmp_path / "torch_extensions")


def test_another_launchers_rendezvous_is_not_inherited(tmp_path: Path) -> None:
    environment = make_plan(tmp_path, environment={"MASTER_PORT": "29500", "RANK": "7", "PATH": "/bin"}).environment
    assert not {"MASTER_PORT", "RANK"} & set(environment)
    assert environment["PATH"] == "/bin"


def test_every_process_carries_the_attempts_marker(tmp_path: Path) -> None:
    assert make_plan(tmp_path).environment[MARKER] == "id/1"


def test_a_host_of_several_starts_its_share_of_the_ranks_where_the_plan_has_them(tmp_path: Path) -> None:
    meeting = Meeting(node=1, num_nodes=2, address="10.0.0.1", port=4242, own_address="10.0.0.2", interface="eth1")
    plan = plan_launch(
        run_json=tmp_path / "run.json",
        world_size=6,
        device="cpu",
        work_directory=tmp_path,
        marker="id/1",
        environment={},
        meeting=meeting,
    )
    assert list(plan.ranks) == [3, 4, 5]
    options = {"--nproc-per-node=3", "--nnodes=2", "--node-rank=1", "--master-addr=10.0.0.1", "--master-port=4242"}
    assert options < set(plan.argv)
    assert plan.environment["GLOO_SOCKET_IFNAME"] == "eth1"


def test_a_run_config_survives_its_way_through_run_json(tmp_path: Path) -> None:
    config = make_run_config(tmp_path)
    assert RunConfig.read(config.write(tmp_path / "run.json")) == config
