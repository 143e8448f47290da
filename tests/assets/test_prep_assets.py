"""Data prep in Dagster: real runs, a real store, the tiny model's tokenizer."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
import yaml

from assets import prep, prep_checks
from assets.partitions import corpus_shards
from headrace.errors import InvalidTrainingRun
from headrace.handoff.schemas import LABELS
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from headrace.training.examples import ExamplesInput, open_examples
from headrace_dagster.handoff_io import ArrowHandoffIOManager, StoreResource
from headrace_dagster.resources.engines import EnginesResource
from resources.corpus_resource import CorpusResource
from tests.prep.builders import gloss, make_raw, write_jsonl

ASSETS = [prep.read_corpus_shard, prep.labels, prep.clean_documents, prep.training_examples]
SHARD = "shard-03"


@dataclass
class Project:
    """A checkout's worth of state in a temporary directory."""

    home: Path
    model: Path
    instance: dg.DagsterInstance

    @property
    def handoffs(self) -> HandoffStore:
        return HandoffStore(LocalStore(self.home / "store"))

    def write_corpus(self, **changes: Any) -> None:
        body = {
            "name": "glosses",
            "files": ["corpus/{shard}.jsonl"],
            "num_shards": 8,
            "dedup": {"over": "shard"},
            "columns": {"term": "term", "category": "category", "text": "gloss"},
            "heldout_share": 0.2,
            "rules": {"set": "short"},
            "prompt": {"user": 'Define the {category} "{term}".'},
        }
        (self.home / "corpus.yaml").write_text(yaml.safe_dump(body | changes))

    def write_shard(self, *rows: dict[str, Any], shard: str = SHARD) -> Path:
        return write_jsonl(self.home / f"corpus/{shard}.jsonl", rows)

    @property
    def resources(self) -> dict[str, Any]:
        store = str(self.home / "store")
        corpus_file = str(self.home / "corpus.yaml")
        return {
            "io_manager": ArrowHandoffIOManager(url=store),
            "store": StoreResource(url=store),
            "corpus": CorpusResource(corpus_file=corpus_file, home=str(self.home), base_model=str(self.model)),
            "engines": EnginesResource(),
        }

    def run(self, *assets: Any, shard: str = SHARD, **options: Any) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            list(assets or (*ASSETS, *prep_checks.CHECKS)),
            partition_key=shard,
            instance=self.instance,
            resources=self.resources,
            raise_on_error=False,
            **options,
        )

    def check(self) -> dg.ExecuteInProcessResult:
        """The checks alone, as a click on them would launch them: without a partition."""
        definitions = dg.Definitions(
            assets=ASSETS,
            asset_checks=prep_checks.CHECKS,
            resources=self.resources,
            jobs=[dg.define_asset_job("checks", selection=dg.AssetSelection.all_asset_checks())],
        )
        return definitions.resolve_job_def("checks").execute_in_process(instance=self.instance, raise_on_error=False)


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path) -> Project:
    project = Project(home=tmp_path, model=tiny_model, instance=dg.DagsterInstance.ephemeral())
    project.write_corpus()
    return project


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node({"raw_documents": "read_corpus_shard"}.get(asset, asset))[-1:]
    return {name: value.value for name, value in event.metadata.items()}


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    evaluations = result.get_asset_check_evaluations()
    return {f"{each.asset_key.to_user_string()}.{each.check_name}": each.passed for each in evaluations}


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = result.filter_events(lambda each: each.is_step_failure)
    error = event.step_failure_data.error
    assert error is not None
    return f"{error.cls_name}: {error.message}"


def test_a_shard_goes_from_files_to_sequences_in_one_run_and_every_check_passes(project: Project) -> None:
    project.write_shard(*map(gloss, range(60)), gloss(5), {"term": "t", "category": "noun", "gloss": "one"})

    result = project.run()

    assert result.success
    raw = metadata(result, "raw_documents")
    assert (raw["num_rows_in"], raw["num_rows"], raw["num_rows_quarantined"], raw["num_files"]) == (62, 62, 0, 1)
    clean = metadata(result, "clean_documents")
    assert (clean["num_rows_in"], clean["num_rows"], clean["num_rows_dropped"]) == (62, 60, 2)
    assert (clean["dropped/exact_duplicate"], clean["dropped/too_few_words"]) == (1, 1)
    examples = metadata(result, "training_examples")
    assert examples["num_examples"] == 60 == examples["train/num_examples"] + examples["heldout/num_examples"]
    assert examples["heldout/num_completion_tokens"] > 0
    assert set(checks(result).values()) == {True}
    assert len(checks(result)) == len(prep_checks.CHECKS)
    sealed = project.handoffs.open("training_examples", SHARD)
    assert sealed.num_rows == examples["num_rows"]
    assert list(sealed.manifest.input_versions) == [f"clean_documents[{SHARD}]"]


@pytest.mark.parametrize("asset", ["raw_documents", "quarantine"])
def test_either_of_what_is_read_together_can_be_launched_alone(asset: str, project: Project) -> None:
    project.write_shard(gloss(1))
    result = project.run(*ASSETS, selection=[asset])
    (event,) = result.asset_materializations_for_node("read_corpus_shard")
    assert event.asset_key == dg.AssetKey(asset)
    sealed = {name for name in ("raw_documents", "quarantine") if project.handoffs.newest(name, SHARD)}
    assert sealed == {asset}


def test_preparing_unchanged_files_again_makes_no_new_version(project: Project) -> None:
    project.write_shard(*map(gloss, range(20)))
    first = project.run(*ASSETS)
    again = project.run(*ASSETS)

    for asset in ("raw_documents", "clean_documents", "training_examples"):
        assert metadata(again, asset)["reused"] is True
        assert metadata(again, asset)["content_digest"] == metadata(first, asset)["content_digest"]
        assert project.handoffs.versions(asset, SHARD) == [1]


def test_a_shard_that_is_prepared_again_returns_what_is_sealed_with_its_figures(project: Project) -> None:
    project.write_shard(*map(gloss, range(20)))
    first = project.run()
    again = project.run()

    for asset in ("clean_documents", "training_examples"):
        figures = {name: value for name, value in metadata(first, asset).items() if isinstance(value, int | float)}
        of_this_run = {"reused", "write_mb_per_s", "kept_bytes"}
        assert {name: figures[name] for name in figures.keys() - of_this_run}.items() <= metadata(again, asset).items()
    assert set(checks(again).values()) == {True}


def test_a_changed_setting_or_tokenizer_makes_a_shard_again(project: Project) -> None:
    project.write_shard(*map(gloss, range(20)))
    project.run(*ASSETS)
    project.write_corpus(sequence_length=64)
    changed = project.run(*ASSETS)

    assert metadata(changed, "clean_documents")["reused"] is False
    assert metadata(changed, "training_examples")["reused"] is False
    # Its rows are the same: nothing that follows from them is asked for.
    first = project.handoffs.open("clean_documents", SHARD, 1)
    assert first.content_digest[:12] == metadata(changed, "clean_documents")["content_digest"]


def test_unreadable_lines_are_sealed_beside_the_documents(project: Project) -> None:
    project.write_corpus(quarantine_share_max=0.1)
    with project.write_shard(*map(gloss, range(20))).open("a") as file:
        file.write("nonsense\n")

    result = project.run()

    assert result.success
    assert metadata(result, "raw_documents")["num_rows_quarantined"] == 1
    (row,) = project.handoffs.open("quarantine", SHARD).table().to_pylist()
    assert (row["source_file"], row["source_line"], row["excerpt"]) == (f"corpus/{SHARD}.jsonl", 21, "nonsense\n")
    assert checks(result)["raw_documents.rows_add_up"]


def test_above_the_share_the_shard_fails_for_good_and_its_quarantine_can_be_read(project: Project) -> None:
    with project.write_shard(gloss(1)).open("a") as file:
        file.write("nonsense\n")

    result = project.run(*ASSETS)

    assert not result.success
    assert failure(result).startswith("Failure: ")
    assert "Worst file: corpus/shard-03.jsonl (1 records; line 2: not JSON" in failure(result)
    assert project.handoffs.open("quarantine", SHARD).num_rows == 1
    assert project.handoffs.newest("raw_documents", SHARD) is None


BROKEN: dict[str, tuple[Callable[[Project], object], str]] = {
    "no files": (lambda project: project.write_corpus(), "No file of corpus glosses matches"),
    "a corpus file that cannot be read": (lambda project: project.write_corpus(num_shards="x"), "num_shards must be"),
    "no model": (lambda project: setattr(project, "model", project.home / "none"), "does not exist. `make demo`"),
}


@pytest.mark.parametrize("phrase", BROKEN)
def test_what_a_retry_cannot_repair_fails_with_one_sentence(phrase: str, project: Project) -> None:
    if phrase != "no files":
        project.write_shard(gloss(1))
    breaks, message = BROKEN[phrase]
    breaks(project)

    assert message in failure(project.run(*ASSETS))


def test_labels_of_a_file_reach_the_documents_and_the_unwanted_are_dropped(project: Project) -> None:
    project.write_shard(*map(gloss, range(10)))
    project.run(prep.read_corpus_shard)
    ids = project.handoffs.open("raw_documents", SHARD).table().column("document_id").to_pylist()
    (project.home / "labels.csv").write_text(f"document_id,label\n{ids[0]},bad\n{ids[1]},good\n")
    project.write_corpus(labels={"file": {"path": "labels.csv"}, "drop": ["bad"]})

    result = project.run()

    assert metadata(result, "labels")["num_rows"] == 2
    assert metadata(result, "clean_documents")["dropped/label_unwanted"] == 1
    labels = project.handoffs.open("clean_documents", SHARD).table().column("label").to_pylist()
    assert labels == ["good"] + [None] * 8


def test_languages_and_personal_data_show_in_the_runs_figures_and_in_the_sealed_documents(project: Project) -> None:
    english = "The miller opens the gate for {} and lets the water run down the race to the wheel."
    texts = [
        english.format("jane@example.com"),
        "Der Müller öffnet das Tor und lässt das Wasser zum Rad hinunterlaufen.",
    ]
    project.write_shard(*(gloss(number, gloss=text) for number, text in enumerate(texts)))
    project.write_corpus(language={"keep": ["en"]}, personal_data={"email": "mask"}, dropped_share_max=1.0)

    result = project.run()

    assert set(checks(result).values()) == {True}
    clean = metadata(result, "clean_documents")
    assert (clean["dropped/language"], clean["masked/email"], clean["masked/phone"]) == (1, 1, 0)
    [row] = project.handoffs.open("clean_documents", SHARD).table(["text", "language"]).to_pylist()
    assert row == {"text": english.format("<EMAIL>"), "language": "en"}


def test_a_judge_is_one_of_the_generation_engines_and_its_disagreement_is_a_warning(project: Project) -> None:
    project.write_shard(*map(gloss, range(6)))
    project.run(prep.read_corpus_shard)
    ids = project.handoffs.open("raw_documents", SHARD).table().column("document_id").to_pylist()
    rows = "".join(f"{document_id},stone\n" for document_id in ids)
    (project.home / "labels.csv").write_text(f"document_id,label\n{rows}")
    # The echo engine answers with words of its own; the first is often one of these.
    words = ["a", "channel", "vessel", "wheel", "mill", "river", "stone", "iron", "the", "of", "that", "slow", "old"]
    judge = {"engine": "echo", "model": "echo", "question": "Which word fits {text}?", "answers": words}
    project.write_corpus(labels={"file": {"path": "labels.csv"}, "judge": judge})

    result = project.run()

    assert result.success
    counts = metadata(result, "labels")
    assert counts["num_judged"] == 6
    assert counts["num_rows"] == 12 - counts["num_unanswered"]
    (check,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "labels_agree"]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert "labels.kappa_min wants 0.60" in (check.description or "")
    table = str(check.metadata["by_label"].value)
    assert table.splitlines()[0] == "|label|file|judge|both|precision|recall|"
    assert "|stone|" in table


def test_labels_that_no_document_has_of_both_sources_are_nothing_to_compare(project: Project) -> None:
    judge = {"engine": "echo", "model": "echo", "question": "Good? {text}", "answers": ["yes", "no"]}
    project.write_corpus(labels={"file": {"path": "labels.csv"}, "judge": judge})
    (project.home / "labels.csv").write_text("document_id,label\n")

    def check(*sources: str) -> Any:
        rows = [{"document_id": "a", "source": source, "label": "yes", "judged_at_version": "v1"} for source in sources]
        project.handoffs.publish(
            "labels", SHARD, pa.Table.from_pylist(rows, schema=LABELS), code_version="1", run_id="r"
        )
        found = project.check().get_asset_check_evaluations()
        return next(each for each in found if each.check_name == "labels_agree")

    nothing = check("judge")
    assert nothing.passed
    assert nothing.description == "No document has labels of both file and judge: nothing to compare."
    assert check("judge", "file").description.startswith("Kappa is 1.00 over 1 documents")


def test_label_rows_of_no_document_are_told_and_fail_if_no_row_has_one(project: Project) -> None:
    def check(rows: str) -> Any:
        (project.home / "labels.csv").write_text(f"document_id,label\n{rows}")
        found = project.check().get_asset_check_evaluations()
        return next(each for each in found if each.check_name == "labels_have_documents")

    project.write_corpus(labels={"file": {"path": "labels.csv"}})
    for shard in corpus_shards.get_partition_keys():
        document = {"document_id": f"of {shard}", "text": "a weir"}
        project.handoffs.publish("raw_documents", shard, make_raw(document), code_version="1", run_id="r")

    assert check("of shard-05,good\n").passed
    some = check("of shard-05,good\nzz,good\n")
    assert (some.passed, some.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (some.description or "").startswith("1 of 2 labels in files are of no document, for example 'zz': look at")
    assert check("term 1,good\nterm 2,good\n").severity == dg.AssetCheckSeverity.ERROR


def test_a_local_model_can_be_the_judge(project: Project) -> None:
    project.write_shard(gloss(1))
    judge = {"engine": "transformers", "model": str(project.model), "question": "{text}?", "answers": ["yes", "no"]}
    project.write_corpus(labels={"judge": judge})

    result = project.run(prep.read_corpus_shard, prep.labels)

    assert metadata(result, "labels")["num_judged"] == 1


def test_a_leak_between_two_shards_fails_the_check_of_either(project: Project) -> None:
    """Shards prepared under two held-out shares: what one holds out, the other has trained on."""
    terms = [gloss(number) for number in range(40)]
    project.write_corpus(heldout_share=0.01)
    project.write_shard(*terms, shard="shard-00")
    project.run(*ASSETS, shard="shard-00")
    project.write_corpus(heldout_share=0.5)
    project.write_shard(*({**row, "gloss": f"{row['gloss']} again"} for row in terms))

    result = project.run()

    assert checks(result)["clean_documents.no_leak"] is False
    (check,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "no_leak"]
    assert re.search(
        r"^\d+ held-out and \d+ training documents of 2 shards were compared: on both sides are \d+ terms"
        r".* On both sides, for example: term ",
        check.description or "",
    )


def test_a_rule_that_took_too_much_fails_its_check_with_an_example_and_seals_what_it_left(project: Project) -> None:
    project.write_corpus(rules={"set": "short", "shares_max": {"too_few_words": 0.1}})
    project.write_shard(*map(gloss, range(8)), *({**gloss(9 + one), "gloss": f"word{one}"} for one in range(2)))

    result = project.run()

    assert result.success
    (check,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "rule_shares"]
    assert not check.passed
    told = "dropped 20.0% of 10 documents of shard-03, such as 'word0' in corpus/shard-03.jsonl line 9"
    assert told in (check.description or "")
    assert "|too_few_words|Gopher|2|2|20.00%|10%|" in str(check.metadata["rules"].value)
    assert project.handoffs.open("clean_documents", SHARD).num_rows == 8

    project.write_shard(*map(gloss, range(40)), shard="shard-00")
    result = project.run(shard="shard-00")
    (check,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "rule_shares"]
    assert not check.passed, "a shard that is right does not hide one that is not"
    assert (check.metadata["num_rows_in"].value, check.metadata["num_shards"].value) == (50, 2)


def test_checks_launched_by_themselves_look_at_every_sealed_shard(project: Project) -> None:
    for shard in ("shard-00", "shard-05"):
        project.write_shard(*map(gloss, range(10)), shard=shard)
        project.run(*ASSETS, shard=shard)
    damaged = project.handoffs.open("clean_documents", "shard-05").paths[0]
    body = bytearray(damaged.read_bytes())
    body[len(body) // 2] ^= 1
    damaged.chmod(0o644)
    damaged.write_bytes(body)

    result = project.check()

    faults = {name for name, passed in checks(result).items() if not passed}
    assert faults == {"clean_documents.schema"}
    (check,) = [each for each in result.get_asset_check_evaluations() if not each.passed]
    assert r"shard-05: Handoff clean_documents\[shard-05\] v1 does not match its manifest" in (check.description or "")
    assert check.metadata["num_shards"].value == 2


def test_an_id_of_two_documents_fails_the_check_of_either_shard(project: Project) -> None:
    columns = {"term": "term", "category": "category", "text": "gloss", "document_id": "id"}
    (project.home / "labels.csv").write_text("document_id,label\n1,good\n")
    project.write_corpus(columns=columns, labels={"file": {"path": "labels.csv"}})
    project.write_shard(gloss(1, id=1), shard="shard-00")
    project.run(prep.read_corpus_shard, shard="shard-00")
    project.write_shard(gloss(2, id=1), shard="shard-05")

    result = project.run(prep.read_corpus_shard, prep_checks.ids_are_unique, shard="shard-05")

    (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert check.description == "For example '1' is corpus/shard-00.jsonl line 1 and corpus/shard-05.jsonl line 1."


def test_another_sequence_length_takes_the_tokens_that_are_there_and_new_documents_add_theirs(project: Project) -> None:
    project.write_shard(*map(gloss, range(20)))
    project.run(*ASSETS)
    project.write_corpus(sequence_length=64)
    changed = project.run(*ASSETS)
    assert metadata(changed, "training_examples")["num_rows_kept"] == 20
    assert project.handoffs.versions("tokenized_documents", SHARD) == [1]

    project.write_shard(*map(gloss, range(23)))
    project.run(*ASSETS)

    assert project.handoffs.versions("tokenized_documents", SHARD) == [1, 2]
    assert project.handoffs.open("tokenized_documents", SHARD).num_rows == 23


def test_preference_pairs_go_from_files_to_rows_and_no_trainer_takes_them_for_packed_ones(project: Project) -> None:
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    project.write_corpus(columns=columns, example="pair", prompt=None, near_duplicates=None)
    project.write_shard(
        *({"question": f"What is {n}?", "good": f"{n} is a number", "bad": f"who knows {n}"} for n in range(20))
    )

    result = project.run()

    assert result.success
    assert set(checks(result).values()) == {True}
    sealed = project.handoffs.open("training_examples", SHARD)
    assert sealed.schema.names == ["split", "prompt_ids", "chosen_ids", "rejected_ids"]
    assert sealed.num_rows == metadata(result, "training_examples")["num_examples"] == 20
    pinned = ExamplesInput(partition=SHARD, version=1, content_digest=sealed.content_digest)
    with pytest.raises(InvalidTrainingRun, match=rf"training_examples\[{SHARD}\] v1 holds preference pairs, wanted"):
        open_examples(project.handoffs, [pinned], "train")
