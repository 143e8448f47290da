"""What the run of a partition's prompts seals: the list, what lies beside it, and the figures that tell of it.

Of a campaign with prompt files a partition is a numbered shard of a day's list; of one with an inbox it is a sealed
window, whose content digest goes with the prompts, so that everybody can tell from which events they are.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from headrace.clock import Clock, epoch_seconds
from headrace.errors import InvalidInput
from headrace.generation.campaign import Campaign
from headrace.generation.left_behind import NUM_SHARDS
from headrace.generation.prompt_places import seal_places
from headrace.generation.prompts_left import as_sealed, erased_places
from headrace.generation.requests import prompts_with_places
from headrace.generation.window_prompts import (
    EVENTS_CONTENT,
    EVENTS_NUMBER,
    prompts_of_window,
    seal_refused,
    sealed_window,
)
from headrace.handoff.rows_left import table_without_rows
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.inbox.backlog import Backlog
from headrace.keys import ContentPartition

Figure = int | float | str
# Of prompts: how many of the files' were erased, and left out.
NUM_ERASED = "num_prompts_erased"
# Those that a sealed version keeps.
KEPT_FIGURES = (NUM_SHARDS, EVENTS_CONTENT, EVENTS_NUMBER)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """`seal_beside`: seals what lies beside the prompts; takes the run's id. `figures`: in units, by name."""

    prompts: pa.Table
    seal_beside: Callable[[str], Handoff]
    figures: dict[str, Figure]


def list_prompts(
    campaign: Campaign, partition: ContentPartition, home: Path, handoffs: HandoffStore, clock: Clock
) -> Listed:
    """Raises:
    InvalidInput: the prompt files are missing or unusable, or the partition is not one of the campaign's.
    HandoffMissing, HandoffCorrupt: the window or its events are gone, or damaged.
    """
    if partition.window is None:
        table, places = prompts_with_places(campaign, partition, home)
        # A file may still have what was erased; the others keep their positions, and so their shards.
        gone = erased_places(handoffs, partition, table)
        table, places = table_without_rows(table, gone), table_without_rows(places, gone)
        return Listed(
            prompts=table,
            seal_beside=lambda run_id: seal_places(handoffs, partition.key, table, places, run_id=run_id),
            figures={NUM_SHARDS: campaign.num_shards, **({NUM_ERASED: len(gone)} if gone else {})},
        )
    if not campaign.takes_events:
        raise InvalidInput(
            f"Partition {partition.key} is a window of an inbox, and campaign {campaign.name!r} has prompt files now: "
            "what was made of its windows stays. Give prompts an inbox again to make more of them."
        )
    window = sealed_window(handoffs.objects, partition)
    listed, now = prompts_of_window(campaign, handoffs.objects, window), clock.now()
    listed = replace(listed, prompts=as_sealed(handoffs, partition, listed.prompts))
    backlog = Backlog(handoffs.objects, campaign.name, keeps_late=campaign.keeps_late)
    backlog.look()
    return Listed(
        prompts=listed.prompts,
        seal_beside=lambda run_id: seal_refused(handoffs, partition.key, listed, run_id=run_id),
        figures={
            EVENTS_CONTENT: window.content,
            EVENTS_NUMBER: window.number,
            "num_events": window.num_events,
            "num_events_refused": listed.refused.num_rows,
            "seconds_since_end": round(now - epoch_seconds(window.ends_at), 3),
            "seconds_since_sealed": round(now - epoch_seconds(window.sealed_at), 3),
            **backlog.figures(),
        },
    )
