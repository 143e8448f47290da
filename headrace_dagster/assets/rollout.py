"""The asset of a campaign's or service's rollout, for any project."""

from collections.abc import Iterable
from typing import Literal

import dagster as dg
import pyarrow as pa
from pydantic import Field

from headrace.errors import InvalidInput
from headrace.rollout import interventions
from headrace.rollout.ticking import Intervention
from headrace_dagster.assets.asset_site import Site
from headrace_dagster.assets.stages import DEPLOYMENT
from headrace_dagster.engine_log import engines_tell
from headrace_dagster.handoff_io import StoreResource
from headrace_dagster.resources.registry import RegistryResource
from headrace_dagster.resources.rollouts import RolloutsResource


class RolloutConfig(dg.Config):
    """A person's act on a rollout, from the launchpad. By default a run only ticks."""

    action: Literal["tick", "pause", "resume", "approve", "advance", "promote", "abort"] = Field(
        default="tick", description="What to do before the rollout goes on by itself."
    )
    weight: float | None = Field(
        default=None, description="For advance: the candidate's share, up or down; none: next step."
    )
    keep_sessions: bool = Field(
        default=False, description="For abort: sessions keep the set to the end of their lease."
    )
    reason: str = Field(default="", description="Why; required for everything but tick, and kept in the journal.")

    def intervention(self, *, by: str) -> Intervention | None:
        """Raises: InvalidInput: a person's action has no reason."""
        if self.action == "tick":
            return None
        if not self.reason:
            raise InvalidInput(f"{self.action} needs a reason, which the journal keeps; got none.")
        if self.action == "advance":
            return lambda journal, plan, _: interventions.advance(
                journal, by=by, reason=self.reason, plan=plan, weight=self.weight
            )
        if self.action == "abort":
            return lambda journal, _, before: interventions.abort(
                journal, by=by, reason=self.reason, evict=not self.keep_sessions, before=before
            )
        act = {
            "pause": interventions.pause,
            "resume": interventions.resume,
            "approve": interventions.approve,
            "promote": interventions.promote,
        }
        return lambda journal, *_: act[self.action](journal, by=by, reason=self.reason)


def rollout(
    context: dg.AssetExecutionContext,
    config: RolloutConfig,
    rollouts: RolloutsResource,
    registry: RegistryResource,
    store: StoreResource,
    site: Site,
) -> dg.MaterializeResult[pa.Table]:
    """The version sets of one campaign or service; a run takes its rollout as far as the evidence allows.

    Its log says what it did and what it waits for. The journal in the store decides, and generated_content and the
    gateways read it; this table and MLflow's aliases follow it.
    """
    name = site.campaign_of(context)
    with engines_tell(context.log):
        ticked = rollouts.tick(
            name,
            store.handoffs(),
            registry.models(),
            run_id=context.run.run_id,
            intervention=config.intervention(by=context.run.tags.get("user", "Dagster")),
        )
    *done, waits = ticked.actions
    for action in done:
        context.log.info(f"{action.kind}: {action.reason}")
    if ticked.state is None:
        context.log.warning(f"Nothing was rolled out, so {name} has no version set: {waits.reason}")
    else:
        context.log.info(f"Waits: {waits.reason}")
    return dg.MaterializeResult(value=ticked.table, metadata=ticked.metadata())


def rollout_asset(site: Site, deps: Iterable[dg.AssetDep] = ()) -> dg.AssetsDefinition:
    """Args: deps: where this project's candidates come from."""
    return site.asset(rollout, DEPLOYMENT, site.campaigns, deps=deps, code_version="2")
