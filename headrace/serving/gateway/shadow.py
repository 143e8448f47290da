"""Copies of units for the candidate: their answers are recorded and discarded, and no client waits for them.

A copy starts when the unit itself is answered, and takes no place from units: as many copies as the service allows run
at once, and further ones are dropped and counted. A copy never counts as a unit on the candidate, nor as evidence: the
gate compares only units that clients waited for.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from headrace.engines.chain import RoleChain, Step
from headrace.rollout.assignment import salted_rank
from headrace.serving.gateway.background import Background
from headrace.serving.gateway.media_units import check_wishes
from headrace.serving.gateway.metrics import Metrics
from headrace.serving.gateway.openai_media_bodies import MediaAsk
from headrace.serving.gateway.prepared_sets import LoadedSet
from headrace.serving.gateway.records import Records
from headrace.serving.gateway.unit import Unit
from headrace.serving.service import Service

# Copies at once, as a share of the units at once. The owner decides how much the candidate's engine can spare, but one
# copy for every eighth unit is harmless.
_SHARE_OF_PLACES = 8
_RANKS = 1 << 64


class Shadow:
    """`candidate`: the loaded set on trial, or None."""

    def __init__(
        self, service: Service, candidate: Callable[[], LoadedSet | None], *, records: Records, metrics: Metrics
    ) -> None:
        self._share = service.shadow_share
        self._salt = f"shadow {service.name}"
        self._seconds_max = service.limits.unit_seconds_max
        self._candidate = candidate
        self._records = records
        self._metrics = metrics
        self._background = Background(
            "shadow", num_max=max(1, service.limits.num_units_max // _SHARE_OF_PLACES), failed=records.unforeseen
        )

    def offer(self, unit: Unit) -> None:
        """Copies the unit if it is its turn and there is room; returns at once."""
        if not self._share or salted_rank(self._salt, unit.request) >= self._share * _RANKS:
            return
        candidate = self._candidate()
        if candidate is None or candidate.id == unit.pin.version_set:
            return
        if not self._background.has_room:
            self._metrics.shadow("dropped")
            return
        self._background.start(self._copy(unit, candidate))

    async def close(self) -> None:
        await self._background.close()

    async def _copy(self, unit: Unit, candidate: LoadedSet) -> None:
        steps: list[Step] = []
        started = time.monotonic()
        outcome, error = "failed", "cancelled"
        candidate.num_units += 1
        try:
            async with asyncio.timeout(self._seconds_max):
                await _answered(unit, candidate, steps)
            outcome, error = "answered", ""
        except Exception as failure:  # noqa: BLE001 (a copy may fail in any way: it is the candidate's)
            error = type(failure).__name__
        finally:
            candidate.num_units -= 1
            self._metrics.shadow(outcome)
            self._records.add("shadow", self._line(unit, candidate.id, steps, time.monotonic() - started, error))

    def _line(self, unit: Unit, version_set: str, steps: list[Step], seconds: float, error: str) -> dict[str, Any]:
        line: dict[str, Any] = {
            "request": unit.request,
            "unit": unit.name,
            "version_set": version_set,
            "beside": unit.pin.version_set,
            "seconds": round(seconds, 6),
            "unit_seconds": round(unit.seconds, 6),
            "steps": [[step.role, step.finish, step.num_output_tokens] for step in steps],
            "error": error,
        }
        if self._records.content:
            line["text"] = steps[-1].text if steps else ""
        return line


async def _answered(unit: Unit, candidate: LoadedSet, steps: list[Step]) -> None:
    chain, ask = candidate.chain, unit.ask
    if isinstance(ask, MediaAsk):
        await check_wishes(ask, chain).make(ask, unit=unit.name, seed=unit.seed, report=steps.append)
    else:
        assert isinstance(chain, RoleChain), "a gateway loads sets of its service's kind alone"
        assert ask is not None, "turns of calls have no copies"
        await chain.answer(ask, unit=unit.name, seed=unit.seed, report=steps.append)
