"""Answers a unit that paints or speaks, once it has its version set: checks what only the set knows, makes, sends."""

import time

from headrace.engines.base import EngineFailed
from headrace.engines.media_chain import MediaChain
from headrace.serving.gateway.http_messages import JSON, Headers, Request
from headrace.serving.gateway.openai_media_answers import picture_answer, sound_answer
from headrace.serving.gateway.openai_media_bodies import DEFAULT_VOICE, MediaAsk
from headrace.serving.gateway.prepared_sets import AnyChain
from headrace.serving.gateway.refusals import Refusal, invalid
from headrace.serving.gateway.unit import Unit


async def answer_medium(unit: Unit, ask: MediaAsk, request: Request, headers: Headers) -> None:
    """Makes what was asked for and sends it.

    Raises:
        Refusal: the client wants another size, voice or file type than the unit's set has.
        TurnRefused, EngineBusy, EngineFailed: as `MediaChain.make`.
    """
    chain = check_wishes(ask, unit.loaded.chain)
    made = await chain.make(ask, unit=unit.name, seed=unit.seed, report=unit.steps.append)
    if ask.kind == "image":
        if ask.file_type and made.facts.media_type != f"image/{ask.file_type}":
            raise EngineFailed(f"{chain.maker.member.role} made {made.facts.media_type}, and another type when tried.")
        body, kind, more = picture_answer(made, created=int(unit.started_at)), JSON, []
    else:
        body, kind, more = sound_answer(made, is_pcm=ask.file_type == "pcm")
    unit.finish, unit.answered = "stop", time.monotonic() - unit.started
    await request.respond(200, body, [*headers, *more], kind=kind)


def fits(ask: MediaAsk, chain: AnyChain) -> bool:
    """Whether a set has the size, voice and file type that the client wants."""
    try:
        check_wishes(ask, chain)
    except Refusal:
        return False
    return True


def check_wishes(ask: MediaAsk, chain: AnyChain) -> MediaChain:
    """Returns the chain. Raises: Refusal: the client wants another size, voice or file type than the set has."""
    assert isinstance(chain, MediaChain), "a gateway loads sets of its service's kind alone"
    member, of_set = chain.maker.member, f"of version set {chain.id[:12]}"
    if member.picture:
        size = f"{member.picture.width}x{member.picture.height}"
        if ask.size not in (None, (member.picture.width, member.picture.height)):
            raise invalid(
                f"size must be auto or {size}, the size {of_set}, got {ask.size[0]}x{ask.size[1]}.", param="size"
            )
        file_type = chain.maker.facts.media_type.removeprefix("image/")
        if ask.file_type not in (None, file_type):
            raise invalid(
                f"output_format must be {file_type}, what the painter {of_set} makes, got {ask.file_type}.",
                param="output_format",
            )
    if member.speech and ask.voice not in (None, DEFAULT_VOICE, member.speech.voice):
        named = f"{DEFAULT_VOICE} or {member.speech.voice!r}" if member.speech.voice else DEFAULT_VOICE
        raise invalid(
            f"voice must be {named}, the voice {of_set}, got another of {len(ask.voice)} characters.", param="voice"
        )
    return chain
