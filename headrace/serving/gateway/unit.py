"""One unit of work, as seen by records, figures and evidence."""

from dataclasses import dataclass, field

from headrace.engines.chain import Step
from headrace.rollout.routing import Pin
from headrace.serving.gateway.openai_bodies import Ask
from headrace.serving.gateway.openai_media_bodies import MediaAsk
from headrace.serving.gateway.prepared_sets import LoadedSet

# nginx's number for a client that went away; only records contain it, since nobody receives it.
CLIENT_GONE = 499


@dataclass(kw_only=True, slots=True, eq=False)
class Unit:
    """Everything known of one unit; its records are made from it. `ask`: None: a turn of a call."""

    request: str
    key: str
    ask: Ask | MediaAsk | None
    name: str
    session: str | None
    pin: Pin
    loaded: LoadedSet
    seed: int
    # Seconds since the Unix epoch, and on the monotonic clock.
    started_at: float
    started: float
    # Whether its answer is read to the end, whatever its client does; a whole answer always is.
    is_followed: bool = True
    # In the order in which they end: the last role's is last.
    steps: list[Step] = field(default_factory=list)
    finish: str = ""
    # Seconds from `started`: to the first piece; until the answer was complete, whenever its client read it; to the end
    # of everything.
    first_piece: float | None = None
    answered: float | None = None
    seconds: float = 0.0
    # Whether its set or the unit's time limit failed it; a client's error or departure does not count.
    is_failed: bool = False
    status: int = 200
    error: str = ""

    @property
    def text(self) -> str:
        """The last step's text, whether its client took it or not."""
        return self.steps[-1].text if self.steps else ""
