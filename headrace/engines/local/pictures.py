"""The `diffusers` engine: any pipeline of the library that paints a text, in this process, on a GPU or CPU threads.

The model has its own thread. Turns that wait are painted together, the most urgent first, and every batch has the
version set's `batch_rows`: fewer are filled up with copies that nobody looks at. The shape of a matrix moves the last
bits of its sums, and after some steps of denoising a pixel; at one shape a picture's bytes depend neither on its place
nor on its neighbours, so one that is tried again alone is the same file. A more urgent turn does not wait for others'
batch to end: it is painted between two of its steps, by a twin of the pipeline that has a state of its own.

The cost: a batch that is not full costs as much as a full one, so a lone picture costs `batch_rows` of them; and while
more urgent turns come without end, a batch takes one step for each of theirs.
"""

import asyncio
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.engines.asker import Asker, asker_now
from headrace.engines.base import EngineBusy, EngineFailed, NoAnswer, TurnRefused
from headrace.engines.local.model_thread import NUM_WAITING_MAX, ModelThread
from headrace.engines.local.pipelines import GivenUp, LocalPipeline, load_pipeline
from headrace.engines.media import UNREAD, MediaAnswer, MediaEngine, MediaTurn
from headrace.errors import reason_of
from headrace.fairness import CLASSES, WorkClass
from headrace.version_sets.sets import EngineSpec, Member

_REPLICA = "in process"
# zlib's own default: spelt, so that Pillow's may change.
_COMPRESS_LEVEL = 6
# Batches in a row that may leave less urgent turns waiting.
_NUM_PASSED_MAX = 16
_LIVE, _BATCH = Asker(work_class="live"), Asker()


@dataclass(eq=False)
class _Waiting:
    """A turn: the model's thread paints it, an event loop waits for it."""

    turn: MediaTurn
    loop: asyncio.AbstractEventLoop
    answer: "asyncio.Future[MediaAnswer | NoAnswer]"
    work_class: WorkClass
    # Set by the waiting caller when it leaves.
    is_dropped: bool = False

    def say(self, said: MediaAnswer | NoAnswer) -> None:
        # The loop may be closed by now; then nobody listens.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._set, said)

    def _set(self, said: MediaAnswer | NoAnswer) -> None:
        if not self.answer.done():
            self.answer.set_result(said)


class DiffusersEngine(ModelThread[LocalPipeline, _Waiting, _Waiting], MediaEngine):
    name = "diffusers"
    # On one kind of machine. GPU kernels without a deterministic form only warn.
    deterministic = True
    # Batches in a row that left less urgent turns waiting.
    _num_passed = 0

    def __init__(self, directory: Path, member: Member, spec: EngineSpec) -> None:
        """Loads a pipeline from `directory`; seconds to minutes.

        Raises:
            InvalidInput: the directory has no pipeline that paints what the member asks for.
            EngineUnavailable: there is not enough memory.
        """
        super().__init__(load_pipeline(directory, member, spec), member, spec, doing="painting")

    async def make(self, turn: MediaTurn) -> MediaAnswer:
        [answer] = await self._made([turn], asker_now(_LIVE).work_class)
        if isinstance(answer, NoAnswer):
            raise answer
        return answer

    async def make_together(self, turns: Sequence[MediaTurn]) -> list[MediaAnswer | NoAnswer]:
        return await self._made(turns, asker_now(_BATCH).work_class)

    async def _made(self, turns: Sequence[MediaTurn], work_class: WorkClass) -> list[MediaAnswer | NoAnswer]:
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(turn, loop, loop.create_future(), work_class) for turn in turns]
        for one in waiting:
            if not one.turn.text.strip():
                one.answer.set_result(TurnRefused("There is nothing to make a picture of."))
        self._enter([one for one in waiting if not one.answer.done()])
        try:
            return [await one.answer for one in waiting]
        finally:
            for one in waiting:
                one.is_dropped = True

    def _enter(self, asked: Sequence[_Waiting]) -> None:
        with self._changed:
            if self._is_closed or self._num_waiting >= NUM_WAITING_MAX:
                why = (
                    self._closed()
                    if self._is_closed
                    else EngineBusy(f"{self._num_waiting} pictures wait for {self._named}.")
                )
                for one in asked:
                    one.answer.set_result(why)
                return
            for one in asked:
                self._turns[one.work_class].append(one)
            self._changed.notify()

    # --- the thread ---

    def _run(self, local: LocalPipeline) -> None:
        while together := self._next():
            self._paint(local, together)
        for one in self._taken_out():
            one.say(EngineFailed(f"The engine of {self._named} was closed.", may_be_the_turn=False))

    def _next(self) -> list[_Waiting]:
        """The turns of the next batch, waited for; none: the engine is closed."""
        with self._changed:
            while not self._is_closed:
                # Who was passed by so often goes first once, and others go on between its steps.
                is_first = self._num_passed < _NUM_PASSED_MAX
                if found := self._taken(CLASSES if is_first else CLASSES[::-1]):
                    self._num_passed = self._num_passed + 1 if is_first and self._num_waiting else 0
                    return found
                self._changed.wait()
        return []

    def _taken(self, classes: Sequence[WorkClass] = CLASSES) -> list[_Waiting]:
        found: list[_Waiting] = []
        for one in classes:
            queue = self._turns[one]
            while queue and len(found) < self._batch_rows:
                if not (first := queue.popleft()).is_dropped:
                    found.append(first)
        return found

    def _paint(self, local: LocalPipeline, together: Sequence[_Waiting]) -> None:
        try:
            answers = self._painted(local, together)
        except GivenUp:
            answers = [EngineFailed(f"The engine of {self._named} was closed.", may_be_the_turn=False)] * len(together)
        except Exception as error:  # noqa: BLE001 (whatever a model raises ends its turns, not the service)
            answers = [EngineFailed(f"The model failed while it painted: {reason_of(error)}")] * len(together)
        for one, answer in zip(together, answers, strict=True):
            one.say(answer)

    def _goes_on(self, local: LocalPipeline, together: Sequence[_Waiting]) -> bool:
        """Whether a batch takes its next step, once more urgent turns that came meanwhile are painted."""
        more_urgent = CLASSES[: min(CLASSES.index(one.work_class) for one in together)]
        with self._changed:
            first = self._taken() if any(self._turns[one] for one in more_urgent) and not self._is_closed else []
        if first:
            self._paint(local.twin(), first)
        return not (self._is_closed or all(one.is_dropped for one in together))

    def _painted(self, local: LocalPipeline, together: Sequence[_Waiting]) -> list[MediaAnswer | NoAnswer]:
        turns = [one.turn for one in together]
        # A copy of the first row fills up: it needs no special case anywhere, and nobody reads it.
        filled = turns + turns[:1] * (self._batch_rows - len(turns))
        pictures, are_blackened = local.paint(
            [turn.text for turn in filled],
            [turn.seed for turn in filled],
            is_wanted=lambda: self._goes_on(local, together),
        )
        made = zip(turns, pictures, are_blackened, strict=False)
        return [self._answer(local, turn, picture, is_blackened=is_blackened) for turn, picture, is_blackened in made]

    def _answer(
        self, local: LocalPipeline, turn: MediaTurn, picture: Any, *, is_blackened: bool
    ) -> MediaAnswer | NoAnswer:
        if is_blackened:
            return TurnRefused("The pipeline's own filter found what it must not show.", status=400, by_policy=True)
        if picture is None:
            return EngineFailed(
                f"{self._named} painted pixels that are no numbers, and shows nothing. Lower guidance_scale, or hold "
                "the weights in float32 (dtype of the engine)."
            )
        cut = local.cut(turn.text)
        beside = {UNREAD: cut.unread} if cut else {}
        return MediaAnswer(content=_png(picture), replica=_REPLICA, note=cut.note if cut else "", attributes=beside)


def _png(picture: Any) -> bytes:
    """The file of a PIL image, always written in the same way."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=_COMPRESS_LEVEL, optimize=False)
    return file.getvalue()
