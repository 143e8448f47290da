"""What a mapping of a user may hold."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from headrace.errors import InvalidInput
from headrace.typed_mapping import from_mapping


@dataclass(frozen=True, kw_only=True)
class _Section:
    share: float = 0.0
    count: int = 0
    mode: Literal["fast", "slow"] = "fast"
    names: tuple[str, ...] = ()
    shares: dict[str, float] = field(default_factory=dict)


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
    assert from_mapping(_Section, {"share": 1, "count": -(2**62)}, "section") == _Section(share=1.0, count=-(2**62))
    with pytest.raises(InvalidInput, match="share must be a number, got True"):
        from_mapping(_Section, {"share": True}, "section")
