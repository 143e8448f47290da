"""Several rows of each prompt: each has its own id and seed, and is compared with its own counterpart."""

from pathlib import Path

import pytest

from headrace.generation.campaign import PromptSource
from headrace.generation.content_checks import check_content
from headrace.generation.micro_batches import committed
from headrace.generation.review import review_rows
from headrace.handoff.schemas import check_schema
from headrace.keys import row_id, row_seed
from tests.generation.builders import TEXTS, ScriptedEngine, Site, make_campaign, make_version_set

NUM = 3


def make_varied(directory: Path, variations: int = NUM, name: str = "store") -> Site:
    (directory / "prompts.txt").write_text("\n".join(TEXTS))
    source = PromptSource(files="prompts.txt", variations=variations)
    site = Site(directory / name, campaign=make_campaign(num_shards=1, prompts=source))
    site.initialize()
    site.draw_prompts(directory)
    return site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_varied(tmp_path)


def test_each_variation_is_a_row_with_its_own_id_and_seed(site: Site) -> None:
    made = site.generate()
    rows, prompts = made.content.table().to_pylist(), site.handoffs.open("prompts", site.partition.key).table()
    wanted = [(prompt, variation) for prompt in prompts["prompt_id"].to_pylist() for variation in range(NUM)]
    assert [(row["prompt_id"], row["variation"]) for row in rows] == wanted
    assert [row["row_id"] for row in rows] == [
        row_id(prompt, made.claim.version_set, variation) for prompt, variation in wanted
    ]
    assert [row["seed"] for row in rows] == [row_seed(row["row_id"]) for row in rows]
    assert [row["position"] for row in rows] == list(range(len(TEXTS) * NUM))
    assert made.execution.num_rows == len(rows)


def test_tables_with_variations_fit_their_schemas_and_pass_the_checks(site: Site) -> None:
    content = site.generate().content.table()
    check_schema("prompts", site.handoffs.open("prompts", site.partition.key).table())
    check_schema("generated_content", content)
    reviewed = review_rows(content, site.campaign.review).table
    check_schema("reviewed_content", reviewed)
    assert reviewed["variation"].to_pylist() == list(range(NUM)) * len(TEXTS)
    findings = check_content(site.handoffs, site.partition.key)
    assert all(finding.passed for finding in findings.values())
    assert findings["rows_match_prompts"].figures == {"num_rows": NUM * len(TEXTS), "num_prompts": len(TEXTS)}


def test_a_missing_variation_is_noticed(site: Site) -> None:
    content = site.generate().content
    site.handoffs.publish(
        "generated_content",
        site.partition.key,
        content.table().slice(1),
        code_version="1",
        run_id="r",
        input_versions=content.manifest.input_versions,
    )
    assert not check_content(site.handoffs, site.partition.key)["rows_match_prompts"].passed


def test_the_first_variation_is_the_row_of_a_campaign_without_variations(site: Site, tmp_path: Path) -> None:
    alone = make_varied(tmp_path, variations=1, name="alone").generate().content.table()
    first = [row for row in site.generate().content.table().to_pylist() if row["variation"] == 0]
    assert [(row["row_id"], row["output"]) for row in first] == [
        (row["row_id"], row["output"]) for row in alone.to_pylist()
    ]
    assert "variation" not in alone.column_names


def test_a_resumed_partition_makes_the_missing_variations_alone(site: Site, tmp_path: Path) -> None:
    whole = make_varied(tmp_path, name="whole").generate().content

    def lights_out() -> None:
        if len(committed(site.objects, site.open_claim())) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.generate(engine=ScriptedEngine(before=lights_out))
    # The file may ask for another number meanwhile: the prompts that the claim pinned say how many.
    site.campaign = make_campaign(num_shards=1, prompts=PromptSource(files="prompts.txt", variations=9))
    outcome = site.generate()
    assert outcome.num_generated_now == NUM * len(TEXTS) - 4 * site.campaign.micro_batch_rows
    assert outcome.content.content_digest == whole.content_digest


def test_another_number_of_variations_makes_the_partition_again(site: Site, tmp_path: Path) -> None:
    site.generate()
    site.campaign = make_campaign(num_shards=1, prompts=PromptSource(files="prompts.txt", variations=2))
    site.draw_prompts(tmp_path)
    assert site.generate(site.open_claim("another-run")).content.num_rows == 2 * len(TEXTS)


def test_a_mirror_compares_each_variation_with_its_own(site: Site) -> None:
    site.generate()
    site.start(2, weight=0.1)
    mirror = site.mirror()
    compared, candidate = mirror.comparison.table(), make_version_set(2).id
    check_schema("mirror_comparison", compared)
    for row in compared.to_pylist():
        assert row["mirrored_row_id"] == row_id(row["prompt_id"], candidate, row["variation"])
    assert compared["variation"].to_pylist() == list(range(NUM)) * len(TEXTS)
    assert (mirror.comparison.num_rows, mirror.differences.num) == (NUM * len(TEXTS), len(TEXTS))
