"""The definition of a service: its roles and their order, models and engines, and limits.

Each YAML file in the services directory describes one service; everything is checked when it is loaded. As with
campaigns, a service says what is *wanted*. A unit of work actually sees its version set: a changed file reaches the
units only through a rollout. Limits, replicas and keys are not part of the set, since they cannot change an answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from headrace.engines.deployment import Deployment
from headrace.engines.dispatch.settings import DispatchSettings
from headrace.engines.openai.address import check_replicas
from headrace.engines.roles import RegisteredModel, Role, check_chain
from headrace.errors import InvalidInput
from headrace.keys import check_name
from headrace.rollout.plan import Plan
from headrace.typed_mapping import from_mapping
from headrace.user_files.yaml_file import read_yaml
from headrace.version_sets.sets import Member, VersionSet

# Part of every service's version sets: raise it when the same set and turns would be answered differently.
SERVING_CODE_VERSION = "1"


# Defaults of a gate on live traffic: it has no review, and no end in sight.
_LIVE_GATE: dict[str, Any] = {
    "method": "confidence_sequence",
    "min_rows": 100,
    "pass_rate_margin": None,
    "heldout_margin": None,
    "margins": {"error": 0.02},
    "horizon_rows": 20_000,
}


class InvalidService(InvalidInput):
    """A service file that cannot run as written."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A role that scores answers beside the traffic, for the gate; clients never get its answers."""

    role: str
    # Share of the units to judge.
    share: float = 0.1
    # A score is the first number in the judge's answer, divided by this.
    score_max: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InvalidInput(f"share must be above 0 and at most 1, got {self.share!r}.")
        if not 0 < self.score_max < float("inf"):
            raise InvalidInput(f"score_max must be above 0, got {self.score_max!r}.")


@dataclass(frozen=True, kw_only=True)
class Price:
    """The price of a million tokens of a model, in the currency of the gate's margin."""

    prompt: float = 0.0
    output: float = 0.0

    def __post_init__(self) -> None:
        for name in ("prompt", "output"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InvalidInput(f"{name} must be at least 0, got {getattr(self, name)!r}.")

    def of(self, num_prompt_tokens: int | None, num_output_tokens: int | None) -> float | None:
        """None: a count is unknown."""
        if num_prompt_tokens is None or num_output_tokens is None:
            return None
        return (self.prompt * num_prompt_tokens + self.output * num_output_tokens) / 1e6


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The load that one gateway accepts. Beyond it clients are told when to come back."""

    # Running units, and units that may wait.
    num_units_max: int = 64
    num_waiting_max: int = 64
    # How long a unit may wait for a place, may take in all, and may take to its first piece.
    waiting_seconds_max: float = 10.0
    unit_seconds_max: float = 120.0
    first_piece_seconds_max: float = 60.0
    request_bytes_max: int = 1_048_576
    num_messages_max: int = 256
    # How often a step may be sent to an engine while no part of its answer was given out.
    num_attempts: int = 3
    # How long running units may continue after SIGTERM.
    drain_seconds: float = 30.0
    # Before a client is known. Connections at once: the one that keeps the gateway waiting longest gives way.
    num_connections_max: int = 1024
    url_bytes_max: int = 8_192
    num_headers_max: int = 100
    # Of the request line and the headers together.
    head_bytes_max: int = 32_768
    # Time limits for a complete head, and then its body.
    head_seconds_max: float = 10.0
    body_seconds_max: float = 30.0
    # How long a connection waits for its next request. Longer than the minute of load balancers, so that they close it,
    # and not the gateway while a request is on its way.
    idle_seconds_max: float = 75.0
    # How long a client may take no byte of its answer while the buffers on the way are full.
    stalled_seconds_max: float = 10.0

    def __post_init__(self) -> None:
        for name in (
            "num_units_max",
            "waiting_seconds_max",
            "unit_seconds_max",
            "first_piece_seconds_max",
            "request_bytes_max",
            "num_messages_max",
            "num_attempts",
            "num_connections_max",
            "url_bytes_max",
            "num_headers_max",
            "head_bytes_max",
            "head_seconds_max",
            "body_seconds_max",
            "idle_seconds_max",
            "stalled_seconds_max",
        ):
            if not 0 < getattr(self, name) < float("inf"):
                raise InvalidInput(f"{name} must be above 0, got {getattr(self, name)!r}.")
        for name in ("num_waiting_max", "drain_seconds"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InvalidInput(f"{name} must be at least 0, got {getattr(self, name)!r}.")
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
    description: str = ""
    roles: dict[str, Role]
    # The roles that answer a unit, in order: each gets its predecessor's answer; clients get the last one's.
    chain: tuple[str, ...]
    judge: Judge | None = None
    # Share of the units that are also sent to the candidate, whose answer is recorded and discarded.
    shadow_share: float = 0.0
    # Temperature and top_p come from the version set. A client's own are `ignored` (a response header says so),
    # `refused`, or `allowed` (recorded with the step). Clients may always ask for fewer tokens than the set's.
    client_decoding: Literal["ignored", "refused", "allowed"] = "ignored"
    # How long a session keeps its version set after its last turn.
    session_seconds: float = 3600.0
    limits: Limits = field(default_factory=Limits)
    # Base URL in a version set → the servers with the same model, if there are several.
    replicas: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # Model, or MODEL:VERSION → the price of its tokens; for the metric `cost`.
    prices: dict[str, Price] = field(default_factory=dict)
    # Input of `plan`.
    rollout: dict = field(default_factory=dict)  # pyright: ignore[reportMissingTypeArgument]

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_chain(self.roles, self.chain, *([self.judge.role] if self.judge else []))
        check_replicas(self.replicas)
        if not 0 <= self.shadow_share <= 1:
            raise InvalidService(f"shadow_share must be between 0 and 1, got {self.shadow_share!r}.")
        if not 0 < self.session_seconds < float("inf"):
            raise InvalidService(f"session_seconds must be above 0, got {self.session_seconds!r}.")

    @property
    def plan(self) -> Plan:
        """Raises: InvalidInput: the rollout section is not a plan."""
        gate = (
            {**_LIVE_GATE, **self.rollout.get("gate", {})} if isinstance(self.rollout.get("gate", {}), dict) else None
        )
        section = self.rollout if gate is None else {**self.rollout, "gate": gate}
        plan = Plan.parse(section, name=self.name, kind="Service")
        judged = plan.gate.judged()
        for metric, given, wanted in (
            ("judged_quality", self.judge, "a judge"),
            ("cost", self.prices, "prices"),
        ):
            if metric in judged and not given:
                raise InvalidService(f"Service {self.name}: a margin of {metric} needs {wanted}, got none.")
        return plan

    def deployment(self, api_key: str | None) -> Deployment:
        """The engines' settings outside a version set. `api_key`: for servers that require one."""
        limits = self.limits
        return Deployment(
            api_key=api_key,
            replicas=self.replicas,
            turn_seconds_max=limits.unit_seconds_max,
            attempt_seconds_max=limits.unit_seconds_max,
            first_piece_seconds_max=limits.first_piece_seconds_max,
            dispatch=DispatchSettings(num_attempts=limits.num_attempts),
        )

    def price_of(self, member: Member) -> Price | None:
        """None: this model's price is unknown."""
        return self.prices.get(f"{member.model_name}:{member.model_version}") or self.prices.get(member.model_name)

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
    try:
        service = from_mapping(Service, read_yaml(file, "Service file").content, f"Service file {file}")
        _ = service.plan
    except InvalidInput as error:
        raise InvalidService(str(error)) from error
    return service


def load_services(directory: Path) -> tuple[Service, ...]:
    """Every `*.yaml` of a directory, sorted by name; none if the directory does not exist.

    Raises:
        InvalidService: a file is invalid, or two files have one name.
    """
    origins: dict[str, Path] = {}
    services: list[Service] = []
    for file in sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")]):
        service = load_service(file)
        if (earlier := origins.get(service.name)) is not None:
            raise InvalidService(f"Service {service.name!r} stands in two files: {earlier.name} and {file.name}.")
        origins[service.name] = file
        services.append(service)
    return tuple(sorted(services, key=lambda service: service.name))
