"""A role's own metrics: what the review says of its parts, and how the gate judges and names it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.clock import FixedClock
from headrace.errors import InvalidInput
from headrace.generation.subject import CampaignSubject
from headrace.handoff.schemas import MEDIA, REVIEWED_CONTENT, VARIATION
from headrace.handoff.versions import HandoffStore
from headrace.rollout.evidence import review_metrics, role_values
from headrace.rollout.gates import PASS_RATE, Evidence, GateSettings, Verdict, decide, metric_named
from headrace.rollout.sequential.samples import Sample
from headrace.store.local import LocalStore
from simulation.models import model_of
from tests.generation.media_builders import make_media_site, start
from tests.rollout.builders import reviewed_row
from tests.rollout.scenes import make_long_scene
from tests.rollout.test_page import PLAN, page_of, text_of

GATE = GateSettings(
    min_rows=20,
    pass_rate_margin=0.25,
    heldout_margin=None,
    margins={"painter.pass_rate": 0.25, "painter.agreement": 0.2},
    horizon_rows=400,
)
PARTITION = "2026-11-01|glossary-00"


def item(role: str, **figures: float) -> dict[str, Any]:
    nothing = dict.fromkeys(["width", "height", "duration_seconds"])
    told = {"item_id": f"x/{role}", "media_type": "image/png", "num_bytes": 1, "xxh3_128": bytes(16)}
    return {"role": role, **told, **nothing, "figures": json.dumps(figures)}


def row(position: int, version_set: str, rejected_by: list[str], media: list[dict[str, Any]]) -> dict[str, Any]:
    plain = reviewed_row(position, version_set, kept=not rejected_by)
    return plain | {"rejected_by": rejected_by, "media": media}


def painted(position: int, version_set: str, *, agrees: bool) -> dict[str, Any]:
    figures = item("painter", agreement=float(agrees), rank=0.0 if agrees else 40.0)
    return row(position, version_set, [] if agrees else ["painter.wrong_picture"], [figures])


def seal(handoffs: HandoffStore, rows: list[dict[str, Any]], partition: str = PARTITION, *more: pa.Field) -> None:
    schema = pa.schema([*REVIEWED_CONTENT, MEDIA, *more])
    table = pa.Table.from_pylist(rows, schema=schema)
    handoffs.publish("reviewed_content", partition, table, code_version="1", run_id="r")


@pytest.fixture
def handoffs(tmp_path: Path) -> HandoffStore:
    return HandoffStore(LocalStore(tmp_path), FixedClock())


def test_each_role_is_measured_by_its_own_rules(handoffs: HandoffStore) -> None:
    seal(
        handoffs,
        [
            row(0, "a", [], [item("painter", agreement=1), item("speaker")]),
            row(1, "a", ["painter.wrong_picture"], [item("painter", agreement=0), item("speaker")]),
            row(2, "a", ["length"], [item("painter"), item("speaker")]),
            # A refused picture; and a row whose text failed, of which nothing was made.
            row(3, "a", ["painter.refused"], [item("speaker")]),
            row(4, "a", ["failed"], []),
        ],
    )
    assert review_metrics(handoffs, "glossary", num_days=28, writer="writer") == {
        "a": {
            "pass_rate": Sample.of_counts(5, 1),
            "writer.pass_rate": Sample.of_counts(5, 3),
            "painter.pass_rate": Sample.of_counts(4, 2),
            "painter.agreement": Sample.of_counts(2, 1),
            "speaker.pass_rate": Sample.of_counts(4, 4),
        }
    }


def test_a_prompts_variations_count_as_one_row_of_a_role(handoffs: HandoffStore) -> None:
    rows = [
        painted(n, "a", agrees=agrees) | {"prompt_id": prompt, "variation": n}
        for prompt, found in {"p": [True, False], "q": [True, True]}.items()
        for n, agrees in enumerate(found)
    ]
    seal(handoffs, [one | {"row_id": f"{n}"} for n, one in enumerate(rows)], PARTITION, VARIATION)
    found = review_metrics(handoffs, "glossary", num_days=28)["a"]
    assert found["painter.agreement"] == Sample.of_values([0.5, 1.0])


RULES = st.lists(st.sampled_from(["length", "painter.blank", "painter.refused", "speaker.silent"]), unique=True)
ITEMS = st.dictionaries(
    st.sampled_from(["painter", "speaker"]), st.dictionaries(st.just("agreement"), st.sampled_from([0.0, 1.0]))
)


@given(st.lists(st.tuples(RULES, ITEMS), max_size=12))
def test_what_a_role_is_measured_by_is_what_counting_row_by_row_finds(drawn: list[tuple[list[str], dict]]) -> None:
    media = [[item(role, **figures) for role, figures in items.items()] for _, items in drawn]
    found = dict(role_values([broken for broken, _ in drawn], media, "writer"))
    totals = {name: [one for one in values if one is not None] for name, values in found.items()}
    for role in ("painter", "speaker"):
        faulty = [any(rule.startswith(f"{role}.") for rule in broken) for broken, _ in drawn]
        counted = [not bad for bad, (_, items) in zip(faulty, drawn, strict=True) if bad or role in items]
        assert totals.get(f"{role}.pass_rate", []) == [float(one) for one in counted]
        agreements = [items[role]["agreement"] for _, items in drawn if "agreement" in items.get(role, {})]
        assert totals.get(f"{role}.agreement", []) == agreements
    assert totals["writer.pass_rate"] == [float("length" not in broken) for broken, _ in drawn]
    assert all(len(values) == len(drawn) for values in found.values())


def evidence_of(candidate: list[bool], stable: list[bool], candidate_agrees: int, stable_agrees: int) -> Evidence:
    """Every picture is judged; of each set so many agree."""
    kept = Sample.of_counts(len(candidate), sum(candidate)), Sample.of_counts(len(stable), sum(stable))
    agreed = Sample.of_counts(len(candidate), candidate_agrees), Sample.of_counts(len(stable), stable_agrees)
    return Evidence(metrics={PASS_RATE: kept, "painter.pass_rate": kept, "painter.agreement": agreed})


def test_a_worse_painter_is_named_as_such(tmp_path: Path) -> None:
    site = make_media_site(tmp_path)
    stable, candidate = site.make_set(), site.make_set(painter=2)
    start(site, candidate)
    seal(site.handoffs, [painted(n, stable.id, agrees=n < 88) for n in range(100)])
    seal(site.handoffs, [painted(n, candidate.id, agrees=n < 31) for n in range(100)], "2026-11-01|glossary-01")
    subject = CampaignSubject.of(site.campaign, site.handoffs)
    evidence = subject.evidence([], site.state, damaged=lambda error: pytest.fail(str(error)))
    assert evidence.arms("writer.pass_rate") == (Sample.of_counts(100, 100),) * 2
    verdict = decide(evidence, GATE)
    assert verdict.action == "roll_back"
    named, own, rows = verdict.reason.split("; ")
    assert named.startswith("painter.pass_rate: 0.31 against 0.88, 0.57 worse (100 against 100), surely worse")
    assert own.startswith("painter.agreement: 0.31 against 0.88, 0.57 worse (100 against 100), surely worse")
    assert rows.startswith("share of rows that the review keeps: 0.57 worse")


def test_a_painter_that_knows_less_of_what_it_was_taught_goes_back_before_it_paints_a_row(tmp_path: Path) -> None:
    site = make_media_site(tmp_path)
    start(site, site.make_set(painter=2))
    subject = CampaignSubject.of(site.campaign, site.handoffs)

    def verdict(errors: dict[int, float]) -> Verdict:
        models = [
            replace(model_of("brush", version), heldout_loss=error, heldout_digest="same", measure="taught_error")
            for version, error in errors.items()
        ]
        return decide(subject.evidence(models, site.state, damaged=lambda error: pytest.fail(str(error))), GATE)

    worse = verdict({1: 0.0657, 2: 0.0981})
    assert worse.action == "roll_back"
    assert worse.reason == "painter: error on taught captions 0.0981 against 0.0657, more than 5% worse"
    assert verdict({1: 0.0981, 2: 0.0657}).action == "wait"
    assert verdict({}).action == "wait"


def test_pictures_that_show_other_things_send_a_painter_back_whatever_else_is_kept() -> None:
    kept = [True] * 100
    verdict = decide(evidence_of(kept, kept, 31, 88), GATE)
    assert verdict.action == "roll_back"
    assert verdict.reason.startswith("painter.agreement: 0.31 against 0.88")
    assert "review keeps" not in verdict.reason


def test_a_painter_is_not_promoted_before_its_own_metrics_are_shown_to_be_as_good() -> None:
    kept = [True] * 390
    waiting = decide(Evidence(metrics={PASS_RATE: evidence_of(kept, kept, 0, 0).arms(PASS_RATE)}), GATE)
    assert waiting.action == "wait"
    assert "too few rows of both sets for painter.pass_rate" in waiting.reason
    assert "too few rows of both sets for painter.agreement" in waiting.reason
    assert decide(evidence_of(kept, kept, 350, 345), GATE).action == "advance"


def trial(draws: np.random.Generator, candidate: float, stable: float) -> Verdict:
    """The gate's verdicts, look by look, on pictures of which these shares agree; texts are equal and all are kept.

    A wrong picture is also rejected, so that the metrics of a row are not independent.
    """
    arms = [draws.uniform(size=400) < share for share in (candidate, stable)]
    verdict = Verdict(action="wait", reason="")
    for num in range(20, 401, 20):
        ours, theirs = (arm[:num].tolist() for arm in arms)
        verdict = decide(evidence_of(ours, theirs, sum(ours), sum(theirs)), GATE)
        if verdict.action != "wait":
            return verdict
    return verdict


def test_a_painter_as_good_is_rarely_rolled_back_and_one_worse_by_the_margin_rarely_promoted() -> None:
    draws = np.random.default_rng(8)
    equal = [trial(draws, 0.8, 0.8) for _ in range(150)]
    harmful = sum(one.action == "roll_back" and not one.is_undecided for one in equal)
    # 5% over all metrics and looks, and three standard errors of 150 trials.
    assert harmful <= 150 * 0.104
    assert sum(one.action == "advance" for one in equal) >= 120
    worse = [trial(draws, 0.6, 0.8) for _ in range(150)]
    assert sum(one.action == "advance" for one in worse) <= 150 * 0.104
    half = [trial(draws, 0.31, 0.88) for _ in range(20)]
    assert all(one.action == "roll_back" and one.reason.startswith("painter.") for one in half)


def test_the_page_shows_a_roles_metrics_by_their_names(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    kept = [True] * 100
    evidence = evidence_of(kept, kept, 31, 88)
    shown = {"plan": replace(PLAN, gate=GATE), "evidence": evidence, "verdict": decide(evidence, GATE)}
    text = text_of(page_of(scene, **shown))
    assert "painter.agreement" in text
    assert "31% of 100" in text
    assert "The gate says: roll back painter.agreement: 0.31 against 0.88" in text


def test_a_margin_for_what_no_role_is_measured_by_is_refused() -> None:
    assert metric_named("painter.speed") is None
    with pytest.raises(
        InvalidInput, match=r"and of roles ROLE\.pass_rate and .*ROLE\.character_error_rate, got 'painter\.speed'"
    ):
        GateSettings(margins={"painter.speed": 0.1})
