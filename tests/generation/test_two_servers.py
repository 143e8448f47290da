"""A campaign on two servers of one model, of which one is killed in the middle of a partition."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.command_line.rollout.ticking import tick_once
from headrace.generation.campaign import load_campaign
from headrace.registry.model_versions import to_table
from headrace.registry.registered import REGISTERED_VERSION
from headrace.rollout.ticking import Rollout
from headrace.store.small_objects import PassedOver
from headrace_dagster.resources.engines import EnginesResource
from resources.settings import CHECKOUT
from simulation.models import model_of
from tests.generation.builders import TEXTS, Site

pytestmark = pytest.mark.process

# Of no machine: what a version set names, and the servers behind it change nothing in it.
WRITERS = "http://writers.invalid/v1"
CAMPAIGN = f"""
name: glossary
model: tiny
num_shards: 1
prompts: {{files: prompts.jsonl, per_shard: 8}}
decoding: {{temperature: 0, top_p: 1, max_new_tokens: 8}}
engine: {{name: openai_http, base_url: "{WRITERS}", model: served}}
replicas: {{"{WRITERS}": SERVERS}}
"""
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
    file = tmp_path / "glossary.yaml"
    file.write_text(CAMPAIGN.replace("SERVERS", json.dumps([first, second])))
    campaign = load_campaign(file)
    site = Site(tmp_path, campaign=campaign)
    models = to_table([model_of("tiny", 1, kind="base")])
    site.handoffs.publish(REGISTERED_VERSION, "tiny.define", models, code_version="1", run_id="r")
    actions = tick_once(Rollout(site.objects, campaign.name, site.clock), site.objects, file, None, PassedOver())
    assert actions[0].kind == "initialize"
    wanted = campaign.version_set({"writer": model_of("tiny", 1, kind="base")})
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
