"""The `transformers` engine: any causal language model of the library, in this process, on a GPU or CPU threads.

The model has its own thread. Live turns are decoded together: whoever waits joins between two tokens, and leaves when
done or when its listener is gone. Turns that are asked together are decoded without others, in batches of one shape:
the version set's `batch_rows`, and prompts padded to a length that follows from their own. The shape of a matrix moves
the last bits of a logit, and a near tie then falls the other way; at one shape, a row's bytes depend neither on its
place nor on its neighbours. Before each token of such a batch live turns make theirs, so that they wait for one step of
it and not for all, and its own matrices stay as they were. The decoding loop is our own: each row has its own random
generator, and it is a third cheaper than `generate` for small models on a CPU, where bookkeeping costs as much as
arithmetic.

The cost: all turns of one model share one thread, and a long prompt delays the others' next token. A batch that is not
full costs as much as a full one, and waits while live turns come without end, but for a token now and then. Live turns,
whose batches change between two tokens, may get other bytes than a batch.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from headrace.engines.base import Answer, Engine, EngineBusy, EngineFailed, NoAnswer, Piece, Turn, TurnRefused
from headrace.engines.local.live_turns import NUM_ROWS_MAX, REPLICA, LiveTurn, LiveTurns, draw_of, empty_batch
from headrace.engines.local.loading import LocalModel, load
from headrace.engines.local.model_thread import NUM_WAITING_MAX, ModelThread
from headrace.engines.local.one_shape import BoundedRow, decode_in_one_shape
from headrace.engines.local.stop_texts import cut_at_stop
from headrace.engines.local.text_pieces import TextPieces
from headrace.errors import HeadraceError, InvalidInput, reason_of
from headrace.version_sets.sets import EngineSpec, Member

W = TypeVar("W")
# Tokens that live turns make for one of a batch, while there are any: a batch's token takes as long as a few of theirs.
_LIVE_TOKENS_A_STEP = 16


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


class LocalEngine(ModelThread[LocalModel, LiveTurn, _Together], Engine):
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
        # Small batches of bulk work leave room for all live turns that decode together.
        self.num_at_once = max(self.num_at_once, NUM_ROWS_MAX)

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
            replica=REPLICA,
        )

    async def stream(self, turn: Turn) -> AsyncGenerator[Piece, None]:
        local = self._opened()
        live = LiveTurn(
            turn, self._ids_of(local, turn), TextPieces(local.tokenizer, turn.stop), asyncio.get_running_loop()
        )
        self._enter(self._live, live)
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
                self._enter(self._bulk, together)
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

    def _enter(self, queue: "deque[W]", asked: W) -> None:
        with self._changed:
            if self._is_closed:
                raise self._closed()
            if self._num_waiting >= NUM_WAITING_MAX:
                raise EngineBusy(f"{self._num_waiting} turns wait for {self._named}.")
            queue.append(asked)
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
        live = LiveTurns(local)
        while not self._is_closed:
            if (together := self._next(live)) is None:
                self._advance(live)
                continue
            try:
                self._decode(local, live, together)
            except Exception as error:  # noqa: BLE001 (whatever a model raises ends its turns, not the service)
                together.say(_failed(error))
        closed = f"The engine of {self._named} was closed."
        live.fail(closed)
        with self._changed:
            left = [*self._live, *self._bulk]
            self._live.clear()
            self._bulk.clear()
        for one in left:
            one.say(EngineFailed(closed))

    def _next(self, live: LiveTurns) -> _Together | None:
        """A batch, or None if there are only live turns; waits while there is nothing to do."""
        with self._changed:
            while not (live.num or self._num_waiting or self._is_closed):
                self._changed.wait()
            return self._bulk.popleft() if self._bulk else None

    def _advance(self, live: LiveTurns) -> bool:
        """Makes a token for every live turn, those included that may join now. False: there is none."""
        new: list[LiveTurn] = []
        with self._changed:
            while self._live and len(new) < live.num_free:
                if not (first := self._live.popleft()).is_dropped:
                    new.append(first)
        if not (new or live.num):
            return False
        try:
            live.advance(new)
        except Exception as error:  # noqa: BLE001 (as of a batch)
            failed = _failed(error)
            live.fail(str(failed))
            for one in new:
                one.say(failed)
        return True

    def _goes_on(self, live: LiveTurns, together: _Together) -> bool:
        """Whether a batch makes its next token, once live turns have made theirs."""
        for _ in range(_LIVE_TOKENS_A_STEP):
            if self._is_closed or not self._advance(live):
                break
        return not (together.is_dropped or self._is_closed)

    def _decode(self, local: LocalModel, live: LiveTurns, together: _Together) -> None:
        rows = [
            BoundedRow(token_ids, draw_of(local, turn), turn.max_tokens)
            for token_ids, turn in zip(together.token_ids, together.turns, strict=True)
        ]
        outputs = decode_in_one_shape(
            lambda: empty_batch(local),
            rows,
            self._batch_rows,
            local.stop_ids,
            is_wanted=lambda: self._goes_on(live, together),
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


def _failed(error: Exception) -> EngineFailed:
    return EngineFailed(f"The model failed while it decoded: {reason_of(error)}")


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
        replica=REPLICA,
    )
