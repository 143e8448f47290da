"""What a million tokens of a model cost, as files of campaigns and services state it."""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from headrace.errors import InvalidInput
from headrace.user_files.ranges import check_ranges
from headrace.version_sets.sets import Member


@dataclass(frozen=True, kw_only=True)
class Price:
    """The price of a million tokens of a model, in one currency for the whole file."""

    prompt: Annotated[float, Ge(0)] = 0.0
    """Of a million tokens that the model reads."""
    output: Annotated[float, Ge(0)] = 0.0
    """Of a million tokens that the model writes."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def is_free(self) -> bool:
        return self.prompt == 0 and self.output == 0

    def of(self, num_prompt_tokens: int | None, num_output_tokens: int | None) -> float | None:
        """None: a count is unknown."""
        if num_prompt_tokens is None or num_output_tokens is None:
            return None
        return (self.prompt * num_prompt_tokens + self.output * num_output_tokens) / 1e6


Prices = Mapping[str, Price]
"""Model, or MODEL:VERSION → the price of its tokens."""


def price_of(prices: Prices, member: Member) -> Price | None:
    """None: this model's price is unknown."""
    return prices.get(f"{member.model_name}:{member.model_version}") or prices.get(member.model_name)


def check_prices(prices: Prices, models: Collection[str]) -> None:
    """Raises: InvalidInput: a price is of a model that no role of the file has."""
    models = sorted(set(models))
    for priced in prices:
        if priced.partition(":")[0] not in models:
            near = difflib.get_close_matches(priced, models, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InvalidInput(
                f"prices must name models of this file's roles ({', '.join(models)}), as MODEL or MODEL:VERSION, "
                f"got {priced!r}.{hint}"
            )
