"""Calls of services that record them: an hour of one service a partition, and the same turns on another version set."""

from functools import partial
from zoneinfo import ZoneInfo

import dagster as dg

from assets.mirroring import MirrorConfig
from assets.partitions import calls, days
from headrace.clock import SystemClock
from headrace.handoff.versions import Handoff
from headrace.keys import CallHour
from headrace.rollout.journal import Journal
from headrace.rollout.states import fold
from headrace.voice.hours import seal_hour
from headrace.voice.hours_status import calls_status
from headrace.voice.mirroring import mirror_hour
from headrace.voice.references import read_references
from headrace_dagster.assets.generation import GPU_MEMORY_MIB
from headrace_dagster.assets.stages import GENERATION
from headrace_dagster.handoff_io import StoreResource
from headrace_dagster.resources.engines import EnginesResource
from headrace_dagster.resources.rollouts import RolloutsResource

ZONE = ZoneInfo(days.timezone)


@GENERATION.asset(calls, code_version="1")
def recorded_calls(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult[Handoff]:
    """The calls of a service that ended in one hour: a row a turn, with who said what, what was played, and when.

    Their audio is sealed beside it as recorded_audio. Made once, some minutes after the hour's end; calls that are
    known later are partitions of their own, `…-late`. Read by mirrored_calls.
    """
    hour = CallHour.parse(context.partition_key)
    sealed = seal_hour(store.handoffs(), hour, ZONE, run_id=context.run.run_id)
    status = calls_status(store.objects(), hour.service, ZONE, SystemClock().now())
    return dg.MaterializeResult(value=sealed.rows, metadata=sealed.figures() | status.figures())


@GENERATION.asset(calls, code_version="1", gpus=1, gpu_memory_mib=GPU_MEMORY_MIB, deps=["recorded_calls"])
def mirrored_calls(
    context: dg.AssetExecutionContext,
    config: MirrorConfig,
    store: StoreResource,
    rollouts: RolloutsResource,
    engines: EnginesResource,
) -> dg.MaterializeResult[Handoff]:
    """The spoken turns of one hour on another version set and on the stable one: what each heard, how soon it spoke.

    A row a turn whose audio was kept. For the gate of the service's rollout (mirrored_word_error_rate,
    mirrored_first_audio_seconds); nobody hears anything of it. Loads both sets.
    """
    hour, objects = CallHour.parse(context.partition_key), store.objects()
    service = rollouts.served().find(hour.service)
    references = service.recording.references if service.recording else None
    mirrored = mirror_hour(
        store.handoffs(),
        hour,
        config.version_set,
        fold(Journal(objects, service.name, SystemClock()).entries()),
        open_sets=partial(engines.open_replaying, service=service, objects=objects),
        run_id=context.run.run_id,
        references=read_references(rollouts.campaigns.home_directory() / references) if references else None,
        progress=lambda done, num: context.log.info(f"{done:,} of {num:,} turns"),
    )
    return dg.MaterializeResult(value=mirrored.rows, metadata=mirrored.figures())
