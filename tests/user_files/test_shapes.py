"""What a mapping of a user may hold, and what is said of all that it may not."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le

from headrace.errors import InvalidCampaign, InvalidInput
from headrace.user_files.ranges import check_ranges
from headrace.user_files.shapes import from_file, from_mapping


@dataclass(frozen=True, kw_only=True)
class _Section:
    share: float = 0.0
    count: int = 0
    mode: Literal["fast", "slow"] = "fast"
    names: tuple[str, ...] = ()
    shares: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Whole:
    name: str
    sections: dict[str, tuple[_Section, ...]] = field(default_factory=dict)
    rate: Annotated[float, Gt(0), Le(1)] = 1.0
    cap: Annotated[int, Ge(1)] | None = None
    weights: dict[str, Annotated[float, Ge(0)]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.cap == 13:
            raise InvalidInput("cap must not be 13, got 13.")


def test_numbers_that_no_setting_means_are_refused():
    for value in (float("nan"), float("inf"), -float("inf"), 10**30, 10**400, 1 << 20_000, -(10**30)):
        with pytest.raises(InvalidInput, match=r"^section: share must be a number within ±2\^63, got "):
            from_mapping(_Section, {"share": value}, "section")
    with pytest.raises(InvalidInput, match=r"^section: count must be a whole number within ±2\^63, got 1e?0+\.$"):
        from_mapping(_Section, {"count": 10**30}, "section")
    with pytest.raises(InvalidInput, match=r"^section: shares.a must be a number within"):
        from_mapping(_Section, {"shares": {"a": float("nan")}}, "section")


def test_a_refusal_shows_the_beginning_of_what_is_long():
    for key, value in (("share", "x" * 10**6), ("mode", ["x"] * 10**6), ("names", {"x": "y" * 10**6})):
        with pytest.raises(InvalidInput, match=rf"^section: {key} must be .*…\.$") as caught:
            from_mapping(_Section, {key: value}, "section")
        assert len(str(caught.value)) < 500
    with pytest.raises(InvalidInput, match=r"must be a list, got a number of thousands of digits\.$"):
        from_mapping(_Section, {"names": {"x": 1 << 20_000}}, "section")


def test_whole_numbers_are_numbers_and_truths_are_none():
    made = from_mapping(_Section, {"share": 1, "count": -(2**62)}, "section")
    assert made == _Section(share=1.0, count=-(2**62))
    assert type(made.share) is float
    with pytest.raises(InvalidInput, match="share must be a number, got True"):
        from_mapping(_Section, {"share": True}, "section")


def test_every_fault_of_a_file_is_in_one_report_in_the_order_of_the_file(tmp_path: Path):
    file = tmp_path / "some.yaml"
    file.write_text(
        "rate: 0\nsections:\n  a: [{share: no}, {mode: slow, names: x}]\n  b: [{count: true, shore: 1}, 7]\ncap: .nan\n"
    )
    with pytest.raises(InvalidCampaign) as caught:
        from_file(_Whole, file, "Some file", refusal=InvalidCampaign)
    assert str(caught.value).replace(str(file), "F").split("\n  ") == [
        "Some file F has 8 faults:",
        "F:1:1 lacks the key 'name'.",
        "F:1:7: rate must be above 0 and at most 1, got 0.",
        "F:3:15: sections.a[0]: share must be a number, got 'no'.",
        "F:3:40: sections.a[1]: names must be a list, got 'x'.",
        "F:4:15: sections.b[0]: count must be a whole number, got True.",
        "F:4:21: sections.b[0] has an unknown key 'shore'; did you mean 'share'?",
        "F:4:32: sections.b[1] must be a mapping of keys to values, got 7.",
        "F:5:6: cap must be null or a whole number within ±2^63, got nan.",
    ]


def test_what_a_class_refuses_stands_where_the_field_stands_that_it_names(tmp_path: Path):
    file = tmp_path / "some.yaml"
    file.write_text("name: a\n\ncap: 13\n")
    with pytest.raises(InvalidInput, match=rf"^Some file {file}:3:6: cap must not be 13, got 13\.$"):
        from_file(_Whole, file, "Some file")


def test_of_thousands_of_faults_the_first_hundred_are_told(tmp_path: Path):
    file = tmp_path / "some.yaml"
    file.write_text("name: a\n" + "".join(f"k{number}: 1\n" for number in range(1000)))
    with pytest.raises(InvalidInput) as caught:
        from_file(_Whole, file, "Some file")
    first, *told, last = str(caught.value).split("\n  ")
    assert (first, len(told), last) == (f"Some file {file} has 1000 faults:", 100, "and 900 more")


def test_what_python_makes_is_held_to_the_same_ranges():
    refused: list[tuple[dict[str, Any], str]] = [
        ({"rate": 0.0}, r"^rate must be above 0 and at most 1, got 0\.0\.$"),
        ({"rate": float("nan")}, "^rate must be above 0"),
        ({"weights": {"a": 1.0, "b": -1.0}}, r"^weights\.b must be at least 0, got -1\.0\.$"),
        ({"cap": 0}, r"^cap must be null or at least 1, got 0\.$"),
    ]
    for changes, message in refused:
        with pytest.raises(InvalidInput, match=message):
            _Whole(name="a", **changes)
    assert _Whole(name="a", cap=None).rate == 1.0
