"""How the seconds until an answer begins grow with its prompt, learned from all replicas of a model.

A line over the prompt's characters, for a replica of usual speed: how much faster or slower one replica is, its own
`Rates` say. So a long prompt is not taken for a turn that waits for a place, nor for silence.
"""

# Weight that each answer leaves to earlier ones: about the last hundred count.
_KEPT_SHARE = 0.99
# Of the prompts' mean square: prompts that hardly differ say nothing of the slope.
_RIDGE_SHARE = 0.02
_SECONDS_MIN = 0.001


class PromptSeconds:
    def __init__(self, prior_seconds: float) -> None:
        self._prior_seconds = prior_seconds
        # Weight, and weighted sums of lengths, seconds, their squares and products.
        self._weight = self._x = self._y = self._xx = self._xy = 0.0
        self._base, self._slope = prior_seconds, 0.0

    def add(self, num_characters: int, seconds: float) -> None:
        """Records an answer's beginning, in seconds of a replica of usual speed."""
        kept, x = _KEPT_SHARE, float(num_characters)
        self._weight = kept * self._weight + 1
        self._x = kept * self._x + x
        self._y = kept * self._y + seconds
        self._xx = kept * self._xx + x * x
        self._xy = kept * self._xy + x * seconds
        self._fit()

    def expected(self, num_characters: int) -> float:
        """Seconds to the first piece."""
        return max(_SECONDS_MIN, self._base + self._slope * num_characters)

    @property
    def mean(self) -> float:
        """Of recent prompts."""
        return max(_SECONDS_MIN, self._y / self._weight) if self._weight else self._prior_seconds

    def _fit(self) -> None:
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        square = self._xx / self._weight
        spread = square - mean_x * mean_x + _RIDGE_SHARE * square
        slope = (self._xy / self._weight - mean_x * mean_y) / spread if spread > 0 else 0.0
        # No prompt makes an answer begin sooner than none does.
        self._slope = min(max(0.0, slope), mean_y / mean_x) if mean_x else 0.0
        self._base = mean_y - self._slope * mean_x
