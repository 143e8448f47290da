"""What is made of a prompt beside its rows goes with it: media, mirrors, pairs; and what learned from them is told."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.erasure.carrying_out import carry_out
from headrace.erasure.deciding import decide, plan
from headrace.erasure.outcome import Outcome, finish, remains
from headrace.erasure.scope import Asked
from headrace.errors import HandoffMissing, InvalidInput
from headrace.generation.content_checks import check_one_list
from headrace.generation.listing import list_prompts
from headrace.generation.prompt_source import PromptSource
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.schemas import PREFERENCE_PAIRS
from headrace.handoff.versions import HandoffStore
from headrace.keys import digest_text
from headrace.store.leases import CLOCK_SKEW_SECONDS, TTL_SECONDS
from headrace.store.local import LocalStore
from headrace.store.small_objects import create_object
from headrace.training.heldout import EVALUATION, Evaluation, evaluation_key
from simulation.campaign_site import make_campaign
from tests.erasure.builders import files_with
from tests.generation.builders import Site, make_mirrored_site
from tests.generation.media_builders import make_reviewed_site

RECIPE = "tiny.prefer"
SAMPLED = Evaluation(
    weights_digest="w1", heldout_digest="", heldout_loss=0.5, heldout_tokens=2, samples=(), seconds=1.0
)


def erase_prompt(site: Site, prompt: str) -> Outcome:
    """Nobody holds what the builders read any more."""
    site.clock.advance(TTL_SECONDS + CLOCK_SKEW_SECONDS + 1)
    asked = Asked(kind="prompt", name=prompt)
    erasure = decide(site.objects, site.clock, plan(site.objects, site.clock, asked), by="ana", reason="ticket 813")
    assert carry_out(site.objects, site.clock, erasure).is_over
    assert remains(site.objects, site.clock, erasure) == []
    return finish(site.objects, site.clock, erasure)


def seen(site: Site) -> HandoffStore:
    return HandoffStore(LocalStore(site.directory), site.clock, leased=False)


def items(site: Site, asset: str) -> dict[str, bytes]:
    media = MediaSet.open(seen(site).open(asset, site.partition.key))
    return {item.row_id or "": media.read(item.item_id) for item in media}


def test_pictures_and_recordings_of_a_prompt_go_and_the_others_keep_their_bytes(tmp_path: Path) -> None:
    site = make_reviewed_site(tmp_path)
    before = {asset: items(site, asset) for asset in ("generated_images", "generated_speech")}
    rows = seen(site).open("generated_content", site.partition.key).table().to_pylist()
    gone = rows[2]

    outcome = erase_prompt(site, gone["prompt_id"])

    for asset, media in before.items():
        assert items(site, asset) == {row: body for row, body in media.items() if row != gone["row_id"]}
        taken = media[gone["row_id"]]
        assert not [file for file in tmp_path.rglob("*") if file.is_file() and taken in file.read_bytes()], asset
    assert files_with(tmp_path, gone["output"]) == []
    assert {"generated_images", "media_execution"} <= {one.asset for one in outcome.removed}
    again = site.generate(site.open_claim("run-2"))
    assert again.reused
    assert again.sealed is not None
    assert {kind: one.num_rows for kind, one in again.sealed.media.items()} == {"image": 6, "speech": 6}


def test_mirrors_of_every_set_go_and_are_not_made_again(tmp_path: Path) -> None:
    site = make_mirrored_site(tmp_path)
    site.mirror()
    site.mirror("stable", root_run_id="run-other")
    [prompt] = {
        row["prompt_id"]
        for row in seen(site).open("prompts", site.partition.key).table().to_pylist()
        if row["position"] == 3
    }
    tables = ("mirrored_content", "mirror_execution", "mirror_comparison")
    num_rows = {asset: seen(site).open(asset, site.partition.key).num_rows for asset in tables}

    erase_prompt(site, prompt)

    for asset in tables:
        left = [
            seen(site).open(asset, site.partition.key, one) for one in seen(site).versions(asset, site.partition.key)
        ]
        assert [one.num_rows for one in left] == [num_rows[asset] - 1] * 2, f"one of each set: {asset}"
    assert site.mirror(root_run_id="run-3").outcome.reused


def test_pairs_of_a_row_go_and_the_model_that_learned_them_is_told(tmp_path: Path) -> None:
    site = make_mirrored_site(tmp_path)
    rows = seen(site).open("generated_content", site.partition.key).table().to_pylist()
    pairs = [pair(rows[0], rows[1]), pair(rows[2], rows[3]), pair(rows[4], rows[5])]
    made = site.handoffs.publish(
        "preference_pairs",
        RECIPE,
        pa.Table.from_pylist(pairs, schema=PREFERENCE_PAIRS),
        code_version="1",
        run_id="p",
    )
    of_pairs = {f"preference_pairs[{RECIPE}]": f"v1 {made.content_digest}"}
    trained = pa.table({"weights_digest": ["w1"]})
    seal_made(site, "trained_model", trained, of_pairs)
    measured = pa.table({"weights_digest": ["w1"], "heldout_digest": ["h"], "samples": [[rows[3]["output"]]]})
    seal_made(site, "evaluation", measured, of_pairs)
    of_model = {f"trained_model[{RECIPE}]": f"v1 {seen(site).open('trained_model', RECIPE).content_digest}"}
    seal_made(site, "registered_version", pa.table({"version": ["1"]}), of_model)
    for name in ("h", "other"):
        evaluation = replace(SAMPLED, heldout_digest=name, samples=(rows[3]["output"] if name == "h" else "?",))
        create_object(site.objects, evaluation_key("w1", name), EVALUATION, evaluation)
    del made

    outcome = erase_prompt(site, rows[3]["prompt_id"])

    left = seen(site).open("preference_pairs", RECIPE).table().to_pylist()
    assert [one["chosen_row_id"] for one in left] == [rows[0]["row_id"], rows[4]["row_id"]]
    assert files_with(tmp_path, rows[3]["output"]) == []
    assert seen(site).open("evaluation", RECIPE).table()["samples"].to_pylist() == [[]]
    assert site.objects.list("evaluations") == [evaluation_key("w1", "other")]
    # What it learned from is told; nothing in its weights can be taken out.
    assert {one.asset for one in outcome.made_of} == {"trained_model", "registered_version"}


def seal_made(site: Site, asset: str, table: pa.Table, inputs: dict[str, str]) -> None:
    site.handoffs.publish(asset, RECIPE, table, code_version="1", run_id=f"run-{asset}", input_versions=inputs)


def pair(chosen: dict[str, Any], rejected: dict[str, Any]) -> dict[str, Any]:
    row = {name: [] if pa.types.is_list(PREFERENCE_PAIRS.field(name).type) else "" for name in PREFERENCE_PAIRS.names}
    return row | {
        "pair_id": digest_text(chosen["row_id"], rejected["row_id"]),
        "chosen": chosen["output"],
        "rejected": rejected["output"],
        "chosen_row_id": chosen["row_id"],
        "rejected_row_id": rejected["row_id"],
    }


def test_a_file_that_still_has_an_erased_prompt_does_not_bring_it_back(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "p.txt").write_text("a kettle\na secret of somebody\na lamp\na tent\n")
    campaign = make_campaign(num_shards=1, prompts=PromptSource(files="p.txt", format="text"))
    site = Site(tmp_path / "store", campaign=campaign)
    days = ("2026-11-22", "2026-11-23")
    for day in days:
        site.partition = replace(site.partition, day=day)
        site.seal_prompts(list_prompts(campaign, site.partition, home, site.handoffs, site.clock).prompts)
    listed = seen(site).open("prompts", site.partition.key).table().to_pylist()

    erase_prompt(site, listed[1]["prompt_id"])

    assert files_with(tmp_path / "store", "a secret of somebody") == []
    for day in (*days, "2026-11-24"):
        partition = replace(site.partition, day=day)
        again = list_prompts(campaign, partition, home, site.handoffs, site.clock)
        assert again.figures["num_prompts_erased"] == 1
        assert [(row["position"], row["text"]) for row in again.prompts.to_pylist()] == [
            (0, "a kettle"),
            (2, "a lamp"),
            (3, "a tent"),
        ]
        if day in days:
            assert again.prompts.equals(seen(site).open("prompts", partition.key).table().cast(again.prompts.schema))
            assert check_one_list(site.handoffs, campaign, partition, home).passed
        place = again.seal_beside("r").table().to_pylist()
        assert [row["number"] for row in place] == [1, 3, 4]


def test_a_prompt_is_named_by_enough_of_its_id(tmp_path: Path) -> None:
    site = make_mirrored_site(tmp_path)

    with pytest.raises(InvalidInput, match="at least 6 characters of its beginning, in hexadecimal, got 'abc'"):
        plan(site.objects, site.clock, Asked(kind="prompt", name="abc"))
    with pytest.raises(HandoffMissing, match="No prompt with id 'abcdef0000' is in this store"):
        plan(site.objects, site.clock, Asked(kind="prompt", name="abcdef0000"))


def test_the_search_of_these_tests_finds_what_is_compressed(tmp_path: Path) -> None:
    text = "a text of Ünï"
    (tmp_path / "gzip").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "zstd").write_bytes(pa.Codec("zstd").compress(text.encode(), asbytes=True))
    (tmp_path / "json").write_text(json.dumps({"of": text}))
    table = pa.table({"text": [text] * 99})
    for name, opened in (("file", pa.ipc.new_file), ("stream", pa.ipc.new_stream)):
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with opened(tmp_path / name, table.schema, options=options) as writer:
            writer.write_table(table)
    assert files_with(tmp_path, text) == ["file", "gzip", "json", "stream", "zstd"]
    assert files_with(tmp_path, "another text") == []
