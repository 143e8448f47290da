"""The numbers of the policy of residents."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Ratios of what is measured, so that none is of one kind of model or machine. Decision 42 says why."""

    # A use counts half after so long, and a quarter after twice as long.
    half_life_seconds: float = 600.0
    # How many times what its coming took a copy under work stays at least, while others wait: at most a fifth of the
    # time is loading.
    stay_factor: float = 4.0
    # A copy that nobody has used for this share of what its coming took is not between two pieces of work: it may go.
    rest_share: float = 0.25
    # A model without a copy has one under work closed once it has waited so many times what its own coming takes.
    guard_factor: float = 4.0
    # One more copy comes where the work that waits, shared by the copies there are, takes so many times its coming.
    copy_factor: float = 2.0
    # Shorter work passes longer work that came earlier by at most so many times the difference.
    length_factor: float = 2.5
    # Live work is before bulk work for at most so many times what the bulk work takes.
    live_factor: float = 9.0
