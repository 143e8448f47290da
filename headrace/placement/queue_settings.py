"""The `policy` section of a coordinator's config, as a `QueuePolicy`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from headrace.errors import InvalidInput
from headrace.placement.packing import Packing
from headrace.placement.queue_policy import Preempting, QueuePolicy, QueueWeights, Share
from headrace.placement.stage_policy import StagePolicy, StageRule
from headrace.user_files.shapes import from_mapping

_GONE = ("reserve_after_seconds", "reserve_small_after_seconds")


@dataclass(frozen=True, kw_only=True)
class _Section:
    packing: Packing = field(default_factory=Packing)
    order: Literal["shortest_first", "submission"] = QueuePolicy.order
    gang_patience: Share | None = None
    patience: Share | None = None
    queue_weights: QueueWeights = field(default_factory=dict)
    preemption: Preempting | None = None
    time_zone: str = "UTC"
    stages: dict[str, StageRule] = field(default_factory=dict)


def policy_from_config(mapping: Mapping[str, Any]) -> QueuePolicy:
    """Reads the content of `policy:`; an empty mapping gives the defaults.

    All keys are optional:

    ```yaml
    policy:
      order: submission                # or shortest_first: by expected_seconds
      gang_patience: 0.7               # runs of several GPUs: who waited this part of what a queue in order of
      patience: 0.95                   # submission would have made it wait goes first; and all others. Left out without
                                       # preemption: 0.9 and 0.98
      queue_weights:                   # headrace/queue; a queue that is not named weighs 1
        interactive: 3
        batch: 1
      preemption:                      # left out: nobody is stopped
        min_run_seconds: 300
        preemptions_max: 3
      time_zone: Europe/Berlin         # of the hours below
      stages:                          # headrace/stage; in GPUs
        training:
          ceiling: 2                   # never more than 2 by day
          windows:
            - hours: "22:00-06:00"
              ceiling: -1              # all but one by night
        generation:
          floor: 1                     # one GPU is kept for it
    ```

    Raises:
        InvalidInput: an unknown key, a wrong type or an impossible value; the sentence names the key.
    """
    gone = [key for key in _GONE if key in mapping]
    if gone:
        raise InvalidInput(
            f"policy has {' and '.join(gone)}, which is gone: how long a run may wait follows from the queue's own "
            "backlog now. Take it out; gang_patience and patience change the share."
        )
    section = from_mapping(_Section, mapping, "policy")
    try:
        return QueuePolicy(
            packing=section.packing,
            order=section.order,
            gang_patience=section.gang_patience,
            patience=section.patience,
            queue_weights=section.queue_weights,
            preemption=section.preemption,
            stages=StagePolicy(rules=section.stages, time_zone=section.time_zone),
        )
    except InvalidInput as error:
        raise InvalidInput(f"policy: {error}") from error
