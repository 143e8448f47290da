"""One unit of work, as its records, figures and evidence see it."""

from dataclasses import dataclass, field

from headrace.engines.chain import Step
from headrace.rollout.routing import Pin
from headrace.serving.gateway.openai_bodies import Ask
from headrace.serving.gateway.prepared_sets import LoadedSet

# nginx's number for a client that went away; it stands in records alone, since nobody is there to be told.
CLIENT_GONE = 499


@dataclass(kw_only=True, slots=True, eq=False)
class Unit:
    """What is known of one unit; its records are made of it."""

    request: str
    key: str
    ask: Ask
    name: str
    session: str | None
    pin: Pin
    loaded: LoadedSet
    seed: int
    # Seconds since the Unix epoch, and on the monotonic clock.
    started_at: float
    started: float
    # Whether its answer is read from the engine to its end, whatever its client does; a whole one always is.
    is_followed: bool = True
    # As they end: the last role's comes last.
    steps: list[Step] = field(default_factory=list)
    finish: str = ""
    # Seconds from `started`: to the first piece; until the answer was here whole, whenever its client read it; to the
    # end of everything.
    first_piece: float | None = None
    answered: float | None = None
    seconds: float = 0.0
    # Whether its set, or the time that a unit has, failed it; what its client did wrong or gave up on did not.
    is_failed: bool = False
    status: int = 200
    error: str = ""

    @property
    def text(self) -> str:
        """What the last step made, whether its client took it or not."""
        return self.steps[-1].text if self.steps else ""
