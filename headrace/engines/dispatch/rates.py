"""The speed of one replica, learned from the pieces of its turns.

Every number is a mean that forgets: evidence loses half of its weight in `_HALF_LIFE_SECONDS`, and the best other
replica's rate fills the gap. So a slow replica is tried again after a while, and its recovery is noticed.
"""

from dataclasses import dataclass

_HALF_LIFE_SECONDS = 15.0
# Weight of the prior for a replica, in tokens of evidence, and in answers that began.
_PRIOR_TOKENS = 30.0
_PRIOR_FIRSTS = 1.0


@dataclass
class Rates:
    """Seconds a token, and by what factor first tokens come later than usual, as one replica now shows them."""

    at: float = 0.0
    token_seconds_sum: float = 0.0
    num_tokens: float = 0.0
    first_seconds_sum: float = 0.0
    # What they should have taken by their prompts.
    usual_seconds_sum: float = 0.0
    num_firsts: float = 0.0
    # Its longest unexpected silence with work to do, halved every half-life: the measure of normal silence.
    pause_seconds: float = 0.0

    def saw_tokens(self, seconds: float, num_tokens: int, now: float) -> None:
        self._forget(now)
        self.token_seconds_sum += seconds
        self.num_tokens += num_tokens

    def saw_first(self, seconds: float, usual_seconds: float, now: float) -> None:
        """Args: usual_seconds: what it takes with such a prompt at a replica of usual speed."""
        self._forget(now)
        self.first_seconds_sum += seconds
        self.usual_seconds_sum += usual_seconds
        self.num_firsts += 1

    def saw_pause(self, seconds: float, now: float) -> None:
        self._forget(now)
        self.pause_seconds = max(self.pause_seconds, seconds)

    def token_seconds(self, prior: float, now: float) -> float:
        self._forget(now)
        return (self.token_seconds_sum + _PRIOR_TOKENS * prior) / (self.num_tokens + _PRIOR_TOKENS)

    def lateness(self, prior: float, now: float) -> float:
        """By what factor first tokens come later than usual."""
        self._forget(now)
        if not self.num_firsts:
            return prior
        weight = _PRIOR_FIRSTS * self.usual_seconds_sum / self.num_firsts
        return (self.first_seconds_sum + weight * prior) / (self.usual_seconds_sum + weight)

    def own_token_seconds(self) -> float | None:
        """Without the prior; None: too little evidence."""
        return self.token_seconds_sum / self.num_tokens if self.num_tokens >= _PRIOR_TOKENS / 2 else None

    def own_lateness(self) -> float | None:
        return self.first_seconds_sum / self.usual_seconds_sum if self.num_firsts >= _PRIOR_FIRSTS / 2 else None

    def _forget(self, now: float) -> None:
        elapsed = now - self.at
        if elapsed < 0.05:  # the powers would cost more than their effect
            return
        kept = 0.5 ** (elapsed / _HALF_LIFE_SECONDS)
        self.token_seconds_sum *= kept
        self.num_tokens *= kept
        self.first_seconds_sum *= kept
        self.usual_seconds_sum *= kept
        self.num_firsts *= kept
        self.pause_seconds *= kept
        self.at = now
