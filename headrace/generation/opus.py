"""Recordings as Opus, the sound of films and of pages: a tenth of a WAV's bytes. Needs PyAV (extra `clips`).

The samples are those that `media_bytes` finds: what a file's header says beside them reaches no decoder. The same WAV
gives the same bytes with the same PyAV: one thread, and a container that writes no dates and no random numbers.
"""

import io
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from headrace.engines.media_bytes import sound_of
from headrace.errors import InvalidInput

if TYPE_CHECKING:
    from av import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import OutputContainer

# What an Opus decoder gives whatever it was made from, and a packet's 20 ms of it.
SAMPLE_RATE = 48_000
_PACKET_FRAMES = 960
# Speech in one channel is transparent from about 32 kbit/s on.
BITS_A_CHANNEL = 40_000
# Names of raw samples: by bits, and whether they are floats.
_RAW = {(8, False): "u8", (16, False): "s16le", (24, False): "s24le", (32, False): "s32le"}
_RAW |= {(32, True): "f32le", (64, True): "f64le"}
# FFmpeg's flag of an encoder that leaves its own version out.
_BITEXACT = 1 << 23
BITEXACT = {"fflags": "+bitexact"}


def has_av() -> bool:
    return find_spec("av") is not None


def av_module() -> Any:
    """Raises: InvalidInput: PyAV is not installed."""
    try:
        import av
    except ImportError as error:
        raise InvalidInput("Films need PyAV, which is not installed. Run pip install 'headrace[clips]'.") from error
    return av


def ogg_opus(wav: bytes, *, bits_a_channel: int = BITS_A_CHANNEL, effort: int = 10) -> bytes:
    """A WAV as Ogg with Opus, which browsers play.

    Args:
        bits_a_channel: a second.
        effort: from 0, a third of the CPU time of 10, to 10; speech stays clear.

    Raises:
        EngineFailed: it is no WAV. InvalidInput: PyAV is not installed.
    """
    body = io.BytesIO()
    with av_module().open(body, "w", format="ogg", container_options=BITEXACT) as container:
        stream = add_opus(container, sound_of(wav).num_channels, bits_a_channel=bits_a_channel, effort=effort)
        mux_opus(container, stream, wav)
    return body.getvalue()


def add_opus(
    container: "OutputContainer", num_channels: int, *, bits_a_channel: int = BITS_A_CHANNEL, effort: int = 10
) -> "AudioStream":
    """A stream of one channel or two; more are mixed down."""
    num_channels = min(2, num_channels)
    stream = container.add_stream("libopus", rate=SAMPLE_RATE, options={"compression_level": str(effort)})
    stream.bit_rate = bits_a_channel * num_channels
    stream.layout = "mono" if num_channels == 1 else "stereo"
    make_bitexact(stream)
    return stream


def mux_opus(container: "OutputContainer", stream: "AudioStream", wav: bytes) -> None:
    """Encodes all of a WAV into a stream. Raises: as `ogg_opus`."""
    for frame in _frames(wav, stream.layout.name):
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def make_bitexact(stream: Any) -> None:
    stream.codec_context.thread_count = 1
    stream.codec_context.flags |= _BITEXACT


def _frames(wav: bytes, layout: str) -> "Iterator[AudioFrame]":
    av, sound = av_module(), sound_of(wav)
    raw = _RAW[sound.bits, sound.is_float]
    options = {"sample_rate": str(sound.sample_rate), "ch_layout": f"{sound.num_channels}C"}
    if sound.num_channels <= 2:
        options["ch_layout"] = "mono" if sound.num_channels == 1 else "stereo"
    resampler = av.AudioResampler("s16", layout, SAMPLE_RATE, frame_size=_PACKET_FRAMES)
    with av.open(io.BytesIO(sound.data), format=raw, options=options) as read:
        for frame in read.decode(audio=0):
            yield from resampler.resample(frame)
        yield from resampler.resample(None)
