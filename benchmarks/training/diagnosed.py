"""What is said of a gang that fails: twelve failures, each injected for real into one rank of two, beside torchrun.

The failing rank is rank 1 wherever one rank fails, so that rank 0's broken connection is there as the decoy. Right is
the kind of failure and the rank that failed first; no rank, where none started. Of torchrun its summary counts: the
rank that it names as the root cause, and the kind if its text or the signal says so.
"""

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.measuring import at_least, print_table, progress
from benchmarks.parts import Outcome
from benchmarks.training.parts import Given
from benchmarks.training.training_site import Site, make_site
from headrace.errors import HeadraceError
from headrace.handoff.versions import HandoffStore
from headrace.store.objects import canonical_json
from headrace.training.examples import ExamplesInput
from headrace.training.failure_kinds import FailureKind, kind_of_exit, kind_of_text
from headrace.training.gang import run_gang
from headrace.training.gang_runner import LocalRunner, Rows, exit_codes
from headrace.training.launch_plan import LaunchPlan, plan_launch
from headrace.training.order import SampleOrder
from headrace.training.progress import read_phases
from headrace.training.recipe import Recipe
from headrace.training.recipe_parts import Guards, StalledRank
from headrace.training.run_config import RunConfig

_RANKS, _TOKENS, _NUM_SEQUENCES = 2, 64, 40
# As other libraries' errors and a full disk show in the second rank alone.
_FAILING = 1


@dataclass(frozen=True, kw_only=True)
class Failure:
    """`ranks`: those that may count as the first; None: no rank started."""

    kind: FailureKind
    ranks: tuple[int | None, ...] = (_FAILING,)
    recipe: dict[str, Any] = field(default_factory=dict)


FAILURES = (
    Failure(kind="out of memory"),
    Failure(kind="exception"),
    Failure(kind="hang", recipe={"step_timeout_seconds": 15}),
    Failure(kind="torn file"),
    Failure(kind="not a number"),
    Failure(kind="port taken", ranks=(None,)),
    Failure(kind="disk full", recipe={"checkpoint_every": 2}),
    Failure(kind="missing module"),
    Failure(kind="bad row"),
    Failure(kind="terminated"),
    Failure(kind="slow rank", recipe={"guards": Guards(stalled_rank=StalledRank(seconds=5))}),
    # Each of the three ranks that were started sees it, whoever looks first.
    Failure(kind="wrong world size", ranks=(0, 1, 2)),
)


@dataclass(frozen=True, kw_only=True)
class Told:
    failure: Failure
    kind: str
    rank: int | None
    sentence: str
    torchrun_kind: str
    torchrun_rank: int | None

    @property
    def is_right(self) -> bool:
        return self.kind == self.failure.kind and self.rank in self.failure.ranks

    @property
    def torchrun_is_right(self) -> bool:
        return self.torchrun_kind == self.failure.kind and self.torchrun_rank in self.failure.ranks


def run(given: Given, directory: Path) -> Outcome:
    site = make_site(directory, hidden=64, layers=2, sequence_length=_TOKENS, num_sequences=_NUM_SEQUENCES)
    told = []
    for number, failure in enumerate(FAILURES, start=1):
        progress.print(f"diagnosed: {failure.kind}")
        told.append(_told(failure, site, number))
        progress.print(f"  {told[-1].sentence}", markup=False)
    print_table(
        f"Failures of a gang of {_RANKS} ranks",
        ["injected", "told", "rank", "right", "torchrun's summary", "rank", "right"],
        [
            [
                one.failure.kind,
                one.kind,
                _shown(one.rank),
                "yes" if one.is_right else "NO",
                one.torchrun_kind,
                _shown(one.torchrun_rank),
                "yes" if one.torchrun_is_right else "no",
            ]
            for one in told
        ],
    )
    num_right = sum(one.is_right for one in told)
    body = {
        "right": num_right,
        "torchrun": sum(one.torchrun_is_right for one in told),
        "sentences": {one.failure.kind: one.sentence for one in told},
    }
    return Outcome(body=body, bars={"diagnosed": at_least(num_right, len(FAILURES))})


def _shown(rank: int | None) -> str:
    return "none" if rank is None else str(rank)


def _told(failure: Failure, site: Site, number: int) -> Told:
    recipe = Recipe(
        **{
            "name": "failing",
            "model": "random",
            "steps": 8,
            "batch": 2,
            "learning_rate": 1e-4,
            "precision": "fp32",
            "ranks": _RANKS,
            "zero_stage": 2,
            "checkpoint_every": 8,
        }
        | failure.recipe
    )
    config = replace(
        site.config(recipe, world_size=_RANKS),
        training_id=f"{number:032x}",
        work_directory=str(site.directory / failure.kind.replace(" ", "-")),
        inputs=_with_a_bad_row(site, recipe) if failure.kind == "bad row" else site.inputs,
    )
    config.work.mkdir()
    (config.work / "failure.json").write_bytes(canonical_json({"failure": failure.kind, "rank": _FAILING}))
    plan = plan_launch(
        run_json=config.write(config.work / "run.json"),
        world_size=_RANKS,
        device="cpu",
        work_directory=config.work,
        marker=f"benchmark/{number}",
        environment=os.environ,
        module="benchmarks.training.injected_rank",
    )
    with ExitStack() as held:
        plan = _CHANGES.get(failure.kind, lambda plan, held: plan)(plan, held)
        kind, rank, sentence = _ended(config, plan, _ON_ROWS.get(failure.kind))
    log = (plan.logs / "torchrun.log").read_text(errors="replace")
    torchrun_rank, torchrun_kind = _of_torchrun(log)
    return Told(
        failure=failure,
        kind=kind,
        rank=rank,
        sentence=sentence,
        torchrun_kind=torchrun_kind,
        torchrun_rank=torchrun_rank,
    )


def _ended(
    config: RunConfig, plan: LaunchPlan, on_rows: Callable[[RunConfig, Rows], None] | None
) -> tuple[str, int | None, str]:
    """The kind, the rank and the sentence of the error that the run worker gets."""
    try:
        run_gang(LocalRunner(plan, config), config, on_rows=lambda rows: on_rows(config, rows) if on_rows else None)
    except HeadraceError as error:
        rank = error.culprits.get("rank")
        return str(error.culprits.get("kind")), None if rank is None else int(rank), str(error).splitlines()[0]
    except Exception:  # noqa: BLE001 (one broken case must not hide the others)
        traceback.print_exc(file=sys.stderr)
    return "nothing", None, "the gang ended well"


def _of_torchrun(log: str) -> tuple[int | None, str]:
    """What its own summary says: the first rank's number, and a kind if it says one."""
    codes = exit_codes(log)
    rank = next(iter(codes), None)
    if rank is None:
        return None, kind_of_text(log) or "nothing"
    return rank, kind_of_exit(codes[rank]) if codes[rank] < 0 else "exit code 1"


def _taken_port(plan: LaunchPlan, held: ExitStack) -> LaunchPlan:
    other = held.enter_context(socket.socket())
    other.bind(("127.0.0.1", 0))
    other.listen()
    port = other.getsockname()[1]
    options = {"--rdzv-backend=c10d": "--rdzv-backend=static", "--rdzv-endpoint=127.0.0.1:0": "--node-rank=0"}
    argv = [options.get(part, part) for part in plan.argv]
    place = argv.index("--node-rank=0") + 1
    return replace(plan, argv=(*argv[:place], "--master-addr=127.0.0.1", f"--master-port={port}", *argv[place:]))


def _three_ranks(plan: LaunchPlan, held: ExitStack) -> LaunchPlan:
    argv = tuple("--nproc-per-node=3" if part.startswith("--nproc-per-node") else part for part in plan.argv)
    return replace(plan, argv=argv, num_ranks=3)


def _terminate(config: RunConfig, rows: Rows) -> None:
    if phase := read_phases(config.work).get(_FAILING):
        with suppress(ProcessLookupError):
            os.kill(phase.pid, signal.SIGTERM)


_CHANGES: dict[str, Callable[[LaunchPlan, ExitStack], LaunchPlan]] = {
    "port taken": _taken_port,
    "wrong world size": _three_ranks,
}
_ON_ROWS: dict[str, Callable[[RunConfig, Rows], None]] = {"terminated": _terminate}


def _with_a_bad_row(site: Site, recipe: Recipe) -> tuple[ExamplesInput, ...]:
    """The site's rows, of which one that the failing rank sees in its second step has an id that no model knows."""
    handoffs = HandoffStore(site.store)
    [given] = site.inputs
    table = handoffs.open("training_examples", given.partition, given.version).table()
    rows = table.to_pylist()
    trained = [number for number, row in enumerate(rows) if row["split"] == "train"]
    order = SampleOrder.of(recipe, num_sequences=len(trained), world_size=_RANKS)
    [numbers] = order.micro_batches(1, _FAILING)
    rows[trained[int(numbers[0])]]["input_ids"][_TOKENS // 2 - 1] = 1_000_000
    changed = handoffs.publish(
        "training_examples",
        "shard-bad",
        pa.Table.from_pylist(rows, schema=table.schema),
        code_version="1",
        run_id="benchmark",
    )
    return (ExamplesInput(partition=changed.partition, version=changed.version, content_digest=changed.content_digest),)
