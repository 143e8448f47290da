"""A client's item: who says it, and its text."""

import re
from typing import Any

from headrace.serving.gateway.body_fields import encodable, wrong
from headrace.serving.gateway.refusals import invalid
from headrace.voice.turns import Speaker

_ID = re.compile(r"[!-~]{1,64}")
_SPEAKERS: tuple[Speaker, ...] = ("user", "assistant", "system")
_TEXTS = ("input_text", "output_text", "text")


def item_text(item: Any) -> tuple[str, Speaker, str]:
    """Its id, empty if it has none; who says it; what.

    Raises: Refusal: it is no message of text.
    """
    if not isinstance(item, dict):
        raise wrong("item", "an object", item)
    if item.get("type", "message") != "message":
        raise invalid("item.type must be message: this service calls no functions.", param="item.type")
    name, by, content = item.get("id"), item.get("role"), item.get("content")
    if name is not None and not (isinstance(name, str) and _ID.fullmatch(name)):
        raise wrong("item.id", "1 to 64 visible ASCII characters", name)
    if by not in _SPEAKERS:
        raise wrong("item.role", "user, assistant or system", by)
    if not isinstance(content, list):
        raise wrong("item.content", "a list of parts", content)
    texts: list[str] = []
    for place, part in enumerate(content):
        where = f"item.content[{place}]"
        if not isinstance(part, dict):
            raise wrong(where, "an object", part)
        if part.get("type") not in _TEXTS:
            raise invalid(
                f"{where} must be of type input_text (output_text of the assistant's); speech is sent with "
                "input_audio_buffer.append.",
                param=where,
            )
        text = part.get("text")
        if not isinstance(text, str):
            raise wrong(f"{where}.text", "a text", text)
        texts.append(encodable(f"{where}.text", text))
    said = " ".join(texts).strip()
    if not said:
        raise invalid("item.content must have a text in it, got none.", param="item.content")
    return name or "", by, said
