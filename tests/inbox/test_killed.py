"""Writer and sealer killed (-9) at many lines: nothing that was taken is lost, and nothing is there twice."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from headrace.store.local import LocalStore
from simulation.event_oracle import expected_windows
from simulation.event_streams import SECOND, StreamShape, stream
from simulation.inbox_site import event_of, seal_all, sealed_spans, time_rules
from tests.inbox.builders import make_log, make_rules, make_sealer
from tests.killing import in_child, killed_at_many_lines, num_lines_run

SENT = stream(7, StreamShape(num_events=24, seconds=60.0, late_share=0.1, late_seconds=40.0, twice_share=0.2))
ROOMS = ("headrace/inbox/", "headrace/handoff/versions.py", "headrace/store/chain.py", "headrace/store/local.py")
RULES = {"rows_max": 6, "close_seconds": 50.0}


def produce(directory: Path) -> None:
    """A producer that was killed goes on after the last event that it knows to be taken."""
    known = directory / "taken"
    num_taken = len(known.read_bytes()) if known.exists() else 0
    with closing(make_log(directory, **RULES)) as log:
        sealer = make_sealer(directory, log)
        for number, one in enumerate(SENT[num_taken:], num_taken):
            log.append([event_of(one)], one.arrives)
            descriptor = os.open(known, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(descriptor, b".")
            os.close(descriptor)
            if number % 3 == 0:
                seal_all(log, sealer)
        log.tick(SENT[-1].arrives + 1_000 * SECOND)
        seal_all(log, sealer)


@pytest.fixture(scope="module")
def num_lines(tmp_path_factory: pytest.TempPathFactory) -> int:
    directory = tmp_path_factory.mktemp("whole")
    return num_lines_run(lambda: produce(directory), ROOMS, None)


def test_a_gateway_that_is_killed_anywhere_loses_no_event_and_seals_none_twice(tmp_path: Path, num_lines: int) -> None:
    killed_at_many_lines(produce, ROOMS, tmp_path, num_lines=num_lines, num_kills=60)
    expected = expected_windows(SENT, time_rules(make_rules(**RULES)))
    directories = sorted(tmp_path.glob("killed-*"))
    assert len(directories) >= 59, "the first is killed before it makes its own"
    for directory in directories:
        assert in_child(lambda to=directory: produce(to)) == 0
        assert sealed_spans(LocalStore(directory / "store")) == expected, directory
