"""Runs a training gang inside a Dagster run: with Pipes, progress in the run's log, and nothing left behind.

`headrace.training.session` trains, checks, resumes and watches. This adds the run's identity, a channel for rank 0's
messages, and the gang's end at the run's end.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from headrace.clock import SystemClock
from headrace.engines.host.address import OFF
from headrace.engines.host.emptying import empty_memory
from headrace.store.opening import open_store
from headrace.training.attempts import find_result
from headrace.training.devices import Devices, detect_devices
from headrace.training.gang_runner import LocalRunner
from headrace.training.heldout import Evaluation, evaluate
from headrace.training.hosts_runner import HostsRunner
from headrace.training.progress import RunLog
from headrace.training.session import Outcome, TrainingRequest, Workplace, check, train

Rows = list[dict[str, Any]]


class TrainingLauncher(dg.ConfigurableResource):
    """Trains in separate processes, one for each GPU of this run, or CPU ranks without a GPU."""

    store_url: str = Field(description="The store: s3://bucket/prefix, file:///directory, or an absolute path.")
    cache: str | None = Field(
        default=None, description="Directory of this machine's cache of a remote store; none: the user's."
    )
    cache_bytes: int | None = Field(default=None, gt=0, description="Limit of that cache, in bytes.")
    work_directory: str = Field(
        description="Scratch directory of running trainings (logs, progress): an absolute path with room for one model."
    )
    hosts: list[str] = Field(
        default=[], description="Names of hosts whose agents start the ranks, in their order; none: this machine does."
    )
    host_gpus: int = Field(default=0, ge=0, description="GPUs of each of these hosts; 0: their ranks are on CPUs.")
    engine_host: str = Field(
        default=OFF,
        description="The engine host whose idle models leave memory before ranks on CPUs start: HEADRACE_ENGINE_HOST.",
    )

    def train(
        self,
        context: dg.AssetExecutionContext,
        request: TrainingRequest,
        *,
        on_rows: Callable[[Rows], None] = lambda rows: None,
    ) -> Outcome:
        """Returns the existing result, or trains until there is one; `on_rows` gets each step's row, live.

        Raises:
            InvalidTrainingRun: before any process starts, or because a retry would end the same way.
            TrainingFailed: a rank or the gang failed; the run's retry resumes from the last checkpoint.
        """
        place = self._place(context.run.run_id, dict(os.environ))
        if result := find_result(place.store, request.training_id):
            return Outcome(result=result, reused=True)
        needed_mib = check(request, place)
        devices = place.devices
        self._make_room(place, context.log.info)
        context.log.info(
            f"training {request.training_id}: {devices.num_ranks(request.recipe.ranks)} ranks on {devices.kind}, "
            f"ZeRO stage {request.recipe.zero_stage}, at least {needed_mib:,} MiB of model state a rank"
        )
        with dg.open_pipes_session(
            context, dg.PipesTempFileContextInjector(), dg.PipesTempFileMessageReader()
        ) as session:
            environment = {**os.environ, **session.get_bootstrap_env_vars()}
            place = self._place(context.run.run_id, environment)
            if self.hosts:
                on_rows = _logged(context, request, on_rows)
            return train(request, place, on_rows=on_rows, say=context.log.info)

    def evaluate(
        self, context: dg.AssetExecutionContext, request: TrainingRequest, weights: dict[str, str]
    ) -> dict[str, Evaluation]:
        """Held-out loss, of tokens or pairs, or a picture model's error, of `weights` (digest by name) on the request's
        inputs; earlier measurements are reused.

        Raises:
            TrainingFailed: the evaluating process died.
        """
        place = self._place(context.run.run_id, dict(os.environ))
        return evaluate(
            place.store,
            weights,
            request.inputs,
            heldout_tokens_min=request.recipe.heldout_tokens_min,
            objective=request.recipe.objective,
            pairs=request.pair_measure,
            device=place.devices.kind,
            environment=place.environment,
            say=context.log.info,
            make_room=lambda: self._make_room(place, context.log.info),
        )

    def _make_room(self, place: Workplace, say: Callable[[str], None]) -> None:
        if not self.hosts:
            empty_memory(self.engine_host, place.store, os.environ, say)

    def _place(self, run_id: str, environment: dict[str, str]) -> Workplace:
        # The gang and the evaluating process open the store by its URL, and share this node's cache.
        if self.cache:
            environment["HEADRACE_CACHE"] = self.cache
        if self.cache_bytes:
            environment["HEADRACE_CACHE_BYTES"] = str(self.cache_bytes)
        store = open_store(self.store_url, cache=Path(self.cache) if self.cache else None, cache_bytes=self.cache_bytes)
        elsewhere = Devices(num_gpus=self.host_gpus * len(self.hosts), memory_mib=None)
        return Workplace(
            store=store,
            work_root=Path(self.work_directory),
            devices=elsewhere if self.hosts else detect_devices(environment),
            environment=environment,
            clock=SystemClock(),
            run_id=run_id,
            runner=HostsRunner.on(store, self.hosts) if self.hosts else LocalRunner.of,
        )


def _logged(
    context: dg.AssetExecutionContext, request: TrainingRequest, on_rows: Callable[[Rows], None]
) -> Callable[[Rows], None]:
    """Rank 0 is on another host, and cannot write into the run's log: its rows are told here."""
    log = RunLog(context)

    def tell(rows: Rows) -> None:
        on_rows(rows)
        for row in rows:
            log.step(row, steps=request.recipe.steps or row["step"])

    return tell
