"""Scores answers beside the traffic, for the gate: the service's judge sees a share of the units.

Both sets are judged by the stable set's judge; otherwise a candidate could win with a kinder judge. The judge works in
the background, on a limited number of answers; answers beyond it are dropped and counted. A score is the first number
in the judge's answer, divided by `score_max`; an answer without a number in that range is counted and not used.
"""

import asyncio
import re
from collections.abc import Callable

from headrace.engines.asking import answer_of
from headrace.engines.chain import Conversation
from headrace.rollout.assignment import salted_rank
from headrace.rollout.live_evidence import EvidenceWriter
from headrace.serving.gateway.background import Background
from headrace.serving.gateway.metrics import Metrics
from headrace.serving.gateway.openai_bodies import Ask
from headrace.serving.gateway.prepared_sets import LoadedSet
from headrace.serving.gateway.records import Records
from headrace.serving.gateway.unit import Unit
from headrace.serving.service import Judge, Service

# Answers judged at once, and answers that may wait. The judge is a model beside the traffic's own.
_NUM_AT_ONCE = 2
_NUM_WAITING_MAX = 64
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_RANKS = 1 << 64


class Judging:
    """`stable`: the loaded stable set; None: none is loaded."""

    def __init__(
        self,
        service: Service,
        judge: Judge,
        stable: Callable[[], LoadedSet | None],
        *,
        records: Records,
        metrics: Metrics,
        evidence: EvidenceWriter,
    ) -> None:
        self._judge = judge
        self._salt = f"judge {service.name}"
        self._seconds_max = service.limits.unit_seconds_max
        self._stable = stable
        self._records = records
        self._metrics = metrics
        self._evidence = evidence
        self._room = asyncio.Semaphore(_NUM_AT_ONCE)
        self._background = Background("judge", num_max=_NUM_AT_ONCE + _NUM_WAITING_MAX, failed=records.unforeseen)

    def offer(self, unit: Unit, *, is_evidence: bool) -> None:
        """Judges the unit's answer if it is its turn and there is room; returns at once."""
        if salted_rank(self._salt, unit.request) >= self._judge.share * _RANKS:
            return
        if not self._background.has_room:
            self._metrics.judgement("dropped")
            return
        self._background.start(self._score(unit, is_evidence))

    async def close(self) -> None:
        await self._background.close()

    async def _score(self, unit: Unit, is_evidence: bool) -> None:
        async with self._room:
            stable = self._stable()
            role = stable.roles.get(self._judge.role) if stable else None
            if stable is None or role is None:
                self._metrics.judgement("no judge")
                return
            turn = role.turn(Conversation.of(_question(unit)), unit=unit.name, seed=0)
            stable.num_units += 1
            try:
                async with asyncio.timeout(self._seconds_max):
                    answer = await answer_of(role.engine, turn)
            except Exception:  # noqa: BLE001 (the judge is a model: however it fails, there is no score)
                self._metrics.judgement("failed")
                return
            finally:
                stable.num_units -= 1
        score = score_of(answer.text, self._judge.score_max)
        self._metrics.judgement("no score" if score is None else "scored")
        line = {
            "request": unit.request,
            "unit": unit.name,
            "version_set": unit.pin.version_set,
            "trial": unit.pin.trial,
            "judge_set": stable.id,
            "score": score,
        }
        self._records.add("judgement", line)
        if score is None:
            return
        self._metrics.judged(unit.pin.version_set, score)
        if is_evidence:
            pin = unit.pin
            value = {"judged_quality": score}
            self._evidence.record(pin.trial, pin.version_set, value, client=unit.key, entry=pin.entry)


def score_of(text: str, score_max: float) -> float | None:
    """The first number in a judge's answer, from 0 to 1; None: it is missing or out of range."""
    found = _NUMBER.search(text)
    score = float(found[0]) / score_max if found else -1.0
    return score if 0 <= score <= 1 else None


def _question(unit: Unit) -> str:
    """The `{text}` of the judge's prompt template."""
    assert isinstance(unit.ask, Ask), "a service that paints or speaks has no judge"
    turns = [f"{message.role}: {message.content}" for message in unit.ask.messages]
    return "\n\n".join([*turns, f"Answer to be judged:\n{unit.text}"])
