"""Quotas of tenants: how many events one may send, and may have waiting."""

from hypothesis import given
from hypothesis import strategies as st

from headrace.inbox.quotas import Quotas
from headrace.inbox.rules import Tenant


def make_quotas(**tenants: Tenant) -> Quotas:
    return Quotas("orders", {name.replace("others", "*"): said for name, said in tenants.items()})


def test_a_tenant_with_as_many_waiting_events_as_it_may_have_is_told_its_limit() -> None:
    quotas = make_quotas(acme=Tenant(waiting_max=3))
    quotas.look({"acme": 2, "other": 1_000})
    assert quotas.refusal("acme", 0.0, 2.0) is None
    refused = quotas.refusal("acme", 0.0, 2.0)
    assert refused is not None
    assert refused.reason == "3 events of tenant 'acme' wait in campaign orders, its limit is 3"
    assert refused.retry_after_seconds == 1.0
    quotas.look({"acme": 103})
    refused = quotas.refusal("acme", 0.0, 2.0)
    assert refused is not None
    assert refused.retry_after_seconds == 50.5
    assert quotas.refusal("other", 0.0, 2.0) is None
    quotas.look({"acme": 2})
    assert quotas.refusal("acme", 0.0, None) is None


def test_a_rate_is_an_average_over_ten_seconds() -> None:
    quotas = make_quotas(acme=Tenant(events_per_second=2.0))
    taken = [quotas.refusal("acme", 100.0, None) is None for _ in range(25)]
    assert taken == [True] * 20 + [False] * 5
    refused = quotas.refusal("acme", 100.25, None)
    assert refused is not None
    assert refused.reason == "tenant 'acme' sends more events a second than it may in campaign orders, its limit is 2"
    assert quotas.refusal("acme", 100.5, None) is None
    assert quotas.refusal("acme", 100.5, None) is not None


def test_what_is_said_of_every_other_tenant_holds_for_each_by_itself() -> None:
    quotas = make_quotas(others=Tenant(waiting_max=1), acme=Tenant())
    assert quotas.refusal("a", 0.0, None) is None
    assert quotas.refusal("a", 0.0, None) is not None
    assert quotas.refusal("b", 0.0, None) is None
    assert all(quotas.refusal("acme", 0.0, None) is None for _ in range(10))


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.floats(0, 3)), max_size=200), st.floats(0.1, 20))
def test_no_tenant_gets_more_than_its_rate_and_one_burst(sent: list[tuple[str, float]], rate: float) -> None:
    quotas = make_quotas(others=Tenant(events_per_second=rate))
    now, taken = 0.0, {"a": 0, "b": 0}
    for tenant, pause in sent:
        now += pause
        taken[tenant] += quotas.refusal(tenant, now, None) is None
        assert taken[tenant] <= max(rate * 10, 1) + rate * now + 1e-6


def test_tenants_without_end_cost_each_event_as_little_as_few_do() -> None:
    class Moment(float):
        """Counts how often somebody asks how long ago a tenant sent something."""

        num_asked = 0

        def __sub__(self, other: float) -> float:
            Moment.num_asked += 1
            return float(self) - other

    quotas, num = make_quotas(others=Tenant(events_per_second=1.0)), 12_000
    for number in range(num):
        assert quotas.refusal(f"tenant {number}", Moment(5.0), None) is None
    assert Moment.num_asked < 4 * num
