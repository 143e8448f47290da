"""Turns of a causal language model that are asked alone: those of one class are decoded side by side; they join and
leave between two tokens."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from headrace.engines.base import EngineFailed, FinishReason, Piece, Turn
from headrace.engines.local.decoding_batch import DecodingBatch, Row
from headrace.engines.local.loading import LocalModel
from headrace.engines.local.sampling import Draw
from headrace.engines.local.text_pieces import TextPieces
from headrace.errors import HeadraceError

REPLICA = "in process"
# Of a class. More rows slow every token of every turn; on CPU threads about in proportion.
NUM_ROWS_MAX = 8


@dataclass(eq=False)
class LoneTurn:
    """The model's thread reads it, an event loop listens to it."""

    turn: Turn
    token_ids: list[int]
    text: TextPieces
    loop: asyncio.AbstractEventLoop
    pieces: "asyncio.Queue[Piece | HeadraceError]" = field(default_factory=asyncio.Queue)
    num_made: int = 0
    # Set by the listener when it leaves.
    is_dropped: bool = False

    def say(self, said: Piece | HeadraceError) -> None:
        # The loop may be closed by now; then nobody listens.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, said)


class LoneTurns:
    """Those under way; used by the model's thread alone."""

    def __init__(self, local: LocalModel) -> None:
        self._local = local
        self._batch = self._empty()
        self._turns: dict[Row, LoneTurn] = {}

    @property
    def num(self) -> int:
        return len(self._turns)

    @property
    def num_free(self) -> int:
        """How many more may join now."""
        return NUM_ROWS_MAX - len(self._turns) if self._batch.can_be_joined else 0

    def advance(self, new: Sequence[LoneTurn]) -> None:
        """Makes one token for every turn, and the first token for new ones."""
        batch = self._batch
        gone = {row for row in batch.rows if self._turns[row].is_dropped}
        batch.drop(gone)
        made = list(zip(batch.rows, batch.step(), strict=True)) if batch.rows else []
        if new:
            rows = [Row(one.token_ids, draw_of(self._local, one.turn)) for one in new]
            self._turns.update(zip(rows, new, strict=True))
            made += zip(rows, batch.join(rows), strict=True)
        done = {row for row, token_id in made if _take(self._turns[row], token_id, self._local)}
        batch.drop(done)
        for row in gone | done:
            del self._turns[row]

    def fail(self, why: str) -> None:
        """Ends all of them."""
        for one in self._turns.values():
            one.say(EngineFailed(why))
        self._batch, self._turns = self._empty(), {}

    def _empty(self) -> DecodingBatch:
        return empty_batch(self._local)


def empty_batch(local: LocalModel) -> DecodingBatch:
    return DecodingBatch(local.model, local.device, min(local.stop_ids), local.num_positions)


def draw_of(local: LocalModel, turn: Turn) -> Draw:
    return Draw.seeded(temperature=turn.temperature, top_p=turn.top_p, seed=turn.seed, device=local.device)


def _take(live: LoneTurn, token_id: int, local: LocalModel) -> bool:
    """Passes on the token's text. True: the answer has ended."""
    live.num_made += 1
    reason: FinishReason | None = "length" if live.num_made >= live.turn.max_tokens else None
    text = ""
    if token_id in local.stop_ids:
        # Counted, since it was made, but not part of the text.
        reason = "stop"
    else:
        text = live.text.add(token_id)
    if reason is not None and not live.text.is_stopped:
        text += live.text.rest()
    if live.text.is_stopped:
        reason = "stop"
    if reason is not None:
        live.say(
            Piece(
                text=text,
                finish_reason=reason,
                num_prompt_tokens=len(live.token_ids),
                num_output_tokens=live.num_made,
                replica=REPLICA,
            )
        )
    elif text:
        live.say(Piece(text=text, replica=REPLICA))
    return reason is not None
