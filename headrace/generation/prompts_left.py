"""Prompts of a new list, without those that were erased: what a sealed list holds, and is compared with."""

import pyarrow as pa

from headrace.handoff.content_digest import digest_of
from headrace.handoff.row_tables import PROMPTS
from headrace.handoff.rows_left import table_without_rows
from headrace.handoff.versions import HandoffStore
from headrace.keys import ContentPartition


def erased_places(handoffs: HandoffStore, partition: ContentPartition, prompts: pa.Table) -> set[int]:
    """The places of prompts that were erased, and that a file still has. Raises: HandoffCorrupt."""
    return handoffs.erasures.all().rows_in(PROMPTS, partition.key, prompts)


def prompts_left(handoffs: HandoffStore, partition: ContentPartition, prompts: pa.Table) -> pa.Table:
    """Those that were not erased, in the positions that they have."""
    return table_without_rows(prompts, erased_places(handoffs, partition, prompts))


def as_sealed(handoffs: HandoffStore, partition: ContentPartition, prompts: pa.Table) -> pa.Table:
    """The sealed prompts, if these differ from them in positions alone: what was erased left gaps there, which a new
    list of the events that are left does not have. It would be other inputs, and every row would be made again."""
    sealed = handoffs.newest(PROMPTS, partition.key)
    if sealed is None or sealed.num_rows != prompts.num_rows:
        return prompts
    before = sealed.table(plain=True)
    if before["position"].to_pylist() == prompts["position"].to_pylist():
        return prompts
    same = [digest_of(one.drop_columns(["position"])) for one in (before, prompts)]
    return before if same[0] == same[1] else prompts
