"""One rank of `estimate_error`: every case's training in a child of its own, so that each is measured from a new start.

    python -m benchmarks.training.estimate_ranks --run-json DIRECTORY/run.json

The other tasks lie beside `run.json`, as 00.json, 01.json …. Libraries are imported once, before the first child: a
child begins with what a rank has once it has imported them, and nothing of the case before.
"""

import json
import os
import sys
import traceback
from pathlib import Path

from headrace.training.guard import die_with
from headrace.training.progress import RunLog
from headrace.training.run_config import RunConfig
from headrace.training.train import import_libraries, train


def main() -> int:
    first = Path(sys.argv[sys.argv.index("--run-json") + 1])
    die_with(RunConfig.read(first).worker)
    import_libraries()
    for task in sorted(first.parent.glob("[0-9][0-9].json")):
        child = os.fork()
        if child == 0:
            _train(RunConfig.read(task))
        _, status = os.waitpid(child, 0)
        if status:
            print(f"{task.name} ended with {os.waitstatus_to_exitcode(status)}", file=sys.stderr, flush=True)
            return 1
    return 0


def _train(config: RunConfig) -> None:
    # A store of its own: torchrun's still has the addresses at which the case before met.
    port = json.loads((config.work / "port.json").read_text())
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    die_with(config.worker)
    try:
        train(config, int(os.environ["RANK"]), RunLog())
    except BaseException:  # noqa: BLE001 (a child must not go on as its parent)
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
