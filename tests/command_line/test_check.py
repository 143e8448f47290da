"""`headrace check` on projects of its own: every fault at once, what is missing, and what a file will do."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from headrace.handoff.schemas import REVIEWED_CONTENT
from simulation.servers.chat import http, served, telling
from tests.command_line.builders import publish, run
from tests.command_line.checked_project import CAMPAIGN, CORPUS, RECIPE, SERVICE, Project, said
from tests.rollout.builders import reviewed_row


@pytest.fixture
def project(checked_project: Project) -> Project:
    return checked_project


def test_a_project_without_a_fault_is_told_what_its_files_will_do(project: Project) -> None:
    found = project.check()
    assert found.exit_code == 0, found.output
    out = found.stdout
    for kind, file in {
        "campaign tales": project.campaign,
        "recipe tiny.define": project.recipe,
        "corpus notes": project.corpus,
        "service desk": project.service,
    }.items():
        assert f"ok    {kind}  {file.relative_to(project.root)}\n" in out
    assert "200 rows in 10 partitions a night." in out
    assert "the candidate gets 1 of 10 partitions (10%), then 5 of 10 partitions (50%) of each night, then all." in out
    assert "  first prompt:\n    system: You tell tales.\n    user: Tell of t" in out
    assert "the candidate gets 10% (for 10 min at least, at most 100 units), then 50% of the units, then all." in out
    assert "at 200 rows a night and 80% kept (assumed: too few seen), a candidate that is as good is promoted" in out
    # The base model's own template around the words of the first note.
    assert "Explain note 0." in out
    assert "What stands in note 0." in out
    assert "60 of the first 60 fit into sequence_length 256; the longest has " in out
    assert out.splitlines()[-1] == "4 files: 0 broken, 1 warning."


def test_every_fault_of_every_file_is_told_at_once_and_the_others_are_examined(project: Project) -> None:
    project.write("resources/campaigns/bad.yaml", CAMPAIGN.replace("num_shards: 10", "num_shards: ten\nshards: 3"))
    project.write("resources/recipes/torn.yml", "name: [")
    project.recipe.write_text(RECIPE.replace("steps: 10", "steps: 0"))
    project.service.write_text(SERVICE.replace("[writer]", "[nobody]"))
    found = project.check()
    assert found.exit_code == 1
    for line in (
        "  resources/campaigns/bad.yaml:3:13: num_shards must be a whole number, got 'ten'.",
        "  resources/campaigns/bad.yaml:4:1: has an unknown key 'shards'; did you mean 'num_shards'?",
        "  resources/recipes/torn.yml:1:8: is not readable as YAML: ",
        f"  {project.recipe.relative_to(project.root)}:3:8: steps or epochs must say how long to train, "
        "got steps=0 and no epochs: write one of them.",
        "  live/desk.yaml:2:8: chain must name roles of this file (writer), got ['nobody'].",
    ):
        assert line in found.stdout
    assert f"ok    campaign tales  {project.campaign.relative_to(project.root)}" in found.stdout
    assert found.stdout.splitlines()[-1].startswith("6 files: 4 broken")


def test_the_project_is_found_from_below_and_its_env_file_says_where_files_are(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = project.write("some/where/notes.txt", "").parent
    project.write("elsewhere/other.yaml", CAMPAIGN.replace("name: tales", "name: other"))
    project.write(".env", f"HEADRACE_CAMPAIGNS={project.root}/elsewhere\nHEADRACE_RECIPES='{project.root}/none'\n")
    monkeypatch.chdir(below)
    body = project.body("--offline")
    assert body["root"] == str(project.root)
    assert [(one["kind"], one["name"]) for one in body["files"]] == [("campaign", "other"), ("corpus", "notes")]


def test_outside_of_a_project_the_environment_counts(
    project: Project, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside").mkdir()
    monkeypatch.chdir(tmp_path / "outside")
    places = {
        "CAMPAIGNS": project.campaign.parent,
        "RECIPES": project.recipe.parent,
        "HOME": project.root / ".headrace",
        "BASE_MODEL": tiny_model,
    }
    found = project.check(env={f"HEADRACE_{name}": str(place) for name, place in places.items()})
    assert found.exit_code == 0, found.output
    assert f"ok    campaign tales  {project.campaign}" in found.stdout


def test_a_file_tells_its_kind_by_its_schema_line_its_directory_or_its_keys(project: Project) -> None:
    line = "# yaml-language-server: $schema=../docs/schemas/recipe.schema.json\n"
    by_line = project.write("one.yaml", f"{line}name: define\n")
    by_place = project.write("resources/recipes/two.yaml", "description: of what?\n")
    by_keys = project.write("three.yaml", SERVICE)
    body = project.body(by_line, by_place, by_keys)
    assert [one["kind"] for one in body["files"]] == ["recipe", "recipe", "service"]
    assert body["files"][0]["faults"][0] == {"line": 2, "column": 1, "sentence": "lacks the key 'model'."}
    unknown = project.check(project.write("four.yaml", "name: some\n"))
    assert unknown.exit_code == 2
    assert "four.yaml does not say what it is: campaign, recipe, corpus, images or service." in unknown.stderr
    torn = project.check(project.write("five.yaml", "name: ["))
    assert torn.exit_code == 1
    assert "five.yaml:1:8: is not readable as YAML" in torn.stdout


def test_a_file_in_another_encoding_is_told_with_its_line(project: Project) -> None:
    project.campaign.write_bytes(CAMPAIGN.replace("You tell", "Du erzählst").encode("latin-1"))
    (fault,) = project.one(project.campaign)["faults"]
    assert (fault["line"], fault["column"]) == (5, None)
    assert fault["sentence"].startswith("is not readable as YAML: byte 0xe4 is no UTF-8")
    assert (
        f"  {project.campaign.relative_to(project.root)}:5: is not readable as YAML: byte 0xe4"
        in project.check(project.campaign).stdout
    )


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("resources/campaigns/tale.yaml", "the nearest name there is tales.yaml."),
        ("resource/campaigns", "the nearest name there is resources."),
        (".headrace/in", "is a directory without a *.yaml file"),
    ],
)
def test_a_file_that_is_not_there_is_a_wrong_question(project: Project, word: str, told: str) -> None:
    found = project.check(word)
    assert found.exit_code == 2
    assert told in found.stderr


def test_a_campaign_is_checked_by_its_name_whole_or_broken(project: Project) -> None:
    by_name, by_file = project.check("tales", "--offline"), project.check(project.campaign, "--offline")
    assert (by_name.exit_code, by_name.stdout) == (0, by_file.stdout)
    project.campaign.write_text(CAMPAIGN.replace("num_shards: 10", "num_shards: ten"))
    broken = project.check("tales", "--offline")
    assert broken.exit_code == 1
    assert "tales.yaml:3:13: num_shards must be a whole number, got 'ten'." in broken.stdout
    unknown = project.check("talse")
    assert (unknown.exit_code, "There is no file talse and no campaign 'talse'." in unknown.stderr) == (2, True)


def test_a_directory_without_files_or_a_wrong_variable_is_a_wrong_question(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = project.check(env={"HEADRACE_FIRST_DAY": "tomorrow"})
    assert (wrong.exit_code, "HEADRACE_FIRST_DAY must be a day" in wrong.stderr) == (2, True)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    none = project.check()
    assert (none.exit_code, "There is no file to check in " in none.stderr) == (2, True)


def test_prompts_that_are_not_there_are_told_with_the_nearest_name(project: Project) -> None:
    project.campaign.write_text(CAMPAIGN.replace("in/tales.jsonl", "in/tale.jsonl"))
    checked = project.one(project.campaign)
    home = project.root / ".headrace"
    assert said(checked, "prompts", "fail") == (
        f"prompts.files matches no file: {home}/in/tale.jsonl. In {home}/in there is no tale.jsonl; the nearest name "
        "there is tales.jsonl."
    )
    assert checked["gate"]["rows_a_night"] == 200, "the file says how many rows a night has"
    assert project.check().exit_code == 1


def test_a_prompt_that_cannot_be_made_is_told_with_its_line(project: Project) -> None:
    project.campaign.write_text(CAMPAIGN.replace("{thing}", "{item}"))
    assert "has no column 'item'" in said(project.one(project.campaign), "prompts", "fail") or (
        "missing column 'item'" in said(project.one(project.campaign), "prompts", "fail")
    )


def test_a_day_without_a_list_yet_shows_the_newest_day_that_has_one(project: Project) -> None:
    old = (datetime.now(UTC) - timedelta(days=3)).strftime("%Y-%m-%d")
    project.write(f".headrace/days/{old}.jsonl", '{"thing": "old things"}\n' * 30)
    project.campaign.write_text(CAMPAIGN.replace("in/tales.jsonl", "'days/{day}.jsonl'").replace(", per_shard: 20", ""))
    checked = project.one(project.campaign)
    assert f"that of {old} has 30 rows in 10 partitions a night." in said(checked, "prompts", "warn")
    assert checked["example"].endswith("user: Tell of old things.")


def test_a_share_of_one_partition_is_all_of_it(project: Project) -> None:
    project.campaign.write_text(CAMPAIGN.replace("num_shards: 10", "num_shards: 1"))
    checked = project.one(project.campaign)
    assert said(checked, "rollout", "warn") == (
        "num_shards is 1, so that a new version of the model would get whole nights, with no row of the present one to "
        "compare its own with: before you change the model, set num_shards to 10."
    )
    assert checked["gate"] is None
    project.campaign.write_text(CAMPAIGN.replace("num_shards: 10", "num_shards: 3"))
    assert "1 of 3 partitions, 33.33%. Set num_shards to 10" in said(project.one(project.campaign), "rollout", "warn")


def test_partitions_without_a_prompt_are_told_and_make_no_rows(project: Project) -> None:
    few = CAMPAIGN.replace("num_shards: 10", "num_shards: 100000").replace(", per_shard: 20", "")
    project.campaign.write_text(few)
    checked = project.one(project.campaign)
    assert checked["gate"]["rows_a_night"] == 300
    (found,) = [one for one in checked["findings"] if one["check"] == "prompts" and one["level"] == "warn"]
    assert (found["line"], found["column"]) == (3, 13)
    assert found["sentence"] == (
        "num_shards leaves 99,700 of 100,000 partitions without a prompt: lower it to 300 or less."
    )


def test_a_fresh_file_of_one_partition_draws_no_warning(project: Project) -> None:
    fresh = CAMPAIGN.replace("num_shards: 10\n", "").replace("rollout: {gate: {pass_rate_margin: 0.3}}\n", "")
    project.campaign.write_text(fresh)
    checked = project.one(project.campaign)
    assert [one["check"] for one in checked["findings"] if one["level"] != "ok"] == []


def test_a_gate_that_mostly_stays_undecided_is_told_a_horizon_that_would_do(project: Project) -> None:
    narrow = CAMPAIGN.replace("pass_rate_margin: 0.3", "pass_rate_margin: 0.03").replace(
        "per_shard: 20", "per_shard: 30"
    )
    project.campaign.write_text(narrow)
    checked = project.one(project.campaign)
    gate = checked["gate"]
    assert gate["equal_promoted"] < 0.9 <= gate["worse_sent_back"]
    wanted = gate["horizon_rows_wanted"]
    assert f"horizon_rows: {wanted}" in said(checked, "gate", "warn")
    project.campaign.write_text(
        narrow.replace("{pass_rate_margin", f"{{horizon_rows: {wanted}, horizon_seconds: 9000000, pass_rate_margin")
    )
    assert project.one(project.campaign)["gate"]["equal_promoted"] > gate["equal_promoted"]


def test_a_gate_that_a_hundred_nights_do_not_decide_is_told_to_take_a_larger_margin(project: Project) -> None:
    tiny = CAMPAIGN.replace("pass_rate_margin: 0.3", "pass_rate_margin: 0.01").replace("per_shard: 20", "per_shard: 1")
    project.campaign.write_text(tiny)
    checked = project.one(project.campaign)
    assert "nights would be needed: take a larger margin, or more rows a night." in said(checked, "gate", "warn")
    assert checked["gate"]["equal_promoted"] == 0


def test_a_budget_that_a_days_answers_may_spend_is_told_before_it_stops_a_night(project: Project) -> None:
    limits = "budget: {tokens: 2399, money: 1}\nprices: {tiny: {output: 100}}\n"
    project.campaign.write_text(CAMPAIGN + limits)
    checked = project.one(project.campaign)
    assert said(checked, "budget", "warn") == (
        "the answers of 200 rows a day, at most 12 tokens each, may spend 2,400 of 2,399 tokens, and their prompts "
        "come on top: runs would then stop, and go on when it is raised. Raise it, lower max_new_tokens, or ask less."
    )
    assert "may spend 0.24 of 1 in money, and their prompts come on top." in said(checked, "budget", "ok")


def test_the_pass_rate_is_the_one_that_the_store_has_seen(project: Project) -> None:
    rows = [reviewed_row(position, "a" * 64, kept=position % 4 != 0) for position in range(200)]
    store = project.root / ".headrace/store"
    publish(store, "reviewed_content", "2026-11-01|tales-00", pa.Table.from_pylist(rows, schema=REVIEWED_CONTENT))
    gate = project.one(project.campaign)["gate"]
    assert (gate["pass_rate"], gate["is_seen"]) == (0.75, True)


def test_a_server_is_asked_once_and_offline_never(project: Project) -> None:
    with served(telling(lambda *_: http())) as server:
        on_server = f"engine: {{name: openai_http, model: m, base_url: '{server.url}'}}"
        project.campaign.write_text(CAMPAIGN.replace("engine: {name: echo}", on_server))
        assert f"{server.url} was not asked" in said(project.one(project.campaign, "--offline"), "engine", "ok")
        assert server.num_probes == 0
        assert said(project.one(project.campaign), "engine", "ok") == f"{server.url} answers."
        assert server.num_probes == 1
    project.campaign.write_text(
        CAMPAIGN.replace(
            "engine: {name: echo}", "engine: {name: openai_http, model: m, base_url: 'http://u:pw@127.0.0.1:9/v1'}"
        )
    )
    found = project.check(project.campaign)
    assert "127.0.0.1:9/v1 takes no connection: start the server, or correct the address." in found.stdout
    assert "pw" not in found.stdout
    assert found.exit_code == 0, "a server may be started later"


def test_two_files_of_one_name_are_both_told(project: Project) -> None:
    second = project.write("resources/campaigns/second.yaml", CAMPAIGN)
    project.service.write_text(SERVICE.replace("name: desk", "name: tales"))
    found = project.body("--offline")
    told = {one["file"]: said(one, "name", "fail") for one in found["files"]}
    assert f"'tales' stands in {second} and {project.service}, too" in told[str(project.campaign)]
    assert f"'tales' stands in {project.campaign} and {project.service}, too" in told[str(second)]
    assert told[str(project.corpus)] == ""


def test_a_corpus_is_told_its_missing_files_its_unreadable_lines_and_what_does_not_fit(project: Project) -> None:
    project.corpus.write_text(CORPUS.replace("[in/notes.jsonl]", "[in/notes.jsonl, in/note.jsonl]"))
    assert "files[1] matches no file: " in said(project.one(project.corpus), "files", "warn")
    project.corpus.write_text(CORPUS.replace("in/notes.jsonl", "'in/{shard}.jsonl'") + "num_shards: 2\n")
    assert "files[0] matches no file for 2 of 2 shards, such as " in said(project.one(project.corpus), "files", "fail")
    project.corpus.write_text(CORPUS.replace("text: body", "text: words"))
    assert "line 1 first, cannot be read: missing column 'words', got " in said(
        project.one(project.corpus), "records", "fail"
    )
    project.corpus.write_text(CORPUS + "sequence_length: 8\n")
    assert said(project.one(project.corpus), "examples", "fail").startswith(
        "sequence_length: 0 of the first 60 fit into sequence_length 8"
    )


def test_a_corpus_of_which_few_lines_are_unreadable_is_told_how_many(project: Project) -> None:
    lines = (project.root / ".headrace/in/notes.jsonl").read_text().splitlines()
    project.write(".headrace/in/notes.jsonl", "\n".join([lines[0], "{", *lines[2:], ""]))
    project.corpus.write_text(CORPUS + "quarantine_share_max: 0.1\n")

    assert said(project.one(project.corpus), "records", "warn").startswith(
        "59 of the first 60 records of notes.jsonl can be read, 1 would go to the quarantine, line 2 first: "
    )


def test_a_corpus_of_several_kinds_of_files_is_read_from_each_and_from_the_last_file(project: Project) -> None:
    for number in range(3):
        project.write(f".headrace/in/page-{number}.html", "<title>note</title><p>What stands in a note.")
    project.write(".headrace/in/zz.jsonl", '{"title": "note", "text": "What stands in it."}\n')
    project.corpus.write_text(CORPUS.replace("in/notes.jsonl", "'in/[npz]*'"))

    failed = said(project.one(project.corpus), "records", "fail").splitlines()

    assert len(failed) == 2
    assert "page-0.html" in failed[0]
    assert "missing column 'body', got 'text,title'." in failed[0]
    assert "zz.jsonl, line 1 first, cannot be read: missing column 'body', got " in failed[1]
    project.write(".headrace/in/picture.webp", "RIFF")
    assert "picture.webp does not tell its format" in said(project.one(project.corpus), "files", "fail")


def test_a_corpus_whose_label_file_is_missing_is_told_what_makes_it(project: Project) -> None:
    project.corpus.write_text(CORPUS + "labels: {file: {path: labels.csv}}\n")
    assert "headrace labels export and import make it" in said(project.one(project.corpus), "files", "fail")


def test_a_corpus_without_its_base_model_shows_its_example_turn_by_turn(project: Project) -> None:
    project.write(".env", f"HEADRACE_BASE_MODEL={project.root}/none\n")
    checked = project.one(project.corpus)
    assert checked["example"] == "user: Explain note 0.\nassistant: What stands in note 0."
    assert "is not on this machine" in said(checked, "examples", "warn")


def test_where_each_file_is_one_document_the_first_ones_tell_what_fits(project: Project) -> None:
    for number in range(60):
        project.write(f".headrace/in/{number:02d}.py", "x = 1\n" * (400 if number % 2 else 1))
    project.corpus.write_text(
        "name: programs\nfiles: [in/*.py]\nformat: text\ntext_unit: file\nexample: plain\nsequence_length: 64\n"
    )
    checked = project.one(project.corpus)
    assert "25 of the first 50 fit into sequence_length 64" in said(checked, "examples", "warn")


CHATS = "name: chats\nfiles: [in/chats.jsonl]\ncolumns: {messages: messages}\nexample: conversation\n"


def test_a_conversation_is_shown_as_the_model_reads_it_with_what_is_learnt(project: Project) -> None:
    chat = [{"role": "user", "content": "Sunny?"}, {"role": "assistant", "content": "Yes."}]
    project.write(".headrace/in/chats.jsonl", (json.dumps({"messages": chat}) + "\n") * 3)
    project.corpus.write_text(CHATS)
    checked = project.one(project.corpus)
    assert checked["example"] == "<|im_start|>user\nSunny?<|im_end|>\n<|im_start|>assistant\n⟦Yes.<|im_end|>⟧\n"
    assert "3 of the first 3 fit" in said(checked, "examples", "ok")
    project.write(".env", f"HEADRACE_BASE_MODEL={project.root}/none\n")
    assert project.one(project.corpus)["example"] == "user: Sunny?\nassistant: Yes."


def test_a_conversation_that_cannot_be_learnt_is_told_with_its_document_or_its_line(project: Project) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "w", "arguments": "{}"}}]}
    project.corpus.write_text(CHATS)
    for turn, check, sentence in (
        (call, "examples", "leaves out the assistant's tool_calls. Take a model whose template shows them"),
        (
            {"role": "bot", "content": "a"},
            "records",
            "line 1 first, cannot be read: column 'messages' message 2 has the",
        ),
    ):
        chat = [{"role": "user", "content": "Sunny?"}, turn]
        project.write(".headrace/in/chats.jsonl", json.dumps({"messages": chat}) + "\n")
        assert sentence in said(project.one(project.corpus), check, "fail")


def test_a_recipe_that_no_gang_can_run_is_told(project: Project) -> None:
    project.recipe.write_text(RECIPE + "ranks: 3\nbase_model: ./none\n")
    checked = project.one(project.recipe)
    assert "batch=4 does not divide into 3 ranks" in said(checked, "batch", "fail")
    assert "there is no base model ./none" in said(checked, "model", "fail")


def test_a_variable_that_names_what_is_not_there_is_told(project: Project) -> None:
    found = project.check("--offline", env={"HEADRACE_CORPUS": str(project.root / "resources/corpora.yaml")})
    assert found.exit_code == 1
    assert "corpora.yaml, which is not there. " in found.stdout
    assert "the nearest name there is corpus.yaml." in found.stdout


def test_a_misspelt_variable_is_told(project: Project) -> None:
    found = project.check("--offline", project.recipe, env={"HEADRACE_CAMPAINGS": "x"})
    assert "HEADRACE_CAMPAINGS is set, and nothing reads it: did you mean HEADRACE_CAMPAIGNS?" in found.stdout


def test_what_preview_refuses_of_a_model_is_a_fault_of_the_file(project: Project) -> None:
    """No recipe trains such a model, and no store has it: the same sentence from both."""
    project.campaign.write_text(CAMPAIGN.replace("model: tiny", "model: echo"))
    checked = project.one(project.campaign)
    refused = run("preview", project.campaign)

    sentence = said(checked, "model", "fail").removeprefix("model: ")
    assert "no base version of 'echo' is registered" in sentence
    assert "registered: false" in sentence
    assert refused.exit_code == 2
    assert sentence in " ".join(refused.stderr.split())
    assert project.check(project.campaign).exit_code == 1
    assert f"{project.campaign.relative_to(project.root)}:2:8: model" in project.check(project.campaign).output


def test_a_model_that_a_recipe_trains_is_said_to_be_not_there_yet(project: Project) -> None:
    told = said(project.one(project.campaign), "model", "ok")
    assert told == "no version of tiny is registered yet: a recipe of the project trains it."


def test_a_model_directory_that_the_engine_would_refuse_is_a_fault(project: Project, tiny_model: Path) -> None:
    weights = project.root / ".headrace/plain"
    shutil.copytree(tiny_model, weights)
    config = json.loads((weights / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (weights / "tokenizer_config.json").write_text(json.dumps(config))
    (weights / "chat_template.jinja").unlink(missing_ok=True)
    own = "model: tiny\nweights: plain\nnum_shards: 1\nprompts: {files: in/tales.jsonl, column: thing}\n"
    project.campaign.write_text(f"name: tales\n{own}")
    checked = project.one(project.campaign)
    assert said(checked, "model", "fail").startswith(f"weights: Model {weights} has no chat template (")
    project.campaign.write_text(f"name: tales\n{own}engine: {{name: echo}}\n")
    assert said(project.one(project.campaign), "model", "fail") == "", "echo opens no weights"
    (weights / "config.json").unlink()
    assert "which has no config.json" in said(project.one(project.campaign), "model", "fail")
