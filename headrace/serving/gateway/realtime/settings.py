"""What a client may say of its call, read from `session.update` in both of OpenAI's spellings, and said back to it.

Both are read whichever a client speaks: the flat one of the beta (`turn_detection`, `modalities`) and the nested one
since (`audio.input.turn_detection`, `output_modalities`). What belongs to the version set (voice, model, temperature)
is said back as it is; tools and stored prompts, without which an answer would be another, are refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.serving.gateway.body_fields import encodable, flag, number, refuse_unless_nothing, whole, wrong
from headrace.serving.gateway.refusals import invalid
from headrace.voice.hearing import TurnDetection
from headrace.voice.rings import SAMPLE_RATE

_INSTRUCTIONS_CHARACTERS_MAX = 65_536
# What would change the answer, with the values that ask for nothing.
_UNKNOWN_HERE: dict[str, tuple[Any, ...]] = {"tools": ([],), "tool_choice": ("auto", "none"), "prompt": ()}
_PCM = ("pcm16", "audio/pcm")


@dataclass(frozen=True, kw_only=True, slots=True)
class CallSettings:
    """Attributes:
    detection: None: a turn ends where the client says (`input_audio_buffer.commit`).
    answers_turns: an answer begins when a turn has ended.
    is_interruptible: a turn's beginning cuts the answer.
    speaks: answers are audio with a transcript; otherwise text.
    """

    instructions: str = ""
    detection: TurnDetection | None = field(default_factory=TurnDetection)
    answers_turns: bool = True
    is_interruptible: bool = True
    speaks: bool = True

    def updated(self, session: Mapping[str, Any]) -> "CallSettings":
        """Raises: Refusal: something of it cannot be honoured; nothing is changed."""
        if session.get("type") not in (None, "realtime"):
            raise invalid("session.type must be realtime; transcriptions alone are not here.", param="session.type")
        refuse_unless_nothing(session, _UNKNOWN_HERE)
        heard, spoken = _of(session, "audio", "input"), _of(session, "audio", "output")
        for where, form in (
            ("input_audio_format", session.get("input_audio_format")),
            ("output_audio_format", session.get("output_audio_format")),
            ("audio.input.format", heard.get("format")),
            ("audio.output.format", spoken.get("format")),
        ):
            _check_format(where, form)
        changed = self
        if (text := session.get("instructions")) is not None:
            if not isinstance(text, str) or len(text) > _INSTRUCTIONS_CHARACTERS_MAX:
                raise wrong("instructions", f"a text of at most {_INSTRUCTIONS_CHARACTERS_MAX:,} characters", text)
            changed = replace(changed, instructions=encodable("instructions", text))
        changed = replace(changed, speaks=speaks(session, otherwise=changed.speaks))
        for said in (session, heard):
            if "turn_detection" in said:
                changed = changed._detecting(said["turn_detection"])
        return changed

    def _detecting(self, said: Any) -> "CallSettings":
        if said is None or said is False:
            return replace(self, detection=None)
        if not isinstance(said, dict) or said.get("type", "server_vad") not in ("server_vad", "semantic_vad"):
            raise wrong("turn_detection", "null, or an object of type server_vad", said)
        known = TurnDetection()
        threshold = number(said, "threshold", 0, 1)
        prefix = whole(said, "prefix_padding_ms", 0, 5_000)
        silence = whole(said, "silence_duration_ms", 50, 10_000)
        return replace(
            self,
            detection=TurnDetection(
                threshold=known.threshold if threshold is None else threshold,
                prefix_ms=known.prefix_ms if prefix is None else prefix,
                silence_ms=known.silence_ms if silence is None else silence,
            ),
            answers_turns=said.get("create_response") is None or flag(said, "create_response"),
            is_interruptible=said.get("interrupt_response") is None or flag(said, "interrupt_response"),
        )

    def told(self, *, session: str, model: str, voice: str, is_beta: bool) -> dict[str, Any]:
        """The session as events show it: what is, and not what was wished."""
        detection = self.detection and {
            "type": "server_vad",
            "threshold": self.detection.threshold,
            "prefix_padding_ms": self.detection.prefix_ms,
            "silence_duration_ms": self.detection.silence_ms,
            "create_response": self.answers_turns,
            "interrupt_response": self.is_interruptible,
        }
        body: dict[str, Any] = {
            "id": session,
            "object": "realtime.session",
            "model": model,
            "instructions": self.instructions,
            "tools": [],
            "tool_choice": "none",
        }
        if is_beta:
            return body | {
                "modalities": ["audio", "text"] if self.speaks else ["text"],
                "voice": voice,
                "input_audio_format": "pcm16",
                "output_audio_format": "pcm16",
                "input_audio_transcription": {"model": model},
                "turn_detection": detection,
            }
        form = {"type": "audio/pcm", "rate": SAMPLE_RATE}
        heard = {"format": form, "transcription": {"model": model}, "turn_detection": detection}
        return body | {
            "type": "realtime",
            "output_modalities": ["audio"] if self.speaks else ["text"],
            "audio": {"input": heard, "output": {"format": form, "voice": voice}},
        }


def speaks(said: Mapping[str, Any], *, otherwise: bool) -> bool:
    """Whether `modalities` or `output_modalities` ask for audio. Raises: Refusal."""
    for name in ("modalities", "output_modalities"):
        if (wanted := said.get(name)) is None:
            continue
        if not isinstance(wanted, list) or not wanted or any(one not in ("text", "audio") for one in wanted):
            raise wrong(name, 'a list of "text" and "audio"', wanted)
        return "audio" in wanted
    return otherwise


def _of(body: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The object there; empty: there is none. Raises: Refusal: there is something else."""
    found: Any = body
    for depth, name in enumerate(path, 1):
        found = found.get(name)
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise wrong(".".join(path[:depth]), "an object", found)
    return found


def _check_format(where: str, form: Any) -> None:
    if form is None:
        return
    kind, rate = (form.get("type"), form.get("rate", SAMPLE_RATE)) if isinstance(form, dict) else (form, SAMPLE_RATE)
    if kind not in _PCM or rate != SAMPLE_RATE:
        raise invalid(
            f"{where} must be PCM of 16 bits at {SAMPLE_RATE:,} samples a second (pcm16, or audio/pcm of that rate); "
            "convert other audio before it is sent.",
            param=where,
            code="unsupported_parameter",
        )
