"""The `transformers` engine: any causal language model of the library, in this process, on a GPU or CPU threads.

The model has its own thread. Turns of one class that are asked alone are decoded together: whoever waits joins between
two tokens, and leaves when done or when its listener is gone. Turns that are asked together are decoded without others,
in batches of one shape: the version set's `batch_rows`, and prompts padded to a length that follows from their own. The
shape of a matrix moves the last bits of a logit, and a near tie then falls the other way; at one shape, a row's bytes
depend neither on its place nor on its neighbours. Before each token of such a batch more urgent turns make theirs, so
that they wait for one step of it and not for all, and its own matrices stay as they were. The decoding loop is our own:
each row has its own random generator, and it is a third cheaper than `generate` for small models on a CPU, where
bookkeeping costs as much as arithmetic.

The cost: all turns of one model share one thread, and a long prompt delays the others' next token. A batch that is not
full costs as much as a full one, and waits while more urgent work comes without end, but for a token now and then.
Turns that are asked alone, whose batches change between two tokens, may get other bytes than a batch.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from headrace.engines.asker import Asker, asker_now
from headrace.engines.base import Answer, Engine, EngineBusy, EngineFailed, NoAnswer, Piece, Turn, TurnRefused
from headrace.engines.local.loading import LocalModel, load
from headrace.engines.local.lone_turns import NUM_ROWS_MAX, REPLICA, LoneTurn, LoneTurns, draw_of, empty_batch
from headrace.engines.local.model_thread import NUM_WAITING_MAX, ModelThread
from headrace.engines.local.one_shape import BoundedRow, decode_in_one_shape
from headrace.engines.local.stop_texts import cut_at_stop
from headrace.engines.local.text_pieces import TextPieces
from headrace.errors import HeadraceError, InvalidInput, reason_of
from headrace.fairness import CLASSES, WorkClass
from headrace.version_sets.sets import EngineSpec, Member

W = TypeVar("W")
# Tokens that turns of a more urgent class make for one of a less urgent one, while there are any: a batch's token takes
# as long as a few of theirs.
_TOKENS_A_STEP = 16
_LIVE, _BATCH = Asker(work_class="live"), Asker()
UnderWay = Mapping[WorkClass, LoneTurns]


@dataclass(eq=False)
class _Together:
    """Turns that are decoded together, without others."""

    work_class: WorkClass
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


class LocalEngine(ModelThread[LocalModel, LoneTurn, _Together], Engine):
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
        lone = LoneTurn(
            turn, self._ids_of(local, turn), TextPieces(local.tokenizer, turn.stop), asyncio.get_running_loop()
        )
        self._enter(self._turns[asker_now(_LIVE).work_class], lone)
        try:
            while True:
                said = await lone.pieces.get()
                if isinstance(said, HeadraceError):
                    raise said
                yield said
                if said.finish_reason is not None:
                    return
        finally:
            lone.is_dropped = True

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
            # Nobody waits for one of them alone, so live ones go as flex.
            loop, work_class = asyncio.get_running_loop(), asker_now(_BATCH).work_class
            work_class = "flex" if work_class == "live" else work_class
            asked = [turns[place] for place in token_ids]
            together = _Together(work_class, asked, list(token_ids.values()), loop, loop.create_future())
            try:
                self._enter(self._batches[work_class], together)
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
        under_way: UnderWay = {one: LoneTurns(local) for one in CLASSES}
        while self._waits_for_work(under_way):
            # What is least urgent is begun first, since all else goes before each of its steps.
            if (together := self._next_together("batch")) is not None:
                self._decode(local, under_way, together)
            else:
                self._step(local, under_way, "batch")
        closed = f"The engine of {self._named} was closed."
        for turns in under_way.values():
            turns.fail(closed)
        for one in self._taken_out():
            one.say(EngineFailed(closed))

    def _waits_for_work(self, under_way: UnderWay) -> bool:
        """True: there is some. False: the engine is closed."""
        with self._changed:
            while not (self._num_waiting or self._is_closed or any(turns.num for turns in under_way.values())):
                self._changed.wait()
            return not self._is_closed

    def _next_together(self, work_class: WorkClass) -> _Together | None:
        with self._changed:
            return self._batches[work_class].popleft() if self._batches[work_class] else None

    def _step(self, local: LocalModel, under_way: UnderWay, work_class: WorkClass) -> bool:
        """Makes a token for each turn of a class that was asked alone, once more urgent work has gone on. False: there
        is none of the class."""
        if work_class == "batch":
            self._let_flex_go_on(local, under_way)
        if work_class != "live":
            for _ in range(_TOKENS_A_STEP):
                if self._is_closed or not self._step(local, under_way, "live"):
                    break
        return not self._is_closed and self._advance(under_way[work_class], self._turns[work_class])

    def _let_flex_go_on(self, local: LocalModel, under_way: UnderWay) -> None:
        """One batch of it, or as many tokens as live turns make for one of it."""
        if (together := self._next_together("flex")) is not None:
            self._decode(local, under_way, together)
            return
        for _ in range(_TOKENS_A_STEP):
            if self._is_closed or not self._step(local, under_way, "flex"):
                break

    def _advance(self, lone: LoneTurns, queue: "deque[LoneTurn]") -> bool:
        """Makes a token for every turn, those included that may join now. False: there is none."""
        new: list[LoneTurn] = []
        with self._changed:
            while queue and len(new) < lone.num_free:
                if not (first := queue.popleft()).is_dropped:
                    new.append(first)
        if not (new or lone.num):
            return False
        try:
            lone.advance(new)
        except Exception as error:  # noqa: BLE001 (as of a batch)
            failed = _failed(error)
            lone.fail(str(failed))
            for one in new:
                one.say(failed)
        return True

    def _decode(self, local: LocalModel, under_way: UnderWay, together: _Together) -> None:
        try:
            together.say(self._decoded(local, under_way, together))
        except Exception as error:  # noqa: BLE001 (whatever a model raises ends its turns, not the service)
            together.say(_failed(error))

    def _decoded(self, local: LocalModel, under_way: UnderWay, together: _Together) -> list[Answer] | EngineFailed:
        rows = [
            BoundedRow(token_ids, draw_of(local, turn), turn.max_tokens)
            for token_ids, turn in zip(together.token_ids, together.turns, strict=True)
        ]

        def goes_on() -> bool:
            """Whether it makes its next token, once more urgent turns, and those of its class, have made theirs."""
            self._step(local, under_way, together.work_class)
            return not (together.is_dropped or self._is_closed)

        outputs = decode_in_one_shape(
            lambda: empty_batch(local), rows, self._batch_rows, local.stop_ids, is_wanted=goes_on
        )
        if self._is_closed or together.is_dropped:
            return EngineFailed(f"The engine of {self._named} was closed.", may_be_the_turn=False)
        return [
            _answer(local, turn, token_ids, output)
            for turn, token_ids, output in zip(together.turns, together.token_ids, outputs, strict=True)
        ]


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
