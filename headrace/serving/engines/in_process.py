"""The `transformers` engine for live turns: a model in this process, in a thread of its own.

Turns that wait join the batch under way between two tokens, up to `_NUM_ROWS_MAX`; a turn whose caller is gone leaves
it. What it costs: all turns of one model share one thread, and a long prompt delays the next token of the others. The
same seed gives the same words in the same batch; among other neighbours the last bits of a logit differ.
"""

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.chat.tokenizer import ChatTokenizer
from headrace.errors import HeadraceError, InvalidInput
from headrace.rollout.version_sets import EngineSpec, Member
from headrace.serving.engines.base import Answer, EngineBusy, EngineFailed, FinishReason, Piece, Turn, TurnRefused
from headrace.serving.engines.text_pieces import TextPieces

if TYPE_CHECKING:
    from headrace.serving.engines.decoding_batch import DecodingBatch, Row

# More rows make every token of every turn slower; on CPU threads about in proportion.
_NUM_ROWS_MAX = 8
# A gateway admits fewer; beyond this something is wrong, and memory is not to pay for it.
_NUM_WAITING_MAX = 256
_REPLICA = "in process"


@dataclass(eq=False)
class _Live:
    """A turn on its way: read by the thread, listened to by an event loop."""

    turn: Turn
    token_ids: list[int]
    text: TextPieces
    loop: asyncio.AbstractEventLoop
    pieces: "asyncio.Queue[Piece | HeadraceError]" = field(default_factory=asyncio.Queue)
    num_made: int = 0
    # Set by the listener, who is gone.
    is_dropped: bool = False

    def say(self, said: Piece | HeadraceError) -> None:
        # The loop may be closed by now; then nobody listens.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, said)


class InProcessEngine:
    name = "transformers"

    def __init__(self, directory: Path, member: Member, spec: EngineSpec) -> None:
        """Loads weights and tokenizer from `directory`; seconds to minutes.

        Raises:
            InvalidInput: the directory holds no causal language model with a chat template.
            EngineUnavailable: there is not enough memory.
        """
        # A sealed directory is whole: nothing may be asked of a hub, or wait for one.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import torch

        from headrace.generation.engines.transformers import TransformersEngine

        # It loads and checks; its way of decoding is for whole partitions.
        loaded: Any = TransformersEngine(directory, member, spec)
        self._member = member
        self._device: torch.device = loaded._device
        self._model, self._tokenizer, self._stop_ids = loaded._model, loaded._tokenizer, loaded._stop_ids
        self._chat: ChatTokenizer = loaded._chat
        self._tokens_max: int | None = loaded._tokens_max
        self._waiting: deque[_Live] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=f"decoding {member.model_name}", daemon=True)
        self._thread.start()

    async def answer(self, turn: Turn) -> Answer:
        text: list[str] = []
        last = Piece(text="")
        async for piece in self.stream(turn):
            text.append(piece.text)
            last = piece
        return Answer(
            text="".join(text),
            finish_reason=last.finish_reason or "stop",
            num_prompt_tokens=last.num_prompt_tokens,
            num_output_tokens=last.num_output_tokens,
            replica=_REPLICA,
        )

    async def stream(self, turn: Turn) -> AsyncIterator[Piece]:
        live = self._enter(turn)
        try:
            while True:
                said = await live.pieces.get()
                if isinstance(said, HeadraceError):
                    raise said
                yield said
                if said.finish_reason is not None:
                    return
        finally:
            live.is_dropped = True

    async def close(self) -> None:
        """Ends turns under way as failed, and frees the model."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)
        self._model = None

    def _enter(self, turn: Turn) -> _Live:
        token_ids = self._token_ids(turn)
        limit = self._tokens_max
        if limit is not None and len(token_ids) + turn.max_tokens > limit:
            why = (
                f"The messages have {len(token_ids)} tokens and max_tokens is {turn.max_tokens}; the model has "
                f"{limit} positions for both. Shorten the messages, or ask for fewer tokens."
            )
            raise TurnRefused(why, for_clients=why)
        live = _Live(turn, token_ids, TextPieces(self._tokenizer, turn.stop), asyncio.get_running_loop())
        with self._changed:
            if self._is_closed:
                raise EngineFailed(f"The engine of {self._member.model_name} is being closed.")
            if len(self._waiting) >= _NUM_WAITING_MAX:
                raise EngineBusy(f"{len(self._waiting)} turns wait for {self._member.model_name}.")
            self._waiting.append(live)
            self._changed.notify()
        return live

    def _token_ids(self, turn: Turn) -> list[int]:
        messages = [{"role": message.role, "content": message.content} for message in turn.messages]
        try:
            return self._chat.encode_chat(messages)
        except InvalidInput as error:
            raise TurnRefused(
                str(error),
                for_clients="The model's chat template refuses these messages: their roles, or their order.",
            ) from error

    # --- the thread ---

    def _run(self) -> None:
        from headrace.serving.engines.decoding_batch import DecodingBatch

        batch = DecodingBatch(self._model, self._device, min(self._stop_ids))
        lives: dict[Row, _Live] = {}
        while not self._is_closed:
            new = self._newcomers(batch)
            try:
                self._advance(batch, lives, new)
            except InvalidInput as error:
                self._fail([*lives.values(), *new], f"The model cannot decode these turns: {error}")
                batch, lives = DecodingBatch(self._model, self._device, min(self._stop_ids)), {}
            except Exception as error:  # noqa: BLE001 (whatever a model raises ends its turns, not the service)
                self._fail(
                    [*lives.values(), *new], f"The model failed while it decoded: {type(error).__name__}: {error}"
                )
                batch, lives = DecodingBatch(self._model, self._device, min(self._stop_ids)), {}
        with self._changed:
            left = [*lives.values(), *self._waiting]
            self._waiting.clear()
        self._fail(left, f"The engine of {self._member.model_name} was closed.")

    def _newcomers(self, batch: "DecodingBatch") -> list[_Live]:
        """The turns that may join now; waits for one if there is nothing else to do."""
        with self._changed:
            while not batch.rows and not self._waiting and not self._is_closed:
                self._changed.wait()
            new: list[_Live] = []
            while self._waiting and len(batch.rows) + len(new) < _NUM_ROWS_MAX and batch.can_be_joined:
                live = self._waiting.popleft()
                if not live.is_dropped:
                    new.append(live)
        return new

    def _advance(self, batch: "DecodingBatch", lives: "dict[Row, _Live]", new: list[_Live]) -> None:
        """One token for every turn, and the first for those that join."""
        from headrace.serving.engines.decoding_batch import Row, draw_for

        gone = {row for row in batch.rows if lives[row].is_dropped}
        batch.drop(gone)
        made = list(zip(batch.rows, batch.step(), strict=True)) if batch.rows else []
        if new:
            rows = [Row(live.token_ids, draw_for(live.turn, self._member, self._device)) for live in new]
            lives.update(zip(rows, new, strict=True))
            made += zip(rows, batch.join(rows), strict=True)
        done = {row for row, token_id in made if self._take(lives[row], token_id)}
        batch.drop(done)
        for row in gone | done:
            del lives[row]

    def _take(self, live: _Live, token_id: int) -> bool:
        """Gives out what the token brings. True: the answer has ended."""
        live.num_made += 1
        reason: FinishReason | None = "length" if live.num_made >= live.turn.max_tokens else None
        text = ""
        if token_id in self._stop_ids:
            # Counted, since it was made, and left out of the text.
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
                    replica=_REPLICA,
                )
            )
        elif text:
            live.say(Piece(text=text, replica=_REPLICA))
        return reason is not None

    def _fail(self, lives: list[_Live], why: str) -> None:
        for live in lives:
            live.say(EngineFailed(why))
