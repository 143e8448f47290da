"""What one day of a campaign may spend, as its file states it; `headrace.generation.spending` counts it."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated

from annotated_types import Gt

from headrace.errors import InvalidCampaign
from headrace.user_files.ranges import check_ranges


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one day of the campaign may spend: all its shards, attempts and mirrors together, whatever run made them.

    Once one of them is spent, no further micro-batch is asked for: the runs fail without a retry, keep every row that
    they made, and go on there when the budget is larger. What is under way is finished, so a day spends at most one
    micro-batch a worker more. An attempt that a rollback made void no longer counts: its rows are deleted.
    """

    tokens: Annotated[int, Gt(0)] | None = None
    """Read and written, as the engine counts them. A row without a count stands for the most that it can have."""
    seconds: Annotated[float, Gt(0)] | None = None
    """That engines worked on micro-batches, with what these waited for; two workers beside each other spend two a
    second. Loading a model before the first of them does not count."""
    money: Annotated[float, Gt(0)] | None = None
    """In the currency of the campaign's `prices`, which must then have the writer's model."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not list(self.stated()):
            raise InvalidCampaign("budget must state tokens, seconds or money, got none of them.")

    @property
    def counts_tokens(self) -> bool:
        return self.tokens is not None or self.money is not None

    def stated(self) -> Iterator[tuple[str, float]]:
        """What may be spent of what."""
        for field in fields(self):
            if (limit := getattr(self, field.name)) is not None:
                yield field.name, limit


def spent_text(what: str, spent: float, limit: float) -> str:
    """What is spent of a limit: "12,345 of 12,000 tokens"."""
    form, unit = {"tokens": (",.0f", "tokens"), "seconds": (",.1f", "s")}.get(what, (",.6g", "in money"))
    return f"{spent:{form}} of {limit:{form}} {unit}"
