"""The contract of an engine that paints or speaks: bytes for a text and a seed.

What it makes them of is in the version set's member (`picture` or `speech`), which it gets when it is opened. It states
no type, size or length of what it made: `headrace.engines.asking` finds them in the bytes, whoever made them.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headrace.engines.base import LoadedModel, NoAnswer, settled_together

UNREAD = "unread"
"""The attribute of what was made that holds the end of its text which the model did not read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaTurn:
    """A picture or a recording to make. The member's template is already applied to `text`.

    `unit`: the asker's name in logs: a request or a row id. `seed`: in [0, 2^63). `speed`: a client's wish, in place of
    the member's.
    """

    unit: str
    text: str
    seed: int
    speed: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaAnswer:
    """What an engine made. `replica`: the server that made it, such as its URL.

    `attributes`: what is worth keeping beside it, such as a server's `revised_prompt`. `note`: what was wrong.
    """

    content: bytes
    replica: str = ""
    note: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


class MediaEngine(LoadedModel):
    """A loaded model that paints or speaks. Another package's engine overrides `make`, or `make_together`.

    If the caller is cancelled, both end their work at the engine.
    """

    @abstractmethod
    async def make(self, turn: MediaTurn) -> MediaAnswer:
        """Raises: TurnRefused, EngineBusy, EngineFailed."""

    async def make_together(self, turns: Sequence[MediaTurn]) -> list[MediaAnswer | NoAnswer]:
        """Makes a batch: for each turn, in order, what was made or why nothing was.

        Raises: HeadraceError: of another kind, such as InvalidInput: then no turn caused it.
        """
        return await settled_together(self, self.make, turns)
