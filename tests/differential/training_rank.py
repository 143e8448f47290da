"""One rank that trains several recipes one after another in one process group: a start is most of a small training.

`python -m torch.distributed.run … tests/differential/training_rank.py DIRECTORY`: every `*.json` in DIRECTORY is one
`RunConfig`, trained by `headrace.training.train` itself, in the order of their names.
"""

import gc
import os
import sys
import traceback
from pathlib import Path

from accelerate.state import AcceleratorState

from headrace.training.guard import die_with
from headrace.training.progress import RunLog
from headrace.training.run_config import RunConfig
from headrace.training.train import import_libraries, train


def main() -> None:
    rank = int(os.environ["RANK"])
    configs = [RunConfig.read(path) for path in sorted(Path(sys.argv[1]).glob("*.json"))]
    die_with(configs[0].worker)
    import_libraries()
    # What the libraries hold is no garbage: looking through it again behind every training is a fifth of the time.
    gc.freeze()
    for config in configs:
        train(config, rank, RunLog())
        # accelerate keeps one DeepSpeed plugin a process; the process group stays. Of the engine nothing may be alive
        # when the next one's model is loaded: stage 3 leaves its mark on transformers as long as it is.
        AcceleratorState._reset_state()
        gc.collect()


if __name__ == "__main__":
    try:
        main()
    except Exception:  # noqa: BLE001 (the process edge: ranks must not wait for each other's destructors)
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)
