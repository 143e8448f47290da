"""How a member that paints, speaks or hears makes its output: what stands in a version set in place of decoding."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len

from headrace.errors import InvalidInput

MemberKind = Literal["text", "image", "speech", "transcript"]

_PIXELS_MAX = 8192
_STEPS_MAX = 1000
# Models are used with 1 to 30; far beyond, pixels run out of what a number can hold.
_GUIDANCE_MAX = 1000


@dataclass(frozen=True, kw_only=True)
class Picture:
    """How a picture is painted."""

    width: Annotated[int, Ge(1), Le(_PIXELS_MAX)]
    """Pixels; a picture of another size is its row's error."""
    height: Annotated[int, Ge(1), Le(_PIXELS_MAX)]
    """Pixels."""
    num_inference_steps: Annotated[int, Ge(1), Le(_STEPS_MAX)] | None = None
    """Denoising steps; null: the engine's or the server's own number."""
    guidance_scale: Annotated[float, Ge(0), Le(_GUIDANCE_MAX)] | None = None
    """How strongly the text steers; 1: not beyond the model's own reading of it; null: the engine's or server's own."""
    negative_prompt: str = ""
    """What the picture should not show; not every engine takes it."""
    scheduler: str = ""
    """The class of the noise schedule; empty: the model's own."""

    def __post_init__(self) -> None:
        for name, most in (("width", _PIXELS_MAX), ("height", _PIXELS_MAX), ("num_inference_steps", _STEPS_MAX)):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise InvalidInput(f"Picture needs {name} from 1 to {most}, got {name}={value!r}.")
        if self.guidance_scale is not None:
            # YAML's `3` and `3.0` mean the same, and must give the same id.
            object.__setattr__(self, "guidance_scale", float(self.guidance_scale))
            if not 0 <= self.guidance_scale <= _GUIDANCE_MAX:
                raise InvalidInput(
                    f"Picture needs guidance_scale from 0 to {_GUIDANCE_MAX}, got "
                    f"guidance_scale={self.guidance_scale!r}: models are used with 1 to 30."
                )


@dataclass(frozen=True, kw_only=True)
class Speech:
    """How a text is spoken."""

    voice: str = ""
    """One of the model's voices; empty: its only or first one."""
    speed: Annotated[float, Gt(0), Ge(0.25), Le(4)] = 1.0
    """1: as the voice speaks by itself."""
    sample_rate: Annotated[int, Ge(8000), Le(192_000)] | None = None
    """Samples a second; null: the engine's or server's own; another one is its row's error."""
    duration_seconds_max: Annotated[float, Gt(0)] = 60.0
    """A longer recording is its row's error."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "speed", float(self.speed))
        object.__setattr__(self, "duration_seconds_max", float(self.duration_seconds_max))
        if not 0.25 <= self.speed <= 4:
            raise InvalidInput(f"Speech needs speed from 0.25 to 4, got speed={self.speed!r}.")
        if self.sample_rate is not None and not 8000 <= self.sample_rate <= 192_000:
            raise InvalidInput(f"Speech needs sample_rate from 8000 to 192000, got sample_rate={self.sample_rate!r}.")
        if not 0 < self.duration_seconds_max < float("inf"):
            raise InvalidInput(
                f"Speech needs duration_seconds_max > 0, got duration_seconds_max={self.duration_seconds_max!r}."
            )


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """How speech is heard: what a member makes a transcript with."""

    language: Annotated[str, Len(2, 16)] = "en"
    """The language that is spoken, as a code such as `en`; a model that knows one language takes that one alone."""
    beam_size: Annotated[int, Ge(1), Le(16)] = 1
    """How many transcripts are weighed against each other; 1: the likeliest word each time, the fastest."""

    def __post_init__(self) -> None:
        if not 2 <= len(self.language) <= 16 or not self.language.isascii():
            raise InvalidInput(f"Hearing needs language as a code such as en, got language={self.language!r}.")
        if not 1 <= self.beam_size <= 16:
            raise InvalidInput(f"Hearing needs beam_size from 1 to 16, got beam_size={self.beam_size!r}.")


def kind_of(picture: Picture | None, speech: Speech | None, hearing: Hearing | None) -> MemberKind:
    """What somebody with these settings makes, of which at most one is given."""
    return "image" if picture else "speech" if speech else "transcript" if hearing else "text"
