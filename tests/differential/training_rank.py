"""One rank that trains several recipes one after another in one process group: a start is most of a small training.

`python -m torch.distributed.run … tests/differential/training_rank.py DIRECTORY`: every `*.json` in DIRECTORY is one
`RunConfig`, trained by `headrace.training.train` itself, in the order of their names. One whose file has a sister
`*.resumes` begins at the newest checkpoint of the training whose id that holds.
"""

import gc
import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path

from accelerate.state import AcceleratorState

from headrace.store.opening import open_store
from headrace.training.checkpoints import newest_whole
from headrace.training.guard import die_with
from headrace.training.progress import RunLog
from headrace.training.run_config import RunConfig
from headrace.training.train import import_libraries, train


def main() -> None:
    rank = int(os.environ["RANK"])
    paths = sorted(Path(sys.argv[1]).glob("*.json"))
    die_with(RunConfig.read(paths[0]).worker)
    import_libraries()
    # What the libraries hold is no garbage: looking through it again behind every training is a fifth of the time.
    gc.freeze()
    for path in paths:
        train(with_checkpoint(RunConfig.read(path), path.with_suffix(".resumes")), rank, RunLog())
        # accelerate keeps one DeepSpeed plugin a process; the process group stays. Of the engine nothing may be alive
        # when the next one's model is loaded: stage 3 leaves its mark on transformers as long as it is.
        AcceleratorState._reset_state()
        gc.collect()


def with_checkpoint(config: RunConfig, resumes: Path) -> RunConfig:
    if not resumes.exists():
        return config
    found = newest_whole(open_store(config.store_url), resumes.read_text(), world_size=config.world_size)
    assert found
    return replace(config, resume=found)


if __name__ == "__main__":
    try:
        main()
    except Exception:  # noqa: BLE001 (the process edge: ranks must not wait for each other's destructors)
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)
