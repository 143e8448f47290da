"""What DeepSpeed's own `save_checkpoint` and `latest` make of damaged files, for `wrong_loads`: one rank, stage 2."""

import os
import random
import shutil
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from simulation.forked_gangs import fork, free_port, place_of

_RIGHT, _WRONG, _REFUSED = 0, 5, 6


def stock_faults(
    directory: Path, damages: Mapping[str, Callable[[Path, random.Random], None]], repeats: int, draw: random.Random
) -> dict[str, dict[str, int]]:
    """For each damage: cases, how many loads were wrong without a word, and how many right; the others are refused."""
    saved = directory / "saved"
    saved.mkdir(parents=True)
    assert _in_child(lambda: _save(saved), directory) == _RIGHT
    [newest] = saved.glob("step2")
    files = sorted(path.name for path in newest.glob("*.pt"))
    found: dict[str, dict[str, int]] = {}
    for name, damage in damages.items():
        statuses = []
        for file in files:
            for _ in range(repeats):
                copy = directory / "copy"
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(saved, copy)
                damage(copy / "step2" / file, draw)
                statuses.append(_in_child(lambda: _load(copy), directory))  # noqa: B023 (called at once)
        assert set(statuses) <= {_RIGHT, _WRONG, _REFUSED}, f"{statuses}, see {directory / 'child.log'}"
        found[name] = {"cases": len(statuses), "wrong": statuses.count(_WRONG), "right": statuses.count(_RIGHT)}
    return found


def _in_child(body: Callable[[], int], directory: Path) -> int:
    pid = fork(body, place_of(0, 1, free_port()), directory / "child.log")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def without_compiled_operator() -> None:
    """As our ranks do: DeepSpeed would compile one that nobody uses, and wait for ever on a killed compiler's lock."""
    import deepspeed

    cast(Any, deepspeed.ops).__compatible_ops__["deepspeed_shm_comm"] = False


def _engine() -> Any:
    import deepspeed
    import torch

    without_compiled_operator()
    deepspeed.init_distributed("gloo")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=cast(Any, model.parameters()),
        config={
            "train_batch_size": 1,
            "optimizer": {"type": "Adam", "params": {"lr": 1e-3, "torch_adam": True}},
            "zero_optimization": {"stage": 2},
        },
    )
    return engine


def _step(engine: Any) -> None:
    import torch

    engine.backward(engine(torch.randn(4, 64)).square().mean())
    engine.step()


def _state(engine: Any) -> str:
    import torch

    base = engine.optimizer.optimizer
    digest = sha256()
    for group in base.param_groups:
        for parameter in group["params"]:
            state = base.state[parameter]
            for tensor in (parameter, *(state[key] for key in sorted(state) if torch.is_tensor(state[key]))):
                digest.update(tensor.detach().numpy().tobytes())
    for parameter in engine.module.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def _save(directory: Path) -> int:
    engine = _engine()
    for step in (1, 2):
        _step(engine)
        engine.save_checkpoint(str(directory), tag=f"step{step}")
    (directory / "digest").write_text(_state(engine))
    return _RIGHT


def _load(directory: Path) -> int:
    engine = _engine()
    try:
        path, _ = engine.load_checkpoint(str(directory))
    except Exception:  # noqa: BLE001 (whatever it raises, it refused)
        return _REFUSED
    if path is None:
        return _REFUSED
    return _RIGHT if _state(engine) == (directory / "digest").read_text() else _WRONG
