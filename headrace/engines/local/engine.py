"""The `transformers` engine: any causal language model of the library, in this process, on a GPU or CPU threads.

The model has its own thread. Waiting live turns join the current batch between two tokens, up to `_NUM_ROWS_MAX`, and
leave it when they are done or their listener is gone. Turns that are asked together are decoded without others, in
batches of one shape: the version set's `batch_rows`, and prompts padded to a length that follows from their own. The
shape of a matrix moves the last bits of a logit, and a near tie then falls the other way; at one shape, a row's bytes
depend neither on its place nor on its neighbours. The decoding loop is our own: each row has its own random generator,
and it is a third cheaper than `generate` for small models on a CPU, where bookkeeping costs as much as arithmetic.

The cost: all turns of one model share one thread, and a long prompt delays the others' next token. A batch that is not
full costs as much as a full one. Live turns, whose batches change between two tokens, may get other bytes than a batch.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from headrace.engines.base import (
    Answer,
    Engine,
    EngineBusy,
    EngineFailed,
    FinishReason,
    NoAnswer,
    Piece,
    Turn,
    TurnRefused,
)
from headrace.engines.local.decoding_batch import DecodingBatch, Row
from headrace.engines.local.loading import LocalModel, load
from headrace.engines.local.model_thread import NUM_WAITING_MAX, ModelThread
from headrace.engines.local.one_shape import BoundedRow, decode_in_one_shape
from headrace.engines.local.sampling import Draw
from headrace.engines.local.stop_texts import cut_at_stop
from headrace.engines.local.text_pieces import TextPieces
from headrace.errors import HeadraceError, InvalidInput, reason_of
from headrace.version_sets.sets import EngineSpec, Member

# More rows slow every token of every turn; on CPU threads about in proportion.
_NUM_ROWS_MAX = 8
_REPLICA = "in process"


@dataclass(eq=False)
class _Live:
    """A live turn: the model's thread reads it, an event loop listens to it."""

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


@dataclass(eq=False)
class _Together:
    """Turns that are decoded together, without others."""

    turns: Sequence[Turn]
    token_ids: Sequence[list[int]]
    loop: asyncio.AbstractEventLoop
    answers: "asyncio.Future[list[Answer]]"
    # Set by the waiting caller when it leaves.
    is_dropped: bool = False

    def say(self, said: list[Answer] | HeadraceError) -> None:
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._set, said)

    def _set(self, said: list[Answer] | HeadraceError) -> None:
        if self.answers.done():
            return
        if isinstance(said, HeadraceError):
            self.answers.set_exception(said)
        else:
            self.answers.set_result(said)


class LocalEngine(ModelThread[LocalModel, _Live | _Together], Engine):
    name = "transformers"
    # For batches, on one kind of machine. GPU kernels without a deterministic form only warn.
    deterministic = True

    def __init__(self, directory: Path, member: Member, spec: EngineSpec, *, base: Path | None = None) -> None:
        """Loads weights and tokenizer from `directory`; seconds to minutes.

        Args: base: the base's directory, of weights that are an adapter.

        Raises:
            InvalidInput: the directory has no causal language model with a usable chat template, or an adapter does not
                fit its base.
            EngineUnavailable: there is not enough memory.
        """
        super().__init__(load(directory, member, spec, base), member, spec, doing="decoding")

    async def answer(self, turn: Turn) -> Answer:
        text: list[str] = []
        last = Piece(text="")
        async with aclosing(self.stream(turn)) as pieces:
            async for piece in pieces:
                text.append(piece.text)
                last = piece
        return Answer(
            text="".join(text),
            finish_reason=last.finish_reason or "stop",
            num_prompt_tokens=last.num_prompt_tokens,
            num_output_tokens=last.num_output_tokens,
            replica=_REPLICA,
        )

    async def stream(self, turn: Turn) -> AsyncGenerator[Piece, None]:
        local = self._opened()
        live = _Live(
            turn, self._ids_of(local, turn), TextPieces(local.tokenizer, turn.stop), asyncio.get_running_loop()
        )
        self._enter(live)
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

    async def answer_together(self, turns: Sequence[Turn]) -> list[Answer | NoAnswer]:
        local = self._opened()
        found: dict[int, Answer | NoAnswer] = {}
        token_ids: dict[int, list[int]] = {}
        for place, turn in enumerate(turns):
            try:
                token_ids[place] = self._ids_of(local, turn)
            except TurnRefused as error:
                found[place] = error.with_traceback(None)
        if token_ids:
            loop = asyncio.get_running_loop()
            together = _Together(
                [turns[place] for place in token_ids], list(token_ids.values()), loop, loop.create_future()
            )
            try:
                self._enter(together)
                found |= zip(token_ids, await together.answers, strict=True)
            except (EngineBusy, EngineFailed) as error:
                found |= dict.fromkeys(token_ids, error.with_traceback(None))
            finally:
                together.is_dropped = True
        return [found[place] for place in range(len(turns))]

    def _opened(self) -> LocalModel:
        if self._local is None or self._is_closed:
            raise self._closed()
        return self._local

    def _enter(self, asked: _Live | _Together) -> None:
        with self._changed:
            if self._is_closed:
                raise self._closed()
            if len(self._waiting) >= NUM_WAITING_MAX:
                raise EngineBusy(f"{len(self._waiting)} turns wait for {self._named}.")
            self._waiting.append(asked)
            self._changed.notify()

    @staticmethod
    def _ids_of(local: LocalModel, turn: Turn) -> list[int]:
        """Raises: TurnRefused: the turn is too long, or the template refuses it."""
        try:
            token_ids = local.ids_of(turn.messages)
        except InvalidInput as error:
            raise TurnRefused(
                str(error),
                for_clients="The model's chat template refuses these messages: their roles, or their order.",
            ) from error
        limit = local.num_positions
        if limit is not None and len(token_ids) + turn.max_tokens > limit:
            raise TurnRefused(
                f"prompt of {len(token_ids)} tokens and max_new_tokens={turn.max_tokens} exceed the model's {limit} "
                "positions",
                for_clients=f"The messages have {len(token_ids)} tokens and max_tokens is {turn.max_tokens}; the model "
                f"has {limit} positions for both. Shorten the messages, or ask for fewer tokens.",
            )
        return token_ids

    # --- the thread ---

    def _run(self, local: LocalModel) -> None:
        def empty() -> DecodingBatch:
            return DecodingBatch(local.model, local.device, min(local.stop_ids), local.num_positions)

        batch, lives = empty(), {}
        while not self._is_closed:
            new, together = self._newcomers(batch)
            try:
                if together is not None:
                    self._decode(local, empty, together)
                else:
                    self._advance(local, batch, lives, new)
            except Exception as error:  # noqa: BLE001 (whatever a model raises ends its turns, not the service)
                failed = [together] if together is not None else [*lives.values(), *new]
                _fail(failed, f"The model failed while it decoded: {reason_of(error)}")
                if together is None:
                    batch, lives = empty(), {}
        with self._changed:
            left = [*lives.values(), *self._waiting]
            self._waiting.clear()
        _fail(left, f"The engine of {self._named} was closed.")

    def _newcomers(self, batch: DecodingBatch) -> tuple[list[_Live], _Together | None]:
        """The turns that may join now, or a batch to decode alone; waits while there is nothing to do."""
        with self._changed:
            while not batch.rows and not self._waiting and not self._is_closed:
                self._changed.wait()
            new: list[_Live] = []
            while self._waiting and len(batch.rows) + len(new) < _NUM_ROWS_MAX and batch.can_be_joined:
                first = self._waiting[0]
                if isinstance(first, _Together):
                    # Turns under way end first, and no later turn joins them.
                    if batch.rows or new:
                        break
                    self._waiting.popleft()
                    return [], first
                self._waiting.popleft()
                if not first.is_dropped:
                    new.append(first)
        return new, None

    def _decode(self, local: LocalModel, empty: Callable[[], DecodingBatch], together: _Together) -> None:
        rows = [
            BoundedRow(token_ids, self._draw(local, turn), turn.max_tokens)
            for token_ids, turn in zip(together.token_ids, together.turns, strict=True)
        ]
        outputs = decode_in_one_shape(
            empty,
            rows,
            self._batch_rows,
            local.stop_ids,
            is_wanted=lambda: not (together.is_dropped or self._is_closed),
        )
        if self._is_closed or together.is_dropped:
            together.say(EngineFailed(f"The engine of {self._named} was closed.", may_be_the_turn=False))
            return
        together.say(
            [
                _answer(local, turn, token_ids, output)
                for turn, token_ids, output in zip(together.turns, together.token_ids, outputs, strict=True)
            ]
        )

    def _advance(self, local: LocalModel, batch: DecodingBatch, lives: dict[Row, _Live], new: list[_Live]) -> None:
        """Makes one token for every turn, and the first token for new ones."""
        gone = {row for row in batch.rows if lives[row].is_dropped}
        batch.drop(gone)
        made = list(zip(batch.rows, batch.step(), strict=True)) if batch.rows else []
        if new:
            rows = [Row(live.token_ids, self._draw(local, live.turn)) for live in new]
            lives.update(zip(rows, new, strict=True))
            made += zip(rows, batch.join(rows), strict=True)
        done = {row for row, token_id in made if _take(lives[row], token_id, local)}
        batch.drop(done)
        for row in gone | done:
            del lives[row]

    @staticmethod
    def _draw(local: LocalModel, turn: Turn) -> Draw:
        return Draw.seeded(temperature=turn.temperature, top_p=turn.top_p, seed=turn.seed, device=local.device)


def _answer(local: LocalModel, turn: Turn, token_ids: Sequence[int], output: Sequence[int]) -> Answer:
    """Counts the end token, since it was made, but leaves it out of the text."""
    is_ended = output[-1] in local.stop_ids
    text = local.text_of(output[:-1] if is_ended else output)
    text, is_stopped = cut_at_stop(text, turn.stop)
    return Answer(
        text=text,
        finish_reason="stop" if is_ended or is_stopped else "length",
        num_prompt_tokens=len(token_ids),
        num_output_tokens=len(output),
        replica=_REPLICA,
    )


def _take(live: _Live, token_id: int, local: LocalModel) -> bool:
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
                replica=_REPLICA,
            )
        )
    elif text:
        live.say(Piece(text=text, replica=_REPLICA))
    return reason is not None


def _fail(asked: Sequence[_Live | _Together], why: str) -> None:
    for one in asked:
        one.say(EngineFailed(why))
