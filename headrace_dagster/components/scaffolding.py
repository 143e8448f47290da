"""`dg scaffold defs headrace_dagster.Campaign NAME`: defs.yaml, and beside it the file that `headrace init` writes."""

import os
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import click
import dagster as dg
from pydantic import BaseModel, Field

from headrace.command_line.campaign_file import NewCampaign, name_of, write_campaign
from headrace.command_line.project import find_project
from headrace.errors import HeadraceError, InvalidInput
from headrace.settings import Settings

_EXAMPLES = (
    "Write a sentence about a water wheel.",
    "Write a sentence about a mill race.",
    "Name three kinds of gate.",
)


class CampaignParams(BaseModel):
    """Options of `dg scaffold defs`, as those of `headrace init`."""

    prompts: str | None = Field(
        default=None, description="JSON Lines, CSV, Parquet, or text with a prompt a line; none: three examples."
    )
    template: str | None = Field(default=None, description="The prompt's text with {column} placeholders.")
    engine: str = Field(
        default="echo", description="echo, bundled, an OpenAI-compatible URL, a model directory or hub name."
    )
    model: str | None = Field(default=None, description="For a URL: the server's name for the model.")


class CampaignScaffolder(dg.Scaffolder[CampaignParams]):
    @classmethod
    def get_scaffold_params(cls) -> type[CampaignParams]:
        return CampaignParams

    def scaffold(self, request: dg.ScaffoldRequest[CampaignParams]) -> None:
        """Raises: click.ClickException: no campaign can be made of what was asked for; nothing is left of it."""
        before = set(request.target_path.iterdir())
        try:
            settings = _write_campaign(request)
        except HeadraceError as error:
            for made in set(request.target_path.iterdir()) - before:
                made.unlink()
            if not before:
                # `dg` has made it, and would refuse to scaffold in it again.
                request.target_path.rmdir()
            raise click.ClickException(str(error)) from error
        today = datetime.now(ZoneInfo(settings.timezone)).date().isoformat()
        dg.scaffold_component(request, {"campaign": "campaign.yaml", "first_day": today, "timezone": settings.timezone})


def _write_campaign(request: dg.ScaffoldRequest[CampaignParams]) -> Settings:
    """Raises: InvalidInput: there are no such prompts, or no campaign can be made of them."""
    params, directory = request.params, request.target_path
    project = find_project(request.project_root or directory, os.environ)
    prompts = Path(params.prompts).expanduser().absolute() if params.prompts else directory / "prompts.txt"
    if params.prompts is None:
        prompts.write_text("\n".join([*_EXAMPLES, ""]))
    elif not prompts.is_file():
        raise InvalidInput(f"--prompts must be a file, got {prompts}, which does not exist.")
    beside = os.path.relpath(prompts, directory)
    campaign = NewCampaign(
        name=name_of(directory.name),
        prompts=prompts,
        # Another checkout of the project lies elsewhere.
        files=(beside if beside.startswith("../") else f"./{beside}") if prompts.is_relative_to(project.root) else None,
        template=params.template,
        engine=params.engine,
        model=params.model,
    )
    write_campaign(campaign, directory / "campaign.yaml", project)
    return project.settings()
