"""Workers that slept while newer prompts, or a later attempt, were sealed: readers never get the older rows back."""

from pathlib import Path
from typing import Any

import pytest

from headrace.errors import PublishConflict
from headrace.generation import rolled_back
from headrace.generation.rolled_back import seal_rolled_back_rows
from headrace.generation.sealing import Superseded
from tests.generation.builders import ScriptedEngine, Site, make_site

NEWER = ["Define the verb.", "Define the adverb."]
CONTENT = "generated_content"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


def prompts_shown(site: Site) -> list[str]:
    return [row["prompt"] for row in site.content_rows()]


def seal_newer(site: Site, texts: list[str] = NEWER) -> None:
    """What another worker does meanwhile: newer prompts, generated and sealed."""
    other = Site(site.directory)
    other.put_prompts(texts)
    other.generate(other.open_claim("run-newer"))


def once(action: Any) -> Any:
    done: list[None] = []

    def act() -> None:
        if not done:
            done.append(None)
            action()

    return act


def test_a_worker_that_slept_while_newer_prompts_were_sealed_does_not_hide_them(site: Site) -> None:
    claim = site.open_claim()
    engine = ScriptedEngine(before=once(lambda: seal_newer(site)))
    with pytest.raises(
        Superseded, match=r"came too late: it was made from prompts\[.*\] v1, and .* v1 from v2\. Nothing"
    ):
        site.generate(claim, engine=engine)
    assert prompts_shown(site) == NEWER
    assert site.handoffs.versions(CONTENT, site.partition.key) == [1]
    settlement = site.claims.settlement(claim)
    assert settlement
    assert (settlement.outcome, "v2" in settlement.reason) == ("void", True)
    assert site.objects.list(claim.batches_prefix) == []


def test_a_run_that_is_superseded_loads_no_model_when_it_is_tried_again(site: Site) -> None:
    site.open_claim("run-1")
    seal_newer(site)
    engine = ScriptedEngine()
    with pytest.raises(Superseded):
        site.generate(site.open_claim("run-1"), engine=engine)
    assert engine.batches == []


def test_newer_prompts_that_are_sealed_in_the_moment_of_publication_stay_the_newest(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, meddle = site.objects.create, once(lambda: seal_newer(site))

    def meddling(key: str, body: bytes, *, durable: bool = True) -> bool:
        if f"{CONTENT}/" in key and key.endswith("manifest.json"):
            meddle()
        return create(key, body, durable=durable)

    monkeypatch.setattr(site.objects, "create", meddling)
    claim = site.open_claim()
    with pytest.raises(PublishConflict):
        site.generate(claim)
    with pytest.raises(Superseded):
        site.generate(site.open_claim("run-1"))
    assert prompts_shown(site) == NEWER
    # Its rows are not lost: the same prompts again are served from what it committed.
    site.put_prompts()
    site.generate(site.open_claim("run-3"), engine=ScriptedEngine(fails=lambda prompt: AssertionError(prompt)))
    assert len(prompts_shown(site)) == 7


def test_a_retry_of_a_sealed_run_does_not_bring_its_older_rows_back(site: Site) -> None:
    site.generate(site.open_claim("run-1"))
    seal_newer(site)
    with pytest.raises(Superseded):
        site.generate(site.open_claim("run-1"))
    assert prompts_shown(site) == NEWER


def test_a_settled_attempt_that_wakes_after_a_later_one_was_published_does_not_hide_it(site: Site) -> None:
    """The first worker stops between its settlement and its publication; another run makes the rows once more."""
    first = site.open_claim("run-1")
    other = Site(site.directory)

    def later() -> None:
        other.claims.settle(first, "sealed", "all micro-batches are committed")
        other.generate(other.open_claim("run-2", "keep_set"))

    with pytest.raises(Superseded, match="attempt 2 at the same prompts is published"):
        site.generate(first, engine=ScriptedEngine(before=once(later)))
    newest = site.handoffs.open(CONTENT, site.partition.key)
    assert (newest.version, newest.table()["version_set"][0].as_py()) == (1, first.version_set)
    assert site.open_claim("run-3").attempt == 2


def test_prompts_that_went_back_while_rows_were_made_are_the_newest(site: Site) -> None:
    def there_and_back() -> None:
        seal_newer(site)
        site.put_prompts()

    claim = site.open_claim()
    site.generate(claim, engine=ScriptedEngine(before=once(there_and_back)))
    newest = site.handoffs.open(CONTENT, site.partition.key)
    assert newest.attributes["claim"] == claim.id
    assert newest.manifest.input_versions[f"prompts[{site.partition.key}]"].startswith("v3 ")
    # Whoever still works on what was in between comes too late now.
    with pytest.raises(Superseded):
        site.generate(site.open_claim("run-newer"))


def test_a_damaged_older_version_is_not_repaired_on_top_of_a_newer_one(site: Site) -> None:
    outcome = site.generate(site.open_claim("run-1"))
    seal_newer(site)
    (path,) = [site.objects.local_path(part.key) for part in outcome.content.manifest.parts]
    path.chmod(0o644)
    path.write_bytes(b"rotten")
    with pytest.raises(Superseded):
        site.generate(site.open_claim("run-1"))
    assert prompts_shown(site) == NEWER


def test_a_mirror_of_older_content_does_not_hide_one_of_newer_content(site: Site) -> None:
    site.generate()
    wanted = site.start(2, weight=0.01)

    def newer() -> None:
        seal_newer(site)
        Site(site.directory).mirror(wanted, root_run_id="run-newer")

    with pytest.raises(Superseded, match=r"Attempt 1 at mirrored_content\[.*\] came too late"):
        site.mirror(wanted, engine=ScriptedEngine(before=once(newer)))
    (version,) = site.handoffs.versions("mirrored_content", site.partition.key)
    rows = site.handoffs.open("mirrored_content", site.partition.key, version).table()
    assert rows.num_rows == len(NEWER)


def test_a_list_of_rolled_back_rows_that_knows_of_fewer_rollbacks_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.generate()
    site.start(2)
    other = Site(site.directory)
    bad_versions = rolled_back.bad_versions

    def slowly(*arguments: Any, **keywords: Any) -> Any:
        found = bad_versions(*arguments, **keywords)
        monkeypatch.setattr(rolled_back, "bad_versions", bad_versions)
        other.abort(2)
        seal_rolled_back_rows(other.handoffs, other.claims, "glossary", run_id="run-b")
        return found

    monkeypatch.setattr(rolled_back, "bad_versions", slowly)
    with pytest.raises(PublishConflict):
        seal_rolled_back_rows(site.handoffs, site.claims, "glossary", run_id="run-a")
    listed = site.handoffs.open("rolled_back_rows", "glossary")
    assert listed.attributes["version_sets"] == rolled_back.sets_digest(site.state.aborted)
