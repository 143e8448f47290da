"""Draws tokens: each row from a random generator of its own, by its own temperature and top_p.

So a row's numbers depend neither on its place in a batch nor on its neighbours. Shapes: B rows, V vocabulary, K
candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Nucleus candidates looked at before the whole vocabulary is sorted. At top_p 0.9 a language model's nucleus is nearly
# always smaller, and sorting 49,152 logits costs more than the rest of the step.
_NUCLEUS_GUESS = 512


@dataclass(frozen=True, eq=False)
class Draw:
    """How one row's tokens are drawn. Temperature 0 is greedy, and looks at no random number."""

    temperature: float
    top_p: float
    generator: "torch.Generator"

    @classmethod
    def seeded(cls, *, temperature: float, top_p: float, seed: int, device: "torch.device") -> "Draw":
        import torch

        return cls(temperature, top_p, torch.Generator(device).manual_seed(seed))


def next_tokens(draws: Sequence[Draw], logits_BV: "torch.Tensor") -> "torch.Tensor":  # noqa: N803
    """Each row's next token, shape B; rows that are drawn alike are drawn together."""
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
    """The largest probability divided by an exponential draw of the row's generator.

    That is Gumbel-max, a draw from the distribution itself, and it is steady: a logit that moves by a rounding error
    moves the choice only at a near tie, where an inverse cumulative distribution would move it at every boundary.
    """
    import torch

    # float32, since bfloat16 has too few bits to add up a vocabulary's probabilities.
    logits_BV = logits_BV.float()  # noqa: N806
    temperature, top_p = draws[0].temperature, draws[0].top_p
    if temperature == 0:
        return logits_BV.argmax(-1)
    weights_BV = torch.softmax(logits_BV / temperature, dim=-1)  # noqa: N806
    if top_p < 1:
        weights_BV = weights_BV * (weights_BV >= _nucleus_floor(weights_BV, top_p))  # noqa: N806
    for row, draw in enumerate(draws):
        noise_V = torch.empty_like(weights_BV[row]).exponential_(generator=draw.generator)  # noqa: N806
        # A zero would make a token of weight zero win: 0 / 0 is what argmax takes for the largest.
        weights_BV[row] /= noise_V.clamp_(min=1e-30)
    return weights_BV.argmax(-1)


def _nucleus_floor(weights_BV: "torch.Tensor", top_p: float) -> "torch.Tensor":  # noqa: N803
    """The smallest probability in each row's nucleus: the fewest most likely tokens that reach top_p together."""
    num_looked_at = min(_NUCLEUS_GUESS, weights_BV.shape[-1])
    sorted_BK = weights_BV.topk(num_looked_at).values  # noqa: N806
    if bool((sorted_BK.sum(-1) < top_p).any()):
        sorted_BK = weights_BV.sort(descending=True).values  # noqa: N806
    before_BK = sorted_BK.cumsum(-1) - sorted_BK  # noqa: N806
    num_kept_B = (before_BK < top_p).sum(-1, keepdim=True)  # noqa: N806
    return sorted_BK.gather(-1, (num_kept_B - 1).clamp(min=0))
