"""Asks servers of pictures and speech as bulk generation does, with little patience."""

import asyncio
from dataclasses import replace
from typing import Any

from headrace.engines.asking import media_of
from headrace.engines.base import NoAnswer
from headrace.engines.deployment import Deployment
from headrace.engines.dispatch.settings import DispatchSettings
from headrace.engines.media import MediaAnswer, MediaEngine, MediaTurn
from headrace.engines.media_bytes import MediaFacts
from headrace.engines.openai.dialect import request_text
from headrace.engines.openai.media_client import OpenAIMediaEngine
from headrace.version_sets.media_settings import Picture, Speech
from headrace.version_sets.sets import Member
from simulation.servers.chat import Behaviour, ChatServer, serving
from simulation.servers.media import making, vllm_omni

KEY = "sk-planted-0123456789abcdef"
PICTURE = Picture(width=32, height=24)
SPEECH = Speech(voice="miller", duration_seconds_max=20)
SEEDED = {"seed": "{seed31}"}
Outcome = tuple[MediaAnswer, MediaFacts] | NoAnswer


def make_member(made: Picture | Speech = PICTURE) -> Member:
    return Member(
        role="painter" if isinstance(made, Picture) else "speaker",
        model_name="brush",
        model_version="1",
        weights_digest="d",
        weights_uri="",
        system_prompt="",
        user_template="{text}",
        picture=made if isinstance(made, Picture) else None,
        speech=made if isinstance(made, Speech) else None,
    )


def make_turn(text: str = "a wheel", seed: int = 2**40 + 7, **changes: Any) -> MediaTurn:
    return MediaTurn(unit="row-1", text=text, seed=seed, **changes)


def make_deployment(*, seconds: float = 20.0, **dispatch: Any) -> Deployment:
    patience: dict[str, Any] = {"num_attempts": 2, "dead_seconds_max": 1.0, "busy_seconds_max": 1.0}
    return Deployment(
        api_key=KEY,
        turn_seconds_max=2 * seconds,
        attempt_seconds_max=seconds,
        dispatch=replace(DispatchSettings(), **(patience | dispatch)),
    )


async def asked(engine: MediaEngine, member: Member, *turns: MediaTurn) -> list[Outcome]:
    try:
        return await media_of(engine, member, turns or (make_turn(),))
    finally:
        await engine.close()


def made_by(
    *behaviours: Behaviour,
    made: Picture | Speech = PICTURE,
    request: dict[str, Any] | None = None,
    turns: tuple[MediaTurn, ...] = (),
    allow_url_hosts: tuple[str, ...] = (),
    elsewhere: list[ChatServer] | None = None,
    **deployment: Any,
) -> tuple[list[Outcome], list[ChatServer]]:
    """What replicas that behave so make of the turns, and the replicas.

    Args: elsewhere: gets one server more, which is no replica.
    """

    async def main() -> tuple[list[Outcome], list[ChatServer]]:
        async with serving(*behaviours, making(vllm_omni)) as [*servers, other]:
            if elsewhere is not None:
                elsewhere.append(other)
            member = make_member(made)
            engine = OpenAIMediaEngine(
                member=member,
                model="served",
                base_urls=[server.url for server in servers],
                deployment=make_deployment(**deployment),
                request=request_text(request or {}),
                allow_url_hosts=allow_url_hosts,
            )
            return await asked(engine, member, *turns), servers

    return asyncio.run(main())
