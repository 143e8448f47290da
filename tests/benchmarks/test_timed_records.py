"""The share of the time in which a device worked, from its records."""

import json
from pathlib import Path

from benchmarks.modalities.timed_records import Gap, Record, busy_share, gaps, records_in


def record(begun: float, ended: float, process: int = 1) -> Record:
    return Record(kind="image", unit=f"{begun}", device="0", begun=begun, ended=ended, process=process)


def test_time_in_which_two_devices_work_counts_once_and_pauses_do_not() -> None:
    found = [record(0, 6), record(1, 2, process=2), record(5, 7, process=2), record(8, 10)]
    assert busy_share(found) == 0.9
    assert gaps(found) == [Gap(begun=7, seconds=1, is_within_process=False)]


def test_the_longest_pauses_come_first() -> None:
    found = [record(0, 1), record(1.5, 2), record(4, 5, process=2)]
    assert [(one.seconds, one.is_within_process) for one in gaps(found)] == [(2, False), (0.5, True)]


def test_records_are_read_by_their_begin_and_smoke_tests_left_out(tmp_path: Path) -> None:
    lines = [vars(record(3, 4)), vars(record(1, 2)), vars(record(0, 1)) | {"unit": "smoke-test"}]
    (tmp_path / "7.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [one.begun for one in records_in(tmp_path)] == [1, 3]
