"""A training in a process of its own that is killed in its middle."""

import subprocess
import sys


def run_until_step(script: str, step: int) -> None:
    """Runs Python that prints its steps one a line, and kills it at the first one after `step`."""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout
        for line in worker.stdout:
            if line.strip().isdigit() and int(line) > step:
                break
        worker.kill()
