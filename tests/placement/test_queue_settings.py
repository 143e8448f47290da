"""The `policy` section: what it means, and how a mistake in it is told."""

import re
import textwrap

import pytest
import yaml

from headrace.errors import InvalidInput
from headrace.placement.demand import Demand
from headrace.placement.queue_settings import policy_from_config
from headrace.placement.queueing import Preempting, QueuePolicy
from headrace.placement.stage_policy import StagePolicy, StageRule, StageWindow


def test_an_empty_section_is_a_policy_of_defaults():
    assert policy_from_config({}) == QueuePolicy()


def test_the_example_in_the_docstring_is_read():
    example = re.search(r"```yaml\n(.*?)```", policy_from_config.__doc__ or "", re.DOTALL)
    assert example
    assert policy_from_config(yaml.safe_load(textwrap.dedent(example[1]))["policy"]) == QueuePolicy(
        gang_patience=0.7,
        patience=0.95,
        queue_weights={"interactive": 3.0, "batch": 1.0},
        preemption=Preempting(min_run_seconds=300.0, preemptions_max=3),
        stages=StagePolicy(
            rules={
                "training": StageRule(ceiling=2, windows=(StageWindow(hours="22:00-06:00", ceiling=-1),)),
                "generation": StageRule(floor=1),
            },
            time_zone="Europe/Berlin",
        ),
    )


def test_where_nobody_may_be_stopped_runs_wait_longer_before_they_go_by_age():
    gang, single = Demand(num_gpus=2), Demand(num_gpus=1)
    stopping, plain = policy_from_config({"preemption": {}}), policy_from_config({})
    assert (stopping.patience_of(gang), stopping.patience_of(single)) == (0.7, 0.95)
    assert (plain.patience_of(gang), plain.patience_of(single)) == (0.9, 0.98)
    given = policy_from_config({"gang_patience": 0.4})
    assert (given.patience_of(gang), given.patience_of(single)) == (0.4, 0.98)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"gang_patience_share": 5}, "policy has an unknown key 'gang_patience_share'; did you mean 'gang_patience'?"),
        ({"patience": "1h"}, "policy: patience must be null or a number, got '1h'."),
        ({"gang_patience": 0}, "policy: gang_patience must be null or above 0 and at most 1, got 0."),
        (
            {"reserve_after_seconds": 3600},
            "policy has reserve_after_seconds, which is gone: how long a run may wait follows from the queue's own "
            "backlog now. Take it out; gang_patience and patience change the share.",
        ),
        ({"order": "lifo"}, "policy: order must be one of shortest_first, submission, got 'lifo'."),
        ({"queue_weights": {"a": 0}}, "policy: queue_weights.a must be above 0, got 0."),
        ({"queue_weights": [1]}, "policy: queue_weights must be a mapping of keys to values, got [1]."),
        ({"preemption": True}, "policy: preemption must be a mapping of keys to values, got True."),
        ({"preemption": {"preemptions_max": 0}}, "policy: preemption: preemptions_max must be at least 1, got 0."),
        ({"stages": {"t": {"floor": -2}}}, "policy: stages.t: floor must be at least 0, got -2."),
        (
            {"stages": {"t": {"windows": [{"hours": "nights"}]}}},
            "policy: stages.t: windows[0]: hours must be two different times of day such as "
            "\"22:00-06:00\", got 'nights'.",
        ),
        (
            {"time_zone": "Mars/Base"},
            "policy: time_zone must be a name of the time zone database such as \"Europe/Berlin\", got 'Mars/Base'.",
        ),
    ],
)
def test_a_mistake_is_named_in_one_sentence(section: dict, sentence: str):
    with pytest.raises(InvalidInput) as refusal:
        policy_from_config(section)
    assert str(refusal.value) == sentence
