"""For whom a campaign's runs ask models that several share."""

from pathlib import Path
from typing import Any

import pytest

from headrace.engines.asker import Asker
from headrace.errors import InvalidCampaign
from headrace.generation.askers import asker_of
from headrace.generation.campaign import Campaign
from headrace.generation.prompt_source import PromptSource
from headrace.inbox.rules import InboxRules, Tenant
from headrace.keys import ContentPartition
from headrace.store.local import LocalStore
from simulation.campaign_site import make_campaign
from tests.inbox_builders import event, seal_window


def orders(**changes: Any) -> Campaign:
    rules = InboxRules(tenants={"acme": Tenant(weight=2.0)})
    prompts = PromptSource(inbox=rules, template="Describe {product}.")
    return make_campaign(name="orders", num_shards=1, prompts=prompts, **changes)


def test_rows_of_prompt_files_are_their_campaigns_own(tmp_path: Path) -> None:
    store, partition = LocalStore(tmp_path), ContentPartition.parse("2026-11-22|glossary-00")
    campaign = make_campaign(name="glossary")
    assert asker_of(campaign, partition, store) == Asker(tenants={"campaign glossary": 1.0})
    flex = make_campaign(name="glossary", work_class="flex")
    assert asker_of(flex, partition, store).work_class == "flex"


@pytest.mark.parametrize(("event_class", "work_class"), [("batch", "batch"), ("flex", "flex"), ("live", "flex")])
def test_rows_of_a_window_are_its_tenants_by_their_events_and_weights(
    tmp_path: Path, event_class: Any, work_class: str
) -> None:
    store = LocalStore(tmp_path)
    events = [event(str(number), {"product": "a lamp"}) for number in range(4)]
    window = seal_window(store, events, event_class=event_class, tenants={"acme": 3, "globex": 1})
    asker = asker_of(orders(), ContentPartition.parse(window.partition), store)
    assert (asker.work_class, asker.tenants) == (work_class, {"acme": 0.375, "globex": 0.25})


def test_a_window_that_cannot_be_read_costs_no_run(tmp_path: Path) -> None:
    partition = ContentPartition.parse("2026-11-22|orders-w000007")
    assert asker_of(orders(), partition, LocalStore(tmp_path)) == Asker(tenants={"campaign orders": 1.0})


def test_rows_are_never_live(tmp_path: Path) -> None:
    with pytest.raises(InvalidCampaign, match="work_class"):
        load_with(tmp_path, "live")


def load_with(directory: Path, work_class: str) -> None:
    from headrace.generation.campaign import load_campaign

    file = directory / "c.yaml"
    file.write_text(
        "name: c\nmodel: m\nprompts: {files: 'p.txt'}\nengine: {name: echo}\n" + f"work_class: {work_class}\n"
    )
    load_campaign(file)
