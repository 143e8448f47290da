"""A picture that kills its decoder is named, and no other is lost."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from headrace.prep.images.processes import DecodingProcesses, Killed, decoding_processes
from headrace.prep.images.reading import ImageReading
from tests.prep.images.pictures import body_of, make_images, put, random_pictures
from tests.prep.images.planted_faults import MEMORY, PlantedPreparation, own_pid, planted


@pytest.fixture(scope="module")
def processes() -> Iterator[DecodingProcesses]:
    yield (started := DecodingProcesses(2))
    started.end()


def test_what_kills_its_process_is_told_and_all_others_come_back_in_order(processes: DecodingProcesses) -> None:
    given: list[bytes | None] = [f"p{number}".encode() for number in range(100)]
    given[5] = given[60] = b"killer"
    given[61] = None
    given[99] = b"glutton"
    told = dict.fromkeys((5, 60), Killed) | {61: None, 99: "too much"}

    made = list(processes.map(planted, given, lambda one: one, memory_bytes_max=MEMORY))

    assert [one for one, _ in made] == given
    shown = [Killed if isinstance(what, Killed) else what for _, what in made]
    assert shown == [told.get(number, f"P{number}") for number in range(100)]


def test_a_process_that_dies_between_two_readings_costs_nothing(processes: DecodingProcesses) -> None:
    assert [made for _, made in processes.map(own_pid, [b"a"], lambda one: one, memory_bytes_max=MEMORY)] != [
        os.getpid()
    ]
    [(_, pid)] = processes.map(own_pid, [b"a"], lambda one: one, memory_bytes_max=MEMORY)
    assert isinstance(pid, int)
    assert pid != os.getpid()
    os.kill(pid, signal.SIGKILL)

    made = [what for _, what in processes.map(planted, [b"a", b"b"], lambda one: one, memory_bytes_max=MEMORY)]

    assert made == ["A", "B"]


def test_a_thread_blames_none_of_its_pictures_for_a_death_in_another_thread() -> None:
    def made(given: list[bytes]) -> list[Any]:
        own = decoding_processes()
        own.num_processes = 1
        assert decoding_processes() is own
        try:
            return [what for _, what in own.map(planted, given, lambda one: one, memory_bytes_max=MEMORY)]
        finally:
            own.end()

    innocent = [f"p{number}".encode() for number in range(60)]
    with ThreadPoolExecutor(2) as threads:
        alone, beside = threads.map(made, (innocent, [*innocent[:20], b"killer", b"killer"]))

    assert alone == [one.decode().upper() for one in innocent]
    assert [isinstance(what, Killed) for what in beside] == [False] * 20 + [True, True]


def test_a_reading_sets_the_culprit_aside_with_its_reason_and_seals_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, picture in enumerate(random_pictures(3)):
        put(tmp_path / f"in/{number}.png", body_of(picture))
    put(tmp_path / "in/1b.png", b"killer")
    monkeypatch.setattr("headrace.prep.images.reading.Preparation", PlantedPreparation)

    reading = ImageReading(make_images(), "shard-00", tmp_path)

    assert [item.attributes["source_file"] for item in reading.items()] == ["in/0.png", "in/1.png", "in/2.png"]
    [row] = reading.read().quarantine.to_pylist()
    assert row["source_file"] == "in/1b.png"
    assert row["reason"].startswith("ends the process that decodes it, also alone")
