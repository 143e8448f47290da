"""Of `headrace erase`."""

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.erasure.outcome import Outcome
from headrace.erasure.outside import Outside
from headrace.handoff.erasures import Erasure


@dataclass(frozen=True, kw_only=True)
class ErasureBody:
    """`outcome`: what it removed; null: it is not over."""

    erasure: Erasure
    outcome: Outcome | None


@dataclass(frozen=True, kw_only=True)
class AffectedBody:
    """A sealed version, and how many of its rows go."""

    num_rows: int
    asset: str
    partition: str
    version: int


@dataclass(frozen=True, kw_only=True)
class AttemptBody:
    """An attempt under way, by the run that began it."""

    partition: str
    run_id: str


@dataclass(frozen=True, kw_only=True)
class ErasurePlanBody:
    """What would go. `num_rows`: by asset, of all versions; `num_files`, `num_batches`, `num_lines`: of OpenAI's Batch
    API; `attempts`: that would end without rows."""

    num_events: int
    num_prompts: int
    num_rows: Mapping[str, int]
    num_calls: int
    num_files: int
    num_batches: int
    num_lines: int
    affected: tuple[AffectedBody, ...]
    attempts: tuple[AttemptBody, ...]
    num_claims_with_batches: int
    reports: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EraseBody:
    """`headrace erase --json`.

    Attributes:
        plan: null with `--list` and `--verify`.
        erasures: all with `--list`, else the one; none in a dry run.
        outside: where else to look, beside the store.
        remains: why it is not over, or where something of it still is.
    """

    plan: ErasurePlanBody | None = None
    erasures: tuple[ErasureBody, ...] = ()
    remains: tuple[str, ...] = ()
    outside: tuple[Outside, ...] = ()
