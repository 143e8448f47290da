"""What a service is: which roles answer in which order, on which models and engines, within which limits.

One YAML file in the services directory describes one service; everything is checked when it is loaded. As with
campaigns, a service says what is *wanted*. What a unit of work actually saw is its version set: a changed file reaches
the units only through a rollout. Limits, replicas and keys are not part of the set: they cannot change an answer.
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

# Part of every service's version sets: raise it when the same set and turns would be answered otherwise.
SERVING_CODE_VERSION = "1"


# A gate on live traffic, where a service's file says nothing else: no review, no end of the traffic in sight.
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
    """A role that scores answers beside the traffic, for the gate; its answers are never sent to a client."""

    role: str
    # Share of the units that are judged.
    share: float = 0.1
    # Scores are read as the first number of the judge's answer and divided by this.
    score_max: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InvalidInput(f"share must be above 0 and at most 1, got {self.share!r}.")
        if not 0 < self.score_max < float("inf"):
            raise InvalidInput(f"score_max must be above 0, got {self.score_max!r}.")


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a million tokens of a model cost, in whatever money the gate's margin is in."""

    prompt: float = 0.0
    output: float = 0.0

    def __post_init__(self) -> None:
        for name in ("prompt", "output"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InvalidInput(f"{name} must be at least 0, got {getattr(self, name)!r}.")

    def of(self, num_prompt_tokens: int | None, num_output_tokens: int | None) -> float | None:
        """None: a count is not known."""
        if num_prompt_tokens is None or num_output_tokens is None:
            return None
        return (self.prompt * num_prompt_tokens + self.output * num_output_tokens) / 1e6


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one gateway takes on. Beyond it clients are told when to come back."""

    # Units under way at once, and units that may wait for their turn.
    num_units_max: int = 64
    num_waiting_max: int = 64
    # How long a unit may wait for its turn, may take in all, and may take to its first piece.
    waiting_seconds_max: float = 10.0
    unit_seconds_max: float = 120.0
    first_piece_seconds_max: float = 60.0
    request_bytes_max: int = 1_048_576
    num_messages_max: int = 256
    # Times a step is sent to an engine, where nothing of it was given out yet.
    num_attempts: int = 3
    # How long units under way may go on after SIGTERM.
    drain_seconds: float = 30.0
    # Before anybody knows who asks. Connections at once: the one that keeps the gateway waiting longest gives way.
    num_connections_max: int = 1024
    url_bytes_max: int = 8_192
    num_headers_max: int = 100
    # Of the request's line and its headers together.
    head_bytes_max: int = 32_768
    # How long a head may take to be complete, and then its body.
    head_seconds_max: float = 10.0
    body_seconds_max: float = 30.0
    # How long a connection is kept for the next request. Longer than the minute that load balancers keep one: it is
    # they who close it, never the gateway under a request that is on its way.
    idle_seconds_max: float = 75.0
    # How long a client may take no byte of its answer while there is no room for more of it on the way.
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
    # The roles that answer a unit, first to last: each gets the answer of the one before it; clients get the last's.
    chain: tuple[str, ...]
    judge: Judge | None = None
    # Share of the units that are also sent to the candidate, whose answer is recorded and thrown away.
    shadow_share: float = 0.0
    # What a client's temperature and top_p do: they stand in the version set, and are `ignored` (said in a response
    # header), `refused`, or `allowed` (recorded with the step). Fewer tokens than the set's may always be asked for.
    client_decoding: Literal["ignored", "refused", "allowed"] = "ignored"
    # How long a session keeps its version set after its last turn.
    session_seconds: float = 3600.0
    limits: Limits = field(default_factory=Limits)
    # Base URL in a version set → the servers that serve the same model, if there are several.
    replicas: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # Model, or MODEL:VERSION → what its tokens cost; for the metric `cost`.
    prices: dict[str, Price] = field(default_factory=dict)
    # What `plan` parses.
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
        """Raises: InvalidInput: the rollout section is no plan."""
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
        """What engines need beside a version set. `api_key`: for servers that ask for one."""
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
        """None: nobody said what this model costs."""
        return self.prices.get(f"{member.model_name}:{member.model_version}") or self.prices.get(member.model_name)

    def version_set(self, models: Mapping[str, RegisteredModel]) -> VersionSet:
        """The set in which these model versions run as this service wants it.

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
    """Every `*.yaml` of a directory, in order of names; none if there is no such directory.

    Raises:
        InvalidService: a file that cannot run as written, or two files of one name.
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
