"""What a recipe says of a picture model: its shape, and how flow matching teaches it. Imports no library of models.

Sizes that the examples decide stand nowhere else: the pictures' side, the captions' length, the width of their vectors.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from headrace.errors import InvalidTrainingRun
from headrace.user_files.ranges import Because, check_ranges


@dataclass(frozen=True, kw_only=True)
class FlowMatching:
    """A PRX transformer over patches of pixels that predicts the picture out of a mixture of it and noise."""

    patch_pixels: Annotated[int, Ge(1), Le(64)] = 8
    """Side of the patch that is one token; half of it costs four times the tokens."""
    hidden_size: Annotated[int, Ge(8)] = 192
    """Width of a token, of all heads together."""
    heads: Annotated[int, Ge(1)] = 6
    """Attention heads; each is `hidden_size` / `heads` wide, a multiple of 4."""
    depth: Annotated[int, Ge(1)] = 6
    """Blocks."""
    mlp_ratio: Annotated[float, Gt(0), Le(16)] = 3.0
    """Width of a block's inner layer, as a multiple of `hidden_size`."""
    ema_decay: Annotated[float, Ge(0), Lt(1)] = 0.99
    """The weights that are exported are a moving average; this share of it stays at each step."""
    caption_dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of samples that see no caption: what guidance subtracts is learnt from them."""
    noise_mean: Annotated[float, Ge(-5), Le(5)] = 0.3
    """A sample's share of noise is the logistic function of a normal number with this mean; above 0: rather noisy."""
    noise_deviation: Annotated[float, Gt(0), Le(5)] = 1.0
    """The standard deviation of that normal number."""
    noise_floor: Annotated[
        float, Gt(0), Lt(1), Because("errors are divided by the share of noise, and below it by this")
    ] = 0.05
    """The lowest share of noise by which an error is weighted."""

    def __post_init__(self) -> None:
        check_ranges(self)
        width, rest = divmod(self.hidden_size, self.heads)
        if rest or width % 4:
            raise InvalidTrainingRun(
                f"hidden_size must be heads={self.heads} times a multiple of 4 (half of a head turns by row, half by "
                f"column), got hidden_size={self.hidden_size}."
            )
