"""Rows from engines: the thin layer by which bulk generation, which is synchronous, uses a chain of roles.

It adds patience and judgement. A row without an answer is that row's error only if the chain answers others; otherwise
the run ends, committed rows stay, and a later run continues. So an outage never fills a day with errors.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self

from headrace.engines.asking import close
from headrace.engines.base import Answer, Engine, EngineBusy, EngineFailed, NoAnswer, TurnRefused
from headrace.engines.chain import Conversation, LoadedRole, RoleChain
from headrace.engines.deployment import Deployment
from headrace.engines.event_loop import LoopThread
from headrace.engines.openai.meaning import COUNT_MAX
from headrace.engines.registry import EngineKey, engine_key, open_engine
from headrace.errors import EngineUnavailable
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import Member, VersionSet

# The control turn that tests whether a chain answers at all, and its most tokens.
_CONTROL_PROMPT = "Say one word."
_CONTROL_TOKENS_MAX = 16


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One row to make. All randomness of its output comes from `seed`."""

    row_id: str
    prompt: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class GenerationResult:
    """One row's output. `length`: the token limit cut it off; `error`: there is no output, and `error` says why.

    Counts are None if unknown; `note` says what was wrong with invalid ones.
    """

    text: str
    num_prompt_tokens: int | None
    num_output_tokens: int | None
    finish_reason: Literal["stop", "length", "error"]
    error: str | None = None
    note: str | None = None


class Maker(Protocol):
    """Loaded models of one version set, whatever they make.

    `deterministic`: a request gives the same bytes alone and in any batch, on the same kind of machine. `build`: its
    library versions here, in the form of `EngineSpec.whole_build`.
    """

    @property
    def name(self) -> str: ...

    @property
    def build(self) -> str: ...

    @property
    def deterministic(self) -> bool: ...

    def close(self) -> None: ...


class RowMaker(Maker, Protocol):
    """Makes rows of text."""

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        """One result for each request, in order. A failed row is an `error` result. If the engine cannot tell which row
        failed, it raises any exception, and the caller tries the rows one by one.

        Raises:
            EngineUnavailable: no row can be made now; a later run continues here.
        """
        ...


class ChainRows:
    """Rows of a chain: every role answers a whole batch before the next one begins."""

    def __init__(self, chain: RoleChain) -> None:
        self._chain = chain
        self._loop = LoopThread()
        self.name = chain.roles[-1].engine.name
        self.build = builds(role.engine.build for role in chain.roles)
        self.deterministic = all(role.engine.deterministic for role in chain.roles)

    @classmethod
    def of(cls, member: Member, engine: Engine) -> Self:
        """Makes rows with one role alone."""
        return cls(RoleChain(id="", roles=(LoadedRole(member=member, engine=engine),)))

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        return self._loop.run(self._generated(requests))

    def close(self) -> None:
        """Closes every engine, also if one of them fails at it."""
        with ExitStack() as ending:
            ending.callback(self._loop.close)
            # Roles may share an engine; closing it twice is harmless.
            for role in self._chain.roles:
                ending.callback(lambda engine=role.engine: self._loop.run(close(engine)))

    async def _generated(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        asked = [(request.row_id, Conversation.of(request.prompt), request.seed) for request in requests]
        answers = await self._chain.answer_together(asked)
        await stop_if_away([one for one in answers if isinstance(one, NoAnswer)], self._answers_others)
        return [_result(answer) for answer in answers]

    async def _answers_others(self) -> bool:
        [answer] = await self._chain.answer_together(
            [("control", Conversation.of(_CONTROL_PROMPT, max_tokens=_CONTROL_TOKENS_MAX), 0)]
        )
        return isinstance(answer, Answer)


def open_rows(version_set: VersionSet, objects: ObjectStore, deployment: Deployment) -> ChainRows:
    """The loaded engines of a bulk set's roles. Roles that differ only in their prompts share one.

    Raises:
        InvalidInput, HandoffMissing, HandoffCorrupt, EngineUnavailable: see `open_engine`.
    """
    loaded: dict[EngineKey, Engine] = {}
    engines: dict[str, Engine] = {}
    # The set's order, not the present campaign file's, since the set decides the rows. One writer has no chain.
    order = version_set.chain or tuple(member.role for member in version_set.members)
    order = tuple(role for role in order if version_set.member(role).kind == "text")
    for role in order:
        member, spec = version_set.member(role), version_set.engine_of(role)
        key = engine_key(member, spec)
        if key not in loaded:
            loaded[key] = open_engine(member, spec, objects, deployment)
        engines[role] = loaded[key]
    return ChainRows(RoleChain.of(version_set, order, engines))


def builds(of_roles: Iterable[str]) -> str:
    """The builds of a chain's engines as one text; a single role's is unchanged."""
    return "; ".join(dict.fromkeys(of_roles))


async def stop_if_away(unanswered: Sequence[NoAnswer], answers_others: Callable[[], Awaitable[bool]]) -> None:
    """Args:
        unanswered: of a batch, what has no answer.
        answers_others: whether the engine answers a control turn.

    Raises: EngineUnavailable: no turn of the batch is at fault: none can be answered now.
    """
    for answer in unanswered:
        if isinstance(answer, EngineBusy) or (isinstance(answer, EngineFailed) and not answer.may_be_the_turn):
            raise EngineUnavailable(str(answer)) from answer
    at_fault = [one for one in unanswered if not (isinstance(one, TurnRefused) and one.by_policy)]
    if at_fault and not await answers_others():
        raise EngineUnavailable(str(at_fault[0])) from at_fault[0]


def failed(error: BaseException | str) -> GenerationResult:
    """The result for a row without output."""
    reason = error_text(error)
    return GenerationResult(text="", num_prompt_tokens=0, num_output_tokens=0, finish_reason="error", error=reason)


def error_text(error: BaseException | str) -> str:
    """What a row's record says of an error, in a form that a table can hold."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return text.encode(errors="replace").decode()[:500]


def storable(result: GenerationResult) -> GenerationResult:
    """The result in a form that a table can hold, from any engine: a row that cannot be stored becomes an error, so its
    neighbours can be stored; an invalid count becomes None, with a note."""
    if not isinstance(result.text, str):
        return failed(f"the output is of type {type(result.text).__name__}, not text")
    try:
        result.text.encode()
    except UnicodeEncodeError as error:
        return failed(f"the output cannot be written as UTF-8: {error.reason} at character {error.start}")
    if result.finish_reason not in ("stop", "length", "error"):
        return failed(f"the output ended with {result.finish_reason!r}, which is none of stop, length and error")
    if result.finish_reason == "error":
        # Drops its text, as for any error, and always gives a reason.
        return failed(result.error or "the engine gave no reason")
    for name in ("num_prompt_tokens", "num_output_tokens"):
        count = getattr(result, name)
        if count is not None and not (type(count) is int and 0 <= count <= COUNT_MAX):
            note = f"{name} is {str(count)[:40]}: not counted"
            result = replace(result, **{name: None}, note=f"{result.note}; {note}" if result.note else note)
    return result


def _result(answer: Answer | NoAnswer) -> GenerationResult:
    if not isinstance(answer, Answer):
        return failed(str(answer))
    if answer.finish_reason == "content_filter":
        return failed("the server ended the output with 'content_filter'")
    return GenerationResult(
        text=answer.text.strip(),
        num_prompt_tokens=answer.num_prompt_tokens,
        num_output_tokens=answer.num_output_tokens,
        finish_reason=answer.finish_reason,
        note=answer.note or None,
    )
