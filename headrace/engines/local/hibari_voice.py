"""The voice of the package hibari-tts in this process: English, its weights in the package, on one CPU thread.

It says a text or refuses it, and never leaves half of it out: letters of other scripts are refused, since the package
would pass over them or spell their names. Signs that nobody reads aloud, such as emoji, are left out, and the answer's
note names them. A text gets the same bytes for the same seed, alone or among others: it is spoken alone, and its noise
comes from its own seed. Voices that are not in the package are taken from the package's own directory if they are
there, and never fetched: a run that makes 10,000 recordings should not depend on a download.
"""

import asyncio
import importlib.util
import re
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from headrace.engines.base import EngineFailed, TurnRefused
from headrace.engines.media import MediaAnswer, MediaEngine, MediaTurn
from headrace.engines.sound_samples import resampled, wav_of
from headrace.errors import InvalidInput, reason_of
from headrace.version_sets.media_settings import Speech
from headrace.version_sets.sets import Member

PACKAGE = "hibari-tts"
# Under a name of its own: the package imports its module itself.
_VOICES = "headrace_voices_of_hibari"
# The package's own range; beyond it the voice mumbles or breaks off.
_SPEED_MIN, _SPEED_MAX = 0.5, 2.0
# No text takes less time, so a longer one is refused before anything is made of it.
_CHARACTERS_A_SECOND_MAX = 40
# `[text](/sounds/)` would speak other sounds than the text's own.
_SOUNDS_WRITTEN = re.compile(r"\]\(")
_NUM_NAMED_MAX = 5
# Its largest word for a number is a decillion.
_NUM_DIGITS_MAX = 36
_DIGITS = re.compile(r"\d[\d,]*")
# Unicode categories: marks that are not part of a letter, joiners and controls; drawings, and the colours of skin.
_UNHEARD = frozenset({"Mn", "Me", "Mc", "Cf", "Cc"})
_DRAWN = frozenset({"So", "Sk"})
# First words of the names of what it reads beside ASCII; the modifier letters are apostrophes in names.
_READ = (
    "LATIN ",
    "FULLWIDTH LATIN ",
    "FULLWIDTH DIGIT ",
    "MODIFIER LETTER ",
    "FEMININE ",
    "MASCULINE ",
    "EURO ",
    "POUND ",
)


@dataclass(eq=False)
class _Wish:
    turn: MediaTurn
    # Set by who waited for it.
    is_dropped: bool = False


class HibariEngine(MediaEngine):
    name = "hibari"
    deterministic = True
    # A second thread would only take turns with the first.
    num_at_once = 1

    def __init__(self, member: Member) -> None:
        """Loads voice and dictionaries: 0.6 s, most of it imports.

        Raises:
            InvalidInput: the package is missing or of another version than the member's, or has no such voice here.
        """
        voice = voice_of(member)
        assert member.speech, "an engine that speaks opens members that speak"
        self._speech: Speech = member.speech
        self._voice: Any = _loaded(voice)
        self._sample_rate = self._speech.sample_rate or self._voice.sample_rate
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hibari")
        self._is_closed = False

    async def make(self, turn: MediaTurn) -> MediaAnswer:
        wish = _Wish(turn)
        if self._is_closed:
            raise self._closed()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._spoken, wish)
        finally:
            wish.is_dropped = True

    async def close(self) -> None:
        """Fails the turns under way after their sentence, and frees the voice."""
        self._is_closed = True
        await asyncio.to_thread(self._thread.shutdown)
        self._voice = None

    # --- the thread ---

    def _spoken(self, wish: _Wish) -> MediaAnswer:
        turn = wish.turn
        speed = turn.speed or self._speech.speed
        if not _SPEED_MIN <= speed <= _SPEED_MAX:
            sentence = f"speed must be between {_SPEED_MIN} and {_SPEED_MAX:g} for this voice, got {speed:g}."
            raise TurnRefused(sentence, for_clients=sentence)
        text, left_out = _sayable(turn.text)
        longest = self._speech.duration_seconds_max
        if len(text) > longest * _CHARACTERS_A_SECOND_MAX * max(speed, 1):
            raise _too_long(f"{len(text):,} characters", longest)
        parts: list[np.ndarray] = []
        noise = np.random.default_rng(turn.seed)
        num_samples = 0
        for sounds in _sentences(self._voice, text):
            if self._is_closed or wish.is_dropped:
                raise self._closed()
            parts.append(self._voice.from_ids(self._voice.ids(sounds), speed, noise))
            num_samples += len(parts[-1])
            if num_samples > longest * self._voice.sample_rate:
                raise _too_long("its beginning", longest)
        if not num_samples:
            raise _unsayable("It has no word or number.")
        mono = resampled(np.concatenate(parts), self._voice.sample_rate, self._sample_rate)
        note = f"left out, since nobody reads them aloud: {' '.join(left_out)}" if left_out else ""
        return MediaAnswer(content=wav_of(mono, self._sample_rate), replica="in process", note=note)

    def _closed(self) -> EngineFailed:
        return EngineFailed("The engine 'hibari' is closed.", may_be_the_turn=False)


def _check_version(member: Member) -> None:
    try:
        here = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise InvalidInput(
            f"Engine 'hibari' needs {PACKAGE}, which is not installed. Run pip install 'headrace[speech]'."
        ) from error
    if member.model_version != here:
        raise InvalidInput(
            f"{PACKAGE} {here} is installed, and {member.role!r} is of version {member.model_version}. Its weights are "
            f'in the package: install {PACKAGE}=={member.model_version}, or name version: "{here}".'
        )


def _check_speed(speed: float) -> None:
    if not _SPEED_MIN <= speed <= _SPEED_MAX:
        raise InvalidInput(
            f"Engine 'hibari' speaks with a speed from {_SPEED_MIN} to {_SPEED_MAX:g}, got speed={speed:g}."
        )


def _voices() -> ModuleType:
    """The package's module of voices, without its beginning, which loads onnxruntime.

    Raises: InvalidInput: it is not there.
    """
    package = importlib.util.find_spec("hibari")
    place = Path(package.origin).parent if package and package.origin else Path()
    try:
        loader = SourceFileLoader(_VOICES, str(place / "voices.py"))
        module = ModuleType(_VOICES)
        module.__file__ = loader.path
        loader.exec_module(module)
    except Exception as error:
        raise InvalidInput(
            f"Engine 'hibari' has no list of voices: {reason_of(error)}. Run pip install 'headrace[speech]'."
        ) from error
    return module


def voice_of(member: Member) -> str:
    """The name of the member's voice, which is here. Loads none.

    Raises:
        InvalidInput: the package is missing or of another version than the member's, or has no such voice here.
    """
    assert member.speech, "an engine that speaks opens members that speak"
    if member.is_registered:
        raise InvalidInput(
            f"Engine 'hibari' speaks with the weights of its package, got {member.model_name} "
            f"{member.model_version} of the registry for {member.role!r}. Say registered: false, and the package's "
            "version."
        )
    _check_version(member)
    _check_speed(member.speech.speed)
    known = _voices()
    name = member.speech.voice or known.DEFAULT
    if name not in known.VOICES:
        raise InvalidInput(f"Engine 'hibari' has no voice {name!r}; it has {', '.join(known.VOICES)}.")
    try:
        path = Path(known.voice_path(name, download_missing=False))
    except FileNotFoundError:
        file = known.VOICES[name]["file"]
        raise InvalidInput(
            f"Voice {name!r} of hibari is not in its package, and {file} is not in {known.cache_dir()}; a run fetches "
            f'none. Fetch it once where there is a network: python -c "from hibari.voices import voice_path; '
            f"voice_path('{name}')\". Or name voice: {known.DEFAULT}."
        ) from None
    # The package checks what it fetches, and takes what lies there as it is.
    if (digest := known.sha256_of(path)) != known.VOICES[name]["sha256"]:
        raise InvalidInput(
            f"Voice {name!r} of hibari in {path} has the digest {digest[:12]}…, its package says "
            f"{known.VOICES[name]['sha256'][:12]}…. Remove the file, and fetch it again."
        )
    return name


def _loaded(name: str) -> Any:
    try:
        from hibari import Hibari
    except ImportError as error:
        raise InvalidInput(
            f"Engine 'hibari' cannot be imported: {reason_of(error)}. Run pip install 'headrace[speech]'."
        ) from error
    voice = Hibari(voice=name, threads=1)
    # What it loads at the first sentence, it loads now.
    voice.phonemize("Hibari xqlm.")
    return voice


def _sayable(text: str) -> tuple[str, list[str]]:
    """The text for the voice, and the signs that it leaves out.

    Raises: TurnRefused: there is no word in it, or something that carries meaning and that the voice has no sound for.
    """
    # An accent that follows its letter would be lost, and with it the vowel.
    text = _SOUNDS_WRITTEN.sub("] (", unicodedata.normalize("NFC", text)).strip()
    kept: list[str] = []
    left_out: dict[str, None] = {}
    for sign in text:
        if sign.isascii():
            kept.append(sign)
            continue
        kind = unicodedata.category(sign)
        if kind in _UNHEARD or (kind in _DRAWN and not _has_words(sign)):
            if kind == "So":
                left_out[sign] = None
        elif kind[0] in "PZ" or _has_words(sign) or unicodedata.name(sign, "").startswith(_READ):
            kept.append(sign)
        else:
            name = unicodedata.name(sign, "a sign without a name").lower()
            raise _unsayable(f"It has {name} (U+{ord(sign):04X}) in it.")
    said = "".join(kept)
    if not any(sign.isalnum() for sign in said):
        raise _unsayable("It has no word or number.")
    return said, list(left_out)[:_NUM_NAMED_MAX]


def _has_words(sign: str) -> bool:
    """Whether the package has words for a sign, such as degrees for °."""
    from hibari.g2p.normalize import CURRENCY_WORDS, SYMBOLS

    return bool(SYMBOLS.get(sign) or sign in CURRENCY_WORDS)


def _sentences(voice: Any, text: str) -> Iterator[str]:
    """The sounds of each sentence; long ones are cut where a clause ends, and if that is not enough, between words."""
    from hibari.tts import MAX_PHONEMES

    for sounds in _sounds(voice, text):
        rest = sounds
        while len(rest) > MAX_PHONEMES:
            place = rest.rfind(" ", 0, MAX_PHONEMES)
            place = place if place > 0 else MAX_PHONEMES
            yield rest[:place]
            rest = rest[place:].lstrip()
        if any(sound.isalpha() for sound in rest):
            yield rest


def _sounds(voice: Any, text: str) -> list[str]:
    """Raises: TurnRefused: the package has no words for it."""
    try:
        return voice.phonemize(text)
    except Exception as error:  # its rules fail each in their own way at what they have no word for
        longest = max((len(digits.replace(",", "")) for digits in _DIGITS.findall(text)), default=0)
        if longest > _NUM_DIGITS_MAX:
            why = f"It has a number of {longest} digits, and there are words for {_NUM_DIGITS_MAX}: write it in parts."
        else:
            why = f"The package finds no words for it ({reason_of(error)})."
        raise _unsayable(why) from error


def _unsayable(why: str) -> TurnRefused:
    return TurnRefused(
        f"The voice cannot say this text: {why}", status=422, for_clients=f"The voice cannot say this text. {why}"
    )


def _too_long(what: str, longest: float) -> TurnRefused:
    sentence = (
        f"The text takes longer to say than {longest:g} s (duration_seconds_max): {what} alone would. Shorten it."
    )
    return TurnRefused(sentence, status=413, for_clients=sentence)
