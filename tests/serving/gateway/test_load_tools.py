"""Tools that nobody here wrote, against a gateway process: Locust for load, schemathesis for the OpenAPI page."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulation.servers.gateway_site import KEY, Site

pytestmark = pytest.mark.process

LOCUSTFILE = """
from locust import HttpUser, events, task

@events.init.add_listener
def stop_when_enough(environment, **_):
    def count(**_):
        if environment.stats.total.num_requests >= 200:
            environment.runner.quit()

    environment.events.request.add_listener(count)

class Client(HttpUser):
    def on_start(self):
        self.client.headers["Authorization"] = "Bearer {key}"

    @task(3)
    def chat(self):
        self.client.post("/v1/chat/completions", json={{"model": "assistant", "messages": [
            {{"role": "user", "content": "Tell me of the mill."}}]}})

    @task(1)
    def stream(self):
        with self.client.post("/v1/chat/completions", name="stream", stream=True, catch_response=True, json={{
            "model": "assistant", "stream": True, "messages": [{{"role": "user", "content": "Hello."}}]}}) as answer:
            lines = [line for line in answer.iter_lines() if line]
            answer.success() if lines[-1] == b"data: [DONE]" else answer.failure("no end")

    @task(1)
    def models(self):
        self.client.get("/v1/models")
"""


@pytest.fixture(scope="module")
def batch_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site.make(tmp_path_factory.mktemp("batches") / "site", {"limits": {"request_bytes_max": 20_000}})
    site.initialize()
    with site.started("--batches"):
        yield site


def test_locust_finds_no_failure(echo_site: Site, tmp_path: Path) -> None:
    file = tmp_path / "locustfile.py"
    file.write_text(LOCUSTFILE.format(key=KEY))
    gateway = echo_site.gateways[0]
    command = [sys.executable, "-m", "locust", "-f", str(file), "--headless", "--host", gateway.url]
    command += ["--users", "20", "--spawn-rate", "20", "--run-time", "50s", "--json", "--skip-log"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr[-3000:]
    rows = {row["name"]: row for row in json.loads(ended.stdout)}
    assert set(rows) == {"/v1/chat/completions", "/v1/models", "stream"}
    assert sum(row["num_failures"] for row in rows.values()) == 0
    assert sum(row["num_requests"] for row in rows.values()) >= 200


@pytest.mark.parametrize("paths", ["^(?!/v1/(files|batches))", "^/v1/(files|batches)"], ids=["usual", "batches"])
def test_schemathesis_finds_nothing_that_the_openapi_page_does_not_say(
    batch_site: Site, tmp_path: Path, paths: str
) -> None:
    gateway = batch_site.gateways[0]
    script = Path(sys.executable).with_name("schemathesis")
    command = [str(script), "run", f"{gateway.url}/openapi.json", "--url", gateway.url]
    command += ["--header", f"Authorization: Bearer {KEY}", "--checks", "all", "--max-examples", "15", "--seed", "5"]
    # Which sets there are is the rollout's, not the page's: an id of another one is refused, whatever its form.
    (tmp_path / "schemathesis.toml").write_text('[parameters]\n"header.X-Headrace-Version-Set" = "stable"\n')
    command += ["--include-path-regex", paths]
    command += ["--phases", "examples,coverage,fuzzing,stateful", "--no-color", "--generation-database", "none"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout[-6000:]
