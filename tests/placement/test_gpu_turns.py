"""Turns on a shared GPU: one holder at a time, freed by its end, and no wait on another GPU."""

import select
import subprocess
import sys
from pathlib import Path

from headrace.placement.gpu_turns import turn_on

_HOLD = """
import sys, time
from pathlib import Path
from headrace.placement.gpu_turns import turn_on
with turn_on("0", Path(sys.argv[1])):
    print("has it", flush=True)
    time.sleep(60)
"""


def begin(directory: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _HOLD, str(directory)], stdout=subprocess.PIPE)


def said(process: subprocess.Popen[bytes], *, within_seconds: float) -> bytes:
    assert process.stdout
    ready, _, _ = select.select([process.stdout], [], [], within_seconds)
    return process.stdout.readline() if ready else b""


def test_the_next_one_waits_until_the_holder_is_gone_however_it_ends(tmp_path: Path) -> None:
    with begin(tmp_path) as first:
        assert said(first, within_seconds=30) == b"has it\n"
        with begin(tmp_path) as second:
            assert said(second, within_seconds=0.5) == b""
            first.kill()
            assert said(second, within_seconds=30) == b"has it\n"
            second.kill()


def test_another_gpu_has_a_turn_of_its_own_whatever_its_name(tmp_path: Path) -> None:
    with turn_on("0", tmp_path / "turns"), turn_on("MIG-1/2/0", tmp_path / "turns"):
        assert len(list((tmp_path / "turns").iterdir())) == 2
    with turn_on("0", tmp_path / "turns"):
        pass
