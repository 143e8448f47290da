"""What follows the end of a unit: records, figures, evidence for the gate, a copy for the candidate, a score.

No client waits for this: it begins when the response is complete, and does no I/O itself.

Evidence comes from units whose set the gateway drew when their requests were complete (`Pin.is_evidence`), so their
clients could neither choose the set nor know it before. Only the set's own behaviour counts, measured here, and nothing
that a client can change once it sees the set: the answer is measured until it is complete, whether or not the client
reads it. A client's errors count for nothing, nor does a unit that its client gave up before it saw anything. A stream
that is not followed to its end (`CountedStreams`) gives only the time to its first piece.
"""

from typing import Any

from headrace.engines.base import Turn
from headrace.engines.chain import Step
from headrace.engines.hearing import HearingTurn
from headrace.engines.prices import price_of
from headrace.errors import HeadraceError
from headrace.rollout.live_evidence import EvidenceWriter
from headrace.serving.gateway.judging import Judging
from headrace.serving.gateway.metrics import Metrics
from headrace.serving.gateway.records import Records
from headrace.serving.gateway.refusals import Refusal
from headrace.serving.gateway.shadow import Shadow
from headrace.serving.gateway.unit import Unit
from headrace.serving.service import Service


class Outcomes:
    def __init__(
        self,
        service: Service,
        *,
        records: Records,
        metrics: Metrics,
        evidence: EvidenceWriter,
        shadow: Shadow,
        judging: Judging | None,
    ) -> None:
        self._service = service
        self._records = records
        self._metrics = metrics
        self._evidence = evidence
        self._shadow = shadow
        self._judging = judging

    def add(self, unit: Unit) -> None:
        pin = unit.pin
        self._metrics.unit(pin.version_set, pin.reason, unit.status, unit.seconds, unit.first_piece)
        for step in unit.steps:
            self._metrics.step(pin.version_set, step.role, step.seconds, step.num_output_tokens)
            self._records.add("step", self._step_line(unit, step))
        self._records.add("unit", _unit_line(unit))
        if pin.is_evidence:
            values = measured(unit, self._cost(unit))
            self._evidence.record(pin.trial, pin.version_set, values, client=unit.key, entry=pin.entry)
        if unit.status == 200 and unit.ask is not None:
            self._shadow.offer(unit)
        is_counted = pin.is_evidence and unit.is_followed
        if self._judging is not None and (unit.status == 200 or (is_counted and unit.answered is not None)):
            self._judging.offer(unit, is_evidence=is_counted)

    def refused(self, *, request: str, key: str | None, status: int, code: str | None) -> None:
        self._metrics.refused(status)
        self._records.add("refused", {"request": request, "key": key, "status": status, "code": code})

    def explain(self, request: str, error: Exception, refusal: Refusal) -> None:
        """Logs what the client is not told: engines' addresses and their texts."""
        if refusal.status == 500:
            self._records.unforeseen(error, request=request)
        elif refusal.detail:
            self._records.event("request failed", request=request, error=type(error).__name__, why=refusal.detail)
            if isinstance(error.__cause__, Exception) and not isinstance(error.__cause__, HeadraceError):
                self._records.unforeseen(error.__cause__, request=request)

    def _cost(self, unit: Unit) -> float | None:
        """Cost of all steps, even if the last one failed; None: a model's price or a token count is unknown."""
        if not self._service.prices:
            return None
        prices = [price_of(self._service.prices, step.member) for step in unit.steps]
        costs = [
            price.of(step.num_prompt_tokens, step.num_output_tokens) if price else None
            for price, step in zip(prices, unit.steps, strict=True)
        ]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    def _step_line(self, unit: Unit, step: Step) -> dict[str, Any]:
        turn = step.turn
        line = {
            "request": unit.request,
            "unit": unit.name,
            "session": unit.session,
            "version_set": unit.pin.version_set,
            "entry": unit.pin.entry,
            "role": step.role,
            "model": step.member.model_name,
            "model_version": step.member.model_version,
            "replica": step.replica,
            "seconds": round(step.seconds, 6),
            "prompt_tokens": step.num_prompt_tokens,
            "output_tokens": step.num_output_tokens,
            "finish": step.finish,
            "error": step.error,
        }
        if isinstance(turn, HearingTurn):
            line["heard_seconds"] = round(turn.seconds, 3)
            if self._records.content:
                line["text"] = step.text
            return line
        line["seed"] = turn.seed
        if isinstance(turn, Turn):
            line |= {"temperature": turn.temperature, "top_p": turn.top_p, "max_tokens": turn.max_tokens}
            if self._records.content:
                line["messages"] = [[message.role, message.content] for message in turn.messages]
                line["text"] = step.text
            return line
        if step.facts is not None:
            line |= {"media_type": step.facts.media_type, "bytes": step.num_bytes, "xxh3_128": step.digest}
            line |= {"duration_seconds": step.facts.duration_seconds} if step.facts.duration_seconds else {}
        if turn.speed is not None:
            line["speed"] = turn.speed
        if self._records.content:
            # What was made is bytes, which no line holds.
            line["asked"] = turn.text
        return line


def measured(unit: Unit, cost: float | None) -> dict[str, float]:
    """A unit's measurements of its set: metric → value; few or none if its client ended it or was at fault."""
    found: dict[str, float] = {}
    if unit.first_piece is not None:
        found["first_piece_seconds"] = unit.first_piece
    if not unit.is_followed or (unit.answered is None and not unit.is_failed):
        return found
    found["error"] = 1.0 if unit.is_failed else 0.0
    if unit.answered is not None:
        found["latency_seconds"] = unit.answered
        if (num_tokens := unit.steps[-1].num_output_tokens) is not None:
            found["output_tokens"] = float(num_tokens)
    if cost is not None:
        found["cost"] = cost
    return found


def _unit_line(unit: Unit) -> dict[str, Any]:
    last = unit.steps[-1] if unit.steps else None
    pin = unit.pin
    return {
        "request": unit.request,
        "key": unit.key,
        "unit": unit.name,
        "session": unit.session,
        "pinned": unit.pin.is_pinned,
        "version_set": pin.version_set,
        "entry": pin.entry,
        "trial": pin.trial,
        "reason": pin.reason,
        "stream": unit.ask is None or unit.ask.stream,
        "started_at": round(unit.started_at, 6),
        "seconds": round(unit.seconds, 6),
        "first_piece_seconds": None if unit.first_piece is None else round(unit.first_piece, 6),
        "status": unit.status,
        "error": unit.error,
        "steps": len(unit.steps),
        "prompt_tokens": last.num_prompt_tokens if last else 0,
        "output_tokens": last.num_output_tokens if last else 0,
        "finish": unit.finish,
    }
