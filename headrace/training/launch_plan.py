"""Builds one gang's command and environment as a pure function: it starts nothing and asks nothing.

Uses torchrun, not `deepspeed`: DeepSpeed's own launcher ignores and deletes CUDA_VISIBLE_DEVICES, and would take other
runs' GPUs. It does not restart in place: a gang that lost a rank starts again from its last checkpoint, by the run's
retry.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MARKER = "HEADRACE_TRAINING"
"""Set in every process of a training's gang, in any session; each attempt has its own value."""

RANK = "headrace.training.train"
# If another launcher left these in the environment, they would send the gang to a foreign rendezvous.
_FOREIGN = {
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_ERROR_FILE",
}


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Where the ranks of several hosts meet, and which of them this host is.

    Attributes:
        node: number of this host, 0, 1, …; its ranks follow those of the hosts before it.
        address, port: of host 0, where every rank finds the others.
        own_address: of this host, in the network that it shares with the others.
        interface: the network interface that has it.
    """

    node: int
    num_nodes: int
    address: str
    port: int
    own_address: str
    interface: str


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """`first_rank`, `num_ranks`: those that it starts."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    logs: Path
    num_ranks: int
    first_rank: int = 0

    @property
    def ranks(self) -> range:
        return range(self.first_rank, self.first_rank + self.num_ranks)


def plan_launch(
    *,
    run_json: Path,
    world_size: int,
    device: str,
    work_directory: Path,
    marker: str,
    environment: Mapping[str, str],
    python: str = sys.executable,
    module: str = RANK,
    meeting: Meeting | None = None,
) -> LaunchPlan:
    """`environment` is the worker's own; CUDA_VISIBLE_DEVICES passes through unchanged. `module`: what each rank runs.

    On one machine ranks meet on 127.0.0.1 at a port that the kernel picks, so nothing depends on the host name's
    resolution, and two gangs never want the same port.

    Args:
        world_size: ranks in all; each of several hosts has as many as the others.
        meeting: of several hosts; None: all ranks are on this machine.
    """
    logs = work_directory / "logs"
    num_ranks = world_size // (meeting.num_nodes if meeting else 1)
    argv = (
        python,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={num_ranks}",
        "--max-restarts=0",
        *_meeting_options(meeting),
        f"--log-dir={logs}",
        "--redirects=3",
        "-m",
        module,
        # The long form: torchrun would consume an option that abbreviates its own.
        "--run-json",
        str(run_json),
    )
    ours = {
        MARKER: marker,
        "ACCELERATE_USE_DEEPSPEED": "true",
        # Its own directory: in a shared one, a lock left by a killed compiler hangs DeepSpeed forever.
        "TORCH_EXTENSIONS_DIR": str(work_directory / "torch_extensions"),
        # The base model is a sealed directory, so nothing may wait for a hub.
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if device == "cpu":
        ours |= {
            "DS_ACCELERATOR": "cpu",
            # One thread for each rank: two ranks with a thread for each core would compete for the same cores.
            "OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", "1"),
            "GLOO_SOCKET_IFNAME": meeting.interface if meeting else "lo",
            # Nothing is compiled here; DeepSpeed's check for an optimizer that nobody uses would load the compiler
            # nevertheless: 2 CPU seconds a rank.
            "TORCHDYNAMO_DISABLE": environment.get("TORCHDYNAMO_DISABLE", "1"),
            # By default glibc returns each step's gradients to the kernel and faults them in again: a sixth of the
            # demo's step. Keeping up to 1 GB costs a rank 0.2 GB at its peak.
            "MALLOC_MMAP_THRESHOLD_": environment.get("MALLOC_MMAP_THRESHOLD_", str(128 * 1024 * 1024)),
            "MALLOC_TRIM_THRESHOLD_": environment.get("MALLOC_TRIM_THRESHOLD_", str(1024 * 1024 * 1024)),
        }
    else:
        # cuBLAS repeats its sums bit for bit only with a workspace of fixed size.
        ours |= {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", "4")}
        if meeting:
            ours["NCCL_SOCKET_IFNAME"] = meeting.interface
    kept = {name: value for name, value in environment.items() if name not in _FOREIGN}
    return LaunchPlan(
        argv=argv,
        environment=kept | ours,
        logs=logs,
        num_ranks=num_ranks,
        first_rank=meeting.node * num_ranks if meeting else 0,
    )


def _meeting_options(meeting: Meeting | None) -> tuple[str, ...]:
    if meeting is None:
        return ("--nnodes=1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1")
    # Static: a host's number is given, and not drawn by who comes first, so that ranks are where the plan has them.
    return (
        f"--nnodes={meeting.num_nodes}",
        f"--node-rank={meeting.node}",
        "--rdzv-backend=static",
        f"--master-addr={meeting.address}",
        f"--master-port={meeting.port}",
        f"--local-addr={meeting.own_address}",
    )
