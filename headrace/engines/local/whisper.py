"""Whisper on CTranslate2 (faster-whisper) in this process: English speech becomes text, one recording after another.

The weights are a directory as CTranslate2 writes it: the role's own, from the store, or one that a Python package
brings. Nothing is ever fetched from a hub. The same samples get the same text on the same kind of CPU; no random draws:
where the likeliest words repeat themselves, Whisper's own fallback would draw at random, and is off.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from headrace.engines.base import Answer, EngineFailed
from headrace.engines.hearing import HearingEngine, HearingTurn
from headrace.errors import InvalidInput, reason_of
from headrace.version_sets.media_settings import Hearing
from headrace.version_sets.sets import EngineSpec, Member

_WEIGHTS = "model.bin"
# Under it a recording holds no word, and Whisper makes one up.
_SECONDS_MIN = 0.1


class WhisperEngine(HearingEngine):
    name = "faster_whisper"
    deterministic = True
    # A second recording would only take turns with the first.
    num_at_once = 1

    def __init__(self, weights: Path, member: Member, spec: EngineSpec) -> None:
        """Args: weights: a directory as CTranslate2 writes it.

        Raises: InvalidInput: the library is missing, or cannot open the weights.
        """
        assert member.hearing, "an engine that hears opens members that hear"
        self._hearing: Hearing = member.hearing
        self._model: Any = _loaded(weights, spec)
        languages = self._model.supported_languages
        if self._hearing.language not in languages:
            named = ", ".join(languages[:5])
            raise InvalidInput(
                f"{member.role!r} must hear {self._hearing.language!r}, and {member.model_name} "
                f"{member.model_version} knows {named}{' and more' if len(languages) > 5 else ''}. Name another model, "
                "or engine: openai_http."
            )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="whisper")
        self._is_closed = False

    async def hear(self, turn: HearingTurn) -> Answer:
        if self._is_closed:
            raise self._closed()
        if turn.seconds < _SECONDS_MIN:
            return _answer("")
        return _answer(await asyncio.get_running_loop().run_in_executor(self._thread, self._heard, turn))

    async def close(self) -> None:
        """Waits for the recording that is being heard, and frees the model."""
        self._is_closed = True
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        self._model = None

    def _heard(self, turn: HearingTurn) -> str:
        if self._is_closed:
            raise self._closed()
        samples = np.frombuffer(turn.pcm, "<i2").astype(np.float32) / 32768
        hearing = self._hearing
        segments, _ = self._model.transcribe(
            samples,
            language=hearing.language,
            beam_size=hearing.beam_size,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
        )
        return " ".join(segment.text.strip() for segment in segments).strip()

    def _closed(self) -> EngineFailed:
        return EngineFailed("The engine 'faster_whisper' is closed.", may_be_the_turn=False)


def _answer(text: str) -> Answer:
    return Answer(text=text, finish_reason="stop", replica="in process")


def package_weights(member: Member, package: str) -> Path:
    """The directory of the weights in an installed package.

    Raises: InvalidInput: the package is missing, has no such weights, or is of another version than the member's.
    """
    try:
        found = metadata.distribution(package)
    except metadata.PackageNotFoundError as error:
        raise InvalidInput(
            f"Engine 'faster_whisper' takes its weights from the package {package}, which is not installed. Run pip "
            f"install {package}."
        ) from error
    if found.version != member.model_version:
        raise InvalidInput(
            f"{package} {found.version} is installed, and {member.role!r} is of version {member.model_version}. Its "
            f"weights are in the package: install {package}=={member.model_version}, or name version: "
            f'"{found.version}".'
        )
    places = [Path(str(file.locate())) for file in found.files or () if file.name == _WEIGHTS]
    if len(places) != 1:
        raise InvalidInput(
            f"The package {package} must have one {_WEIGHTS} of CTranslate2, got {len(places)}. Name another package."
        )
    return places[0].parent


def _loaded(weights: Path, spec: EngineSpec) -> Any:
    if not (weights / _WEIGHTS).is_file():
        raise InvalidInput(
            f"Engine 'faster_whisper' opens weights as CTranslate2 writes them, and {weights} has no {_WEIGHTS}. "
            "Convert them with ct2-transformers-converter."
        )
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise InvalidInput(
            f"Engine 'faster_whisper' cannot be imported: {reason_of(error)}. Run pip install 'headrace[voice]'."
        ) from error
    try:
        return WhisperModel(
            str(weights), device="auto", compute_type=spec.dtype, cpu_threads=spec.num_threads, local_files_only=True
        )
    except Exception as error:  # its C++ raises RuntimeError and ValueError, each for several causes
        raise InvalidInput(f"Engine 'faster_whisper' cannot open {weights}: {reason_of(error)}.") from error
