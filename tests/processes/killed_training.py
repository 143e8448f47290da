"""A training in a process of its own that is killed in its middle."""

import subprocess
import sys
import time
from pathlib import Path


def run_until_checkpoint(script: str, directory: Path) -> None:
    """Runs Python that trains with a store below `directory`, and kills it at its first checkpoint."""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL) as worker:
        # A step of a tiny model is over before a worker that looks twice a second has told it.
        while worker.poll() is None and not any(directory.rglob("checkpoints/*.json")):
            time.sleep(0.002)
        worker.kill()
