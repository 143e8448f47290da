"""Collects the reasons of holds while a plan is made, and writes the sentences at the end."""

from collections.abc import Callable
from dataclasses import dataclass

from headrace.placement import explain
from headrace.placement.fleet import Fleet
from headrace.placement.forecast import expected_starts
from headrace.placement.ordering import Shares, goes_by_age_at, has_aged
from headrace.placement.placements import Placement
from headrace.placement.queue_policy import QueuePolicy
from headrace.placement.snapshot import Hold, Preemption, Running, Snapshot, Waiting


@dataclass(frozen=True, kw_only=True)
class _Held:
    run: Waiting
    sentence: Callable[[explain.FreeBlocks], str]
    waits_for: tuple[str, ...] = ()
    latest: float | None = None
    in_line: bool = True  # it waits for a place: those before it are ahead of it
    shows_line: bool = False


class HoldWriter:
    def __init__(self, snapshot: Snapshot, policy: QueuePolicy, now: float) -> None:
        self._snapshot, self._policy, self._now = snapshot, policy, now
        self._held: list[_Held] = []
        self.has_line = False  # a run waits for a place already

    def __bool__(self) -> bool:
        return bool(self._held)

    def blocked(self, run: Waiting, reason: str) -> None:
        self._held.append(_Held(run=run, sentence=lambda _: reason, in_line=False))

    def no_slot(self, run: Waiting) -> None:
        text = explain.no_slot(len(self._snapshot.running))
        self._held.append(_Held(run=run, sentence=lambda _: text, shows_line=True))

    def staged(self, run: Waiting, reason: str) -> None:
        self._held.append(_Held(run=run, sentence=lambda _: reason, in_line=False))

    def no_place(self, run: Waiting, *, kept_for: str | None, waits_for: tuple[str, ...] = ()) -> None:
        def sentence(blocks: explain.FreeBlocks) -> str:
            if kept_for is not None:
                return explain.kept_for_older(kept_for)
            return f"{blocks.lack(run.demand)} {explain.ends_the_wait(waits_for)}".rstrip()

        self.has_line = True
        self._held.append(_Held(run=run, sentence=sentence, waits_for=waits_for, shows_line=True))

    def no_healthy_place(self, run: Waiting) -> None:
        self._held.append(
            _Held(run=run, sentence=lambda blocks: f"{blocks.lack(run.demand)} {explain.WAITS_FOR_REPAIR}")
        )

    def reserved(self, run: Waiting, placement: Placement, waits_for: tuple[str, ...], latest: float | None) -> None:
        text = explain.reserved(_devices(placement), waits_for, latest, self._now)
        self._held.append(
            _Held(
                run=run,
                sentence=lambda blocks: f"{blocks.lack(run.demand)} {text}",
                waits_for=waits_for,
                latest=latest,
            )
        )

    def stopping(self, run: Waiting, placement: Placement, leaving: tuple[str, ...]) -> None:
        text = explain.reserved(_devices(placement), (), None, self._now)
        if leaving:
            text += f" {explain.leaving(leaving)}"
        self._held.append(
            _Held(
                run=run,
                sentence=lambda blocks: f"{blocks.lack(run.demand)} {text}",
                waits_for=leaving,
                latest=self._now,
            )
        )

    def preemption(self, victim: Running, run: Waiting) -> Preemption:
        return Preemption(
            run_id=victim.run_id,
            for_run_id=run.run_id,
            sentence=explain.stopped_for(run, aged=has_aged(run, self._policy, self._now)),
        )

    def holds(self, fleet: Fleet, shares: Shares) -> dict[str, Hold]:
        blocks = explain.FreeBlocks(fleet)
        starts = expected_starts(self._snapshot, [held.run for held in self._held if held.in_line], self._now)
        found: dict[str, Hold] = {}
        ahead: list[str] = []
        queues_ahead: dict[str, None] = {}
        for held in self._held:
            run = held.run
            parts = [held.sentence(blocks)]
            if held.shows_line:
                parts += self._line(run, ahead, list(queues_ahead), shares)
            found[run.run_id] = Hold(
                run_id=run.run_id,
                sentence=" ".join(part for part in parts if part),
                waits_for=held.waits_for,
                latest=held.latest if held.latest is not None else starts.get(run.run_id),
            )
            if held.in_line:
                ahead.append(run.run_id)
                queues_ahead[run.queue] = None
        return found

    def _line(self, run: Waiting, ahead: list[str], queues_ahead: list[str], shares: Shares) -> list[str]:
        parts = []
        others = [queue for queue in queues_ahead if queue != run.queue]
        aged = has_aged(run, self._policy, self._now)
        weight = self._policy.weight(run.queue)
        for other in others if not aged else []:
            if shares.of(run.queue) / weight > shares.of(other) / self._policy.weight(other):
                weights = weight + sum(self._policy.weight(queue) for queue in others)
                held = shares.gpu_milli(run.queue)
                num_gpus = self._snapshot.inventory.num_gpus
                parts.append(explain.over_share(run.queue, held, num_gpus, weight, weights, other))
                break
        parts.append(explain.ahead_text(ahead))
        if not aged:
            parts.append(explain.goes_first(goes_by_age_at(run, self._policy), self._now))
        return parts


def _devices(placement: Placement) -> list[tuple[str, str]]:
    return [(share.node, share.device) for share in placement.gpus]
