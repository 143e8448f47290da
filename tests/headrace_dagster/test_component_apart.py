"""A Component whose campaign wants its steps apart: a job for each, and the same rows as of one run."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from headrace.generation.campaign import load_campaign
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.versions import HandoffStore
from headrace.settings import settings_of
from headrace.store.local import LocalStore
from headrace_dagster.components.campaign import _definitions, _files, _site
from headrace_dagster.resources.deployment import campaign_resources
from tests.generation.media_builders import campaign_file

DAY = "2026-11-22"
PARTITION = f"{DAY}|tales-00"


class Shop:
    def __init__(self, root: Path, apart: str) -> None:
        root.mkdir()
        rows = [{"text": f"Tell of mill {n}.", "term": f"mill {n}"} for n in range(4)]
        (root / "tales.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        file = root / "campaign.yaml"
        files = str(root / "tales.jsonl")
        file.write_text(campaign_file(num_shards=1, files=files, picture="{width: 32, height: 32}") + apart)
        settings = settings_of({"HEADRACE_FIRST_DAY": DAY}, root)
        campaign = load_campaign(file)
        resources = campaign_resources(settings, _files(campaign, file, settings), environment={})
        self.defs = _definitions(campaign, _site(campaign, settings), resources)
        self.handoffs = HandoffStore(LocalStore(root / ".headrace/store"))

    @property
    def jobs(self) -> set[str]:
        return {job.name for job in self.defs.jobs or ()}

    def launch(self, instance: dg.DagsterInstance, job: str, partition: str | None = PARTITION) -> Any:
        result = self.defs.resolve_job_def(job).execute_in_process(instance=instance, partition_key=partition)
        assert result.success
        return result

    def parts(self) -> dict[str, Any]:
        media = [MediaSet.open(self.handoffs.open(f"generated_{kind}", PARTITION)) for kind in ("images", "speech")]
        rows = self.handoffs.open("reviewed_content", PARTITION)
        return {"rows": rows.content_digest, **{one: part.read(one) for part in media for one in part.ids()}}


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")
def test_each_step_has_a_job_and_the_rows_are_those_of_one_run(tmp_path: Path) -> None:
    together = Shop(tmp_path / "together", "")
    apart = Shop(tmp_path / "apart", "apart: {image: {gpus: 0.5, gpu_models: [L4]}}\n")
    steps = ("tales_generate", "tales_speak", "tales_paint", "tales_review")
    assert apart.jobs == together.jobs | {*steps} == {"tales_roll_out", "tales_rows", *steps}
    tags = apart.defs.resolve_job_def("tales_paint").tags
    assert {name: tags[name] for name in ("headrace/gpus", "headrace/gpu_models")} == {
        "headrace/gpus": "0.5",
        "headrace/gpu_models": "L4",
    }
    with dg.DagsterInstance.ephemeral() as instance:
        together.launch(instance, "tales_roll_out", None)
        together.launch(instance, "tales_rows")
    with dg.DagsterInstance.ephemeral() as instance:
        apart.launch(instance, "tales_roll_out", None)
        results = {job: apart.launch(instance, job) for job in steps}
    assert apart.parts() == together.parts()
    checked = {job: result.get_asset_check_evaluations() for job, result in results.items()}
    assert all(one.passed for found in checked.values() for one in found)
    # The texts are examined by whichever run seals them.
    assert not any(str(one.description).startswith("Not examined") for one in checked["tales_paint"])
    assert {one.check_name for one in checked["tales_paint"]} >= {"schema", "rows_match_prompts"}
