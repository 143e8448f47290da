"""Draws tokens: each row uses its own random generator, temperature and top_p.

So a row's numbers do not depend on its place in a batch or its neighbours. Shapes: B rows, V vocabulary, K candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Nucleus candidates to try before sorting the whole vocabulary. At top_p 0.9 a language model's nucleus is nearly
# always smaller, and sorting 49,152 logits costs more than the rest of the step.
_NUCLEUS_GUESS = 512


@dataclass(frozen=True, eq=False)
class Draw:
    """How one row's tokens are drawn. Temperature 0 is greedy, and uses no random number."""

    temperature: float
    top_p: float
    generator: "torch.Generator"

    @classmethod
    def seeded(cls, *, temperature: float, top_p: float, seed: int, device: "torch.device") -> "Draw":
        import torch

        return cls(temperature, top_p, torch.Generator(device).manual_seed(seed))

    def copy(self) -> "Draw":
        """The same draws, from an own generator."""
        return replace(self, generator=self.generator.clone_state())


def next_tokens(draws: Sequence[Draw], logits_BV: "torch.Tensor") -> "torch.Tensor":  # noqa: N803
    """Each row's next token, shape B; rows with the same settings are drawn together."""
    import torch

    settings = [(draw.temperature, draw.top_p) for draw in draws]
    if len(set(settings)) == 1:
        return _drawn(draws, logits_BV)
    next_B = logits_BV.new_empty(len(draws), dtype=torch.long)  # noqa: N806
    for one in dict.fromkeys(settings):
        rows = [row for row, setting in enumerate(settings) if setting == one]
        next_B[rows] = _drawn([draws[row] for row in rows], logits_BV[rows])
    return next_B


def _drawn(draws: Sequence[Draw], logits_BV: "torch.Tensor") -> "torch.Tensor":  # noqa: N803
    """Picks the largest quotient of a probability and an exponential number of the row's generator.

    This is Gumbel-max, a draw from the distribution itself. It is stable: a rounding error in a logit changes the
    choice only at a near tie, while an inverse cumulative distribution would be sensitive at every boundary.
    """
    import torch

    # float32, because bfloat16 is too coarse to sum a vocabulary's probabilities.
    logits_BV = logits_BV.float()  # noqa: N806
    temperature, top_p = draws[0].temperature, draws[0].top_p
    if temperature == 0:
        return logits_BV.argmax(-1)
    weights_BV = torch.softmax(logits_BV / temperature, dim=-1)  # noqa: N806
    if top_p < 1:
        weights_BV = weights_BV * (weights_BV >= _nucleus_floor(weights_BV, top_p))  # noqa: N806
    for row, draw in enumerate(draws):
        noise_V = torch.empty_like(weights_BV[row]).exponential_(generator=draw.generator)  # noqa: N806
        # A zero would let a token of weight zero win: argmax takes 0 / 0 for the largest value.
        weights_BV[row] /= noise_V.clamp_(min=1e-30)
    return weights_BV.argmax(-1)


def _nucleus_floor(weights_BV: "torch.Tensor", top_p: float) -> "torch.Tensor":  # noqa: N803
    """The smallest probability in each row's nucleus: the fewest most likely tokens that together reach top_p."""
    num_looked_at = min(_NUCLEUS_GUESS, weights_BV.shape[-1])
    guess_BK = weights_BV.topk(num_looked_at).values  # noqa: N806
    floor_B1 = _floor(guess_BK, top_p)  # noqa: N806
    # Row by row: a flat neighbour must not decide how a row's sums are split.
    for row in (guess_BK.sum(-1) < top_p).nonzero().flatten().tolist():
        floor_B1[row] = _floor(weights_BV[row].sort(descending=True).values, top_p)
    return floor_B1


def _floor(sorted_BK: "torch.Tensor", top_p: float) -> "torch.Tensor":  # noqa: N803
    """The last of the values, largest first, before which less than `top_p` stands."""
    before_BK = sorted_BK.cumsum(-1) - sorted_BK  # noqa: N806
    num_kept_B1 = (before_BK < top_p).sum(-1, keepdim=True)  # noqa: N806
    return sorted_BK.gather(-1, (num_kept_B1 - 1).clamp(min=0))
