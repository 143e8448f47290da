"""Both clients of OpenAI's protocol behind one question: what does this answer mean?"""

import asyncio
from dataclasses import dataclass
from typing import Any

from headrace.errors import EngineUnavailable
from headrace.generation.engines.base import GenerationRequest
from headrace.generation.engines.openai_http import OpenAIHttpEngine
from headrace.rollout.version_sets import EngineSpec
from headrace.serving.dispatch.settings import DispatchSettings
from headrace.serving.engines.base import EngineBusy, EngineFailed, TurnRefused
from headrace.serving.engines.openai_server import OpenAIServerEngine
from headrace.serving.service import Limits
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
    options: dict[str, Any] = {"api_key": KEY, "num_attempts": 2, "first_wait_seconds": 0.01, "request_seconds": 60.0}
    spec = EngineSpec(name="openai_http", base_url=url, model="served")
    engine = OpenAIHttpEngine(make_member(), spec, **(options | changes))
    try:
        (result,) = engine.generate([GenerationRequest(row_id="r", prompt="a", seed=1)])
    except EngineUnavailable as error:
        return Not(kind="later", why=str(error))
    finally:
        engine.close()
    if result.finish_reason == "error":
        return Not(kind="given up", why=result.error or "")
    return Made(
        text=result.text,
        finish=result.finish_reason,
        num_prompt_tokens=result.num_prompt_tokens,
        num_output_tokens=result.num_output_tokens,
    )


def by_live(url: str, *, stream: bool, **changes: Any) -> Made | Not:
    async def ask() -> Made:
        options: dict[str, Any] = {
            "api_key": KEY,
            "limits": Limits(unit_seconds_max=60.0, first_piece_seconds_max=60.0),
            "settings": DispatchSettings(num_attempts=2, dead_seconds_max=0.3, busy_seconds_max=0.3),
        }
        engine = OpenAIServerEngine(model="served", base_urls=[url], **(options | changes))
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
