"""OpenAI's requests for a picture and for a spoken text, as far as a service with a fixed version set can use them.

What the version set decides (size, voice, file type) may be asked for only as it is, which is checked once the unit has
its set: `headrace.serving.gateway.media_units`. Wishes for a finer or bolder picture are passed over, and the answer's
`X-Headrace-Ignored` names them; everything else that would change the answer is refused, as for texts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from headrace.engines.media_chain import MediaWish
from headrace.serving.gateway.body_fields import encodable, number, object_of, refuse_unless_nothing, whole, wrong
from headrace.serving.gateway.refusals import Refusal, invalid

# OpenAI's own limit for a spoken text, in characters.
INPUT_CHARACTERS_MAX = 4096
SPEED_MIN, SPEED_MAX = 0.25, 4
# The set's own voice, for sets whose voice has no name.
DEFAULT_VOICE = "default"
PICTURE_TYPES = ("png", "jpeg", "webp")
SOUND_TYPES = ("wav", "pcm")
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")

# As `openai_bodies.ASKS_FOR_NOTHING`.
PICTURE_ASKS_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "stream": (False,),
    "partial_images": (0,),
    "negative_prompt": ("",),
    "num_inference_steps": (),
    "guidance_scale": (),
    "true_cfg_scale": (),
    "frame_count": (1,),
    "svg": (),
}
SPEECH_ASKS_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    "stream": (False,),
    "stream_format": ("audio",),
    "instructions": ("",),
}
PICTURE_IGNORED = (
    "background",
    "complexity",
    "moderation",
    "output_compression",
    "quality",
    "safety_identifier",
    "style",
    "user",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaAsk(MediaWish):
    """A client's request to a service that paints or speaks. None: not given.

    `size`: width and height in pixels. `file_type`: one of `PICTURE_TYPES` or `SOUND_TYPES`. `ignored`: fields that are
    passed over.
    """

    kind: Literal["image", "speech"]
    model: str
    seed: int | None = None
    size: tuple[int, int] | None = None
    voice: str | None = None
    file_type: str | None = None
    ignored: tuple[str, ...] = ()
    stream: ClassVar[bool] = False


def picture_ask(raw: bytes) -> MediaAsk:
    """Raises: Refusal: the body is not a request for a picture that can be answered here."""
    body = object_of(raw)
    prompt = _said(body, "prompt")
    refuse_unless_nothing(body, PICTURE_ASKS_FOR_NOTHING)
    if body.get("response_format") == "url":
        raise invalid(
            "response_format must be b64_json: this service keeps no pictures that an address could name.",
            param="response_format",
            code="unsupported_parameter",
        )
    _one_of(body, "response_format", ("b64_json",))
    return MediaAsk(
        kind="image",
        model=_model(body),
        prompt=prompt,
        seed=_seed(body),
        size=_size(body.get("size")),
        file_type=_one_of(body, "output_format", PICTURE_TYPES),
        ignored=tuple(field for field in PICTURE_IGNORED if body.get(field) is not None),
    )


def speech_ask(raw: bytes) -> MediaAsk:
    """Raises: Refusal: the body is not a text to speak that can be answered here."""
    body = object_of(raw)
    text = _said(body, "input")
    if len(text) > INPUT_CHARACTERS_MAX:
        raise invalid(
            f"input may have {INPUT_CHARACTERS_MAX} characters, got {len(text)}; send it in parts.",
            param="input",
            code="string_above_max_length",
        )
    refuse_unless_nothing(body, SPEECH_ASKS_FOR_NOTHING)
    return MediaAsk(
        kind="speech",
        model=_model(body),
        prompt=text,
        speed=number(body, "speed", SPEED_MIN, SPEED_MAX),
        seed=_seed(body),
        voice=_voice(body.get("voice")),
        file_type=_one_of(body, "response_format", SOUND_TYPES),
    )


def _said(body: Mapping[str, Any], field: str) -> str:
    text = body.get(field)
    if not isinstance(text, str) or not text.strip():
        raise wrong(field, "a text that is not blank", text)
    return encodable(field, text)


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise wrong("model", "the name of a model", model)
    return encodable("model", model)


def _seed(body: Mapping[str, Any]) -> int | None:
    return whole(body, "seed", -(1 << 63), (1 << 63) - 1)


def _one_of(body: Mapping[str, Any], field: str, words: tuple[str, ...]) -> str | None:
    value = body.get(field)
    if value is not None and (not isinstance(value, str) or value not in words):
        raise _refused(field, " or ".join(words), value)
    return value


def _size(value: Any) -> tuple[int, int] | None:
    if value is None or value == "auto":
        return None
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise wrong("size", "auto, or the picture's width and height such as 512x512", value)
    return int(found[1]), int(found[2])


def _voice(value: Any) -> str | None:
    name = value.get("id") if isinstance(value, dict) else value
    if name is None and value is None:
        return None
    if not isinstance(name, str) or not name:
        raise wrong("voice", 'the name of a voice, or {"id": name}', value)
    return encodable("voice", name)


def _refused(field: str, wanted: str, got: Any) -> Refusal:
    """Short words of a client are repeated: a file type is no prompt, and its user looks for it."""
    if isinstance(got, str) and got.isascii() and got.isalnum() and len(got) <= 8:
        return invalid(f"{field} must be {wanted}, got {got!r}.", param=field, code="unsupported_parameter")
    return wrong(field, wanted, got)
