from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import HandoffCorrupt, InvalidInput, ObjectMissing
from headrace.store.local import LocalStore
from headrace.store.objects import canonical_json
from headrace.version_sets.sets import (
    VERSION_SET,
    Decoding,
    Difference,
    EngineSpec,
    VersionSet,
    VersionSets,
    diff,
)
from tests.rollout.builders import make_member, make_set
from tests.store.old_objects import of_old

DECODING = Decoding(temperature=0.7, top_p=0.9, max_new_tokens=40)


def test_the_order_of_roles_does_not_change_the_id() -> None:
    writer, judge = make_member("writer"), make_member("judge", model_name="critic")
    assert make_set(writer, judge).id == make_set(judge, writer).id


def test_a_whole_number_and_its_float_are_one_setting() -> None:
    whole, real = (Decoding(temperature=t, top_p=1, max_new_tokens=8) for t in (0, 0.0))
    assert make_set(make_member(decoding=whole)).id == make_set(make_member(decoding=real)).id


def test_the_same_weights_in_another_place_are_the_same_set() -> None:
    assert make_set(make_member(weights_uri="s3://moved/d1")).id == make_set().id


def test_the_kind_of_cpu_is_kept_and_is_no_part_of_the_id(tmp_path: Path) -> None:
    known = make_set(make_member(engine=EngineSpec(name="a", cpu="AMD AVX2")), build="torch 2", cpu="Intel AVX512 AMX")
    unknown = make_set(make_member(engine=EngineSpec(name="a")), build="torch 2")
    assert known.id == unknown.id
    sets = VersionSets(LocalStore(tmp_path))
    sets.put(known)
    found = VersionSets(LocalStore(tmp_path)).get(known.id)
    assert (found.engine.whole_build, found.members[0].engine) == (
        "torch 2, CPU Intel AVX512 AMX",
        known.members[0].engine,
    )
    assert unknown.engine.whole_build == "torch 2"


@pytest.mark.parametrize(
    "other",
    [
        make_set(make_member(model_name="other")),
        make_set(make_member(model_version="2")),
        make_set(make_member(weights_digest="d2")),
        make_set(make_member(system_prompt="Be brief.")),
        make_set(make_member(user_template="{text}?")),
        make_set(make_member(decoding=replace(DECODING, temperature=0.8))),
        make_set(make_member(decoding=replace(DECODING, top_p=0.8))),
        make_set(make_member(decoding=replace(DECODING, max_new_tokens=41))),
        make_set(make_member("judge")),
        make_set(name="transformers"),
        make_set(dtype="float32"),
        make_set(num_threads=2),
        make_set(build="echo 2"),
        make_set(base_url="http://localhost:8000/v1"),
        make_set(model="served-as"),
        make_set(code_version="2"),
        make_set(template_date="2026-03-09"),
        make_set(special_tokens=("<|im_start|>",)),
        make_set(merge_adapter=True),
    ],
)
def test_every_setting_that_can_change_an_output_changes_the_id(other: VersionSet) -> None:
    assert other.id != make_set().id


def test_the_id_of_a_set_never_changes_between_releases() -> None:
    # Rows of years ago name this id: a change here orphans them.
    assert make_set().id == "7e56266be1b8c71f7bacfde7f32f782aa0d242c0c5b382226df17fbff4b04557"


def test_what_later_releases_added_comes_back_from_json_too() -> None:
    dated = EngineSpec(
        name="transformers", template_date="2026-03-09", special_tokens=("<s>", "</s>"), merge_adapter=True
    )
    version_set = VersionSet(members=(make_member(engine=dated),), engine=dated, code_version="1")

    back = VERSION_SET.checked(canonical_json(version_set.to_json()))

    assert back == version_set
    assert make_set().to_json()["engine"].keys().isdisjoint({"template_date", "special_tokens", "merge_adapter"})


text = st.text(st.characters(codec="utf-8"), max_size=20)
members = st.builds(
    make_member,
    text,
    model_name=text,
    system_prompt=text,
    decoding=st.builds(
        Decoding,
        temperature=st.floats(0, 10),
        top_p=st.floats(0, 1, exclude_min=True),
        max_new_tokens=st.integers(1, 10**6),
    ),
)


@given(st.lists(members, min_size=1, max_size=4, unique_by=lambda member: member.role))
def test_a_set_comes_back_from_json_as_it_went(members: list) -> None:
    version_set = make_set(*members)
    assert VERSION_SET.checked(canonical_json(version_set.to_json())) == version_set


def test_a_kept_set_is_found_by_its_id_and_keeping_it_again_changes_nothing(tmp_path: Path) -> None:
    sets, version_set = VersionSets(LocalStore(tmp_path)), make_set()
    assert sets.put(version_set) == sets.put(version_set) == version_set.id
    assert VersionSets(LocalStore(tmp_path)).get(version_set.id) == version_set


def test_a_set_that_was_never_kept_is_missing_by_name(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing, match="Version set feed is not in the store"):
        VersionSets(LocalStore(tmp_path)).get("feed")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw.replace(b'"temperature":0.7', b'"temperature":0.9'), "its content under this key has sha256"),
        (lambda raw: raw.replace(b'"weights_uri":"', b'"weights_uri":"x'), "its content under this key has sha256"),
        (lambda raw: raw[:-10], "is damaged"),
        (lambda raw: of_old(raw.replace(b'"temperature":0.7', b'"temperature":0.9')), "holds set [0-9a-f]{64}"),
        (lambda raw: of_old(raw.replace(b'"role":"writer",', b"")), r"members\.0\.role: Field required"),
    ],
)
def test_a_set_that_was_edited_in_the_store_is_refused(tmp_path: Path, damage, message: str) -> None:
    store = LocalStore(tmp_path)
    key = f"version_sets/{VersionSets(store).put(make_set())}.json"
    raw = store.read(key)
    assert damage(raw) != raw
    store.delete(key)
    store.create(key, damage(raw))
    with pytest.raises(HandoffCorrupt, match=message):
        VersionSets(store).get(make_set().id)


def test_a_difference_names_the_role_and_the_setting(tmp_path: Path) -> None:
    before = make_set(make_member("writer"))
    after = make_set(make_member("writer", decoding=replace(DECODING, temperature=0.2)), num_threads=4)
    sets = VersionSets(LocalStore(tmp_path))
    assert sets.diff(sets.put(before), sets.put(after)) == (
        Difference(path="engine.num_threads", before=1, after=4),
        Difference(path="writer.decoding.temperature", before=0.7, after=0.2),
    )
    assert diff(before, before) == ()


def test_a_missing_role_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="has no member 'painter'; it has writer"):
        make_set().member("painter")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature >= 0"),
        ({"temperature": float("nan")}, "temperature >= 0"),
        ({"top_p": 0}, "0 < top_p <= 1"),
        ({"top_p": 1.1}, "0 < top_p <= 1"),
        ({"max_new_tokens": 0}, "max_new_tokens >= 1"),
    ],
)
def test_decoding_that_means_nothing_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Decoding(**({"temperature": 1, "top_p": 1, "max_new_tokens": 8} | settings))


def test_two_members_of_one_role_are_refused() -> None:
    with pytest.raises(InvalidInput, match="one member a role"):
        make_set(make_member("writer"), make_member("writer", model_version="2"))


def test_a_password_in_a_servers_address_is_the_sets_and_not_shown_to_people() -> None:
    def at(password: str) -> VersionSet:
        engine = EngineSpec(name="openai_http", base_url=f"http://reader:{password}@host/v1", model="m")
        return replace(make_set(), engine=engine)

    one, other = at("planted-1"), at("planted-2")
    assert one.id != other.id
    (change,) = diff(one, other)
    shown = f"{change} {one.for_people()}"
    assert "http://host/v1" in shown
    assert "planted" not in shown
    assert "planted-1" in str(one.to_json())


def test_one_members_weights_stand_for_themselves_and_those_of_several_for_all_of_them() -> None:
    assert make_set(make_member("writer", weights_digest="d1")).weights_digest == "d1"
    pair = make_set(make_member("writer", weights_digest="d1"), make_member("judge", weights_digest="d2"))
    turned = make_set(make_member("judge", weights_digest="d2"), make_member("writer", weights_digest="d1"))
    assert pair.weights_digest == turned.weights_digest
    assert pair.weights_digest not in {"d1", "d2"}
