"""The engine `hibari`: what it says, what it refuses, and that a text gets the same bytes in any company."""

import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import pytest

from headrace.engines.asking import media_of
from headrace.engines.base import EngineFailed, TurnRefused
from headrace.engines.deployment import Deployment
from headrace.engines.event_loop import LoopThread
from headrace.engines.media import MediaEngine, MediaTurn
from headrace.engines.media_bytes import sound_of
from headrace.engines.registry import engine_kind, open_media_engine
from headrace.engines.roles import EngineSettings, Role
from headrace.engines.sound_samples import levels_of
from headrace.errors import InvalidInput
from headrace.version_sets.media_settings import Speech
from headrace.version_sets.sets import Member

hibari = pytest.importorskip("hibari", reason="the extra speech")
Say = Callable[..., Any]
VERSION = "0.2.1"
TEXTS = ["A wheel turned by falling water.", "The channel that carries water to a mill.", "To grind grain."]


def make_member(speech: Speech | None = None, **changes: Any) -> Member:
    role = Role(
        model="heart",
        version=VERSION,
        registered=False,
        engine=EngineSettings("hibari"),
        speech=speech or Speech(),
    )
    return replace(role.member("speaker", None, engine=None), **changes)


def opened(member: Member) -> MediaEngine:
    spec = engine_kind("hibari").spec(engine_kind("hibari").options())
    return open_media_engine(member, spec, None, Deployment())  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture(scope="module")
def engine() -> MediaEngine:
    return opened(make_member())


@pytest.fixture(scope="module")
def say(engine: MediaEngine, loop: LoopThread) -> Say:
    """Bytes, or why there are none, of each text in one batch; `seeds` by text."""

    def say(*texts: str, speed: float | None = None) -> list[Any]:
        turns = [
            MediaTurn(unit=text, text=text, seed=TEXTS.index(text) if text in TEXTS else 9, speed=speed)
            for text in texts
        ]
        outcomes = run(loop, media_of(engine, make_member(), turns))
        return [one[0] if isinstance(one, tuple) else one for one in outcomes]

    return say


def run(loop: LoopThread, asked: Coroutine[Any, Any, Any]) -> Any:
    return loop.run(asked)


def contents(outcomes: list[Any]) -> list[bytes]:
    return [one.content for one in outcomes]


def test_a_text_gets_the_same_bytes_alone_and_in_any_batch(say: Say) -> None:
    together = contents(say(*TEXTS))
    assert contents(say(*TEXTS[::-1]))[::-1] == together
    assert [contents(say(text))[0] for text in TEXTS] == together
    assert len({*together}) == len(TEXTS)


def test_another_process_makes_the_same_bytes(say: Say) -> None:
    code = (
        "import asyncio, hashlib\n"
        "from tests.engines.test_hibari import TEXTS, MediaTurn, make_member, opened\n"
        "made = asyncio.run(opened(make_member()).make(MediaTurn(unit='', text=TEXTS[1], seed=1)))\n"
        "print(hashlib.sha256(made.content).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == sha256(contents(say(TEXTS[1]))[0]).hexdigest()


def test_it_is_what_the_package_itself_makes_of_the_seed(say: Say) -> None:
    levels = levels_of(sound_of(contents(say(TEXTS[2]))[0]))[:, 0]
    wanted = hibari.Hibari()(TEXTS[2], seed=2)
    assert np.abs(levels - wanted).max() <= 1 / 32767


def test_another_seed_is_another_recording(engine: MediaEngine, loop: LoopThread) -> None:
    one, other = (run(loop, engine.make(MediaTurn(unit="", text=TEXTS[0], seed=seed))).content for seed in (1, 2**62))
    assert one != other
    assert len(one) == len(other)


@pytest.mark.parametrize(
    ("text", "why"),
    {
        "empty": ("", "no word or number"),
        "blanks": (" \n\t ", "no word or number"),
        "an emoji": ("👩‍🔧 🛠️", "no word or number"),
        "dashes": ("— … !?", "no word or number"),
        "Chinese among English": ("the 水车 wheel", "U+6C34"),
        "Greek": ("α particle", "greek small letter alpha"),
        "Russian": ("Привет", "cyrillic"),
        "Arabic digits": ("٣ wheels", "arabic-indic digit three"),
        "a sign with a meaning": ("6 ≤ 7", "less-than or equal"),
        "a numeral without words": ("Henry Ⅷ", "roman numeral eight"),
    }.values(),
)
def test_what_it_cannot_say_is_refused(say: Say, text: str, why: str) -> None:
    [refused] = say(text)
    assert isinstance(refused, TurnRefused)
    assert why in str(refused)
    assert "cannot say this text" in refused.for_clients


def test_an_emoji_beside_words_is_left_out_and_named(say: Say) -> None:
    made, plain = say("A water wheel 🎡 turns.", "A water wheel  turns.")
    assert "🎡" in made.note
    assert (made.content, plain.note) == (plain.content, "")


@pytest.mark.parametrize("text", ["café", "naïve Ångström", "5 °C", "½ a mile", "don’t “go” – now", "£5 or €6", "ﬁne"])
def test_what_english_texts_hold_is_said(say: Say, text: str) -> None:
    assert say(text)[0].content


def test_letters_with_their_accents_apart_sound_the_same(say: Say) -> None:
    one, other = say("A café.", "A cafe\u0301.")
    assert one.content == other.content


def test_sounds_written_into_a_text_are_not_obeyed(say: Say) -> None:
    trick, plain = say("[good](/bˈæd/) dog", "[good] (/bˈæd/) dog")
    assert trick.content == plain.content


def test_a_clients_speed_is_honoured_and_another_than_the_voice_has_is_refused(say: Say) -> None:
    fast, plain = (sound_of(say(TEXTS[1], speed=speed)[0].content).duration_seconds for speed in (2.0, None))
    assert plain * 0.45 < fast < plain * 0.65
    [refused] = say(TEXTS[1], speed=4.0)
    assert isinstance(refused, TurnRefused)
    assert refused.for_clients == "speed must be between 0.5 and 2 for this voice, got 4."


def test_a_long_text_is_said_to_its_end(loop: LoopThread) -> None:
    engine = opened(make_member(Speech(duration_seconds_max=120)))
    text = "the wheel of the mill turns in the water and " * 40
    made = run(loop, engine.make(MediaTurn(unit="", text=text, seed=1)))
    short = run(loop, engine.make(MediaTurn(unit="", text=text[: len(text) // 4], seed=1)))
    assert 3.5 < sound_of(made.content).duration_seconds / sound_of(short.content).duration_seconds < 4.5
    run(loop, engine.close())


def test_a_text_that_takes_too_long_is_refused_before_it_is_made(say: Say) -> None:
    hopeless, late = say("water " * 500, "The wheel turns. " * 100)
    assert "2,999 characters alone" in str(hopeless)
    assert "its beginning alone" in str(late)


@pytest.mark.parametrize("sample_rate", [16_000, 22_050])
def test_another_rate_has_the_same_length_and_loudness(say: Say, loop: LoopThread, sample_rate: int) -> None:
    member = make_member(Speech(sample_rate=sample_rate))
    [(made, facts)] = run(loop, media_of(opened(member), member, [MediaTurn(unit="", text=TEXTS[0], seed=0)]))
    native = sound_of(say(TEXTS[0])[0].content)
    assert facts.sample_rate == sample_rate
    assert facts.duration_seconds == pytest.approx(native.duration_seconds, abs=2 / sample_rate)
    loud, native_loud = (np.sqrt((levels_of(one) ** 2).mean()) for one in (sound_of(made.content), native))
    assert loud == pytest.approx(native_loud, rel=0.1)


@pytest.mark.parametrize(
    ("member", "why"),
    {
        "a voice it has not": (make_member(Speech(voice="miller")), "no voice 'miller'; it has heart, emma"),
        "a voice that was not fetched": (make_member(Speech(voice="emma")), "a run fetches none"),
        "a speed it has not": (make_member(Speech(speed=3)), "from 0.5 to 2, got speed=3"),
        "another version": (make_member(model_version="0.1"), 'hibari-tts==0.1, or name version: "0.2.1"'),
        "a registered model": (make_member(weights_uri="file:///voice"), "Say registered: false"),
    }.values(),
)
def test_a_member_that_it_cannot_be_is_refused(
    member: Member, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("HIBARI_HOME", str(tmp_path))
    with pytest.raises(InvalidInput) as refused:
        opened(member)
    assert why in str(refused.value)


def test_a_voice_file_that_is_not_the_packages_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("HIBARI_HOME", str(tmp_path))
    (tmp_path / "bf_emma.int8.onnx").write_bytes(b"another model")
    with pytest.raises(InvalidInput, match="Remove the file, and fetch it again"):
        opened(make_member(Speech(voice="emma")))


def test_the_build_names_all_that_can_change_the_bytes(engine: MediaEngine) -> None:
    named = [part.split()[0] for part in engine.build.split(", ")]
    assert named == ["hibari-tts", "onnxruntime", "scipy", "numpy", "CPU"]
    assert engine.deterministic


def test_a_closed_engine_answers_that_it_is_closed(loop: LoopThread) -> None:
    engine = opened(make_member())
    for _ in range(2):
        run(loop, engine.close())
    [failed] = run(loop, media_of(engine, make_member(), [MediaTurn(unit="", text=TEXTS[0], seed=0)]))
    assert isinstance(failed, EngineFailed)
    assert not failed.may_be_the_turn


def test_a_role_of_it_writes_no_text() -> None:
    with pytest.raises(InvalidInput, match="engine 'hibari' makes speech, and the role must make text"):
        Role(model="heart", version=VERSION, registered=False, engine=EngineSettings("hibari"))


@pytest.mark.parametrize("number", ["7" * 500, f"{10**40:,}", "7" * 2000])
def test_a_number_that_has_no_words_is_refused_with_its_length(say: Say, number: str) -> None:
    before, refused, after = say(TEXTS[0], f"It has {number} parts.", TEXTS[1])
    assert isinstance(refused, TurnRefused)
    num_digits = len(number.replace(",", ""))
    assert str(refused) == (
        f"The voice cannot say this text: It has a number of {num_digits} digits, and there are words for 36: write it "
        "in parts."
    )
    assert contents([before, after]) == contents(say(*TEXTS[:2]))


def test_a_number_of_as_many_digits_as_there_are_words_for_is_said(say: Say) -> None:
    [said] = say("9" * 36)
    assert sound_of(said.content).duration_seconds > 5
