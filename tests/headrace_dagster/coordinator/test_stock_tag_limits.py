"""Dagster's tag limits keep their meaning, and a run that one of them holds back takes no GPU."""

from typing import Any

import pytest

from tests.headrace_dagster.coordinator.builders import Deployment
from tests.headrace_dagster.coordinator.conftest import Deploy

PRIORITY = "dagster/priority"
PER_VALUE = {"applyLimitPerUniqueValue": True}
A, B, C = {"database": "tiny"}, {"database": "large"}, {"other": "x"}


def launched_of(deployment: Deployment, tags: list[dict[str, str]]) -> list[int]:
    """Which of the runs with these tags, submitted in this order, the next iteration launches."""
    submitted = [deployment.submit(gpus=0.1, tags=dict(each)) for each in tags]
    launched = set(deployment.iterate())
    return [number for number, run_id in enumerate(submitted) if run_id in launched]


@pytest.mark.parametrize(
    ("limits", "tags", "expected"),
    [
        pytest.param(
            [{"key": "database", "value": "tiny", "limit": 1}], [A, A, B, B, C], [0, 2, 3, 4], id="key and value"
        ),
        pytest.param([{"key": "database", "limit": 2}], [A, B, A, B, C], [0, 1, 4], id="key alone"),
        pytest.param([{"key": "database", "limit": 0}], [A, B, C], [2], id="limit 0"),
        pytest.param(
            [{"key": "database", "value": "tiny", "limit": 1}, {"key": "other", "limit": 1}],
            [A, A | C, C, C],
            [0, 2],
            id="several, all must pass",
        ),
        pytest.param(
            [{"key": "database", "limit": 2}, {"key": "database", "value": "tiny", "limit": 1}],
            [A, A, B, B],
            [0, 2],
            id="overlapping",
        ),
        pytest.param([{"key": "database", "value": PER_VALUE, "limit": 1}], [A, A, B, B, C], [0, 2, 4], id="per value"),
        pytest.param(
            [{"key": "database", "value": PER_VALUE, "limit": 2}, {"key": "other", "limit": 1}],
            [A | C, A, A, B | C, B],
            [0, 1, 4],
            id="per value, with extra tags",
        ),
        pytest.param(
            [{"key": "database", "limit": 1}],
            [A, A | {PRIORITY: "2"}, A | {PRIORITY: "1"}],
            [1],
            id="the higher priority wins the slot",
        ),
    ],
)
def test_tag_limits(
    deploy_shape: Deploy, limits: list[dict[str, Any]], tags: list[dict[str, str]], expected: list[int]
) -> None:
    assert launched_of(deploy_shape({"tag_concurrency_limits": limits}), tags) == expected


def test_a_limit_per_value_counts_across_iterations(deploy_shape: Deploy) -> None:
    deployment = deploy_shape({"tag_concurrency_limits": [{"key": "database", "value": PER_VALUE, "limit": 1}]})
    tiny, second = deployment.submit(tags=A), deployment.submit(tags=A)
    assert deployment.iterate() == [tiny]
    large = deployment.submit(tags=B)
    assert deployment.iterate() == [large]
    assert deployment.iterate() == []

    deployment.finish(tiny)
    assert deployment.iterate() == [second]


def test_a_run_that_a_tag_limit_holds_back_takes_no_gpu(deploy_shape: Deploy) -> None:
    deployment = deploy_shape({"tag_concurrency_limits": [{"key": "database", "limit": 1}]})
    first, held = deployment.submit(gpus=1, tags=A), deployment.submit(gpus=3, tags=A)
    other = deployment.submit(gpus=3)

    assert sorted(deployment.iterate()) == sorted([first, other])
    assert deployment.devices(held) == []
    assert "tag limit on database=tiny" in deployment.why(held)


def test_a_limit_on_the_gate_itself_does_not_open_it(deploy: Deploy) -> None:
    deployment = deploy({"tag_concurrency_limits": [{"key": "headrace/gate", "value": "held", "limit": 9}]})
    fits, held = deployment.submit(gpus=4), deployment.submit(gpus=4)

    assert deployment.iterate() == [fits]
    assert deployment.status(held) == "QUEUED"
