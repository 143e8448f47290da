"""Which of a day's partitions may start now: canaries first, the rest when the verdict on them is in. Pure.

While a candidate is on trial, the partitions that its step's weight gives it (lowest salted hash) start at once. The
others wait: for the verdict, which promotes the candidate (they then run on it) or takes it back (they run on the
stable set), or for the plan's time-out, after which they run on the stable set rather than miss the day. What is sealed
or in flight never starts again.

A hold is advice to whoever launches. A partition that somebody materializes by hand runs at once, on the set that the
journal assigns to it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from headrace.rollout.assignment import assign, salted_rank
from headrace.rollout.plan import Plan
from headrace.rollout.states import RolloutState


@dataclass(frozen=True, kw_only=True)
class Dispatch:
    """What a day's partitions may do: `start` in that order, `held` for the reason."""

    start: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    hold_reason: str | None = None


def dispatch(
    day_partitions: Sequence[str],
    *,
    state: RolloutState | None,
    plan: Plan,
    sealed: Mapping[str, str],
    in_flight: Collection[str],
    now: float,
    day_started_at: float,
) -> Dispatch:
    """Divide a day's partitions into those that start now and those that wait.

    Args:
        day_partitions: every partition of one campaign's day, sealed or not.
        state: None if nothing was rolled out yet: then everything waits.
        sealed: partition → the version set that it was made on.
        in_flight: partitions that are under way, or that cannot start yet.
        day_started_at: when the day's first partition was dispatched; seconds since the epoch. The time-out runs from
            here or from the start of the rollout step, whichever is later.
    """
    waiting = [key for key in day_partitions if key not in sealed and key not in in_flight]
    if state is None:
        return Dispatch(held=tuple(waiting), hold_reason="nothing is rolled out yet" if waiting else None)
    ranked = sorted(waiting, key=lambda key: (salted_rank(plan.salt, key), key))
    if state.candidate is None:
        return Dispatch(start=tuple(ranked))
    on_trial = [key for key in day_partitions if assign(state, plan.salt, key, day_partitions) == state.candidate]
    canaries = [key for key in ranked if key in on_trial]
    others = [key for key in ranked if key not in on_trial]
    if all(sealed.get(key, state.candidate) != state.candidate for key in on_trial):
        # A rollout step that began when this day's canaries were made on other sets learns nothing from this day.
        return Dispatch(start=tuple(others))
    waited_seconds = now - max(day_started_at, state.step_started_at or day_started_at)
    if not others or waited_seconds >= plan.verdict_timeout_seconds:
        return Dispatch(start=(*canaries, *others))
    reason = (
        f"{len(others)} partitions wait for the verdict on candidate {state.candidate[:12]} "
        f"(step {state.step + 1}, {state.weight:.0%}), {plan.verdict_timeout_seconds - waited_seconds:.0f} s at most"
    )
    return Dispatch(start=tuple(canaries), held=tuple(others), hold_reason=reason)
