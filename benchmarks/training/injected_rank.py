"""One rank of a gang that is to fail in a stated way: a training's rank, with one real failure prepared in one rank.

    python -m benchmarks.training.injected_rank --run-json run.json

The failure is named by `failure` beside the task, in failure.json. Nothing of a rank's own code is replaced: what
fails is a call that a rank makes anyway, and it fails as it would.
"""

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.training import train
from headrace.training.run_config import RunConfig

# In which pass of the failing rank it happens: by then the gang has made steps.
_PASS = 3
_CLONE_NEWNS, _MS_REC_PRIVATE = 0x00020000, 0x4000 | 0x40000


def main() -> int:
    run_json = Path(sys.argv[sys.argv.index("--run-json") + 1])
    task = json.loads(run_json.with_name("failure.json").read_text())
    if int(os.environ["RANK"]) == task["rank"]:
        _INJECTIONS.get(task["failure"], lambda config: None)(RunConfig.read(run_json))
    return train.main()


def _in_a_pass(act: Callable[[Any], Any]) -> None:
    """Calls `act` with the loss in the rank's third pass."""
    from headrace.training.sft import SftObjective

    stock, passes = SftObjective.summed_loss, iter(range(1, 1_000_000))

    def summed_loss(self: SftObjective, *arguments: Any) -> Any:
        loss = stock(self, *arguments)
        return act(loss) if next(passes) == _PASS else loss

    SftObjective.summed_loss = summed_loss  # pyright: ignore[reportAttributeAccessIssue]


def _out_of_memory(config: RunConfig) -> None:
    def allocate(loss: Any) -> Any:
        import torch

        return loss + torch.empty(1 << 46).sum()

    _in_a_pass(allocate)


def _exception(config: RunConfig) -> None:
    def fail(loss: Any) -> Any:
        raise ValueError("a value that nobody expected")

    _in_a_pass(fail)


def _hang(config: RunConfig) -> None:
    def hang(loss: Any) -> Any:
        time.sleep(3600)
        return loss

    _in_a_pass(hang)


def _slow(config: RunConfig) -> None:
    def wait(loss: Any) -> Any:
        # Longer than the guard allows, and shorter than the step's own limit.
        time.sleep(30)
        return loss

    _in_a_pass(wait)


def _not_a_number(config: RunConfig) -> None:
    _in_a_pass(lambda loss: loss * float("nan"))


def _torn_file(config: RunConfig) -> None:
    """This rank's copy of the base model ends in the middle of its weights."""
    from headrace.store import sealed_directory

    stock = sealed_directory.open_directory

    def open_directory(*arguments: Any, **options: Any) -> Path:
        torn = config.work / "torn"
        subprocess.run(["cp", "-rL", str(stock(*arguments, **options)), str(torn)], check=True)
        for path in torn.glob("*.safetensors"):
            path.chmod(0o600)
            os.truncate(path, path.stat().st_size // 2)
        return torn

    sealed_directory.open_directory = open_directory


def _disk_full(config: RunConfig) -> None:
    """For this rank alone the store lies on a disk with room for 64 KiB more: a mount in a namespace of its own."""
    store, disk = Path(config.store_url.removeprefix("file://")), config.work / "disk"
    disk.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "a mount namespace is not permitted here")
    used = sum(-(-path.stat().st_size // 4096) * 4096 for path in store.rglob("*"))
    for command in (
        ["mount", "-t", "tmpfs", "-o", f"size={used + 64 * 1024}", "tmpfs", str(disk)],
        ["cp", "-a", f"{store}/.", str(disk)],
        ["mount", "--bind", str(disk), str(store)],
    ):
        subprocess.run(command, check=True)


def _missing_module(config: RunConfig) -> None:
    """As in an environment that lacks it: a later import of that name finds nothing."""

    class Missing:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name == "accelerate":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Missing())  # pyright: ignore[reportArgumentType]


_INJECTIONS: dict[str, Callable[[RunConfig], None]] = {
    "out of memory": _out_of_memory,
    "exception": _exception,
    "hang": _hang,
    "slow rank": _slow,
    "not a number": _not_a_number,
    "torn file": _torn_file,
    "disk full": _disk_full,
    "missing module": _missing_module,
}


if __name__ == "__main__":
    sys.exit(main())
