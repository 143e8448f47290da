"""A directory that is a Dagster project, in which commands are called."""

from pathlib import Path

from typer.testing import Result

from tests.command_line.builders import run

PRODUCTS = "product,section\nkettle,kitchen\nlamp,office\ntent,outdoor\n"


class Project:
    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "pyproject.toml").write_text('[tool.dg.project]\nroot_module = "mine"\n')
        (root / "products.csv").write_text(PRODUCTS)
        self.campaigns = root / "resources/campaigns"

    def call(self, *arguments: str | Path) -> Result:
        return run(*arguments, env={"HEADRACE_CAMPAIGNS": None, "HEADRACE_ENGINE": None, "HEADRACE_TIMEZONE": None})

    def init(self, *more: str, prompts: str = "products.csv", engine: str = "echo") -> Result:
        return self.call("init", "--prompts", prompts, "--engine", engine, *more)

    @property
    def lines(self) -> list[str]:
        [file] = self.campaigns.glob("*.yaml")
        return file.read_text().splitlines()
