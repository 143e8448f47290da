"""A campaign on two servers of one model, of which one is killed in the middle of a partition."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.engines.roles import EngineSettings
from headrace.rollout.events import initialized
from headrace.version_sets.sets import VersionSets
from resources.engines import EnginesResource
from resources.settings import CHECKOUT
from simulation.campaign_site import make_campaign
from simulation.models import model_of
from tests.generation.builders import TEXTS, Site

pytestmark = pytest.mark.process

# Of no machine: what a version set names, and the servers behind it change nothing in it.
WRITERS = "http://writers.invalid/v1"
PACE = {"seconds_min": 0.05, "seconds_max": 0.1, "num_words": 6}


@pytest.fixture
def servers() -> Iterator[list[tuple["subprocess.Popen[str]", str]]]:
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "simulation.servers.paced", json.dumps(PACE)],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        yield [(one, f"http://127.0.0.1:{int(one.stdout.readline())}/v1") for one in started if one.stdout]
    finally:
        for one in started:
            one.kill()
            one.communicate()


def test_a_partition_is_made_whole_although_one_of_two_servers_is_killed(servers: Any, tmp_path: Path) -> None:
    (killed, first), (_, second) = servers
    campaign = make_campaign(
        engine=EngineSettings("openai_http", base_url=WRITERS, model="served"),
        replicas={WRITERS: (first, second)},
    )
    site = Site(tmp_path, campaign=campaign)
    wanted = campaign.version_set({"writer": model_of("tiny", 1)})
    VersionSets(site.objects).put(wanted)
    site.journal.append("initialized", {**initialized(wanted).fields, "reason": "a test"}, expected=0)
    site.put_prompts()
    seen: list[int] = []

    def kill_after_the_first_batch(done: int, total: int, speed: float) -> None:
        seen.append(done)
        if done and killed.poll() is None:
            killed.kill()
            killed.wait()

    outcome = site.generate(
        open_engine=lambda version_set: EnginesResource(request_seconds=20.0).open_rows(
            version_set, site.objects, replicas=campaign.replicas
        ),
        progress=kill_after_the_first_batch,
    )

    assert killed.returncode == -9
    assert seen[-1] == len(TEXTS)
    assert (outcome.content.num_rows, outcome.num_errors) == (len(TEXTS), 0)
    assert {row["version_set"] for row in outcome.content.table().to_pylist()} == {wanted.id}
    assert not any(outcome.execution.table()["deterministic"].to_pylist())
