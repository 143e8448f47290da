"""Where the gate could be bypassed, GPUs could leak or two daemons would dequeue, nothing starts, in one sentence."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dagster._core.errors import DagsterInvariantViolationError

from headrace_dagster.coordinator.daemon_lease import AnotherDaemon
from tests.headrace_dagster.coordinator.builders import Deployment, settings
from tests.headrace_dagster.coordinator.conftest import Deploy

LIMITS = [{"key": "team", "limit": 1}]


@pytest.mark.parametrize(
    ("dagster_yaml", "problem", "remedy"),
    [
        pytest.param(
            {"concurrency": {"runs": {"tag_concurrency_limits": LIMITS}}},
            "concurrency.runs.tag_concurrency_limits",
            "run_coordinator.config.tag_concurrency_limits",
            id="limits that would replace the gate",
        ),
        pytest.param(
            {"concurrency": {"runs": {"tag_concurrency_limits": []}}},
            "concurrency.runs.tag_concurrency_limits",
            "run_coordinator.config.tag_concurrency_limits",
            id="no limits in the place of the gate",
        ),
        pytest.param(
            {"run_monitoring": {"enabled": False}},
            "run monitoring is off",
            "run_monitoring: {enabled: true}",
            id="run monitoring off",
        ),
    ],
)
def test_a_setting_that_breaks_the_promise_is_refused_with_its_remedy(
    deploy: Deploy, dagster_yaml: dict[str, Any], problem: str, remedy: str
) -> None:
    deployment = deploy(**dagster_yaml)
    run_id = deployment.create()
    for act in (deployment.iterate, lambda: deployment.enqueue(run_id)):
        with pytest.raises(DagsterInvariantViolationError) as refusal:
            act()
        message = str(refusal.value)
        assert problem in message
        assert remedy in message
        assert "\n" not in message
        assert message.count(". ") == 0
    assert deployment.machine.launched == []


def test_a_launcher_that_cannot_serve_the_fleet_is_refused_in_its_own_words(deployment: Deployment) -> None:
    deployment.machine.refusal = "Its machine is another one."
    deployment.submit(gpus=1)

    for _ in range(2):
        with pytest.raises(DagsterInvariantViolationError, match="does not start: Its machine is another one."):
            deployment.iterate()
    assert deployment.machine.launched == []


@pytest.mark.parametrize(
    "coordinator", [{"policy": {"no_such_setting": 1}}, {"policy": {"order": "by_name"}}, {"on_no_gpus": "dance"}]
)
def test_a_mistake_in_the_settings_stops_the_start_and_names_itself(
    deploy: Deploy, coordinator: dict[str, Any]
) -> None:
    ((key, value),) = coordinator.items()
    mistake = next(iter(value)) if isinstance(value, dict) else key
    with pytest.raises(Exception, match=mistake):
        deploy(coordinator).iterate()


def test_a_fleet_file_that_is_not_there_is_named(deploy: Deploy, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no-such-nodes.yaml"):
        deploy({"inventory": str(tmp_path / "no-such-nodes.yaml")}).iterate()


def test_a_second_daemon_is_refused_and_the_first_goes_on(deploy: Deploy) -> None:
    first = deploy()
    first.iterate()
    second = Deployment(first.home, settings())
    run_id = first.submit(gpus=4)

    with pytest.raises(AnotherDaemon, match="stop one of the two") as refusal:
        second.iterate()
    assert "\n" not in str(refusal.value)
    assert first.iterate() == [run_id]
    first.close()
    second.iterate()
    second.close()


def test_who_only_submits_needs_no_lease(deploy: Deploy) -> None:
    first = deploy()
    first.iterate()
    webserver = Deployment(first.home, settings())
    run_id = webserver.submit(gpus=1)
    webserver.instance.get_concurrency_config()
    webserver.close()

    assert first.iterate() == [run_id]


_OTHER_DAEMON = """
import sys
from pathlib import Path
from tests.headrace_dagster.coordinator.builders import Deployment, settings
deployment = Deployment(Path(sys.argv[1]), settings())
deployment.iterate()
print("holds", flush=True)
sys.stdin.read()
"""


@pytest.mark.process
def test_a_daemon_of_another_process_is_refused_until_the_first_is_killed(deploy: Deploy) -> None:
    deployment = deploy()
    root = str(Path(__file__).parents[3])
    with subprocess.Popen(
        [sys.executable, "-c", _OTHER_DAEMON, str(deployment.home)],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        try:
            assert other.stdout
            assert other.stdout.readline() == "holds\n"
            with pytest.raises(AnotherDaemon, match="on this machine"):
                deployment.iterate()
        finally:
            other.kill()
    run_id = deployment.submit(gpus=1)
    assert deployment.iterate() == [run_id]
