"""The reference pages in `docs/reference`, written from the code: `make reference` renews them.

Each module of this package reads one thing that the code knows already (dataclasses, commands, constants, definitions),
so a page says what the code does. Nothing here is shipped: the pages are.
"""

from pathlib import Path

from pipelines.reference.commands import commands_page
from pipelines.reference.deployment import definitions_page
from pipelines.reference.markdown import page
from pipelines.reference.metrics import metrics_page
from pipelines.reference.store_objects import store_page
from pipelines.reference.tags import tags_page
from pipelines.reference.variables import variables_page
from pipelines.reference.yaml_keys import INTRODUCTIONS, json_page, yaml_page

DIRECTORY = Path(__file__).parents[2] / "docs/reference"


def pages() -> dict[str, str]:
    made = {f"{kind}.md": yaml_page(kind) for kind in INTRODUCTIONS}
    made |= {
        "commands.md": commands_page(),
        "json.md": json_page(),
        "variables.md": variables_page(),
        "tags.md": tags_page(),
        "metrics.md": metrics_page(),
        "definitions.md": definitions_page(),
        "store.md": store_page(),
    }
    titles = {name: text.partition("\n# ")[2].partition("\n")[0] for name, text in made.items()}
    links = "\n".join(f"- [{title}]({name})" for name, title in titles.items())
    intro = "These pages are written from the code by `make reference`; a test fails where they say something else."
    return {"index.md": page("Reference", intro, links), **made}
