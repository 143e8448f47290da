"""One shard of a campaign with a prompt file of its own, and how `headrace run` walks through its day."""

import json
from abc import ABC, abstractmethod
from pathlib import Path

from headrace.generation.freshness import shown_mark
from headrace.generation.review_content import review_content
from headrace_dagster.project.campaign_run import CampaignRun
from headrace_dagster.project.webserver import Webserver
from tests.generation.builders import DAY, Site
from tests.headrace_dagster.dagster_stand_in import StandIn, serving

NUM_PROMPTS = 3


class CampaignWork(ABC):
    site: Site

    def __init__(self, root: Path) -> None:
        self.home, self.prompts = root, root / "prompts.jsonl"
        self.write(NUM_PROMPTS)

    def write(self, num_prompts: int) -> None:
        self.prompts.write_text("\n".join(json.dumps({"text": f"Define word {n}."}) for n in range(num_prompts)))

    def make(self, job: str, partition: str) -> None:
        """Does what a run of the job does."""
        if job == "list_prompts":
            self.site.draw_prompts(self.home)
        elif job == "review":
            self.review(partition)
        elif job == "report":
            self.tell()
        else:
            self.generate(job, partition)

    @abstractmethod
    def generate(self, job: str, partition: str) -> None: ...

    def review(self, partition: str) -> None:
        content = self.site.handoffs.open("generated_content", partition)
        self.site.handoffs.publish(
            "reviewed_content",
            partition,
            review_content(content, self.site.handoffs, self.site.campaign).table,
            code_version="1",
            run_id="r",
            input_versions={f"generated_content[{partition}]": f"v{content.version} {content.content_digest}"},
        )

    def tell(self) -> None:
        key = self.site.partition.key
        shown = [self.site.handoffs.open(asset, key) for asset in ("generated_content", "reviewed_content")]
        self.report.write_text(shown_mark(one.manifest for one in shown))

    @property
    def report(self) -> Path:
        return self.home / f"{DAY}.html"

    def run(self) -> CampaignRun:
        return CampaignRun(
            campaign=self.site.campaign,
            handoffs=self.site.handoffs,
            home=self.home,
            day=DAY,
            report=self.report,
            token="this call",
        )


def walk(work: CampaignRun, stand_in: StandIn) -> None:
    with serving(stand_in) as port:
        webserver = Webserver(f"http://127.0.0.1:{port}", "headrace")
        for _ in work.walk(webserver):
            pass
        webserver.close()
