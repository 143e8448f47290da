"""Run tags: constants of the code, with the texts below them."""

from pipelines.reference.constants import constants
from pipelines.reference.markdown import code, page, prose, table

PATTERN = r"(?:\.dagster/)?headrace/[a-z_]+"
_DEMAND = "headrace/placement/demand.py"


def tags_page() -> str:
    found = sorted(constants(PATTERN), key=lambda one: one.value)
    parts = {
        "What a run asks for": [one for one in found if one.module == _DEMAND],
        "What Headrace writes": [one for one in found if one.module != _DEMAND and not one.value.startswith(".")],
        "Records of its own": [one for one in found if one.value.startswith(".")],
    }
    notes = {
        "What a run asks for": "An asset's `op_tags`, or the run's own tags, which override them: "
        "[GPUs](../gpus.md#what-a-run-asks-for) explains them.",
        "What Headrace writes": "For people, and for Dagster's daemon; do not set them yourself, unless the text "
        "says so.",
        "Records of its own": "JSON for Headrace itself. Dagster's UI hides tags with this beginning.",
    }
    return page(
        "Run tags",
        *(
            f"## {title}\n\n{notes[title]}\n\n"
            + table(["tag", "meaning", "in"], [[code(one.value), prose(one.text), code(one.module)] for one in some])
            for title, some in parts.items()
        ),
    )
