"""Ranks of one gang that run one training after another: `--run-json` names the first, the others lie beside it.

A start of a gang costs more than a small training. Each is run as a rank runs its only one, but that the process group
stays. A result is moved into the training's own directory: `outcome.json`, so that a second training of one id may
follow, which resumes the first one's newest checkpoint (`resumes` in the task).
"""

import argparse
import gc
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

from headrace.store.objects import ObjectStore
from headrace.store.opening import open_store
from headrace.training.attempts import find_result, result_key
from headrace.training.checkpoints import newest_whole
from headrace.training.guard import die_with
from headrace.training.progress import RunLog
from headrace.training.run_config import RunConfig
from headrace.training.train import import_libraries, train


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--run-json", type=Path, required=True)
    first = parser.parse_args().run_json
    die_with(RunConfig.read(first).worker)
    import_libraries()
    import torch
    from accelerate.state import AcceleratorState

    rank = int(os.environ["RANK"])
    for task in json.loads((first.parent / "tasks.json").read_text()):
        config = RunConfig.read(Path(task["run_json"]))
        store = open_store(config.store_url)
        if task["resumes"]:
            found = newest_whole(store, config.training_id, world_size=config.world_size)
            assert found is not None, "nothing to resume"
            config = replace(config, resume=found)
        train(config, rank, RunLog())
        AcceleratorState._reset_state()
        gc.collect()
        if rank == 0:
            _move_result(store, config)
        torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)


def _move_result(store: ObjectStore, config: RunConfig) -> None:
    result = find_result(store, config.training_id)
    assert result is not None
    (config.work / "outcome.json").write_text(json.dumps(asdict(result)))
    store.delete(result_key(config.training_id, 1))


if __name__ == "__main__":
    sys.exit(main())
