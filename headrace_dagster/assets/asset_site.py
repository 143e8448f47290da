"""What differs from project to project for the assets that builders make: partitions, and how keys begin.

A body asks for its resources as parameters, like any of Dagster's. A site gives them from keys of its own: Dagster has
one resource a key in a code location, and a foreign project's `store` or `io_manager` may be something else.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from headrace_dagster.assets.stages import Stage, asset_check
from headrace_dagster.failures import RETRIES, translated_errors
from headrace_dagster.handoff_names import HANDOFF, HANDOFF_PARTITION

Body = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Site:
    """A project, as its assets see it.

    Attributes:
        content: partitions of one campaign shard's day, with the dimensions `day` and `shard`.
        days: partitions of the report.
        campaigns: partitions of a rollout, one a campaign or service; None: all are of `campaign`.
        campaign: the only campaign, whose rollout then has no partitions.
        key_prefix: where the assets' keys begin. The handoffs' names do not.
        resource_prefix: where the resources' keys begin.
        group: of all assets; None: each stage is one.
        rollout_job: what the only campaign's rollout is launched by.
    """

    content: dg.PartitionsDefinition
    days: dg.PartitionsDefinition
    campaigns: dg.PartitionsDefinition | None = None
    campaign: str | None = None
    key_prefix: tuple[str, ...] = ()
    resource_prefix: str = ""
    group: str | None = None
    rollout_job: str | None = None

    def __post_init__(self) -> None:
        assert (self.campaigns is None) != (self.campaign is None), "a campaign each partition, or one campaign"

    def key(self, asset: str) -> dg.AssetKey:
        return dg.AssetKey([*self.key_prefix, asset])

    def resource_key(self, resource: str) -> str:
        return f"{self.resource_prefix}{resource}"

    def asset(
        self,
        body: Body,
        stage: Stage,
        partitions_def: dg.PartitionsDefinition | None,
        *,
        reads: Mapping[str, Mapping[str, Any]] | None = None,
        metadata: Mapping[str, Any] | None = None,
        **stated: Any,
    ) -> dg.AssetsDefinition:
        """An asset as `Stage.asset` makes it; `body` has the name of its key's last part, and of its handoff.

        Args:
            reads: inputs of this project's assets, with what `dg.AssetIn` takes beside the key.
        """
        bound, resource_keys = self._bound(body)
        name = body.__name__
        as_asset = stage.asset(
            partitions_def,
            key=self.key(name),
            ins={one: dg.AssetIn(self.key(one), **options) for one, options in (reads or {}).items()},
            required_resource_keys=resource_keys,
            io_manager_key=self.resource_key("io_manager"),
            metadata={**(metadata or {}), **self._naming(name, is_partitioned=partitions_def is not None)},
            **({"group_name": self.group} if self.group else {}),
            **stated,
        )
        return as_asset(bound)

    def check(self, body: Body, asset: str, **stated: Any) -> dg.AssetChecksDefinition:
        """A check of an asset of this project, as `asset_check` makes it."""
        bound, resource_keys = self._bound(body)
        stated = {"name": body.__name__, **stated}
        return asset_check(asset=self.key(asset), required_resource_keys=resource_keys, **stated)(bound)

    def checks(self, body: Body, **stated: Any) -> dg.AssetChecksDefinition:
        """Several checks in one step, with what all checks share: `body` yields their results."""
        bound, resource_keys = self._bound(body)

        def translated(context: dg.AssetCheckExecutionContext) -> Any:
            with translated_errors():
                yield from bound(context)

        return dg.multi_asset_check(required_resource_keys=resource_keys, retry_policy=RETRIES, **stated)(translated)

    def campaign_of(self, context: dg.AssetExecutionContext) -> str:
        """The campaign or service of a rollout's run."""
        return self.campaign or context.partition_key

    def launch_of_rollout(self, campaign: str) -> str:
        """The command that begins a campaign's rollout."""
        if self.rollout_job:
            return f"dg launch --job {self.rollout_job}"
        return f"dg launch --assets {self.key('rollout').to_user_string()} --partition {campaign}"

    def _bound(self, body: Body) -> tuple[Body, set[str]]:
        """The body without its resources, for Dagster, and the keys from which it gets them."""
        signature = inspect.signature(body)
        resources = {
            name: self.resource_key(name) for name, one in signature.parameters.items() if _is_resource(one.annotation)
        }
        site = {"site": self} if "site" in signature.parameters else {}

        @functools.wraps(body)
        def bound(context: Any, *inputs: Any, **named: Any) -> Any:
            there = context.op_execution_context.resources
            given = {name: getattr(there, key) for name, key in resources.items()}
            return body(context, *inputs, **named, **given, **site)

        kept = [one for name, one in signature.parameters.items() if name not in {*resources, *site}]
        # Dagster reads these, and would else take the resources for inputs.
        bound.__signature__ = signature.replace(parameters=kept)  # pyright: ignore[reportAttributeAccessIssue]
        names = {*(one.name for one in kept), "return"}
        bound.__annotations__ = {name: kind for name, kind in body.__annotations__.items() if name in names}
        del bound.__wrapped__
        return bound, set(resources.values())

    def _naming(self, name: str, *, is_partitioned: bool) -> dict[str, str]:
        named = {HANDOFF: name} if self.key_prefix else {}
        return named | ({HANDOFF_PARTITION: self.campaign} if self.campaign and not is_partitioned else {})


def _is_resource(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, dg.ConfigurableResource)
