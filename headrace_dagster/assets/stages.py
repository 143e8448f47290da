"""What a stage's assets, and all checks, share: group and tags, translation of errors, retries."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dagster as dg

from headrace.placement.demand import stage_tags
from headrace_dagster.failures import RETRIES, translated_errors


@dataclass(frozen=True)
class Stage:
    name: str

    def asset(
        self,
        partitions_def: dg.PartitionsDefinition | None,
        *,
        code_version: str,
        gpus: float = 0,
        gpu_memory_mib: int = 0,
        demand_from: str | None = None,
        **stated: Any,
    ) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
        """As `dg.asset`, with what the stage's assets share. The others: as in `stage_tags`."""
        tags = stage_tags(self.name, gpus=gpus, gpu_memory_mib=gpu_memory_mib, demand_from=demand_from)
        as_asset = dg.asset(
            partitions_def=partitions_def,
            op_tags=tags,
            tags=tags,
            code_version=code_version,
            **{"retry_policy": RETRIES, "group_name": self.name, **stated},
        )
        return lambda body: as_asset(translated_errors()(body))


def asset_check(*, asset: str | dg.AssetKey, **stated: Any) -> Callable[[Callable[..., Any]], dg.AssetChecksDefinition]:
    """As `dg.asset_check`, with what all checks share."""
    as_check = dg.asset_check(asset=asset, retry_policy=RETRIES, **stated)
    return lambda body: as_check(translated_errors()(body))


GENERATION, DEPLOYMENT = Stage("generation"), Stage("deployment")
