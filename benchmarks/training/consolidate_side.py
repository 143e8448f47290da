"""One side of `consolidate`, in a process of its own: converts a checkpoint, and tells its memory and its time."""

import json
import sys
import threading
import time
from pathlib import Path

from benchmarks.measuring import MB
from benchmarks.training.consolidate import SHARD_BYTES

_SAMPLE_SECONDS = 0.002


class _Anonymous:
    """The most anonymous memory of this process while the block runs."""

    def __enter__(self) -> "_Anonymous":
        self.before = self.most = _anonymous_bytes()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            self.most = max(self.most, _anonymous_bytes())


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon in /proc/self/status")


def main() -> int:
    task = json.loads(sys.argv[1])
    checkpoint, out = Path(task["checkpoint"]), Path(task["out"])
    import huggingface_hub.serialization  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torch
    from deepspeed.utils import zero_to_fp32

    from headrace.training.consolidate import consolidate

    torch.zeros(1)
    with _Anonymous() as memory:
        started = time.perf_counter()
        if task["side"] == "ours":
            consolidate(checkpoint, task["world_size"], out, max_shard_bytes=SHARD_BYTES)
        else:
            zero_to_fp32.convert_zero_checkpoint_to_fp32_state_dict(
                str(checkpoint), str(out), max_shard_size=f"{SHARD_BYTES // MB}MB", safe_serialization=True, tag="state"
            )
        seconds = time.perf_counter() - started
    print(json.dumps({"anonymous_mb": (memory.most - memory.before) / MB, "seconds": seconds}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
