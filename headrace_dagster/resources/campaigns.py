"""The campaigns of this deployment, as a Dagster resource."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from headrace.generation.campaign import Campaign, load_campaigns
from headrace.settings import Settings
from headrace.user_files.directory import Described


class CampaignsResource(dg.ConfigurableResource):
    """Campaign files, the place of their prompt files, and the directory for their reports."""

    directory: str = Field(description="Directory of campaign files (*.yaml): an absolute path.")
    file: str | None = Field(default=None, description="The one campaign file of that directory; none: all of it.")
    home: str = Field(description="Directory at which the campaigns' relative prompt files start.")
    reports: str = Field(description="Directory that report pages are written to, one HTML file a day.")
    engine: str | None = Field(
        default=None, description="Engine for every campaign, such as `echo` for a dry run; none: each campaign's own."
    )
    ui_url: str | None = Field(
        default=None, description="Address of Dagster's UI, which reports link their partitions to; none: no links."
    )

    def campaigns(self) -> Described[Campaign]:
        """All campaigns that can be read, and the files that cannot."""
        return load_campaigns(Path(self.directory), engine=self.engine, only=self.file)

    def campaign(self, name: str) -> Campaign:
        """Raises: InvalidInput: no file describes a campaign with this name, or its file is broken."""
        return self.campaigns().find(name)

    def home_directory(self) -> Path:
        return Path(self.home)

    def report_file(self, day: str) -> Path:
        return Path(self.reports) / f"{day}.html"


def campaigns_resource(settings: Settings) -> CampaignsResource:
    return CampaignsResource(
        directory=str(settings.campaigns),
        home=str(settings.home),
        reports=str(settings.home / "reports"),
        engine=settings.engine,
        ui_url=settings.ui_url,
    )
