"""Mirrored calls: two sets hear the same turns, and the gate learns how their words and delays differ."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from headrace.clock import FixedClock
from headrace.engines.base import Answer, EngineFailed, Message, Piece, Turn
from headrace.engines.chain import LoadedRole, RoleChain
from headrace.engines.echo import EchoEngine
from headrace.engines.echo_media import EchoMediaEngine
from headrace.engines.hearing import HearingEngine, HearingTurn
from headrace.engines.media_bytes import MediaFacts
from headrace.engines.media_chain import LoadedMaker
from headrace.engines.spoken_chain import LoadedListener, SpokenChain
from headrace.errors import EngineUnavailable, InvalidInput
from headrace.handoff.versions import HandoffStore
from headrace.rollout.gates import MIRRORED_FIRST_AUDIO, MIRRORED_WORD_ERRORS, Evidence, LiveGateSettings, decide
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.states import RolloutState
from headrace.serving.service import Service
from headrace.store.local import LocalStore
from headrace.text.word_errors import word_errors
from headrace.user_files.shapes import from_mapping
from headrace.version_sets.sets import VersionSet, VersionSets
from headrace.voice.hours import seal_hour
from headrace.voice.mirroring import MirroredHour, hours_to_mirror, mirror_hour, mirrored_evidence
from headrace.voice.references import read_references
from headrace.voice.replaying import Replaying
from simulation.servers.calls import spoken_roles
from tests.rollout.builders import state_of
from tests.serving.builders import Plans
from tests.voice.recorded_builders import HOUR, SERVICE, UTC_ZONE, Recorded, pcm

pytest.importorskip("rapidfuzz", reason="The extra `voice` is not installed: pip install 'headrace[voice]'.")

TEXTS = ("The mill turns slowly.", "Where is the old key?", "Thank you very much.")
SOUNDS = [pcm(number, 400, 16_000) for number in range(len(TEXTS))]


class Ears(HearingEngine):
    """Hears what it is told to; an error in place of a text is raised."""

    name = "ears"

    def __init__(self, heard: Mapping[bytes, str | Exception]) -> None:
        self._heard = heard

    async def hear(self, turn: HearingTurn) -> Answer:
        found = self._heard[turn.pcm]
        if isinstance(found, Exception):
            raise found
        return Answer(text=found, finish_reason="stop", replica=self.name)


class Pen(EchoEngine):
    """Notes what it was asked."""

    asked: list[Sequence[Message]]

    async def stream(self, turn: Turn) -> AsyncGenerator[Piece, None]:
        self.asked.append(turn.messages)
        async for piece in super().stream(turn):
            yield piece


class Calls:
    """A sealed hour of one call with these texts, and two sets."""

    def __init__(self, directory: Path) -> None:
        self.store = LocalStore(directory / "store")
        self.handoffs = HandoffStore(self.store)
        body = {"name": SERVICE, "recording": {}, **spoken_roles()}
        self.stable, self.candidate = (self._kept(body, version) for version in ("1", "2"))
        plans = Plans(self.store, SERVICE, FixedClock())
        plans.initialize(self.stable.id)
        plans.start(self.candidate.id)
        self.plans = plans
        one = Recorded(directory / "log", self.store)
        one.call("c1", "14:10:00", *TEXTS, audio=[(sound, pcm(9, 1000, 24_000)) for sound in SOUNDS])
        one.seal("15:05:01")
        seal_hour(self.handoffs, HOUR, UTC_ZONE, run_id="run")
        self.asked: list[Sequence[Message]] = []
        self.num_opened = 0

    def _kept(self, body: dict[str, Any], version: str) -> VersionSet:
        body["roles"]["writer"] |= {"version": version}
        made = from_mapping(Service, body, "service").version_set({})
        VersionSets(self.store).put(made)
        return made

    @property
    def state(self) -> RolloutState:
        return state_of(self.plans.journal)

    def chain(self, version_set: VersionSet, heard: Sequence[str | Exception]) -> SpokenChain:
        listener, writer, speaker = (version_set.member(role) for role in ("listener", "writer", "speaker"))
        pen = Pen(writer)
        pen.asked = self.asked
        return SpokenChain(
            id=version_set.id,
            listener=LoadedListener(member=listener, engine=Ears(dict(zip(SOUNDS, heard, strict=True)))),
            writers=RoleChain(id=version_set.id, roles=(LoadedRole(member=writer, engine=pen),)),
            speaker=LoadedMaker(
                member=speaker, engine=EchoMediaEngine(speaker), facts=MediaFacts(media_type="audio/wav")
            ),
        )

    def mirror(
        self,
        candidate: Sequence[str | Exception] = TEXTS,
        stable: Sequence[str | Exception] = TEXTS,
        references: Mapping[str, str] | None = None,
        wanted: str = "candidate",
    ) -> MirroredHour:
        def open_sets(version_sets: Sequence[VersionSet]) -> Replaying:
            self.num_opened += 1
            heard = dict(zip((self.stable.id, self.candidate.id), (stable, candidate), strict=True))
            return Replaying({one.id: self.chain(one, heard[one.id]) for one in version_sets}, [])

        return mirror_hour(
            self.handoffs, HOUR, wanted, self.state, open_sets=open_sets, run_id="run", references=references
        )

    def evidence(self) -> dict[str, tuple[int, float]]:
        found = mirrored_evidence(self.handoffs, SERVICE, self.candidate.id, self.stable.id, damaged=_never)
        return {metric: (sample.num, round(sample.mean, 6)) for metric, sample in found.items()}


def _never(error: Exception) -> None:
    raise error


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls(tmp_path)


def test_both_sets_hear_the_same_turns_behind_the_same_words(calls: Calls) -> None:
    rows = calls.mirror(["The mill turned slowly.", *TEXTS[1:]]).rows.table().to_pylist()
    assert [(row["stable_word_errors"], row["candidate_word_errors"], row["num_words"]) for row in rows] == [
        (0, 1, 4),
        (0, 0, 5),
        (0, 0, 4),
    ]
    # Each set was tried with the first turn, and then asked all three.
    assert len(calls.asked) == 8
    last = [[(one.role, one.content) for one in asked] for asked in calls.asked[-2:]]
    before = [
        ("user", TEXTS[0]),
        ("assistant", f"So, {TEXTS[0]}"),
        ("user", TEXTS[1]),
        ("assistant", f"So, {TEXTS[1]}"),
    ]
    assert last == [[*before, ("user", TEXTS[2])]] * 2
    assert calls.evidence()[MIRRORED_WORD_ERRORS] == (3, round(0.25 / 3, 6))
    assert calls.evidence()[MIRRORED_FIRST_AUDIO][0] == 3


def test_an_hour_is_mirrored_once_for_two_sets(calls: Calls) -> None:
    [wanted] = hours_to_mirror(calls.handoffs, SERVICE, calls.state, num=4, damaged=_never)
    assert (wanted.partition, wanted.version_set) == (HOUR.key, calls.candidate.id)
    first, second = calls.mirror(), calls.mirror(["Something else"] * 3)
    assert calls.num_opened == 1
    assert first.rows.version == second.rows.version
    assert hours_to_mirror(calls.handoffs, SERVICE, calls.state, num=4, damaged=_never) == []
    assert hours_to_mirror(calls.handoffs, SERVICE, None, num=4, damaged=_never) == []


def test_what_a_person_says_was_said_goes_before_what_was_heard(calls: Calls) -> None:
    first = calls.handoffs.open("recorded_calls", HOUR.key).table(["row_id", "turn"]).to_pylist()
    row = next(one["row_id"] for one in first if one["turn"] == 1)
    # The stable set was wrong then, and is again.
    rows = calls.mirror(["The hill turns slowly.", *TEXTS[1:]], references={row: "The hill turns slowly."}).rows
    told = rows.table(["is_listened", "stable_word_errors", "candidate_word_errors"]).to_pylist()
    assert [tuple(one.values()) for one in told] == [(True, 1, 0), (False, 0, 0), (False, 0, 0)]
    assert calls.evidence()[MIRRORED_WORD_ERRORS] == (3, round(-0.25 / 3, 6))
    # Another text of a person is another comparison.
    assert calls.mirror(references={row: TEXTS[0]}).rows.version == 2


def test_references_are_read_from_a_persons_file(tmp_path: Path) -> None:
    file = tmp_path / "heard.jsonl"
    file.write_text('{"row_id": "a", "text": "One."}\n{"row_id": "b", "text": "Two."}\n')
    assert read_references(file) == {"a": "One.", "b": "Two."}
    file.write_text('{"row_id": "a", "text": "One."}\n{"row_id": "a", "text": "Two."}\n')
    with pytest.raises(InvalidInput, match="line 2: turn a… has another text before"):
        read_references(file)
    file.write_text('{"row_id": "a"}\n')
    with pytest.raises(InvalidInput, match="wanted row_id and text as texts, got 'a' and None"):
        read_references(file)
    with pytest.raises(InvalidInput, match="line 0: unreadable"):
        read_references(tmp_path / "gone.jsonl")


def test_a_turn_that_the_candidate_alone_fails_has_all_its_words_wrong(calls: Calls) -> None:
    made = calls.mirror([TEXTS[0], EngineFailed("Its ears fell off."), TEXTS[2]])
    row = made.rows.table().to_pylist()[1]
    assert (row["candidate_word_errors"], row["num_words"], row["candidate_error"]) == (5, 5, "Its ears fell off.")
    assert row["candidate_first_audio_seconds"] is None
    assert made.num_left_out == 0
    assert calls.evidence() | {MIRRORED_FIRST_AUDIO: (2, 0.0)} == {
        MIRRORED_WORD_ERRORS: (3, round(1 / 3, 6)),
        MIRRORED_FIRST_AUDIO: (2, 0.0),
    }


def test_a_turn_that_the_stable_set_fails_tells_nothing(calls: Calls) -> None:
    made = calls.mirror(TEXTS, [TEXTS[0], EngineFailed("Its ears fell off."), TEXTS[2]])
    assert (made.rows.num_rows, made.num_left_out) == (2, 1)


def test_a_set_that_answers_nothing_is_away_and_nothing_is_sealed(calls: Calls) -> None:
    with pytest.raises(EngineUnavailable, match="The candidate set [0-9a-f]{12} answers no turn: Its server is gone"):
        calls.mirror([EngineFailed("Its server is gone.")] * 3)
    assert calls.evidence() == {}
    calls.mirror()
    assert calls.evidence()[MIRRORED_WORD_ERRORS] == (3, 0.0)


def test_nothing_is_mirrored_on_a_set_that_was_rolled_back(calls: Calls) -> None:
    calls.plans.abort()
    with pytest.raises(InvalidInput, match="There is no candidate now"):
        calls.mirror()
    with pytest.raises(InvalidInput, match="was rolled back: nothing is mirrored on it"):
        mirror_hour(
            calls.handoffs,
            HOUR,
            calls.candidate.id,
            calls.state,
            open_sets=lambda sets: Replaying({}, []),
            run_id="run",
        )


def test_the_gate_judges_by_what_was_mirrored(calls: Calls) -> None:
    settings = LiveGateSettings(min_rows=3, horizon_rows=40, margins={MIRRORED_WORD_ERRORS: 0.05})
    calls.mirror(["Quite something else here."] * 3)
    found = mirrored_evidence(calls.handoffs, SERVICE, calls.candidate.id, calls.stable.id, damaged=_never)
    # As many hours as that.
    total = sum([found[MIRRORED_WORD_ERRORS]] * 12, start=Sample())
    verdict = decide(Evidence(paired={MIRRORED_WORD_ERRORS: total}), settings)
    assert verdict.action == "roll_back"
    assert verdict.reason.startswith("word error rate of the same turns: 1 worse (36 against 36), surely worse by more")


@pytest.mark.parametrize(
    ("said", "heard", "errors"),
    [
        ("The mill turns.", "the mill turns", (0, 3)),
        ("The mill turns.", "A mill turns slowly", (2, 3)),
        ("Don't go", "", (2, 2)),
        ("", "noise", (1, 0)),
        ("水车转动", "水车移动", (1, 4)),
    ],
)
def test_words_are_compared_without_case_and_signs(said: str, heard: str, errors: tuple[int, int]) -> None:
    assert word_errors(said, heard) == errors
