"""The queue's measured waits outlive the daemon that measured them."""

from collections.abc import Iterator

import pytest
from dagster import DagsterInstance

from headrace.placement.fifo_waits import FifoWaits
from headrace.placement.queueing import QueuePolicy
from headrace.placement.snapshot import Snapshot
from headrace_dagster.coordinator.waits_row import WaitsRow
from tests.placement.queueing_builders import NOW, make_fleet, make_running, make_waiting

KEY = "headrace/fifo_waits"
SNAPSHOT = Snapshot(
    inventory=make_fleet(1), waiting=(make_waiting("a", ago=60),), running=(make_running("r", "node-a:0", ago=600),)
)


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        yield instance


def seconds(waits: FifoWaits, at: float) -> float:
    return waits.look(SNAPSHOT, QueuePolicy(), at).waiting[0].fifo_wait_seconds


def test_a_successor_tells_the_same_times(instance: DagsterInstance) -> None:
    row = WaitsRow(instance)
    waits = row.read()
    seconds(waits, NOW)
    before = seconds(waits, NOW + 900)
    row.keep(waits)

    assert seconds(WaitsRow(instance).read(), NOW + 901) == before > 600


def test_nothing_is_written_while_no_wait_becomes_longer(instance: DagsterInstance) -> None:
    row = WaitsRow(instance)
    waits = row.read()
    seconds(waits, NOW)
    seconds(waits, NOW + 900)
    row.keep(waits)
    storage = instance.daemon_cursor_storage
    storage.set_cursor_values({KEY: "another's"})
    seconds(waits, NOW + 901)
    row.keep(waits)

    assert storage.get_cursor_values({KEY}) == {KEY: "another's"}


@pytest.mark.parametrize("text", ["", "{}", "not JSON", '{"heads": 5}'])
def test_a_row_that_cannot_be_read_is_measured_anew(instance: DagsterInstance, text: str) -> None:
    instance.daemon_cursor_storage.set_cursor_values({KEY: text})
    assert seconds(WaitsRow(instance).read(), NOW) > 0
