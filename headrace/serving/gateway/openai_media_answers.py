"""A picture or a recording in OpenAI's shape: a picture as JSON with Base64, a recording as its bytes alone."""

from base64 import b64encode

from headrace.engines.media_bytes import sound_of
from headrace.engines.media_chain import Made
from headrace.serving.gateway.http_messages import Headers, json_body

_WAV = (b"content-type", b"audio/wav")
_PCM = (b"content-type", b"audio/pcm")


def picture_answer(made: Made, *, created: int) -> bytes:
    """`usage` is null: pictures are not counted in tokens."""
    picture = b64encode(made.content)
    facts = made.facts
    ends = {
        "output_format": facts.media_type.removeprefix("image/"),
        "size": f"{facts.width}x{facts.height}",
        "usage": None,
    }
    # Put together as bytes: the JSON encoder would look at each of a picture's million characters.
    before = b'{"created":%d,"data":[{"b64_json":"' % created
    return before + picture + b'","revised_prompt":' + json_body(made.asked) + b"}]," + json_body(ends)[1:]


def sound_answer(made: Made, *, is_pcm: bool) -> tuple[bytes, tuple[bytes, bytes], Headers]:
    """The body, its type, and headers that say what raw samples do not."""
    if not is_pcm:
        return made.content, _WAV, []
    # Imported here: it imports numpy, and most services speak nothing.
    from headrace.engines.sound_samples import levels_of, mono_of, pcm_of

    sound = sound_of(made.content)
    # As they are where they are what is wanted: through floats and back, the last bit may move.
    is_plain = (sound.bits, sound.num_channels, sound.is_float) == (16, 1, False)
    samples = bytes(sound.data) if is_plain else pcm_of(mono_of(levels_of(sound)))
    return samples, _PCM, [(b"x-headrace-sample-rate", b"%d" % sound.sample_rate)]
