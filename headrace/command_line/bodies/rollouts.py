"""Of `headrace rollout`."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from headrace.rollout.status import BadRows, by_whom

if TYPE_CHECKING:
    from headrace.rollout.journal import Entry
    from headrace.rollout.status import RolloutStatus

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class EntryBody:
    """One entry of a journal."""

    number: int
    event: str
    at: float
    """Seconds since the epoch."""
    by: str
    fields: dict[str, Any]
    """As the event has them."""
    digest: str
    prev: str

    @classmethod
    def of(cls, entry: "Entry") -> "EntryBody":
        return cls(
            number=entry.number,
            event=entry.event,
            at=entry.at,
            by=by_whom(entry),
            fields=dict(entry.fields),
            digest=entry.digest,
            prev=entry.prev,
        )


@dataclass(frozen=True, kw_only=True)
class JournalBody:
    """`headrace rollout journal --json`."""

    name: str
    entries: tuple[EntryBody, ...]


@dataclass(frozen=True, kw_only=True)
class PreparationBody:
    """One node's preparation of the set in progress."""

    node: str
    ok: bool
    error: str | None
    """Why it is not ok."""
    seconds: float
    members: tuple[str, ...]
    """The roles that were loaded and tried."""


@dataclass(frozen=True, kw_only=True)
class SetStandingBody:
    label: str
    """Its models by role."""
    standing: str
    """stable, candidate, proposed, rolled back, withdrawn or retired."""
    error: str | None
    """Why it cannot be read."""


@dataclass(frozen=True, kw_only=True)
class RolloutBody:
    """One rollout. Sets are named by their ids."""

    name: str
    head: int
    """The newest entry's number; 0: there is none."""
    headline: str
    stable: str | None
    proposed: str | None
    candidate: str | None
    step: int | None
    """From 0 on; null: there is no candidate."""
    weight: float
    since: float | None
    """When units' assignment last changed, in seconds since the epoch."""
    paused: bool
    approved: bool
    cap: int | None
    """Units that may ever start on the candidate."""
    num_units: int | None
    """Units leased to the candidate; null: no cap, or unknown."""
    damaged: tuple[str, ...]
    """What could not be read, in sentences."""
    last: EntryBody | None
    drift: tuple[str, ...] | None
    """Aliases that differ from the journal; null: MLflow was not asked."""
    preparations: tuple[PreparationBody, ...]
    sets: dict[str, SetStandingBody]

    @classmethod
    def of(cls, status: "RolloutStatus") -> "RolloutBody":
        state, last = status.state, status.last
        return cls(
            name=status.name,
            head=state.head if state else 0,
            headline=status.headline,
            stable=state.stable if state else None,
            proposed=state.proposed if state else None,
            candidate=state.candidate if state else None,
            step=state.step if state and state.candidate else None,
            weight=state.weight if state else 0.0,
            since=status.since,
            paused=bool(state and state.paused),
            approved=bool(state and state.approved),
            cap=state.cap if state else None,
            num_units=status.num_units,
            damaged=status.damaged,
            last=EntryBody.of(last) if last else None,
            drift=status.drift,
            preparations=tuple(
                PreparationBody(
                    node=one.node, ok=one.ok, error=one.error, seconds=one.seconds, members=tuple(one.members)
                )
                for one in status.preparations
            ),
            sets={
                view.id: SetStandingBody(label=view.label, standing=view.standing, error=view.error)
                for view in status.sets.values()
            },
        )


@dataclass(frozen=True, kw_only=True)
class RolloutsBody:
    """`headrace rollout status --json`."""

    rollouts: tuple[RolloutBody, ...]
    unreadable: dict[str, str]
    """By name: why."""


@dataclass(frozen=True, kw_only=True)
class ChangeBody:
    """What the commands that change a rollout print: start, advance, pause, resume, approve, abort."""

    entry: EntryBody
    """The one that the command wrote."""
    status: RolloutBody


@dataclass(frozen=True, kw_only=True)
class VerifiedJournalBody:
    name: str
    num_entries: int
    num_sets: int
    error: str | None
    """null: all is whole."""


@dataclass(frozen=True, kw_only=True)
class VerifiedJournalsBody:
    """`headrace rollout verify --json`."""

    rollouts: tuple[VerifiedJournalBody, ...]


@dataclass(frozen=True, kw_only=True)
class BadRowsBody:
    """`headrace rollout rows --json`."""

    name: str
    version_sets: tuple[str, ...]
    """The sets that were rolled back, or the one asked for."""
    versions: tuple[BadRows, ...]
    rows: tuple[Row, ...] | None = None
    """Only with --ids."""

    def to_json(self) -> dict[str, Any]:
        body = asdict(self)
        if self.rows is None:
            del body["rows"]
        return body
