"""The `openai_http` engine of roles that hear: `POST /audio/transcriptions`, a WAV each time, the text back in JSON."""

import os
from collections.abc import Sequence

import numpy as np

from headrace.engines.base import Answer
from headrace.engines.deployment import Deployment
from headrace.engines.hearing import SAMPLE_RATE, HearingEngine, HearingTurn
from headrace.engines.openai.media_attempt import HearingAttempt
from headrace.engines.openai.media_client import WholeClient
from headrace.engines.sound_samples import wav_of
from headrace.errors import InvalidInput
from headrace.version_sets.sets import Member

# What nobody says in one turn, in any language.
_TRANSCRIPT_BYTES_MAX = 262_144


class OpenAIHearingEngine(WholeClient, HearingEngine):
    name = "openai_http"

    def __init__(
        self, *, member: Member, model: str, base_urls: Sequence[str], deployment: Deployment | None = None
    ) -> None:
        """Does not connect yet. Raises: InvalidInput: as `ServerClient`."""
        if member.hearing is None:
            raise InvalidInput(f"{member.role!r} makes {member.kind}, and is asked to hear.")
        super().__init__(model=model, base_urls=base_urls, deployment=deployment)
        self._language = member.hearing.language

    async def hear(self, turn: HearingTurn) -> Answer:
        boundary = os.urandom(16).hex()
        body = self._body(turn, boundary)

        def attempt(base_url: str) -> HearingAttempt:
            return HearingAttempt(
                self._open_session(),
                base_url,
                body,
                boundary=boundary,
                item_bytes_max=_TRANSCRIPT_BYTES_MAX,
                mask=self._mask,
                request_id=turn.unit,
            )

        made, replica, note = await self._made(attempt)
        return Answer(text=made.content.decode(), finish_reason="stop", replica=replica, note=note)

    def _body(self, turn: HearingTurn, boundary: str) -> bytes:
        """A form of several parts, as every server of this path takes it."""
        fields = {"model": self._model, "language": self._language, "response_format": "json", "temperature": "0"}
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        head = 'Content-Disposition: form-data; name="file"; filename="turn.wav"\r\nContent-Type: audio/wav'
        wav = wav_of(np.frombuffer(turn.pcm, "<i2").astype(np.float32) / 32767, SAMPLE_RATE)
        parts += [f"--{boundary}\r\n{head}\r\n\r\n".encode(), wav, f"\r\n--{boundary}--\r\n".encode()]
        return b"".join(parts)
