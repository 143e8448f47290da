"""The definition of a service: its roles and their order, models and engines, and limits.

Each YAML file in the services directory describes one service; everything is checked when it is loaded. As with
campaigns, a service says what is *wanted*. A unit of work actually sees its version set: a changed file reaches the
units only through a rollout. Limits, replicas and keys are not part of the set, since they cannot change an answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from headrace.engines.asker import Asker
from headrace.engines.deployment import Deployment
from headrace.engines.dispatch.settings import DispatchSettings
from headrace.engines.host.address import HostAddress
from headrace.engines.messages import places_of
from headrace.engines.openai.address import check_replicas
from headrace.engines.prices import Price, check_prices
from headrace.engines.roles import RegisteredModel, Role, check_chain
from headrace.errors import InvalidInput
from headrace.keys import check_subject_name
from headrace.rollout.gates import LIVE_METRICS
from headrace.rollout.plan import LivePlan, Plan
from headrace.text_templates import placeholders
from headrace.user_files.directory import Described, from_directory
from headrace.user_files.ranges import check_ranges
from headrace.user_files.shapes import from_file
from headrace.version_sets.media_settings import MemberKind
from headrace.version_sets.sets import VersionSet

# Part of every service's version sets: raise it when the same set and turns would be answered differently.
SERVING_CODE_VERSION = "1"
# What is measured of a unit that paints or speaks: it has no tokens, no first piece and no judge.
_MEDIA_METRICS = frozenset({"error", "latency_seconds"})


class InvalidService(InvalidInput):
    """A service file that cannot run as written."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A role that scores answers beside the traffic, for the gate; clients never get its answers."""

    role: str
    """Its name among the roles."""
    share: Annotated[float, Gt(0), Le(1)] = 0.1
    """Share of the units to judge."""
    score_max: Annotated[float, Gt(0)] = 10.0
    """A score is the first number in the judge's answer, divided by this."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The load that one gateway accepts. Beyond it clients are told when to come back."""

    num_units_max: Annotated[int, Gt(0)] = 64
    """Running units."""
    num_waiting_max: Annotated[int, Ge(0)] = 64
    """Units that may wait for a place."""
    waiting_seconds_max: Annotated[float, Gt(0)] = 10.0
    """How long a unit may wait for a place."""
    unit_seconds_max: Annotated[float, Gt(0)] = 120.0
    """How long a unit may take in all."""
    first_piece_seconds_max: Annotated[float, Gt(0)] = 60.0
    """How long a unit may take to its first piece."""
    request_bytes_max: Annotated[int, Gt(0)] = 1_048_576
    """Largest body of a request."""
    num_messages_max: Annotated[int, Gt(0)] = 256
    """Messages of one request."""
    num_calls_max: Annotated[int, Gt(0)] = 256
    """Calls at once, of a service that hears; each is a connection."""
    num_attempts: Annotated[int, Gt(0)] = 3
    """How often a step may be sent to an engine while no part of its answer was given out."""
    drain_seconds: Annotated[float, Ge(0)] = 30.0
    """How long running units may continue after SIGTERM."""
    num_connections_max: Annotated[int, Gt(0)] = 1024
    """Connections at once, before a client is known: the one that keeps the gateway waiting longest gives way."""
    url_bytes_max: Annotated[int, Gt(0)] = 8_192
    """Longest URL."""
    num_headers_max: Annotated[int, Gt(0)] = 100
    """Headers of one request."""
    head_bytes_max: Annotated[int, Gt(0)] = 32_768
    """Of the request line and the headers together."""
    head_seconds_max: Annotated[float, Gt(0)] = 10.0
    """Time limit for a complete head."""
    body_seconds_max: Annotated[float, Gt(0)] = 30.0
    """Time limit for the body after it."""
    idle_seconds_max: Annotated[float, Gt(0)] = 75.0
    """How long a connection waits for its next request. Longer than the minute of load balancers, so that they close
    it, and not the gateway while a request is on its way."""
    stalled_seconds_max: Annotated[float, Gt(0)] = 10.0
    """How long a client may take no byte of its answer while the buffers on the way are full."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.url_bytes_max >= self.head_bytes_max:
            raise InvalidInput(
                f"url_bytes_max must be below head_bytes_max ({self.head_bytes_max}), which counts the URL too, got "
                f"{self.url_bytes_max}."
            )
        if self.num_connections_max < self.num_units_max + self.num_waiting_max:
            raise InvalidInput(
                f"num_connections_max must be at least num_units_max and num_waiting_max together "
                f"({self.num_units_max + self.num_waiting_max}), or their clients could not stay, got "
                f"{self.num_connections_max}."
            )


@dataclass(frozen=True, kw_only=True)
class Service:
    """One live service, as its YAML file describes it."""

    name: str
    """The `model` that clients ask for, and the name of its rollout."""
    description: str = ""
    """For people."""
    roles: dict[str, Role]
    """The models' parts, by name."""
    chain: tuple[str, ...]
    """The roles that answer a unit, in order: each gets its predecessor's answer; clients get the last one's. The last
    one may paint or speak: then clients ask for pictures or speech, and get what it makes of the text before it. If the
    first one hears and the last one speaks, clients hold calls: docs/voice.md."""
    judge: Judge | None = None
    shadow_share: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of the units that are also sent to the candidate, whose answer is recorded and discarded."""
    client_decoding: Literal["ignored", "refused", "allowed"] = "ignored"
    """Temperature and top_p come from the version set. A client's own are `ignored` (a response header says so),
    `refused`, or `allowed` (recorded with the step). Clients may always ask for fewer tokens than the set's."""
    session_seconds: Annotated[float, Gt(0)] = 3600.0
    """How long a session keeps its version set after its last turn."""
    limits: Limits = field(default_factory=Limits)
    replicas: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Base URL in a version set → the servers with the same model, if there are several."""
    prices: dict[str, Price] = field(default_factory=dict)
    """Model, or MODEL:VERSION → the price of its tokens; for the metric `cost`."""
    rollout: LivePlan = field(default_factory=LivePlan)

    def __post_init__(self) -> None:
        check_subject_name("name", self.name)
        check_chain(self.roles, self.chain, judge=self.judge.role if self.judge else None, may_hear=True)
        check_replicas(self.replicas)
        check_ranges(self)
        check_prices(self.prices, [role.model for role in self.roles.values()])
        self._check_kinds()
        self.rollout.check_measured(LIVE_METRICS if self.makes == "text" else _MEDIA_METRICS)
        judged = self.rollout.gate.judged()
        for metric, given, wanted in (("judged_quality", self.judge, "a judge"), ("cost", self.prices, "prices")):
            if metric in judged and not given:
                raise InvalidService(f"rollout: gate: a margin of {metric} needs {wanted}, got none.")

    @property
    def makes(self) -> MemberKind:
        """What clients get: the kind of the chain's last role."""
        return self.roles[self.chain[-1]].kind

    @property
    def hears(self) -> bool:
        """Whether clients speak to it: its chain begins with a role that hears."""
        return self.roles[self.chain[0]].kind == "transcript"

    def _check_kinds(self) -> None:
        """What has no meaning for pictures and recordings is refused, so that nobody relies on it."""
        if self.judge is not None and (kind := self.roles[self.judge.role].kind) != "text":
            raise InvalidService(
                f"judge must be a role that writes a score, got {self.judge.role!r}, which makes {kind}."
            )
        if self.makes == "text":
            return
        *writers, last = self.chain[1:] if self.hears else self.chain
        if late := [role for role in writers if self.roles[role].kind != "text"]:
            raise InvalidService(
                f"chain must have one role that paints or speaks, its last, since a client gets one answer, got "
                f"{late[0]!r} before {last!r}. Make a service of each."
            )
        template, known = self.roles[last].template or "{text}", places_of(writers, (), has_term=False)
        if unknown := sorted(placeholders("template", template) - known):
            raise InvalidService(
                f"roles: {last}: template may use {', '.join(f'{{{one}}}' for one in sorted(known))}, since a client "
                f"sends a text and no columns, got {{{unknown[0]}}} in {template!r}."
            )
        for key, given, why in (
            ("judge", self.judge, "a judge reads texts"),
            ("prices", self.prices, "prices are of tokens, and it is not counted in tokens"),
            ("client_decoding", self.client_decoding != "ignored", "temperature and top_p are of texts"),
        ):
            if given:
                raise InvalidService(f"{key} must be left out where {last!r} makes {self.makes}: {why}.")

    @cached_property
    def plan(self) -> Plan:
        return self.rollout.named(self.name)

    def deployment(self, api_key: str | None, host: HostAddress | None = None) -> Deployment:
        """The engines' settings outside a version set.

        Args:
            api_key: for servers that require one.
            host: who holds models that would else be loaded in the gateway's process.
        """
        limits = self.limits
        return Deployment(
            api_key=api_key,
            replicas=self.replicas,
            host=host,
            asker=Asker(work_class="live"),
            turn_seconds_max=limits.unit_seconds_max,
            attempt_seconds_max=limits.unit_seconds_max,
            first_piece_seconds_max=limits.first_piece_seconds_max,
            dispatch=DispatchSettings(num_attempts=limits.num_attempts),
        )

    def version_set(self, models: Mapping[str, RegisteredModel]) -> VersionSet:
        """The set in which this service would now run these model versions.

        Args:
            models: role → version, for every registered role.
        """
        members = tuple(
            role.member(name, models.get(name), engine=role.engine.spec) for name, role in self.roles.items()
        )
        spec = self.roles[self.chain[-1]].engine.spec
        return VersionSet(members=members, engine=spec, code_version=f"serving {SERVING_CODE_VERSION}")


def load_service(file: Path) -> Service:
    """Raises: InvalidService: the file is not YAML, or describes a service that cannot run."""
    return from_file(Service, file, "Service file", refusal=InvalidService)


def load_services(directory: Path) -> Described[Service]:
    """The services of a directory, which may be missing; a broken file costs its own service alone."""
    return from_directory(directory, load_service, "service", InvalidService)
