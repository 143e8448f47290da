"""Builds a gateway: creates every part once, and gives it the other parts that it needs."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from headrace.clock import Clock, SystemClock
from headrace.engines.base import LoadedModel
from headrace.engines.host.address import CPU_ONLY, ENGINE_HOST, host_address
from headrace.engines.host.connection import come_seconds_of, metrics_of
from headrace.engines.host.floor import Floor
from headrace.engines.registry import open_engine, open_hearing_engine, open_media_engine
from headrace.errors import InvalidInput
from headrace.rollout.live_evidence import EvidenceWriter
from headrace.serving.gateway.app import Gateway
from headrace.serving.gateway.connections import Connections
from headrace.serving.gateway.first_set import initialize
from headrace.serving.gateway.judging import Judging
from headrace.serving.gateway.keys import ApiKeys
from headrace.serving.gateway.limits import Admission
from headrace.serving.gateway.metrics import Metrics
from headrace.serving.gateway.outcomes import Outcomes
from headrace.serving.gateway.pinning import Pinning
from headrace.serving.gateway.prepared_sets import LoadedSet, PreparedSets
from headrace.serving.gateway.readiness import Readiness
from headrace.serving.gateway.records import Records
from headrace.serving.gateway.rollout_watch import RolloutWatch, node_name
from headrace.serving.gateway.shadow import Shadow
from headrace.serving.gateway.units import Units
from headrace.serving.plan_lease import PlanLease
from headrace.serving.router import Router
from headrace.serving.service import Service
from headrace.store.objects import ObjectStore, new_nonce
from headrace.store.opening import open_store
from headrace.version_sets.sets import EngineSpec, Member

# A session's first turn waits for the store, and a client waits for that turn.
_STORE_PATIENCE_SECONDS = 5.0
_OPENED_BY = {"text": open_engine, "transcript": open_hearing_engine}

if TYPE_CHECKING:
    from headrace.inbox.backlog import Backlog
    from headrace.inbox.intake import Intake
    from headrace.inbox.rules import InboxRules
    from headrace.serving.gateway.batches.work import BatchWork
    from headrace.serving.gateway.erasing import GatewayErasures
    from headrace.serving.gateway.inbox import Inbox
    from headrace.serving.gateway.realtime.calls import Calls


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`port` 0 takes a free one, which the log's first line names. `engine_key`: for engines behind servers.
    `engine_host`: who holds models that would else be loaded in this process, as for a run. `inbox`: the directory of
    the campaigns whose events are taken, into the directory `inbox_log`, in windows of the days of `timezone`.
    `batches`: OpenAI's Batch API, whose files are kept for `batch_days`, with `batch_lines` lines at once (0: a quarter
    of the service's places)."""

    service: Path
    store: str
    host: str = "127.0.0.1"
    port: int = 8080
    uds: Path | None = None
    reuse_port: bool = False
    api_keys: Path | None = None
    log: Path | None = None
    log_content: bool = False
    node: str | None = None
    engine_key: str | None = None
    engine_host: str = CPU_ONLY
    notice_seconds: float = 1.0
    initialize: bool = False
    inbox: Path | None = None
    inbox_log: Path | None = None
    timezone: str = "UTC"
    batches: bool = False
    batch_days: float = 30.0
    batch_lines: int = 0


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts that the process starts, queries and ends."""

    service: Service
    node: str
    app: Gateway
    units: Units
    readiness: Readiness
    records: Records
    sets: PreparedSets
    lease: PlanLease
    router: Router
    watch: RolloutWatch
    connections: Connections
    evidence: EvidenceWriter
    shadow: Shadow
    judging: Judging | None
    floor: Floor | None
    intake: "Intake | None"
    inbox: "Inbox | None"
    batches: "BatchWork | None"
    erasures: "GatewayErasures | None"
    calls: "Calls | None"


def assemble(settings: Settings, service: Service, *, port: int | None, num_connections: int) -> Parts:
    """Args:
        port: the TCP port, if the gateway listens on one; part of its name among gateways.
        num_connections: how many connections clients may have at once.

    Raises:
        InvalidInput: the keys file, the log or the engine host's address cannot be used.
        HeadraceError: the inbox cannot take events.
    """
    keys = ApiKeys.read(settings.api_keys) if settings.api_keys else ApiKeys()
    store = open_store(settings.store, patience_seconds=_STORE_PATIENCE_SECONDS)
    clock, gateway = SystemClock(), new_nonce()
    if settings.initialize:
        initialize(service, store, clock)
    node = settings.node or node_name(port)
    records, metrics = Records(settings.log, gateway=gateway, content=settings.log_content), Metrics()

    try:
        engine_host = host_address(settings.engine_host, store, os.environ)
    except InvalidInput as error:
        raise InvalidInput(f"--engine-host ({ENGINE_HOST}) {error}") from error
    deployment = service.deployment(settings.engine_key, engine_host)
    floor = Floor(engine_host) if engine_host else None

    def opened(member: Member, spec: EngineSpec) -> LoadedModel:
        return _OPENED_BY.get(member.kind, open_media_engine)(member, spec, store, deployment)

    sets = PreparedSets(service, store, opened, records=records, metrics=metrics, clock=clock)
    lease = PlanLease(store, service.name, service.plan.ranking_salt)
    router = Router(
        store=store,
        service=service,
        lease=lease,
        gateway=gateway,
        clock=clock,
        is_loaded=lambda version_set: sets.get(version_set) is not None,
    )
    evidence = EvidenceWriter(store, service.name, gateway)

    def loaded_stable() -> LoadedSet | None:
        table = lease.table()
        return sets.get(table.stable) if table else None

    def loaded_candidate() -> LoadedSet | None:
        table = lease.table()
        return sets.get(table.candidate) if table and table.candidate else None

    watch = RolloutWatch(store, lease, sets, node=node, records=records, clock=clock, floor=floor)
    readiness = Readiness(service, lease=lease, sets=sets)
    shadow = Shadow(service, loaded_candidate, records=records, metrics=metrics)
    judging = service.judge and Judging(
        service, service.judge, loaded_stable, records=records, metrics=metrics, evidence=evidence
    )
    outcomes = Outcomes(service, records=records, metrics=metrics, evidence=evidence, shadow=shadow, judging=judging)
    admission = Admission(service.limits)
    pinning = Pinning(service, router=router, lease=lease, sets=sets)
    units = Units(service, keys=keys, admission=admission, pinning=pinning, outcomes=outcomes, clock=clock)
    rules, backlogs, intake = _intake(settings, service, store, clock, records)
    inbox = calls = None
    if intake and rules:
        # These here, because other gateways need nothing of what they import, such as Arrow.
        from headrace.serving.gateway.inbox import Inbox

        inbox = Inbox(
            rules, backlogs, intake, store, limits=service.limits, clock=clock, records=records, metrics=metrics
        )
    if intake and service.hears:
        try:
            from headrace.serving.gateway.realtime.calls import Calls
        except ModuleNotFoundError as error:
            raise InvalidInput(
                f"The service {service.name!r} holds calls, which need {error.name}, and it is not installed. Run pip "
                "install 'headrace[voice]'."
            ) from error
        calls = Calls(
            service,
            store=store,
            intake=intake,
            keys=lambda: units.keys,
            admission=admission,
            pinning=pinning,
            outcomes=outcomes,
            records=records,
            clock=clock,
        )
    erasures = None
    if intake:
        from headrace.serving.gateway.erasing import GatewayErasures

        erasures_of = partial(GatewayErasures, store, intake, clock=clock, records=records)
        erasures = erasures_of(end_calls=calls.erase) if calls else erasures_of()
    host_metrics = partial(metrics_of, engine_host.socket_file) if engine_host else None

    async def come_seconds() -> float | None:
        stable = loaded_stable()
        if not engine_host or not stable or not stable.residents:
            return None
        return await come_seconds_of(engine_host.socket_file, stable.residents)

    batches, batch_api = None, None
    if settings.batches:
        # Here, because a gateway without batches needs none of it.
        from headrace.serving.gateway.batches.assembly import batches_of

        batches, batch_api = batches_of(
            settings, service, store, units, outcomes, clock=clock, records=records, metrics=metrics
        )
    app_of = partial(Gateway, service, units, outcomes, readiness=readiness, metrics=metrics, clock=clock)
    app = app_of(inbox=inbox, batches=batch_api, host_metrics=host_metrics, come_seconds=come_seconds)
    connections = Connections(
        service.limits,
        num_max=num_connections,
        clock=time.monotonic,
        event=records.event,
        count=metrics.cut,
    )
    metrics.watch("connections", "Open connections.", lambda: connections.num_open)
    metrics.watch("units_under_way", "Units that have a place.", lambda: admission.num_under_way)
    metrics.watch("units_waiting", "Units that wait for a place.", lambda: admission.num_waiting)
    metrics.watch(
        "plan_entry", "The journal entry that is followed.", lambda: table.head if (table := lease.table()) else 0
    )
    metrics.watch("plan_fresh", "1: the plan was read within a second.", lambda: float(lease.fresh()))
    metrics.watch("calls", "Calls that go on, of a service that hears.", lambda: calls.num_open if calls else 0)
    metrics.watch(
        "recorded_calls_unsealed", "Recorded calls without a sealed hour.", lambda: calls.num_unsealed if calls else 0
    )
    metrics.watch("ready", "1: units should be sent here.", lambda: float(readiness.is_ready))
    metrics.watch("loaded_sets", "Version sets that are loaded.", lambda: len(sets.ids))
    metrics.watch("log_lines_dropped", "Lines that found no room or no disk.", lambda: records.num_dropped)
    return Parts(
        service=service,
        node=node,
        app=app,
        units=units,
        readiness=readiness,
        records=records,
        sets=sets,
        lease=lease,
        router=router,
        watch=watch,
        connections=connections,
        evidence=evidence,
        shadow=shadow,
        judging=judging,
        floor=floor,
        intake=intake,
        inbox=inbox,
        batches=batches,
        erasures=erasures,
        calls=calls,
    )


def _intake(
    settings: Settings, service: Service, store: ObjectStore, clock: Clock, records: Records
) -> "tuple[dict[str, InboxRules], dict[str, Backlog], Intake | None]":
    """The campaigns that take events, what waits of them, and the log for them and for calls; None: there is neither.

    Raises: HeadraceError: they cannot be kept.
    """
    if settings.inbox is None and not service.hears:
        return {}, {}, None
    from headrace.inbox.backlog import Backlog
    from headrace.inbox.intake import Intake
    from headrace.inbox.sealing import Sealer
    from headrace.serving.gateway.inbox import rules_of

    if settings.inbox_log is None:
        who = f"The service {service.name!r} holds calls, and" if service.hears else "--inbox also"
        raise InvalidInput(f"{who} needs --inbox-log: a directory on a local disk that stays, for this gateway.")
    try:
        zone = ZoneInfo(settings.timezone)
    except (ValueError, OSError, KeyError) as error:
        raise InvalidInput(
            f"--timezone must be a time zone such as Europe/Berlin, got {settings.timezone!r}."
        ) from error
    rules = rules_of(settings.inbox) if settings.inbox else {}

    backlogs = {name: Backlog(store, name, keeps_late=one.late == "keep") for name, one in rules.items()}
    tenants = {name: one.tenants for name, one in rules.items()}

    # A log may have windows of campaigns that take no events any more.
    def highest_turn(campaign: str) -> float:
        return backlogs[campaign].turn if campaign in backlogs else 0.0

    def sealed_waiting(campaign: str) -> Mapping[str, int]:
        return backlogs[campaign].tenants if campaign in backlogs else {}

    def sealer_of(nonce: str) -> Sealer:
        return Sealer(store, nonce, zone, clock, tenants=tenants, worked_off=highest_turn)

    new_intake = partial(Intake, settings.inbox_log, rules, sealer_of, clock=clock, record=records.event)
    recording = service.recording if service.hears else None
    own_rules = partial(recording.feed_rules, service.name) if recording else lambda _: {}
    intake = new_intake(sealed_waiting=sealed_waiting, own_rules=own_rules)
    if service.hears:
        from headrace.inbox.erasing import note_calls_log

        note_calls_log(store, intake.nonce, settings.inbox_log)
    return rules, backlogs, intake
