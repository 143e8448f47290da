import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from headrace.engines.rows import GenerationRequest, GenerationResult, RowMaker, storable
from headrace.errors import EngineUnavailable, HandoffCorrupt, RepinRequired
from headrace.generation import micro_batches
from headrace.generation.micro_batches import committed, read_commit
from headrace.generation.requests import plan_micro_batches, rows_for
from headrace.generation.sealing import MadeTables, Origin, seal
from headrace.generation.steps import steps_of
from headrace.version_sets.sets import VersionSet
from tests.generation.builders import TEXTS, ScriptedEngine, Site, make_campaign, make_site, make_version_set


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


def no_engine(version_set: VersionSet) -> RowMaker:
    raise AssertionError("no engine should be opened")


def content_digest(site: Site) -> str:
    return site.handoffs.open("generated_content", site.partition.key).content_digest


def test_every_prompt_gets_one_row_in_its_place(site: Site) -> None:
    outcome = site.generate()
    rows = site.content_rows()
    assert [row["prompt"] for row in rows] == TEXTS
    assert [row["position"] for row in rows] == list(range(7))
    assert len({row["row_id"] for row in rows}) == 7
    assert {row["version_set"] for row in rows} == {outcome.claim.version_set}
    assert {row["finish_reason"] for row in rows} == {"stop"}
    assert outcome.num_generated_now == 7
    assert outcome.execution.num_rows == 7


def test_an_empty_list_of_prompts_is_an_empty_partition(site: Site) -> None:
    site.put_prompts([])
    outcome = site.generate(open_engine=no_engine)
    assert outcome.content.num_rows == outcome.execution.num_rows == 0


def test_a_sealed_partition_is_returned_without_loading_a_model(site: Site) -> None:
    sealed = site.generate().content
    outcome = site.generate(open_engine=no_engine)
    assert outcome.reused
    assert outcome.content.manifest == sealed.manifest
    assert outcome.num_generated_now == 0


def test_a_resumed_worker_makes_only_what_is_missing_and_the_same_bytes(site: Site, tmp_path: Path) -> None:
    whole = make_site(tmp_path / "whole")
    whole.generate()

    def lights_out() -> None:
        if len(committed(site.objects, site.open_claim())) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.generate(engine=ScriptedEngine(before=lights_out))
    resumed = ScriptedEngine()
    outcome = site.generate(engine=resumed)
    assert len(resumed.batches) == 2
    assert outcome.num_generated_now == 3
    assert content_digest(site) == content_digest(whole)


def test_a_row_that_fails_is_tried_again_alone_then_recorded(site: Site) -> None:
    bad = TEXTS[2]
    engine = ScriptedEngine(fails=lambda prompt: prompt == bad and ValueError("cannot tokenize this"))
    outcome = site.generate(engine=engine)
    rows = {row["prompt"]: row for row in site.content_rows()}
    assert (rows[bad]["finish_reason"], rows[bad]["error"]) == ("error", "ValueError: cannot tokenize this")
    assert all(row["finish_reason"] == "stop" for prompt, row in rows.items() if prompt != bad)
    assert outcome.num_errors == 1
    execution = outcome.execution.table().to_pylist()
    assert sorted(row["retries"] for row in execution) == [0, 0, 0, 0, 0, 1, 2]
    assert all(row["deterministic"] for row in execution), "a retry alone gives the bytes of the batch"


def test_a_row_that_fails_once_is_made_by_its_retry(site: Site) -> None:
    failures = iter([RuntimeError("out of memory")])
    outcome = site.generate(engine=ScriptedEngine(fails=lambda prompt: next(failures, None)))
    assert outcome.num_errors == 0


class OddEngine(ScriptedEngine):
    """Makes every row; what it says of some is `odd`."""

    def __init__(self, odd: Callable[[str], GenerationResult | None]) -> None:
        super().__init__()
        self.odd = odd

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        made = super().generate(requests)
        return [self.odd(request.prompt) or one for request, one in zip(requests, made, strict=True)]


def make_result(text: Any = "a wheel", **changes: Any) -> GenerationResult:
    settings: dict[str, Any] = {"num_prompt_tokens": 5, "num_output_tokens": 3, "finish_reason": "stop"}
    return GenerationResult(text=text, **(settings | changes))


@pytest.mark.parametrize(
    ("result", "error"),
    {
        "half a character": (make_result("ab\ud800"), "cannot be written as UTF-8: surrogates not allowed"),
        "no text": (make_result(7), "the output is of type int, not text"),
        "a reason that is none": (make_result(finish_reason="eos"), "ended with 'eos', which is none of stop"),
        "an error of half a character": (make_result(finish_reason="error", error="\ud800 boom"), "? boom"),
        "an error without a reason": (make_result(finish_reason="error"), "the engine gave no reason"),
    }.values(),
)
def test_a_row_that_no_table_can_hold_is_that_rows_error_and_its_neighbours_are_kept(
    site: Site, result: GenerationResult, error: str
) -> None:
    engine = OddEngine(lambda prompt: result if prompt == TEXTS[3] else None)
    outcome = site.generate(engine=engine)
    rows = {row["prompt"]: row for row in site.content_rows()}
    assert outcome.num_errors == 1
    assert error in rows[TEXTS[3]]["error"]
    assert all(row["finish_reason"] == "stop" for prompt, row in rows.items() if prompt != TEXTS[3])
    # Each row is asked for once, the odd one until its tries are over: nobody pays for its neighbours again.
    asked = [prompt for batch in engine.batches for prompt in batch]
    assert (asked.count(TEXTS[2]), asked.count(TEXTS[3])) == (1, site.campaign.row_attempts)


@pytest.mark.parametrize("count", [-5, 2**31, 2.5, float("nan"), "x", True])
def test_a_count_that_means_nothing_is_null_with_a_note(site: Site, count: Any) -> None:
    odd = make_result(num_output_tokens=count)
    outcome = site.generate(engine=OddEngine(lambda prompt: odd if prompt == TEXTS[3] else None))
    rows = {row["prompt"]: row for row in site.content_rows()}
    assert (rows[TEXTS[3]]["num_output_tokens"], rows[TEXTS[3]]["num_prompt_tokens"]) == (None, 5)
    assert (rows[TEXTS[3]]["output"], outcome.num_errors) == ("a wheel", 0)
    assert outcome.figures()["engine_notes"] == f"num_output_tokens is {count}: not counted (1 rows)"


@given(
    text=st.text(st.characters(exclude_categories=()), max_size=5) | st.none() | st.binary(max_size=3),
    count=st.none() | st.integers() | st.floats() | st.text(max_size=3),
    reason=st.sampled_from(["stop", "length", "error", "eos_token", None, 7]),
    error=st.none() | st.text(st.characters(exclude_categories=()), max_size=5),
)
def test_whatever_an_engine_gives_can_be_committed(text: Any, count: Any, reason: Any, error: Any) -> None:
    result = storable(
        make_result(text, num_prompt_tokens=count, num_output_tokens=count, finish_reason=reason, error=error)
    )
    pa.array([result.text, result.finish_reason], pa.string())
    pa.array([result.error], pa.string())
    pa.array([result.num_prompt_tokens, result.num_output_tokens], pa.int32())


def test_batches_of_an_earlier_release_which_knew_no_unknown_counts_are_sealed_with_new_ones(site: Site) -> None:
    claim = site.open_claim()
    site.generate(claim)
    key = claim.batch_key(0)
    strict = pa.schema([field.with_nullable(field.name in {"media", "error"}) for field in micro_batches._COLUMNS])
    old = pa.ipc.open_stream(site.objects.read(key)[:-16]).read_all().cast(strict)
    body = io.BytesIO()
    with pa.ipc.new_stream(body, strict) as writer:
        writer.write_table(old)
    site.objects.delete(key)
    site.objects.create(key, body.getvalue() + xxhash.xxh3_128_digest(body.getvalue()))
    prompts = site.handoffs.open("prompts", site.partition.key).table()
    rows = rows_for(prompts, claim.version_set)
    batches = plan_micro_batches(rows, claim.micro_batch_rows)
    commits = [read_commit(site.objects, claim, index, batch) for index, batch in enumerate(batches)]
    content, _ = micro_batches.assemble(commits, rows, prompts)
    assert content.num_rows == len(TEXTS)


def test_an_engine_that_is_down_ends_the_run_and_keeps_what_was_committed(site: Site) -> None:
    down = ScriptedEngine(fails=lambda prompt: prompt == TEXTS[-1] and EngineUnavailable("no answer"))
    with pytest.raises(EngineUnavailable):
        site.generate(engine=down)
    assert committed(site.objects, site.open_claim()) == {0, 1, 2}
    assert site.generate().num_errors == 0


def test_two_workers_on_one_partition_seal_the_same_rows_once(site: Site) -> None:
    """The other one makes and seals the whole partition while the first is in its first batch."""
    other = Site(site.directory)
    claim = site.open_claim()
    outcomes: list[Any] = []
    first = ScriptedEngine(before=lambda: outcomes or outcomes.append(other.generate(other.open_claim("run-2"))))
    outcome = site.generate(claim, engine=first)
    assert len(first.batches) == 1
    assert outcome.num_generated_now == 0
    assert outcome.content.manifest == outcomes[0].content.manifest
    assert site.handoffs.versions("generated_content", site.partition.key) == [1]
    assert site.handoffs.versions("execution", site.partition.key) == [1]


def test_a_late_second_publication_does_not_hide_a_newer_attempt(site: Site) -> None:
    """A worker that settled its claim, slept, and wakes after the claim was published and another attempt sealed."""
    first = site.open_claim("run-1")
    site.generate(first)
    content = site.handoffs.open("generated_content", site.partition.key).table()
    execution = site.handoffs.open("execution", site.partition.key).table()
    second = site.open_claim("run-2", "keep_set")
    site.generate(second)
    origin = Origin(run_id="run-1", input_versions={})
    made = MadeTables(content=content, execution=execution)
    sealed = seal(first, site.claims, site.handoffs, steps_of(make_version_set()), made, origin=origin)
    assert sealed.content.version == 1
    newest = site.handoffs.open("generated_content", site.partition.key)
    assert (newest.version, newest.attributes["claim"]) == (2, second.id)


def test_a_publication_that_loses_its_number_to_its_own_claim_takes_that_version(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers on one settled claim: the other publishes between our choice of a number and its creation."""
    claim = site.open_claim()
    other = Site(site.directory)
    create, meddled = site.objects.create, []

    def meddle(key: str, body: bytes, *, durable: bool = True) -> bool:
        if "generated_content/" in key and key.endswith("manifest.json") and not meddled:
            meddled.append(key)
            other.generate(other.open_claim("run-2"))
            other.generate(other.open_claim("run-3", "keep_set"))
        return create(key, body, durable=durable)

    monkeypatch.setattr(site.objects, "create", meddle)
    outcome = site.generate(claim)
    assert meddled
    assert outcome.content.version == 1
    assert site.handoffs.versions("generated_content", site.partition.key) == [1, 2]


def test_a_rollback_stops_a_worker_before_its_next_batch(site: Site) -> None:
    site.start(2)
    claim = site.open_claim()
    engine = ScriptedEngine(before=lambda: engine.batches or site.abort(2))
    with pytest.raises(RepinRequired):
        site.generate(claim, engine=engine)
    assert len(engine.batches) == 1
    assert site.generate(site.open_claim()).content.num_rows == 7


def test_rows_of_another_set_than_the_claims_are_not_sealed(site: Site) -> None:
    """Nobody of ours makes such rows; whoever does finds out before a reader does."""
    claim = site.open_claim()
    content = site.generate(claim).content.table()
    site.start(2)
    other = site.open_claim("run-2", "current_set")
    mixed = pa.concat_tables([content.slice(0, 6), _of_set(content.slice(6), other.version_set)])
    execution = site.handoffs.open("execution", site.partition.key).table()
    origin = Origin(run_id="run-2", input_versions={})
    made = MadeTables(content=mixed, execution=execution)
    with pytest.raises(HandoffCorrupt, match=f"pinned version set {other.version_set[:12]}, and has rows of"):
        seal(other, site.claims, site.handoffs, steps_of(make_version_set(2)), made, origin=origin)
    assert site.claims.settlement(other) is None
    assert site.handoffs.versions("generated_content", site.partition.key) == [1]


def _of_set(rows: pa.Table, version_set: str) -> pa.Table:
    index = rows.schema.get_field_index("version_set")
    return rows.set_column(index, rows.schema.field(index), pa.array([version_set], rows.schema.field(index).type))


def test_a_changed_campaign_file_does_not_change_the_batches_of_a_claim(site: Site, tmp_path: Path) -> None:
    whole = make_site(tmp_path / "whole")
    whole.generate()
    claim = site.open_claim()
    site.campaign = make_campaign(micro_batch_rows=5)
    site.generate(claim)
    assert content_digest(site) == content_digest(whole)


def test_sealed_content_that_is_damaged_is_repaired_from_its_commits(site: Site) -> None:
    sealed = site.generate().content
    path = sealed.paths[0]
    path.chmod(0o644)
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 0xFF
    path.write_bytes(body)
    outcome = site.generate(open_engine=no_engine)
    assert not outcome.reused
    assert outcome.content.version == 2
    assert outcome.content.content_digest == sealed.content_digest
    outcome.content.verify()


def test_a_damaged_commit_is_named_and_says_what_to_do(site: Site) -> None:
    claim = site.open_claim()
    site.generate(claim)
    path = site.objects.local_path(claim.batch_key(1))
    path.chmod(0o644)
    body = bytearray(path.read_bytes())
    body[100] ^= 1
    path.write_bytes(body)
    with pytest.raises(HandoffCorrupt, match=r"Micro-batch file:///.*b00001.arrow is damaged.*Delete that file"):
        read_commit(site.objects, claim, 1, [])


def test_a_commit_of_other_rows_than_planned_is_refused(site: Site) -> None:
    claim = site.open_claim()
    site.generate(claim)
    with pytest.raises(HandoffCorrupt, match="holds other rows than its plan says"):
        read_commit(site.objects, claim, 0, [])


def test_a_commit_is_a_plain_arrow_stream_with_its_digest_behind(site: Site) -> None:
    claim = site.open_claim()
    site.generate(claim)
    table = pa.ipc.open_stream(site.objects.read(claim.batch_key(0))).read_all()
    assert table.num_rows == 2


def test_rows_made_on_other_library_versions_say_so(site: Site) -> None:
    engine = ScriptedEngine()
    engine.build = "torch 9"
    outcome = site.generate(engine=engine)
    assert outcome.figures()["engine_build_drift"] == "torch 9 instead of no build"
    assert not any(outcome.execution.table()["deterministic"].to_pylist())


def test_progress_counts_committed_rows(site: Site) -> None:
    seen: list[tuple[int, int]] = []
    site.generate(progress=lambda done, total, speed: seen.append((done, total)))
    assert seen == [(0, 7), (2, 7), (4, 7), (6, 7), (7, 7)]


def test_manifests_name_what_the_rows_were_made_from(site: Site) -> None:
    content = site.generate().content
    prompts = site.handoffs.open("prompts", site.partition.key)
    assert content.manifest.input_versions == {f"prompts[{site.partition.key}]": f"v1 {prompts.content_digest}"}
