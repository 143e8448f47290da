"""Both clients of OpenAI's protocol behind one question: what does this answer mean?"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from headrace.engines.base import EngineBusy, EngineFailed, TurnRefused
from headrace.engines.deployment import Deployment
from headrace.engines.dispatch.settings import DispatchSettings
from headrace.engines.openai.client import OpenAIEngine
from headrace.engines.rows import ChainRows, GenerationRequest
from headrace.errors import EngineUnavailable
from headrace.version_sets.sets import Member
from tests.generation.builders import make_member
from tests.serving.engines.turns import make_turn

KEY = "sk-planted-0123456789abcdef"


@dataclass(frozen=True, kw_only=True)
class Made:
    text: str
    finish: str = "stop"
    num_prompt_tokens: int | None = 5
    num_output_tokens: int | None = 3


@dataclass(frozen=True, kw_only=True)
class Not:
    """`kind`: refused, given up (at every attempt), later (nothing is wrong with it). `why`: what is told."""

    kind: str
    why: str


def by_bulk(url: str, **changes: Any) -> Made | Not:
    options: dict[str, Any] = {"api_key": KEY, "request_seconds": 60.0}
    rows = make_rows(url, **(options | changes))
    try:
        (result,) = rows.generate([GenerationRequest(row_id="r", prompt="a", seed=1)])
    except EngineUnavailable as error:
        return Not(kind="later", why=str(error))
    finally:
        rows.close()
    if result.finish_reason == "error":
        return Not(kind="given up", why=result.error or "")
    return Made(
        text=result.text,
        finish=result.finish_reason,
        num_prompt_tokens=result.num_prompt_tokens,
        num_output_tokens=result.num_output_tokens,
    )


def make_rows(
    *urls: str,
    member: Member | None = None,
    special_tokens: Sequence[str] = (),
    request_seconds: float = 60.0,
    api_key: str | None = None,
    **dispatch: Any,
) -> ChainRows:
    """Rows of a server, with little patience."""
    patience: dict[str, Any] = {"num_attempts": 2, "dead_seconds_max": 1.0, "busy_seconds_max": 1.0}
    bulk = Deployment.of_bulk(api_key=api_key, request_seconds=request_seconds)
    engine = OpenAIEngine(
        model="served",
        base_urls=urls,
        deployment=replace(bulk, dispatch=DispatchSettings(**(patience | dispatch))),
        special_tokens=special_tokens,
    )
    return ChainRows.of(member or make_member(), engine)


def by_live(url: str, *, stream: bool, **changes: Any) -> Made | Not:
    async def ask() -> Made:
        options: dict[str, Any] = {
            "api_key": KEY,
            "turn_seconds_max": 60.0,
            "attempt_seconds_max": 60.0,
            "first_piece_seconds_max": 60.0,
            "dispatch": DispatchSettings(num_attempts=2, dead_seconds_max=1.0, busy_seconds_max=1.0),
        }
        engine = OpenAIEngine(model="served", base_urls=[url], deployment=Deployment(**(options | changes)))
        try:
            if not stream:
                answer = await engine.answer(make_turn())
                counts = answer.num_prompt_tokens, answer.num_output_tokens
                return Made(
                    text=answer.text.strip(),
                    finish=answer.finish_reason,
                    num_prompt_tokens=counts[0],
                    num_output_tokens=counts[1],
                )
            pieces = [piece async for piece in engine.stream(make_turn())]
            last = pieces[-1]
            return Made(
                text="".join(piece.text for piece in pieces).strip(),
                finish=last.finish_reason or "",
                num_prompt_tokens=last.num_prompt_tokens,
                num_output_tokens=last.num_output_tokens,
            )
        finally:
            await engine.close()

    try:
        return asyncio.run(ask())
    except TurnRefused as error:
        return Not(kind="refused", why=str(error))
    except EngineBusy as error:
        return Not(kind="later", why=str(error))
    except EngineFailed as error:
        return Not(kind="given up", why=str(error))
