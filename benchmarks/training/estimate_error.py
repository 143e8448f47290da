"""The estimate of a rank's memory beside what trainings held at most, and beside DeepSpeed's own estimators.

Gangs of two ranks train a few steps at every stage, in fp32 of two sizes of a Llama with grouped-query attention, and
of the smaller one in bf16, with adapters, and with gradient checkpointing; each step is of two passes in half of the
cases. A rank tells its highest resident memory over that with its libraries imported, and the estimate is made as
`headrace check` makes it: from config.json, the headers of the files and the sealed examples. The error is their ratio
less 1, of the rank that held most: below zero, too little was foretold. DeepSpeed estimates model states alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.measuring import at_least, at_most, print_table, progress, rounded
from benchmarks.parts import Outcome
from benchmarks.training.parts import Given
from benchmarks.training.training_site import Site, make_site, run_ranks
from headrace.store.sealed_directory import open_directory
from headrace.training.attempts import find_result
from headrace.training.devices import Devices
from headrace.training.host_agent import free_port
from headrace.training.lora_settings import Lora
from headrace.training.memory_estimate import MIB, MemoryEstimate
from headrace.training.model_widths import read_widths
from headrace.training.recipe import Precision, Recipe
from headrace.training.recipe_needs import needs_of

_RANKS = 2
_BAR_OVER, _BAR_UNDER = 0.15, -0.05
# Wide enough that model and activations are most of it, and small enough for a CPU without instructions for bf16.
_SIZES = {"18M": {"hidden": 384, "layers": 8}, "58M": {"hidden": 640, "layers": 10}}
_METHODS: dict[str, dict[str, Any]] = {
    "": {},
    "LoRA": {"lora": Lora(rank=8, alpha=16)},
    "checkpointed": {"gradient_checkpointing": True},
}
_VOCABULARY, _TOKENS, _STEPS = 8192, 128, 2


@dataclass(frozen=True, kw_only=True)
class Case:
    size: str
    precision: Precision
    stage: int
    method: str = ""

    @property
    def name(self) -> str:
        return f"{self.size} {self.precision} stage {self.stage} {self.method}".rstrip()

    @property
    def recipe(self) -> Recipe:
        micro_batch = 2
        # Two passes a step at the odd stages: gradients are then there when the second forward begins.
        batch = micro_batch * _RANKS * (1 + self.stage % 2)
        return Recipe(
            name="estimated",
            model="random",
            steps=_STEPS,
            batch=batch,
            micro_batch=micro_batch,
            learning_rate=1e-4,
            zero_stage=self.stage,
            precision=self.precision,
            ranks=_RANKS,
            checkpoint_every=_STEPS,
            **_METHODS[self.method],
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    case: Case
    estimate: MemoryEstimate
    peak_mib: float
    deepspeed_mib: float

    @property
    def error(self) -> float:
        return self.estimate.over_import_mib / self.peak_mib - 1

    @property
    def deepspeed_error(self) -> float:
        return self.deepspeed_mib / self.peak_mib - 1


def cases() -> Iterator[Case]:
    """The larger model in fp32 alone: without instructions for bf16, its steps would take minutes."""
    kinds: list[tuple[str, Precision]] = [("18M", "fp32"), ("18M", "bf16"), ("58M", "fp32")]
    for size, precision in kinds:
        for stage in range(4):
            yield Case(size=size, precision=precision, stage=stage)
    for method in ("LoRA", "checkpointed"):
        for stage in (0, 3):
            yield Case(size="18M", precision="fp32", stage=stage, method=method)


def run(given: Given, directory: Path) -> Outcome:
    sites = {
        size: make_site(
            directory / size,
            **widths,
            sequence_length=_TOKENS,
            num_sequences=40,
            vocabulary=_VOCABULARY,
            queries_a_key=2,
        )
        for size, widths in _SIZES.items()
    }
    measured = [one for size, site in sites.items() for one in _measured(site, [c for c in cases() if c.size == size])]
    print_table(
        f"Memory of a rank over imported libraries, MiB; {_RANKS} ranks, {_TOKENS} tokens a row",
        ["", "measured", "estimated", "error", "at its highest", "DeepSpeed's", "error"],
        [
            [
                one.case.name,
                f"{one.peak_mib:,.0f}",
                f"{one.estimate.over_import_mib:,}",
                f"{one.error:+.1%}",
                one.estimate.moment,
                f"{one.deepspeed_mib:,.0f}",
                f"{one.deepspeed_error:+.1%}",
            ]
            for one in measured
        ],
    )
    errors = [one.error for one in measured]
    body = {
        "cases": {one.case.name: rounded(one.error) for one in measured},
        "deepspeed": {one.case.name: rounded(one.deepspeed_error) for one in measured},
    }
    bars = {
        "estimate_error": at_most(rounded(max(map(abs, errors))), _BAR_OVER),
        "estimate_under": at_least(rounded(min(errors)), _BAR_UNDER),
    }
    return Outcome(body=body, bars=bars)


def _measured(site: Site, chosen: Sequence[Case]) -> Iterator[Measured]:
    """All cases of one model, one after the other in one gang."""
    tasks = site.directory / "tasks"
    tasks.mkdir()
    configs = []
    for number, case in enumerate(chosen):
        config = site.config(case.recipe, world_size=_RANKS)
        work = site.directory / f"work-{number:02d}"
        work.mkdir()
        config = replace(config, training_id=f"{number:032x}", work_directory=str(work))
        (work / "port.json").write_text(str(free_port("127.0.0.1")))
        configs.append((case, config))
        config.write(tasks / f"{number:02d}.json")
    progress.print(f"estimate_error: {len(configs)} trainings of {chosen[0].size} parameters")
    first = replace(configs[0][1], work_directory=str(tasks))
    run_ranks("benchmarks.training.estimate_ranks", first)
    base = open_directory(site.store, site.base_digest)
    for case, config in configs:
        result = find_result(site.store, config.training_id)
        assert result
        assert result.peak_mb_over_import is not None
        needed = needs_of(
            case.recipe,
            base,
            site.store,
            Devices(num_gpus=0, memory_mib=None),
            corpus=site.directory / "no-corpus.yaml",
        )
        widths = read_widths(base)
        assert widths
        yield Measured(
            case=case,
            estimate=needed.estimate,
            peak_mib=result.peak_mb_over_import,
            deepspeed_mib=_deepspeed_mib(case.stage, needed.shape.num_params, widths.largest),
        )


def _deepspeed_mib(stage: int, num_params: int, largest_layer: int) -> float:
    """Of a rank; for stages 0 and 1 DeepSpeed has no estimator of its own, and its stage 2's stands in."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    if stage == 3:
        _, num_bytes, _ = estimate_zero3_model_states_mem_needs(
            num_params, largest_layer, num_gpus_per_node=_RANKS, cpu_offload=False, cpu_offload_params=False
        )
    else:
        _, num_bytes = estimate_zero2_model_states_mem_needs(num_params, num_gpus_per_node=_RANKS, cpu_offload=False)
    return num_bytes / MIB
