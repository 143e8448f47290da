"""For whom a host is asked, as headers say it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engines.asker import Asker
from headrace.engines.host.asker_headers import asker_in, headers_of
from headrace.errors import InvalidInput
from headrace.fairness import CLASSES

COSTS = st.floats(1e-6, 1e6)


@given(
    work_class=st.sampled_from(CLASSES),
    tenants=st.dictionaries(st.text("aü ✓&=+%\n", max_size=8), COSTS, min_size=1, max_size=32),
)
def test_what_is_told_is_what_is_read(work_class: str, tenants: dict[str, float]) -> None:
    headers = headers_of(Asker(work_class=work_class, tenants=tenants))  # pyright: ignore[reportArgumentType]
    assert all(value.isascii() and "\n" not in value and len(value) < 8_000 for value in headers.values())
    told = asker_in(headers)
    assert told.work_class == work_class
    assert told.tenants == pytest.approx(tenants, rel=1e-6)


def test_without_headers_nobody_waits_and_it_is_nobodys() -> None:
    assert asker_in({}) == Asker()
    assert headers_of(Asker()) == {"X-Headrace-Class": "batch"}


def test_a_long_name_is_told_by_its_digest_and_of_many_tenants_the_largest_parts() -> None:
    tenants = {f"tenant {number} {'x' * 500}": 1.0 + number for number in range(1_000)}
    told = asker_in(headers_of(Asker(tenants=tenants))).tenants
    assert sorted(told.values()) == [969.0 + number for number in range(32)]
    assert all(len(name) == 64 for name in told)
    assert asker_in(headers_of(Asker(tenants=tenants))).tenants == told


@pytest.mark.parametrize(
    "text",
    ["", "a", "a=x", "a=0", "a=-1", "a=nan", "a=inf", "a=1e10", "&".join(f"t{number}=1" for number in range(33))],
)
def test_tenants_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        asker_in({"X-Headrace-Tenants": text})
    assert str(refused.value).startswith(
        "X-Headrace-Tenants must be NAME=PART&…, at most 32 of them, each part a number above 0 and up to 1e+09, got "
    )
