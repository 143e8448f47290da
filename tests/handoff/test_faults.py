"""The harness of `python -m benchmarks.handoff_faults`, with few faults of each kind, and proof that it finds some."""

import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from benchmarks.handoff_faults import __main__ as handoff_faults
from headrace.store.local import LocalStore
from simulation.faults.cases import Tally, check_everything, damages, publish
from simulation.faults.kills import break_files, flip_bits, kill_everywhere
from simulation.faults.processes import repeated
from simulation.system_calls.tracing import TracingRefused, run_traced

pytestmark = pytest.mark.process


def wrong(tally: Tally) -> tuple[int, int, int, list[str]]:
    return tally.torn, tally.silent, tally.lost, [note for note in tally.notes if not note.startswith("points")]


NOTHING_WRONG = (0, 0, 0, [])


def advance() -> None:
    pass


@pytest.fixture(autouse=True)
def traced(tmp_path: Path) -> None:
    try:
        run_traced(lambda say: None, tmp_path)
    except TracingRefused as error:
        pytest.skip(str(error))


def test_writers_and_collectors_killed_at_system_calls_leave_everything_whole(tmp_path: Path) -> None:
    tallies = kill_everywhere(tmp_path, 16, 1, advance)
    assert sum(tally.faults for tally in tallies) == 16
    assert [wrong(tally) for tally in tallies] == [NOTHING_WRONG] * len(tallies)


def test_flipped_bits_and_broken_files_are_found(tmp_path: Path) -> None:
    flipped, broken = flip_bits(tmp_path, 60, 1, advance), break_files(tmp_path, 24, 1, advance)
    assert (flipped.faults, broken.faults) == (60, 24)
    assert wrong(flipped) == wrong(broken) == NOTHING_WRONG
    assert flipped.told == 60


def test_full_disks_and_meeting_writers_and_killed_readers_lose_nothing(tmp_path: Path) -> None:
    for name in ("file size limit (EFBIG)", "two writers on one version", "a reader killed"):
        tally = repeated(name, tmp_path / name, 2, 1, advance)
        assert tally.faults == 2
        assert wrong(tally) == NOTHING_WRONG, tally.kind


def test_a_traced_process_is_killed_before_or_after_the_call(tmp_path: Path) -> None:
    def work(say: object) -> None:
        (tmp_path / "made").mkdir()

    whole = run_traced(work, tmp_path)
    assert whole.calls == ["mkdir", "mkdir"]
    (tmp_path / "made").rmdir()
    assert run_traced(work, tmp_path, 0).is_killed
    assert not (tmp_path / "made").exists()
    assert run_traced(work, tmp_path, 1).is_killed
    assert (tmp_path / "made").exists()


class TearingStore(LocalStore):
    """What must not be: an object is visible before it is whole."""

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        path = self.local_path(key)
        if path.exists():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb", buffering=0) as file:
            file.write(body[: len(body) // 2])
            file.write(body[len(body) // 2 :])
        return True


def test_a_store_that_tears_is_found_out(tmp_path: Path) -> None:
    tally = Tally("torn")
    publish(LocalStore(tmp_path / "whole"), 1, leased=False)
    calls = run_traced(partial(tearing_publish, tmp_path / "whole"), tmp_path / "whole").calls
    # Entry and exit of the two writes that make the manifest. One run in twenty makes some calls more or fewer before
    # them (threads of Arrow), so points around them are tried too.
    first, *_, last = [number for number, name in enumerate(calls) if name == "write"][-4:]
    for point in range(first - 10, last + 11):
        directory = tmp_path / str(point)
        publish(LocalStore(directory), 1, leased=False)
        run_traced(partial(tearing_publish, directory), directory, point)
        check_everything(LocalStore(directory), tally, {1: 1}, 91)
        if tally.torn:
            return
    pytest.fail("A manifest of which half was written was never found torn.")


def tearing_publish(directory: Path, say: object) -> None:
    publish(TearingStore(directory), 90, leased=False)


def test_a_version_that_vanishes_or_changes_is_found_out(tmp_path: Path) -> None:
    tally = Tally("lost")
    publish(LocalStore(tmp_path), 1, leased=False)
    publish(LocalStore(tmp_path), 2, content_number=3, leased=False)
    check_everything(LocalStore(tmp_path), tally, {1: 1, 2: 2, 7: 7}, 91)
    # v2 has other rows than its attribute says; v7 was never there; both are missed again after the checker's publish.
    assert (tally.torn, tally.silent) == (0, 2)
    assert tally.lost >= 2


def test_the_same_seed_damages_the_same_places(tmp_path: Path) -> None:
    publish(LocalStore(tmp_path), 1, leased=False)
    first, again = (damages(tmp_path, random.Random(5)) for _ in range(2))
    for _ in range(10):
        assert next(first)[0] == next(again)[0]


UNRELIABLE_SERVER = """
import sys
from pathlib import Path
from simulation.faults.remote import unreliable_server
tally = unreliable_server(Path(sys.argv[1]), 5, 1, lambda: None)
print(tally.faults > 0, tally.torn, tally.silent, tally.lost)
"""


def test_writers_readers_and_a_collector_get_along_with_a_failing_s3_server(tmp_path: Path) -> None:
    # In a process of its own: an S3 client's threads do not go through the forks of the others.
    command = [sys.executable, "-c", UNRELIABLE_SERVER, str(tmp_path)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert ended.stdout.split() == ["True", "0", "0", "0"]


def test_the_command_ends_in_one_line_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = handoff_faults.main(["--kills", "4", "--flips", "8", "--no-s3", "--directory", str(tmp_path)])
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert line.startswith('{"kills": 4, "flips": 8, "torn": 0, "silent": 0, "lost": 0, "seconds": ')
    assert code == 0
