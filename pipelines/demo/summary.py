"""The demo's results, recomputed from Dagster, MLflow and the store; the driver remembers none of them.

`summary.json` has this and two measurements that only the driver can take: `wall_seconds` and `peak_rss_mb`.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
from rich.table import Table

from assets.partitions import corpus_shards
from headrace.errors import HandoffMissing, HeadraceError
from headrace.handoff.versions import HandoffStore
from headrace.rollout.states import RolloutState
from headrace.text.drawing import Terminal
from pipelines.demo.pictures import PictureSummary, picture_summary, print_pictures
from pipelines.demo.story import CAMPAIGN, GOOD, MODEL, Days, content_partitions
from pipelines.jobs import ASSETS_OF_JOB, STAGE_OF_JOB, run_assets

if TYPE_CHECKING:
    from headrace.registry.mlflow_models import ModelRegistry

MEASURED_BY_DRIVER = ("wall_seconds", "peak_rss_mb")
STAGES = ("data_prep", "training", "deployment", "generation")


@dataclass(kw_only=True)
class StageSummary:
    """`seconds`: sum over the stage's runs; with two at a time, about twice the wall time."""

    runs: int = 0
    rows_in: int = 0
    rows_out: int = 0
    rows_dropped: int = 0
    seconds: float = 0.0


@dataclass(kw_only=True)
class Summary:
    stages: dict[str, StageSummary]
    heldout_loss_base: float
    heldout_loss_trained: float
    heldout_tokens: int
    applied_steps: int
    model_version: str
    version_set: str
    rows_generated: int
    rows_rejected: int
    rows_by_version_set: dict[str, int]
    rollout: list[str]
    tokens_per_second: float
    training_tokens_per_second: float
    run_ids: list[str]
    report: str
    pictures: PictureSummary
    samples: list[tuple[str, str]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        body = asdict(self)
        body["stages"] = {
            name: {**stage, "seconds": round(stage["seconds"], 1)} for name, stage in body["stages"].items()
        }
        body["samples"] = [{"prompt": prompt, "output": output} for prompt, output in self.samples]
        return body


def recompute(
    *,
    instance: dg.DagsterInstance,
    handoffs: HandoffStore,
    state: RolloutState,
    journal_lines: list[str],
    reports: Path,
    days: Days,
) -> Summary:
    """Raises: HandoffMissing: the demo is not finished; names what is missing."""
    shards = corpus_shards.get_partition_keys()
    content = [key for day in (days.first, days.second) for key in content_partitions(CAMPAIGN, day)]
    stages, run_ids = _stages_from_runs(instance)
    rows = {
        asset: sum(handoffs.open(asset, partition).num_rows for partition in partitions)
        for asset, partitions in {
            "raw_documents": shards,
            "quarantine": shards,
            "clean_documents": shards,
            "training_examples": shards,
            "prompts": content,
            "generated_content": content,
        }.items()
    }
    evaluation = handoffs.open("evaluation", GOOD).polars()
    losses = dict(zip(evaluation["model"], evaluation["heldout_loss"], strict=True))
    trained = handoffs.open("trained_model", GOOD).polars().row(0, named=True)
    versions = [row for key in handoffs.partitions("registered_version") for row in _rows(handoffs, key)]
    version = next(
        row["version"]
        for row in versions
        if row["kind"] == "trained" and row["weights_digest"] == trained["weights_digest"]
    )
    reviewed = pl.concat([handoffs.open("reviewed_content", partition).polars() for partition in content])
    generated = pl.concat([handoffs.open("generated_content", partition).polars() for partition in content])
    execution = pl.concat([handoffs.open("execution", partition).polars() for partition in content])
    num_rejected = int((~reviewed["kept"]).sum())

    stages["data_prep"].rows_in = rows["raw_documents"] + rows["quarantine"]
    stages["data_prep"].rows_out = rows["clean_documents"]
    stages["training"].rows_in = rows["training_examples"]
    stages["training"].rows_out = len(handoffs.partitions("trained_model"))
    stages["deployment"].rows_in = len(handoffs.partitions("trained_model"))
    stages["deployment"].rows_out = len({(row["model_name"], row["version"]) for row in versions})
    stages["generation"].rows_in = rows["prompts"]
    stages["generation"].rows_out = rows["generated_content"] - num_rejected
    stages["generation"].rows_dropped = num_rejected
    stages["data_prep"].rows_dropped = stages["data_prep"].rows_in - stages["data_prep"].rows_out
    seconds = float(execution["seconds"].sum())
    return Summary(
        stages=stages,
        heldout_loss_base=losses["base"],
        heldout_loss_trained=losses["trained"],
        heldout_tokens=int(evaluation["heldout_tokens"][0]),
        applied_steps=int(trained["steps_applied"]),
        model_version=f"{MODEL}/{version}",
        version_set=state.stable,
        rows_generated=len(generated),
        rows_rejected=num_rejected,
        rows_by_version_set=dict(Counter(generated["version_set"].to_list())),
        rollout=journal_lines,
        tokens_per_second=round(float(generated["num_output_tokens"].sum()) / seconds, 1) if seconds else 0.0,
        training_tokens_per_second=round(trained["tokens"] / trained["seconds"], 1) if trained["seconds"] else 0.0,
        run_ids=run_ids,
        report=str(reports / f"{days.second}.html"),
        pictures=picture_summary(handoffs, days),
        samples=_samples(reviewed.filter(pl.col("kept"))),
    )


def _rows(handoffs: HandoffStore, partition: str) -> list[dict[str, Any]]:
    return handoffs.open("registered_version", partition).polars().to_dicts()


def _samples(kept: pl.DataFrame) -> list[tuple[str, str]]:
    """Ten rows spread over all partitions, by row id, which is a digest."""
    chosen = kept.sort("row_id").head(10)
    return list(zip(chosen["prompt"], chosen["output"], strict=True))


def _stages_from_runs(instance: dg.DagsterInstance) -> tuple[dict[str, StageSummary], list[str]]:
    stages = {stage: StageSummary() for stage in STAGES}
    run_ids = []
    stage_of_asset = {asset: STAGE_OF_JOB[job] for job, assets in ASSETS_OF_JOB.items() for asset in assets}
    for record in instance.get_run_records():
        assets = run_assets(record.dagster_run)
        stage = stages.get(stage_of_asset.get(assets[0], "")) if assets else None
        if stage is None:
            continue
        stage.runs += 1
        if record.start_time and record.end_time:
            stage.seconds += record.end_time - record.start_time
        run_ids.append(record.dagster_run.run_id)
    return stages, sorted(run_ids)


def differences(kept: dict[str, Any], fresh: dict[str, Any]) -> list[str]:
    """Where `summary.json` differs from Dagster, MLflow and the store now; a line for each key."""
    fresh = json.loads(json.dumps(fresh))
    return [
        f"{key}: summary.json says {json.dumps(kept.get(key))[:200]}, recomputed {json.dumps(fresh.get(key))[:200]}"
        for key in sorted(kept.keys() | fresh.keys())
        if key not in MEASURED_BY_DRIVER and kept.get(key) != fresh.get(key)
    ]


def registry_differences(registry: "ModelRegistry", handoffs: HandoffStore, model_version: str) -> list[str]:
    """Where MLflow's catalogue differs from the store about the promoted version."""
    name, version = model_version.split("/")
    digests = {
        row["version"]: row["weights_digest"]
        for key in handoffs.partitions("registered_version")
        for row in _rows(handoffs, key)
        if row["model_name"] == name
    }
    found = registry.find_by_digest(name, digests[version])
    wrong = [] if found == version else [f"model_version: the store says {version}, MLflow has {found} for its digest"]
    champion = registry.aliases(name).get("champion")
    if champion != version:
        wrong.append(f"alias champion: the journal's stable set has version {version}, MLflow says {champion}")
    return wrong


def read_summary(path: Path) -> dict[str, Any]:
    """Raises: HeadraceError: there is no finished demo here."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise HandoffMissing(f"There is no {path}: no demo was finished here. `make demo` makes it.") from None
    except ValueError as error:
        raise HeadraceError(f"{path} is not JSON ({error}); delete it and run `make demo` again.") from error


def write_summary(path: Path, body: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(body, indent=1) + "\n")
    partial.replace(path)


def print_summary(console: Terminal, body: dict[str, Any], *, tracking_uri: str, ui: str) -> None:
    table = Table(box=None, header_style="bold", title="Stages", title_justify="left")
    for column in ("stage", "runs", "rows in", "rows out", "dropped", "run seconds"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for name, stage in body["stages"].items():
        counts = (stage["runs"], stage["rows_in"], stage["rows_out"], stage["rows_dropped"])
        table.add_row(name, *(f"{count:,}" for count in counts), f"{stage['seconds']:.0f}")
    console.print(table)
    gain = body["heldout_loss_base"] - body["heldout_loss_trained"]
    console.print(
        f"\nHeld-out loss on {body['heldout_tokens']:,} completion tokens: base {body['heldout_loss_base']:.3f}, "
        f"trained {body['heldout_loss_trained']:.3f} nats a token ({gain:.3f} better, {body['applied_steps']} steps)."
    )
    console.print(
        f"{body['rows_generated']} rows at {body['tokens_per_second']} tokens/s, {body['rows_rejected']} rejected; "
        f"stable: {body['model_version']}, version set {body['version_set'][:12]}.\n"
    )
    print_pictures(console, body["pictures"])
    console.print("\n".join(body["rollout"]))
    samples = Table(box=None, header_style="bold", title="\nTen generated rows", title_justify="left")
    samples.add_column("prompt", no_wrap=True, max_width=44)
    samples.add_column("output", overflow="fold")
    for sample in body["samples"]:
        samples.add_row(sample["prompt"], sample["output"])
    console.print(samples)
    console.print(
        f"\nReport: {body['report']}\nMLflow: {tracking_uri} (.venv/bin/mlflow ui --backend-store-uri …)\n"
        f"Dagster UI: make dev, then {ui}\n"
        f"{body['wall_seconds']:.0f} s in all, at most {body['peak_rss_mb']:.0f} MB of memory.",
        soft_wrap=True,
    )
