"""Which of a day's partitions may start now: canaries first, the rest when the verdict on them is in. Pure.

While a candidate is on trial, the weight of its step gives it some partitions: the canaries, of the lowest salted hash.
They start at once. As many partitions with the highest salted hash start at once on the stable set, so that rows of the
same day and the same hour can be compared. Every other partition waits until the candidate is promoted (it then runs on
the candidate), is rolled back (it runs on the stable set), or the plan's time-out ends the wait (it runs on the stable
set, so that the day is not missed). A partition that is sealed or in flight never starts again.

A candidate with a cap gets no more partitions than its cap allows. A canary beyond the cap waits like the others. While
the cap has room, such a canary is no control partition either: its claim would take the room, and run on the candidate.
A candidate that is paused keeps its canaries.

A hold is only advice to the launcher. A partition that somebody materializes by hand runs at once, on the set that the
journal assigns to it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from headrace.rollout.assignment import canary_units, salted_rank
from headrace.rollout.plan import Plan
from headrace.rollout.states import RolloutState


@dataclass(frozen=True, kw_only=True)
class Places:
    """A candidate's cap: the partitions that have a place, and how many more may get one."""

    taken: frozenset[str] = frozenset()
    num_left: int = 0


@dataclass(frozen=True, kw_only=True)
class Dispatch:
    """A day's partitions: those to `start`, in order, and those `held`, with the reason."""

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
    places: Places | None = None,
) -> Dispatch:
    """Divide a day's partitions into those that start now and those that wait.

    Args:
        day_partitions: every partition of one campaign's day, sealed or not.
        state: None if nothing was rolled out yet: then everything waits.
        sealed: partition → the version set that made it.
        in_flight: partitions that are running, or cannot start yet.
        day_started_at: when the day's first partition was dispatched; seconds since the epoch. The time-out runs from
            here or from the start of the rollout step, whichever is later.
        places: the candidate's; None: it has no cap.
    """
    waiting = [key for key in day_partitions if key not in sealed and key not in in_flight]
    if state is None:
        return Dispatch(held=tuple(waiting), hold_reason="nothing is rolled out yet" if waiting else None)
    ranked = _ranked(waiting, plan.ranking_salt)
    if state.candidate is None:
        return Dispatch(start=tuple(ranked))
    wanted = canary_units(state.weight, plan.ranking_salt, day_partitions)
    on_trial = _on_trial(wanted, sealed, places)
    canaries = [key for key in ranked if key in on_trial]
    others = [key for key in ranked if key not in on_trial]
    num_tried = sum(sealed.get(key, state.candidate) == state.candidate for key in on_trial)
    if num_tried == 0:
        # The step began after this day's canaries ran on other sets, so this day teaches it nothing.
        return Dispatch(start=tuple(others))
    waited_seconds = now - max(day_started_at, state.step_started_at or day_started_at)
    on_stable = [key for key in day_partitions if key not in on_trial and sealed.get(key, state.stable) == state.stable]
    if places is not None and places.num_left > 0:
        on_stable = [key for key in on_stable if key not in wanted]
    # As many as canaries: the ones that a rising weight reaches last.
    controls = set(_ranked(on_stable, plan.ranking_salt)[-num_tried:])
    compared = [key for key in others if key in controls]
    held = [key for key in others if key not in controls]
    if not held or waited_seconds >= plan.verdict_timeout_seconds:
        return Dispatch(start=(*canaries, *others))
    stand = f"step {state.step + 1}, {state.weight:.0%}{', paused' if state.paused else ''}"
    reason = (
        f"{len(held)} {'partitions wait' if len(held) > 1 else 'partition waits'} for the verdict on candidate "
        f"{state.candidate[:12]} ({stand}), {plan.verdict_timeout_seconds - waited_seconds:.0f} s at most"
    )
    return Dispatch(start=(*canaries, *compared), held=tuple(held), hold_reason=reason)


def _ranked(keys: Collection[str], salt: str) -> list[str]:
    return sorted(keys, key=lambda key: (salted_rank(salt, key), key))


def _on_trial(wanted: Sequence[str], sealed: Mapping[str, str], places: Places | None) -> list[str]:
    """The partitions that the candidate gets of the weight's ones, as the claims will decide (`Claims.open`).

    Without a place a claim takes the stable set. The last places go to the first claims, and this is the order in which
    partitions start.

    Args:
        wanted: sorted by rank.
    """
    if places is None:
        return list(wanted)
    open_to = [key for key in wanted if key not in places.taken and key not in sealed][: max(0, places.num_left)]
    return [key for key in wanted if key in places.taken or key in open_to]
