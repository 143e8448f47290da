"""How fast one replica is, learned from the pieces of the turns that it works on.

Every number is a mean that forgets: old evidence weighs half after `_HALF_LIFE_SECONDS`, and what is forgotten is
replaced by what the best of the others does. So a slow replica is tried again after a while, and is found recovered.
"""

from dataclasses import dataclass

_HALF_LIFE_SECONDS = 15.0
# Evidence that weighs as much as the belief about a replica of which nothing is known.
_PRIOR_TOKENS = 30.0
_PRIOR_FIRSTS = 1.0


@dataclass
class Rates:
    """Seconds a token and seconds to the first, as one replica shows them now."""

    at: float = 0.0
    token_seconds_sum: float = 0.0
    num_tokens: float = 0.0
    first_seconds_sum: float = 0.0
    num_firsts: float = 0.0
    # The longest silence while it had work, halved every half-life: what is normal here.
    pause_seconds: float = 0.0

    def saw_tokens(self, seconds: float, num_tokens: int, now: float) -> None:
        self._forget(now)
        self.token_seconds_sum += seconds
        self.num_tokens += num_tokens

    def saw_first(self, seconds: float, now: float) -> None:
        self._forget(now)
        self.first_seconds_sum += seconds
        self.num_firsts += 1

    def saw_pause(self, seconds: float, now: float) -> None:
        self._forget(now)
        self.pause_seconds = max(self.pause_seconds, seconds)

    def token_seconds(self, prior: float, now: float) -> float:
        self._forget(now)
        return (self.token_seconds_sum + _PRIOR_TOKENS * prior) / (self.num_tokens + _PRIOR_TOKENS)

    def first_seconds(self, prior: float, now: float) -> float:
        self._forget(now)
        return (self.first_seconds_sum + _PRIOR_FIRSTS * prior) / (self.num_firsts + _PRIOR_FIRSTS)

    def own_token_seconds(self) -> float | None:
        """Without the belief; None: too little was seen."""
        return self.token_seconds_sum / self.num_tokens if self.num_tokens >= _PRIOR_TOKENS / 2 else None

    def own_first_seconds(self) -> float | None:
        return self.first_seconds_sum / self.num_firsts if self.num_firsts >= _PRIOR_FIRSTS / 2 else None

    def _forget(self, now: float) -> None:
        elapsed = now - self.at
        if elapsed < 0.05:  # the powers would cost more than they change
            return
        kept = 0.5 ** (elapsed / _HALF_LIFE_SECONDS)
        self.token_seconds_sum *= kept
        self.num_tokens *= kept
        self.first_seconds_sum *= kept
        self.num_firsts *= kept
        self.pause_seconds *= kept
        self.at = now
