import glob
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.engines.registry import engine_kind
from headrace.engines.roles import EngineSettings
from headrace.errors import InvalidCampaign
from headrace.generation.campaign import PromptSource, load_campaign, load_campaigns
from headrace.generation.prompt_files import read_prompt_files
from headrace.prep.corpus import load_corpus
from headrace.version_sets.sets import Decoding
from resources.settings import CHECKOUT
from simulation.models import model_of
from tests.generation.builders import make_campaign

BODY = {
    "name": "glossary",
    "model": "tiny",
    "num_shards": 2,
    "prompts": {"files": "prompts.jsonl", "per_shard": 3},
    "decoding": {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 12},
}
ROLE = {"model": "tiny", "decoding": BODY["decoding"], "engine": {"name": "echo"}}


def write(directory: Path, file_name: str = "glossary.yaml", **changes: Any) -> Path:
    file = directory / file_name
    file.write_text(yaml.safe_dump({key: value for key, value in (BODY | changes).items() if value is not None}))
    return file


def test_the_demos_campaign_has_ten_shards_of_fourteen_rows() -> None:
    campaign = load_campaigns(CHECKOUT / "resources/campaigns").find("glossary")
    assert (campaign.name, campaign.num_shards, campaign.prompts.per_shard) == ("glossary", 10, 14)
    assert campaign.shard_keys[:2] == ["glossary-00", "glossary-01"]
    assert campaign.partition_keys("2026-11-22")[9] == "2026-11-22|glossary-09"
    assert [step.weight for step in campaign.plan.steps] == [0.1, 0.5]


@pytest.mark.parametrize("files", ["./prompts.txt", "../mine [old]/prompts.txt", "./prompts.*"])
def test_prompt_files_may_start_at_the_campaigns_own_file(tmp_path: Path, files: str) -> None:
    """Whatever that directory is called: brackets in it are no pattern."""
    directory = tmp_path / "mine [old]"
    directory.mkdir()
    (directory / "prompts.txt").write_text("Name a river.\n")
    files = files.replace("mine [old]", glob.escape("mine [old]"))
    campaign = load_campaign(write(directory, prompts={"files": files}))
    assert [one.text for one in read_prompt_files(campaign.prompts, "2026-11-22", tmp_path / "nowhere")] == [
        "Name a river."
    ]


@pytest.mark.parametrize("name", ["glossary", "picture-dictionary"])
def test_the_demos_campaigns_ask_as_their_training_did(name: str) -> None:
    """A model that is asked in other turns than it was trained on answers worse, and no error says so."""
    campaign = load_campaigns(CHECKOUT / "resources/campaigns").find(name)
    corpus = load_corpus(CHECKOUT / "resources/corpus.yaml")
    template = campaign.parts["writer"].prompt_template
    assert corpus.prompt is not None
    assert (template.system, template.user) == (corpus.prompt.system, "{text}")
    assert campaign.prompts.template in (corpus.prompt.user, corpus.prompt.user.replace("{category}", "noun"))


@pytest.mark.parametrize(
    ("changes", "message"),
    {
        "an unknown key": ({"shards": 3}, "unknown key 'shards'; did you mean 'num_shards'?"),
        "a missing key": ({"prompts": None}, "lacks the key 'prompts'"),
        "nobody who writes": ({"model": None}, "lacks the key 'model', which says who writes"),
        "a writer beside roles": (
            {"roles": {"writer": ROLE}, "chain": ["writer"]},
            "roles says who answers, and model, decoding would describe one writer more: move them into roles",
        ),
        "roles that nobody orders": (
            {"model": None, "decoding": None, "roles": {"writer": ROLE}},
            r"chain must name roles of this file \(writer\), got \[\]",
        ),
        "a role that nobody describes": (
            {"model": None, "decoding": None, "roles": {"writer": ROLE}, "chain": ["writer", "editor"]},
            "chain must name roles",
        ),
        "a role that is asked twice": (
            {"model": None, "decoding": None, "roles": {"writer": ROLE}, "chain": ["writer", "writer"]},
            r"chain must ask each role once, got \['writer', 'writer'\]",
        ),
        "a role that is never asked": (
            {"model": None, "decoding": None, "roles": {"writer": ROLE, "editor": ROLE}, "chain": ["writer"]},
            "roles has editor, which chain never asks: add it to chain, or take it out",
        ),
        "a role with a path for a name": (
            {"model": None, "decoding": None, "roles": {"../../up": ROLE}, "chain": ["../../up"]},
            r"a role's name must be lower-case letters, digits, .* got '../../up'",
        ),
        "an order of no roles": (
            {"chain": ["writer"]},
            r"chain orders the roles, and there are none, got \['writer'\]",
        ),
        "a wrong type": ({"num_shards": "two"}, "num_shards must be a whole number, got 'two'"),
        "a place of gigabytes": (
            {"prompt_template": {"user": "{text:>10000000000}"}},
            "user may pad to 9,999 characters at most",
        ),
        "no shard": ({"num_shards": 0}, "num_shards must be from 1 to 100,000, got 0"),
        "shards without end": ({"num_shards": 10**9}, "num_shards must be from 1 to 100,000, got 1,000,000,000"),
        "a name without end": ({"name": "x" * 151}, "name must have at most 150 characters, got 151: 'xxx"),
        "a bad name": ({"name": "My Glossary"}, "name must be lower-case letters.*got 'My Glossary'"),
        "a draw of nothing": (
            {"prompts": {"files": "a.jsonl", "per_shard": 0}},
            "per_shard must be null or at least 1, got 0",
        ),
        "a day's files with a size": (
            {"prompts": {"files": "{day}.jsonl", "per_shard": 3}},
            "per_shard has no meaning where files holds {day}",
        ),
        "a column of ours carried": (
            {"prompts": {"files": "a.jsonl", "carry": ["sku", "output"]}},
            "carry must not name 'output': every row has a column of that name. Rename it in the prompt file",
        ),
        "the term carried": (
            {"prompts": {"files": "a.jsonl", "carry": ["term"]}},
            "carry must not name 'term': every row has a column of that name. Name it in term_column instead",
        ),
        "a column carried twice": (
            {"prompts": {"files": "a.jsonl", "carry": ["sku", "sku"]}},
            r"carry must name each column once, got \['sku', 'sku'\]",
        ),
        "columns of plain text": (
            {"prompts": {"files": "a", "format": "text", "carry": ["sku"]}},
            r"carry names columns, and plain text has none, got \['sku'\]",
        ),
        "no variation": (
            {"prompts": {"files": "a.jsonl", "variations": 0}},
            "prompts: variations must be between 1 and 1,000, got 0",
        ),
        "variations that would all be equal": (
            {"prompts": {"files": "a.jsonl", "variations": 3}, "decoding": {"temperature": 0}},
            "prompts: variations must be 1 where the temperature is 0, or a prompt's rows would all be equal, got 3",
        ),
        "a template that reaches into objects": (
            {"prompts": {"files": "a.jsonl", "per_shard": 3, "template": "{term.__class__}"}},
            "template may use column names, got {term.__class__}",
        ),
        "a template that is none": (
            {"prompts": {"files": "a.jsonl", "per_shard": 3, "template": "{term"}},
            "template is not a template: expected '}'",
        ),
        "a template with a format from a column": (
            {"prompts": {"files": "a.jsonl", "per_shard": 3, "template": "{term:{width}}"}},
            "template may not take a format from another place, got '{term:{width}}'",
        ),
        "a template with an unknown conversion": (
            {"prompts": {"files": "a.jsonl", "per_shard": 3, "template": "{term!x}"}},
            "template cannot be filled with text: a conversion is one of !r, !s and !a, got '{term!x}'",
        ),
        "a user turn with a number's format": (
            {"prompt_template": {"user": "Say {text:d}"}},
            "user cannot be filled with text: Unknown format code 'd' for object of type 'str', got 'Say {text:d}'",
        ),
        "a user turn without the prompt": (
            {"prompt_template": {"user": "Hello."}},
            "user must hold {text}, where the prompt goes, got 'Hello.'",
        ),
        "a hot decoding": (
            {"decoding": BODY["decoding"] | {"temperature": -1}},
            "temperature must be at least 0, got -1",
        ),
        "an unknown engine": (
            {"engine": {"name": "tgi"}},
            "No engine 'tgi' is installed; there are .*echo, .*openai_http, .*transformers",
        ),
        "a server without an address": ({"engine": {"name": "openai_http"}}, "'openai_http' needs base_url and model"),
        "a date that is none": (
            {"engine": {"template_date": "soon"}},
            "template_date must be a day as YYYY-MM-DD, got 'soon'",
        ),
        "a date for a server": (
            {"engine": {"name": "openai_http", "base_url": "http://a/v1", "model": "m", "template_date": "2026-01-01"}},
            "template_date is for the engine transformers, got '2026-01-01' for 'openai_http'",
        ),
        "a merge for a server": (
            {"engine": {"name": "openai_http", "base_url": "http://a/v1", "model": "m", "merge_adapter": True}},
            "merge_adapter is for the engine transformers, and 'openai_http' loads none. Leave it out",
        ),
        "special tokens of a model that knows them": (
            {"engine": {"special_tokens": ["<s>"]}},
            "special_tokens is for the engine openai_http",
        ),
        "review limits that cross": (
            {"review": {"words_min": 9, "words_max": 3}},
            "words_min must not exceed words_max",
        ),
        "an empty banned term": ({"review": {"banned_terms": [" "]}}, "banned_terms must not hold an empty term"),
        "rollout steps that fall": ({"rollout": {"steps": [0.5, 0.1]}}, "steps must rise"),
    }.values(),
)
def test_a_campaign_that_cannot_run_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = write(tmp_path, **changes)
    with pytest.raises(InvalidCampaign, match=message) as refused:
        load_campaign(file)
    assert str(file) in str(refused.value)


def test_a_missing_directory_is_a_problem_and_an_empty_one_has_no_campaign(tmp_path: Path) -> None:
    missing, empty = load_campaigns(tmp_path / "nowhere"), load_campaigns(tmp_path)
    said = f"There is no directory of campaigns at {tmp_path}/nowhere; make it, or set HEADRACE_CAMPAIGNS."
    assert (list(missing), missing.problems) == ([], (said,))
    with pytest.raises(InvalidCampaign, match="make it, or set HEADRACE_CAMPAIGNS"):
        missing.find("glossary")
    assert (list(empty), empty.problems) == ([], ())
    with pytest.raises(InvalidCampaign, match="No file in .* describes the campaign 'glossary'; there are none"):
        empty.find("glossary")


def test_a_campaign_file_may_say_no_more_than_who_writes_what(tmp_path: Path) -> None:
    campaign = load_campaign(write(tmp_path, num_shards=None, decoding=None, prompts={"files": "prompts.jsonl"}))
    assert (campaign.num_shards, campaign.prompts.per_shard) == (1, None)
    usual = Decoding(temperature=0.7, top_p=1.0, max_new_tokens=256)
    assert campaign.version_set({"writer": model_of("tiny", 1)}).member("writer").decoding == usual


def test_what_the_page_on_prompts_shows_is_a_campaign(tmp_path: Path) -> None:
    [shown] = re.findall(r"```yaml\n(.+?)```", (CHECKOUT / "docs/prompts.md").read_text(), re.DOTALL)
    campaign = load_campaign(write(tmp_path, **yaml.safe_load(shown)))
    assert (campaign.prompts.files, campaign.prompts.column) == ("products.csv", "question")


def test_the_page_on_prompts_has_every_key() -> None:
    page = (CHECKOUT / "docs/prompts.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.M) == [one.name for one in fields(PromptSource)]


@pytest.mark.parametrize("left_out", ["temperature", "top_p", "max_new_tokens"])
def test_each_setting_of_decoding_alone_may_be_left_out(tmp_path: Path, left_out: str) -> None:
    some = {key: value for key, value in BODY["decoding"].items() if key != left_out}
    made = load_campaign(write(tmp_path, decoding=some)).parts["writer"].decoding
    assert made == Decoding(**some)
    assert getattr(made, left_out) == getattr(Decoding(), left_out)


def test_a_role_without_decoding_has_the_usual_one(tmp_path: Path) -> None:
    role = {key: value for key, value in ROLE.items() if key != "decoding"}
    file = write(tmp_path, model=None, decoding=None, roles={"writer": role}, chain=["writer"])
    assert load_campaign(file).parts["writer"].decoding == Decoding()


def test_two_files_of_one_campaign_break_each_other_and_nobody_else(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml")
    write(tmp_path, "b.yaml")
    write(tmp_path, "c.yaml", name="tales")
    campaigns = load_campaigns(tmp_path)
    assert [campaign.name for campaign in campaigns] == ["tales"]
    said = "Campaign 'glossary' stands in two files: a.yaml and b.yaml. Rename one, or remove it."
    assert campaigns.problems == (said,)
    with pytest.raises(InvalidCampaign) as refused:
        campaigns.find("glossary")
    assert str(refused.value) == said


def test_a_broken_file_costs_its_own_campaign_alone_and_is_named_to_who_asks_for_it(tmp_path: Path) -> None:
    write(tmp_path, "tales.yaml", name="tales")
    broken = write(tmp_path, "other.yaml", num_shards="two", model=3)
    (tmp_path / "torn.yml").write_text("name: torn-one\nprompts: [")
    (tmp_path / "nameless.yaml").write_text("prompts: [")
    campaigns = load_campaigns(tmp_path)
    assert list(campaigns.by_name) == ["tales"]
    assert [(one.path.name, one.name) for one in campaigns.broken] == [
        ("nameless.yaml", None),
        ("other.yaml", "glossary"),
        ("torn.yml", "torn-one"),
    ]
    for name, told in {
        "glossary": rf"^Campaign file {broken} has 2 faults:\n  {broken}:\d+:\d+: model must be a string, got 3",
        "torn-one": r"torn.yml:2:\d+ is not readable as YAML",
        "nameless": "nameless.yaml:1:.* is not readable as YAML",
        "tale": "describes the campaign 'tale'; did you mean 'tales'\\? A file that cannot be read may describe it: ",
    }.items():
        with pytest.raises(InvalidCampaign, match=told):
            campaigns.find(name)


def test_an_engine_that_one_campaign_cannot_run_on_breaks_that_one_alone(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", engine={"name": "echo", "base_url": "http://a/v1", "model": "m"})
    write(tmp_path, "b.yaml", name="tales")
    campaigns = load_campaigns(tmp_path, engine="openai_http")
    assert list(campaigns.by_name) == ["glossary"]
    assert "campaign 'tales' on engine 'openai_http'" in campaigns.problems[0]


def test_a_version_set_names_everything_that_can_change_a_row() -> None:
    campaign = make_campaign()
    version_set = campaign.version_set({"writer": model_of("tiny", 3)})
    member = version_set.member("writer")
    assert (member.model_name, member.model_version, member.weights_digest) == ("tiny", "3", "weights-3")
    assert member.decoding == campaign.decoding
    assert version_set.engine == campaign.parts["writer"].engine.spec


def test_another_engine_is_another_version_set() -> None:
    campaign = make_campaign(engine=load_campaigns(CHECKOUT / "resources/campaigns").find("glossary").engine)
    models = {"writer": model_of("tiny", 1)}
    assert campaign.with_engine("echo").version_set(models).id != campaign.version_set(models).id
    assert campaign.with_engine(None) is campaign


def test_what_a_template_takes_for_today_is_part_of_the_version_set() -> None:
    undated, *dated = (
        make_campaign(engine=EngineSettings(template_date=date)) for date in (None, "2026-01-01", "2026-01-02")
    )
    sets = [campaign.version_set({"writer": model_of("tiny", 1)}) for campaign in (undated, *dated)]
    assert len({version_set.id for version_set in sets}) == 3
    assert sets[1].engine.template_date == "2026-01-01"
    assert dated[0].with_engine("echo").parts["writer"].engine.options.template_date is None


def test_an_engine_override_that_lacks_its_settings_is_refused() -> None:
    with pytest.raises(InvalidCampaign, match="campaign 'glossary' on engine 'openai_http'.*needs base_url"):
        make_campaign().with_engine("openai_http")


def test_the_build_of_an_engine_is_its_libraries_versions() -> None:
    assert engine_kind("transformers").build.startswith("transformers 5.")
    assert engine_kind("echo").build == ""


def test_several_roles_are_one_version_set_in_which_each_has_its_model_and_engine(tmp_path: Path) -> None:
    editor = ROLE | {"model": "careful", "prompt_template": {"system": "Shorten.", "user": "{text}"}}
    file = write(
        tmp_path,
        model=None,
        decoding=None,
        roles={"editor": editor, "writer": ROLE},
        chain=["writer", "editor"],
    )
    campaign = load_campaign(file)
    made = campaign.version_set({"writer": model_of("tiny", 2), "editor": model_of("careful", 1)})
    assert campaign.order == ("writer", "editor")
    assert [(one.role, one.model_name, one.model_version) for one in made.members] == [
        ("editor", "careful", "1"),
        ("writer", "tiny", "2"),
    ]
    assert made.member("editor").system_prompt == "Shorten."
    assert {made.engine_of(role).name for role in campaign.order} == {"echo"}


def test_another_order_of_the_same_roles_is_another_version_set(tmp_path: Path) -> None:
    """It makes other rows."""
    roles, models = {"editor": ROLE, "writer": ROLE}, {role: model_of("tiny", 1) for role in ("editor", "writer")}
    sets = [
        load_campaign(write(tmp_path, model=None, decoding=None, roles=roles, chain=chain)).version_set(models)
        for chain in (["writer", "editor"], ["editor", "writer"])
    ]
    assert sets[0].id != sets[1].id
    assert [made.chain for made in sets] == [("writer", "editor"), ("editor", "writer")]
