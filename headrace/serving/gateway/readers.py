"""Who reads the requests of which path: a service of each kind has its own."""

from collections.abc import Callable
from functools import partial

from headrace.serving.gateway.openai_bodies import Ask, chat_ask, text_ask
from headrace.serving.gateway.openai_media_bodies import MediaAsk, picture_ask, speech_ask
from headrace.serving.service import Service
from headrace.version_sets.media_settings import MemberKind

Reader = Callable[[bytes], Ask | MediaAsk]


def readers_of(service: Service) -> dict[MemberKind, dict[str, Reader]]:
    """Who reads the requests of each path, by kind of service."""
    return {
        "text": {
            "/v1/chat/completions": partial(chat_ask, num_messages_max=service.limits.num_messages_max),
            "/v1/completions": text_ask,
        },
        "image": {"/v1/images/generations": picture_ask},
        "speech": {"/v1/audio/speech": speech_ask},
    }
