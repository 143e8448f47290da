"""Registered model versions as rows, which rollouts read instead of asking MLflow.

Functions with tables import Arrow themselves: a gateway needs only rows, and starts in two thirds of the time.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from headrace.engines.roles import RegisteredModel
from headrace.keys import HELDOUT_LOSS

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class ModelVersion(RegisteredModel):
    """One row of MODEL_VERSIONS. `kind` is "base" or "trained"; losses are nats per token, or what `measure` names."""

    kind: str
    heldout_loss: float | None
    heldout_tokens: int
    heldout_digest: str
    recipe: str
    zero_stage: int
    mlflow_run_id: str
    registered_at: float
    measure: str = HELDOUT_LOSS


def to_table(rows: Iterable[ModelVersion]) -> "pa.Table":
    import pyarrow as pa

    from headrace.handoff.schemas import MEASURE, MODEL_VERSIONS

    bodies = [asdict(row) for row in rows]
    # A column only where it says something: registrations of language models stay as they are.
    says = any(body[MEASURE.name] != HELDOUT_LOSS for body in bodies)
    return pa.Table.from_pylist(bodies, schema=MODEL_VERSIONS.append(MEASURE) if says else MODEL_VERSIONS)


def from_table(table: "pa.Table") -> list[ModelVersion]:
    from headrace.handoff.schemas import MEASURE, MODEL_VERSIONS

    names = [*MODEL_VERSIONS.names, *({MEASURE.name} & {*table.schema.names})]
    return [ModelVersion(**row) for row in table.select(names).to_pylist()]
