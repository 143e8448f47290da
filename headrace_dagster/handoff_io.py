"""Passes sealed Arrow versions from asset to asset: no pickle, no copy, nothing half written.

An asset's partition is one handoff with the same names, unless its metadata says otherwise (`handoff_names`); a run of
several partitions seals one for each. The manifest of a step's output lists what the step loaded. Dagster's data
version is the content digest: making the same rows again changes nothing downstream.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field, field_validator

from headrace.errors import HandoffCollected
from headrace.handoff.sealed import Verification, checked_verification
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.store.objects import ObjectStore
from headrace.store.opening import open_store
from headrace_dagster.failures import permanent_failure, translated_errors
from headrace_dagster.handoff_inputs import HandoffsWhenAsked, InputRequest, in_parallel
from headrace_dagster.handoff_lineage import MADE_FROM, METADATA, lineage_of, remember_loaded
from headrace_dagster.handoff_metadata import PreviewedRows, handoff_metadata, preview_of
from headrace_dagster.handoff_names import handoff_name, naming_metadata, of_input, sole_partition
from headrace_dagster.handoff_outputs import rows_of, values_by_partition
from headrace_dagster.partition_events import PartitionEvents, ordered_partitions, upstream_partitions

# Metadata of inputs. The first is spelled as in Dagster's own UPathIOManager.
ALLOW_MISSING_PARTITIONS = "allow_missing_partitions"
COLUMNS = "columns"
VERIFICATION = "verification"
# Metadata of inputs and outputs: the name of a schema in headrace.handoff.schemas.
SCHEMA = "schema"
# Metadata of outputs: names of the run's figures that each version keeps as attributes, for readers without Arrow.
ATTRIBUTES = "attributes"
# An asset's own metadata entry that people see first; it replaces the preview of rows.
SUMMARY = "summary"

# For each further one, a writer and a collector must both overtake a reader between two reads of the store.
_OPENINGS = 3

_URL = "The store: s3://bucket/prefix, file:///directory, or an absolute path."
_CACHE = "Directory of this machine that keeps what came from a remote store; empty: the user's cache directory."
_CACHE_BYTES = "Bytes that the cache may hold before it drops what was read longest ago; empty: the store's default."
_VERIFICATION = (
    "once: a version's bytes are compared with its manifest when this machine first opens it. off: never. lazy: each "
    "column when it is handed out. eager: at every opening."
)


class StoreResource(dg.ConfigurableResource):
    """The object store, for assets that read or seal data themselves."""

    url: str = Field(description=_URL)
    cache: str | None = Field(default=None, description=_CACHE)
    cache_bytes: int | None = Field(default=None, description=_CACHE_BYTES, gt=0)
    verification: Verification = Field(default="once", description=_VERIFICATION)

    def objects(self) -> ObjectStore:
        return opened_store(self.url, self.cache, self.cache_bytes)

    def handoffs(self) -> HandoffStore:
        return opened_handoffs(self.url, self.cache, self.cache_bytes, self.verification)


class ArrowHandoffIOManager(dg.ConfigurableIOManager):
    """Stores frames, tables, streams of record batches and sealed `Handoff`s; one partition, or several of one run.

    Loads by the input's annotation (`handoff_inputs.ANNOTATIONS`; `pa.Table` without one), one partition, many or none;
    `HandoffsWhenAsked` loads nothing before the body asks.
    Metadata of an input: `allow_missing_partitions: True` leaves out unsealed partitions; `columns: [..]` opens only
    these; `schema: name` refuses other columns; `verification` as below. Metadata of an asset: `schema: name` refuses
    other columns, and an empty stream is sealed with it; `handoff: name` seals under that name instead of the asset's
    key.
    """

    url: str = Field(description=_URL)
    cache: str | None = Field(default=None, description=_CACHE)
    cache_bytes: int | None = Field(default=None, description=_CACHE_BYTES, gt=0)
    verification: Verification = Field(default="once", description=_VERIFICATION)
    compat: bool = Field(
        default=False, description="Write text as large_string, for readers older than Arrow 16; polars copies it."
    )
    alignment: int = Field(
        default=64, description="Bytes at whose multiples buffers start in a file: 64, or 4096 for O_DIRECT."
    )

    @field_validator("alignment")
    @classmethod
    def _checked_alignment(cls, alignment: int) -> int:
        if alignment < 64 or alignment & (alignment - 1):
            raise ValueError(f"alignment must be a power of two, at least 64 bytes, got {alignment}.")
        return alignment

    @translated_errors()
    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        if obj is None:
            return
        asset, stated = context.asset_key.to_user_string(), context.definition_metadata
        keys = ordered_partitions(context) if context.has_asset_partitions else None
        events = PartitionEvents(context)
        num_rows = num_sealed = 0
        for key, value in values_by_partition(obj, asset, keys):
            partition = key if keys else sole_partition(stated)
            lineage = _input_versions(context, partition, is_alone=keys is None or len(keys) == 1)
            handoff, preview = self._sealed(context, value, partition, lineage)
            # A reused version keeps the inputs that first made it; this run's own inputs belong into this run's record.
            made_from = lineage or handoff.manifest.input_versions
            shown = None if SUMMARY in context.output_metadata else preview
            metadata = handoff_metadata(handoff, self._handoffs(), made_from, preview=shown)
            metadata |= naming_metadata(context.asset_key, stated)
            data_version = dg.DataVersion(handoff.content_digest)
            if keys is None or len(keys) == 1:
                # The only way to set a data version from here: tests/upstream/test_data_version.py.
                context.step_context.set_data_version(context.asset_key, data_version)
                context.add_output_metadata(_kept_metadata(context, handoff) | metadata)
            else:
                events.record(partition, data_version, metadata)
                num_rows, num_sealed = num_rows + handoff.num_rows, num_sealed + 1
        if num_sealed:
            events.close()
            context.add_output_metadata({"num_rows": num_rows, "num_partitions": num_sealed})

    @translated_errors()
    def load_input(self, context: dg.InputContext) -> Any:
        options = context.definition_metadata or {}
        columns, named = options.get(COLUMNS), of_input(context)
        request = InputRequest(
            name=context.name,
            asset=handoff_name(context.asset_key, named),
            kind=context.dagster_type.typing_type,
            columns=tuple(columns) if columns is not None else None,
            schema=options.get(SCHEMA),
        )
        wanted = ordered_partitions(context) if context.has_asset_partitions else [sole_partition(named)]
        if request.kind is HandoffsWhenAsked:
            asked = replace(request, kind=dict[str, Handoff])
            return HandoffsWhenAsked(lambda: self._opened(context, asked, wanted))
        return self._opened(context, request, wanted)

    def _opened(self, context: dg.InputContext, request: InputRequest, wanted: list[str]) -> Any:
        options = context.definition_metadata or {}
        handoffs = self._handoffs(checked_verification(options.get(VERIFICATION, self.verification)))
        newest = in_parallel(lambda partition: _held_newest(handoffs, request.asset, partition), wanted)
        found = {partition: handoff for partition, handoff in zip(wanted, newest, strict=True) if handoff}
        if len(found) < len(wanted) and not options.get(ALLOW_MISSING_PARTITIONS):
            raise _missing(context, request.asset, [key for key in wanted if key not in found])
        remember_loaded(context, found)
        return request.open(found)

    def _sealed(
        self, context: dg.OutputContext, value: Any, partition: str, lineage: Mapping[str, str]
    ) -> tuple[Handoff, str]:
        """The sealed version, and its first rows as Markdown."""
        asset = handoff_name(context.asset_key, context.definition_metadata)
        if isinstance(value, Handoff):
            return _check_own(value, asset, partition), preview_of(value)
        declared = (context.definition_metadata or {}).get(SCHEMA)
        rows, schema = rows_of(value, context.asset_key.to_user_string(), declared)
        previewed = PreviewedRows(rows, schema)
        handoff = self._handoffs().publish(
            asset,
            partition,
            previewed,
            schema=schema,
            code_version=context.asset_spec.code_version or "",
            run_id=context.run_id,
            input_versions=lineage,
            attributes=_attributes(context),
            compat=self.compat,
            alignment=self.alignment,
        )
        return handoff, previewed.markdown

    def _handoffs(self, verification: Verification | None = None) -> HandoffStore:
        return opened_handoffs(self.url, self.cache, self.cache_bytes, verification or self.verification)


@lru_cache(maxsize=8)
def opened_store(url: str, cache: str | None = None, cache_bytes: int | None = None) -> ObjectStore:
    """One store for each process and place: its connections serve every input and output."""
    return open_store(url, cache=Path(cache) if cache else None, cache_bytes=cache_bytes)


@lru_cache(maxsize=8)
def opened_handoffs(url: str, cache: str | None, cache_bytes: int | None, verification: Verification) -> HandoffStore:
    """One for each process, so that leases are renewed and counted together."""
    return HandoffStore(opened_store(url, cache, cache_bytes), verification=verification)


def _held_newest(handoffs: HandoffStore, asset: str, partition: str) -> Handoff | None:
    """The newest version, with its lease; looks again if it was superseded and collected in between."""
    for _ in range(_OPENINGS - 1):
        with suppress(HandoffCollected):
            if handoff := handoffs.newest(asset, partition):
                handoff.hold()
            return handoff
    if handoff := handoffs.newest(asset, partition):
        handoff.hold()
    return handoff


def _input_versions(context: dg.OutputContext, partition: str, *, is_alone: bool) -> dict[str, str]:
    """The inputs of this partition. A step of several partitions has loaded the inputs of all of them."""
    lineage = lineage_of(context.step_context)
    versions = lineage.input_versions()
    if is_alone:
        return versions
    made_of = upstream_partitions(context, partition)
    return {
        name: version
        for name, version in versions.items()
        if lineage.loaded[name].partition in made_of.get(lineage.loaded[name].asset, {lineage.loaded[name].partition})
    }


def _attributes(context: dg.OutputContext) -> dict[str, str]:
    """The asset's own; and if its body called `sealed_already`: what a later run needs to find this version, and to
    show it."""
    names = (context.definition_metadata or {}).get(ATTRIBUTES, ())
    figures = context.output_metadata
    # The figures of a run of several partitions are of all of them.
    alone = not context.has_asset_partitions or len(context.asset_partition_keys) == 1
    own = {name: str(figures[name].value) for name in names if name in figures} if alone else {}
    identity = lineage_of(context.step_context).made_from.get(context.asset_key.to_user_string())
    if identity is None:
        return own
    return {**own, MADE_FROM: identity, METADATA: dg.serialize_value(dict(figures))}


def _kept_metadata(context: dg.OutputContext, handoff: Handoff) -> dict[str, Any]:
    """The metadata from the run that made a returned version, unless this run states it anew."""
    if METADATA not in handoff.attributes:
        return {}
    stated: Any = dg.deserialize_value(handoff.attributes[METADATA])
    return {name: value for name, value in stated.items() if name not in context.output_metadata}


def _check_own(handoff: Handoff, asset: str, partition: str) -> Handoff:
    if (handoff.asset, handoff.partition) != (asset, partition):
        raise permanent_failure(
            f"{asset}[{partition}] returned the handoff {handoff.asset}[{handoff.partition}]. "
            "Publish under that name and partition: the asset's own, or those that its metadata states."
        )
    return handoff


def _missing(context: dg.InputContext, handoff: str, missing: list[str]) -> dg.Failure:
    named = ", ".join(f"{handoff}[{partition}]" for partition in missing[:5])
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    partitions = f", partitions {', '.join(missing[:5])}{more}," if context.has_asset_partitions else ""
    return permanent_failure(
        f"Input {context.name} has no sealed handoff of {named}{more}. Materialize "
        f"{context.asset_key.to_user_string()}{partitions} first."
    )
