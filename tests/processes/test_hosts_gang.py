"""A gang of two ranks over two hosts: network namespaces with an agent each, which share only the store."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.errors import TrainingFailed
from headrace.training.attempts import read_curve
from headrace.training.hosts_runner import HostsRunner
from headrace.training.session import train
from tests.training_builders import make_bench
from tests.two_hosts import two_hosts

# Two starts of a gang, minutes each on a loaded machine.
pytestmark = [pytest.mark.process, pytest.mark.timeout(1800)]

STEPS, CHECKPOINT_EVERY = 12, 3
RECIPE = {"steps": STEPS, "batch": 4, "ranks": 2, "checkpoint_every": CHECKPOINT_EVERY, "precision": "fp32"}


def test_a_gang_whose_host_lost_power_is_told_so_and_goes_on_once_it_is_back(tiny_model: Path, tmp_path: Path) -> None:
    bench = make_bench(tmp_path, tiny_model)
    request = bench.request(**RECIPE)
    with two_hosts(tmp_path, bench.store.url) as hosts:
        names = [host.name for host in hosts]
        runner = HostsRunner.on(bench.store, names, silence_seconds=12)
        place = replace(bench.place(dict(os.environ)), runner=runner)
        for host in hosts:
            host.start_agent()
        steps: list[int] = []

        def cut_the_second(rows: list[dict]) -> None:
            if not steps and rows[-1]["step"] > CHECKPOINT_EVERY:
                hosts[1].lose_power()
                steps.append(rows[-1]["step"])

        with pytest.raises(TrainingFailed) as failure:
            train(request, place, on_rows=cut_the_second)
        assert failure.value.culprits["kind"] == "lost host"
        assert failure.value.culprits["rank"] == 1
        assert f"host {names[1]} has said nothing for 1" in str(failure.value)

        hosts[1].plug_in()
        hosts[1].start_agent()
        outcome = train(request, place)
    assert outcome.result.attempt == 2
    assert outcome.result.resumed_from_step >= CHECKPOINT_EVERY
    assert [row["step"] for row in read_curve(bench.store, outcome.result)] == list(range(1, STEPS + 1))
    assert bench.store.children(f"training/{request.training_id}/gangs") == []
