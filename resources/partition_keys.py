"""Partition keys exist as soon as the files do: which keys this deployment's files ask for, and who registers them.

`pipelines.sensors.partition_keys` notices a new file; loading the definitions registers what is there, so that
`dg launch --partition` works on a fresh checkout without a daemon. Keys of deleted files stay, for their history.
"""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import dagster as dg

from headrace.errors import reason_of
from headrace.generation.campaign import load_campaigns
from headrace.keys import CAMPAIGN_SHARDS, CAMPAIGNS, MODEL_RECIPES, digest_text
from headrace.serving.service import load_services
from headrace.training.recipe import load_recipes
from headrace_dagster.partition_keys import register_keys
from resources.settings import Settings

# In Dagster's own words, for a process that only executes one run: whoever launched the run knew its partition.
_WORKER_COMMANDS = {"execute_run", "execute_step"}


def executes_one_run() -> bool:
    """Whether this process does nothing else: what is told or done once for all runs is not its business."""
    return bool(_WORKER_COMMANDS & set(sys.argv[1:4]))


def keys_of_files(settings: Settings) -> dict[str, list[str]]:
    """Name of a dynamic partitions definition → the keys that readable files ask for."""
    campaigns, services = load_campaigns(settings.campaigns), load_services(settings.services)
    return {
        # A campaign and a service of one name have no rollout before one is renamed: they would share a journal.
        CAMPAIGNS: sorted(campaigns.by_name.keys() ^ services.by_name.keys()),
        CAMPAIGN_SHARDS: [shard for campaign in campaigns for shard in campaign.shard_keys],
        MODEL_RECIPES: list(load_recipes(settings.recipes).by_name),
    }


def register_when_loaded(settings: Settings) -> None:
    """Registers the files' keys with the instance of DAGSTER_HOME, if there is one; never fails.

    Opening an instance costs a quarter of a second, so what it was last given is noted beside its database.
    """
    home = Path(os.environ.get("DAGSTER_HOME") or "/nowhere").expanduser()
    if not (home / "dagster.yaml").is_file() or executes_one_run():
        return
    try:
        wanted, note = keys_of_files(settings), home / "history/partition_keys"
        if note.is_file() and note.read_text() == _given(home, wanted):
            return
        with dg.DagsterInstance.get() as instance:
            register_keys(instance, wanted)
        if given := _given(home, wanted):
            note.write_text(given)
    except Exception as error:  # noqa: BLE001 (whatever is wrong with the instance, the definitions still load)
        logging.getLogger("dagster").warning(
            f"The partition keys of new files are not registered: {reason_of(error)}. The sensor partition_keys, and "
            "the next start, try again."
        )


def _given(home: Path, wanted: Mapping[str, Sequence[str]]) -> str | None:
    """Names an instance and its keys; None: its database is not here, so nobody can tell whether it was replaced."""
    database = home / "history/runs/index.db"
    if not database.is_file():
        return None
    keys = [f"{name}={key}" for name, keys in wanted.items() for key in keys]
    return digest_text((home / "dagster.yaml").read_text(), str(database.stat().st_ino), *keys)
