import itertools
import json
import math
import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.placement.demand import Demand, stage_tags
from headrace.placement.needs import InvalidNeeds, PlannedStep, RunNeeds, StepLimit, read_needs

NUMBERS = ["gpus", "gpu_memory_mib", "cpus", "memory_mib", "expected_seconds"]
TAGS = [*NUMBERS, "gpu_models", "gang", "queue", "preemptible", "version_set", "loads", "stage"]


def make_step(key: str = "train", *, after: tuple[str, ...] = (), copies: int | None = 1, **tags: str) -> PlannedStep:
    """`tags` without their prefix."""
    return PlannedStep(key=key, tags=make_tags(**tags), upstream=frozenset(after), copies=copies)


def make_tagged(tags: dict[str, str]) -> PlannedStep:
    return PlannedStep(key="train", tags=make_tags(**tags))


def make_tags(**tags: str) -> dict[str, str]:
    return {f"headrace/{name}": text for name, text in tags.items()}


def needs_of(*steps: PlannedStep, at_once: int | None = None, **run_tags: str) -> RunNeeds:
    return read_needs(steps, make_tags(**run_tags), steps_at_once=at_once)


def demand_of(*steps: PlannedStep, at_once: int | None = None, **run_tags: str) -> Demand:
    return needs_of(*steps, at_once=at_once, **run_tags).demand


def test_a_run_without_tags_needs_nothing() -> None:
    assert needs_of(make_step()) == RunNeeds()
    assert needs_of() == RunNeeds()


def test_every_tag_is_read() -> None:
    step = make_step(
        gpus="4",
        gpu_memory_mib="40000",
        gpu_models="H100|NVIDIA A100-SXM4-80GB",
        gang="any",
        cpus="2.5",
        memory_mib="8000",
        expected_seconds="90.5",
        queue="nightly",
        preemptible="true",
        version_set="9f2c",
        stage="training",
    )
    assert needs_of(step) == RunNeeds(
        demand=Demand(
            num_gpus=4,
            gpu_memory_mib=40_000,
            gpu_models=frozenset({"H100", "A100"}),
            gang="any",
            cpu_milli=2500,
            memory_mib=8000,
        ),
        queue="nightly",
        stage="training",
        expected_seconds=90.5,
        preemptible=True,
        loads=frozenset({"9f2c"}),
    )


def test_a_run_loads_what_its_steps_load_and_its_own_tag_replaces_them() -> None:
    steps = make_step("write", loads="3fa1|9b07", version_set="v7"), make_step("paint", loads="9b07|77d1")
    assert needs_of(*steps).loads == frozenset({"3fa1", "9b07", "77d1"})
    assert needs_of(*steps, loads="88e2").loads == frozenset({"88e2"})
    assert needs_of(*steps, version_set="v8").loads == frozenset({"v8"})


@pytest.mark.parametrize("text", ["", "a||b", "|", "a,b", "a" * 201, "|".join(["a"] * 101)])
def test_models_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(InvalidNeeds, match=r"^Tag headrace/loads of step train is '.*', but must be at most 100 names"):
        needs_of(make_step(loads=text))


def test_the_tags_of_a_stage_are_read() -> None:
    needs = read_needs([PlannedStep(key="a", tags=stage_tags("training", gpus=0.25, gpu_memory_mib=1000))], {})
    assert needs.stage == "training"
    assert needs.demand == Demand(num_gpus=1, gpu_milli=250, gpu_memory_mib=1000)


@pytest.mark.parametrize(
    ("text", "demand"),
    [
        ("0", Demand()),
        ("0.0", Demand()),
        ("1", Demand(num_gpus=1)),
        (" 2 ", Demand(num_gpus=2)),
        ("2.0", Demand(num_gpus=2)),
        ("0.5", Demand(num_gpus=1, gpu_milli=500)),
        (".5", Demand(num_gpus=1, gpu_milli=500)),
        ("0.0001", Demand(num_gpus=1, gpu_milli=1)),
        ("0.9999", Demand(num_gpus=1)),
        ("100000", Demand(num_gpus=100_000)),
    ],
)
def test_gpus_are_whole_or_a_share_rounded_up_to_thousandths(text: str, demand: Demand) -> None:
    assert demand_of(make_step(gpus=text)) == demand


def test_memory_alone_asks_for_a_share_of_one_gpu() -> None:
    demand = demand_of(make_step(gpu_memory_mib="20000"))
    assert demand == Demand(num_gpus=1, gpu_milli=1, gpu_memory_mib=20_000)
    assert demand.is_shared
    assert demand.milli_on(80_000) == 250


def test_zero_asks_for_nothing() -> None:
    assert needs_of(make_tagged(dict.fromkeys(NUMBERS, "0"))) == RunNeeds()


MALFORMED = [
    "-1", "+1", "1e9", "foobar", "nan", "inf", "1e400", "", " ", "０.５", "١", "1_000", "0x10", "1,5", "1.5.1", "1 2",
    "9" * 5000, "NaN", "None", "4\n5", "²", "½", "--", ".", "1.", "\x00", "🙂",
]  # fmt: skip


@pytest.mark.parametrize("text", MALFORMED)
@pytest.mark.parametrize("tag", NUMBERS)
def test_what_is_no_number_is_refused_by_tag_and_carrier(tag: str, text: str) -> None:
    with pytest.raises(InvalidNeeds, match=rf"^Tag headrace/{tag} of step train is '.*', but must be a .*\.$"):
        needs_of(make_tagged({tag: text}))
    with pytest.raises(InvalidNeeds, match=rf"^Tag headrace/{tag} of the run is '.*', but must be a .*\.$"):
        read_needs([make_step()], make_tags(**{tag: text}))


@pytest.mark.parametrize(
    ("tag", "text", "wanted"),
    [
        ("gpus", "1.5", "a whole number of GPUs or a share of one, as 4 or 0.5."),
        ("gpus", "100001", "a whole number of GPUs or a share of one, as 4 or 0.5, at most 100,000."),
        ("gpu_memory_mib", "0.5", "a whole number of MiB, as 16384."),
        ("memory_mib", "1000000001", "a whole number of MiB, as 16384, at most 1,000,000,000."),
        ("gang", "gpu", r"node \(all GPUs on one\) or any \(across nodes\)."),
        ("preemptible", "yes", "true or false."),
        ("queue", "", "a name of at most 200 letters, digits and ._-/:@\\+."),
        ("queue", "a" * 201, "a name of at most 200 letters, digits and ._-/:@\\+."),
        ("stage", "line\nbreak", "a name of at most 200 letters, digits and ._-/:@\\+."),
        ("gpu_models", "H100||A100", "names of GPU models, as H100|A100."),
        ("gpu_models", "", "names of GPU models, as H100|A100."),
    ],
)
def test_what_is_out_of_place_is_refused_with_what_was_wanted(tag: str, text: str, wanted: str) -> None:
    with pytest.raises(InvalidNeeds, match=rf"^Tag headrace/{tag} of step train is .*, but must be {wanted}$"):
        needs_of(make_tagged({tag: text}))


def test_a_long_text_is_not_repeated_in_full() -> None:
    with pytest.raises(InvalidNeeds) as refusal:
        needs_of(make_step(gpus="x" * 10_000))
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("at_once", "num_gpus", "cpu_milli"),
    [(1, 4, 8000), (2, 6, 9000), (3, 7, 9500), (None, 7, 9500)],
)
def test_a_run_holds_the_peak_of_its_steps_in_each_dimension(
    at_once: int | None, num_gpus: int, cpu_milli: int
) -> None:
    steps = [
        make_step("a", gpus="4", cpus="1"),
        make_step("b", gpus="2", cpus="0.5"),
        make_step("c", gpus="1", cpus="8"),
    ]
    demand = demand_of(*steps, at_once=at_once)
    assert (demand.num_gpus, demand.cpu_milli) == (num_gpus, cpu_milli)


def test_steps_of_a_chain_never_add_up() -> None:
    chain = [make_step("a", gpus="1"), make_step("b", after=("a",)), make_step("c", gpus="2", after=("b",))]
    assert demand_of(*chain).num_gpus == 2


def test_steps_add_up_when_what_stands_between_them_is_not_executed() -> None:
    steps = [make_step("a", gpus="1"), make_step("c", gpus="2", after=("b",))]
    assert demand_of(*steps).num_gpus == 3


def test_branches_of_a_diamond_add_up_and_its_ends_do_not() -> None:
    diamond = [
        make_step("first", gpus="3"),
        make_step("left", gpus="2", after=("first",)),
        make_step("right", gpus="2", after=("first",)),
        make_step("last", gpus="3", after=("left", "right")),
    ]
    assert demand_of(*diamond).num_gpus == 4
    assert demand_of(*diamond, at_once=1).num_gpus == 3


def test_shares_that_run_together_stay_one_shared_gpu() -> None:
    steps = [make_step("a", gpus="0.5", gpu_memory_mib="10000"), make_step("b", gpus="0.25", gpu_memory_mib="5000")]
    assert demand_of(*steps) == Demand(num_gpus=1, gpu_milli=750, gpu_memory_mib=15_000)
    assert demand_of(*steps, at_once=1) == Demand(num_gpus=1, gpu_milli=500, gpu_memory_mib=10_000)


def test_shares_that_fill_one_gpu_share_its_memory() -> None:
    steps = [make_step(key, gpus="0.5", gpu_memory_mib="10000") for key in "ab"]
    assert demand_of(*steps) == Demand(num_gpus=1, gpu_memory_mib=20_000)


def test_shares_of_more_than_one_gpu_become_whole_gpus() -> None:
    steps = [make_step(key, gpus="0.5", gpu_memory_mib="10000") for key in "abc"]
    assert demand_of(*steps) == Demand(num_gpus=2, gpu_memory_mib=10_000)


def test_a_share_beside_whole_gpus_becomes_a_whole_one() -> None:
    steps = [make_step("a", gpus="2", gpu_memory_mib="40000"), make_step("b", gpu_memory_mib="50000")]
    assert demand_of(*steps) == Demand(num_gpus=3, gpu_memory_mib=50_000)


def test_a_run_tag_goes_before_the_steps() -> None:
    steps = [make_step("a", gpus="2", gpu_memory_mib="40000", cpus="4"), make_step("b", gpus="1")]
    assert demand_of(*steps, gpus="8") == Demand(num_gpus=8, gpu_memory_mib=40_000, cpu_milli=4000)
    assert demand_of(*steps, gpu_memory_mib="10", cpus="1") == Demand(num_gpus=3, gpu_memory_mib=10, cpu_milli=1000)


def test_a_run_tag_makes_a_run_cpu_only() -> None:
    step = make_step(gpus="2", gpu_memory_mib="40000", gpu_models="H100", gang="any", cpus="4")
    assert demand_of(step, gpus="0") == Demand(cpu_milli=4000)


def test_steps_are_not_read_where_a_run_tag_stands_before_them() -> None:
    assert demand_of(make_step(gpus="foobar"), gpus="1").num_gpus == 1


def test_a_run_tag_alone_is_enough() -> None:
    assert demand_of(gpus="2", gpu_models="h100") == Demand(num_gpus=2, gpu_models=frozenset({"H100"}))
    assert demand_of(gpu_memory_mib="2000") == Demand(num_gpus=1, gpu_milli=1, gpu_memory_mib=2000)


def test_a_run_gets_models_that_all_of_its_steps_allow() -> None:
    steps = [make_step("a", gpus="1", gpu_models="H100,A100"), make_step("b", gpus="1", gpu_models="A100 | L4")]
    assert demand_of(*steps, make_step("c", gpus="1")).gpu_models == frozenset({"A100"})


def test_steps_without_a_model_in_common_are_refused() -> None:
    steps = [make_step("a", gpus="1", gpu_models="H100"), make_step("b", gpus="1", gpu_models="A100|L4")]
    message = (
        r"^Tag headrace/gpu_models of step b allows A100, L4, but other steps of the run only H100: a run gets one "
        r"model; run them apart, or set the tag of the run\.$"
    )
    with pytest.raises(InvalidNeeds, match=message):
        needs_of(*steps)
    assert demand_of(*steps, gpu_models="L4").gpu_models == frozenset({"L4"})


def test_gpus_may_be_across_nodes_only_if_every_step_that_holds_some_says_so() -> None:
    steps = [make_step("a", gpus="4", gang="any"), make_step("b")]
    assert demand_of(*steps).gang == "any"
    assert demand_of(*steps, make_step("c", gpus="1")).gang == "node"
    assert demand_of(*steps, gang="node").gang == "node"


def test_the_step_that_holds_most_speaks_for_the_queue() -> None:
    steps = [
        make_step("a", queue="cpu", stage="prep", cpus="8"),
        make_step("b", queue="gpu", stage="training", gpus="1"),
    ]
    assert (needs_of(*steps).queue, needs_of(*steps).stage) == ("gpu", "training")
    assert needs_of(*steps, queue="mine").queue == "mine"


def test_a_run_is_preemptible_only_if_all_of_its_steps_are() -> None:
    assert needs_of(make_step("a", preemptible="True")).preemptible
    assert not needs_of(make_step("a", preemptible="true"), make_step("b")).preemptible
    assert needs_of(make_step("a"), preemptible="true").preemptible
    assert not needs_of(make_step("a", preemptible="true"), preemptible="false").preemptible
    assert not needs_of().preemptible


def test_seconds_add_up_along_the_order_of_steps() -> None:
    steps = [
        make_step("a", gpus="1", expected_seconds="100"),
        make_step("b", gpus="1", expected_seconds="50", after=("a",)),
        make_step("c", gpus="1", expected_seconds="120"),
    ]
    assert needs_of(*steps).expected_seconds == 150
    assert needs_of(*steps, at_once=1).expected_seconds == 270
    assert needs_of(*steps, expected_seconds="7").expected_seconds == 7


def test_seconds_are_unknown_while_a_step_that_holds_something_is_silent() -> None:
    stated = make_step("a", gpus="1", expected_seconds="100")
    assert needs_of(stated, make_step("b")).expected_seconds == 100
    assert needs_of(stated, make_step("b", cpus="1")).expected_seconds is None


def test_a_mapped_step_counts_as_often_as_the_executor_runs_it() -> None:
    steps = [make_step("fan"), make_step("work[?]", gpus="1", after=("fan",), copies=None)]
    assert demand_of(*steps, at_once=3).num_gpus == 3
    assert demand_of(*steps, at_once=1).num_gpus == 1


def test_a_mapped_step_is_refused_where_nobody_says_how_often_it_runs() -> None:
    steps = [make_step("fan"), make_step("work[?]", gpus="1", after=("fan",), copies=None)]
    message = (
        r"^Step work\[\?\] has tag headrace/gpus and maps over a number of outputs that is not known before it runs: "
        r"set max_concurrent of the run's executor, or tag headrace/gpus of the run\.$"
    )
    with pytest.raises(InvalidNeeds, match=message):
        needs_of(*steps)
    assert demand_of(*steps, gpus="2").num_gpus == 2


def test_steps_that_a_limit_keeps_apart_do_not_add_up() -> None:
    steps = [make_step(key, gpus="1", cpus="1") for key in "abc"] + [make_step("d", gpus="1")]
    limit = StepLimit(step_keys=frozenset("abc"), most=1)
    assert read_needs(steps, {}, limits=[limit]).demand == Demand(num_gpus=2, cpu_milli=1000)
    assert read_needs(steps, {}, limits=[limit], steps_at_once=1).demand.num_gpus == 1
    assert read_needs(steps, {}, limits=[limit, limit]).demand.num_gpus == 2


def test_a_limit_bounds_a_mapped_step() -> None:
    step = make_step("work[?]", gpus="1", copies=None)
    limit = StepLimit(step_keys=frozenset({"work[?]"}), most=2)
    assert read_needs([step], {}, limits=[limit]).demand.num_gpus == 2


def test_steps_whose_sum_passes_all_bounds_are_refused() -> None:
    with pytest.raises(
        InvalidNeeds, match=r"^Tags headrace/gpus of the run's steps add up to more than 100,000 GPUs\.$"
    ):
        needs_of(make_step("a", gpus="100000"), make_step("b", gpus="1"))
    with pytest.raises(
        InvalidNeeds, match="^Tags headrace/memory_mib of the run's steps add up to more than 1,000,000,000"
    ):
        needs_of(make_step("a", memory_mib="1000000000"), make_step("b", memory_mib="1"))


texts = st.one_of(
    st.text(max_size=40),
    st.text(alphabet=string.digits + ".,-+eE_xXinfINFaA |/", max_size=12),
    st.sampled_from([*MALFORMED, "1", "0.5", "node", "any", "true", "H100"]),
    st.integers().map(str),
    st.floats().map(str),
)
tag_sets = st.dictionaries(st.sampled_from(TAGS), texts, max_size=4).map(lambda tags: make_tags(**tags))


@given(
    step_tags=st.lists(tag_sets, max_size=4), run_tags=tag_sets, at_once=st.none() | st.integers(1, 4), data=st.data()
)
def test_any_text_is_refused_or_a_demand_within_bounds(
    step_tags: list[dict[str, str]], run_tags: dict[str, str], at_once: int | None, data: st.DataObject
) -> None:
    keys = [f"step_{number}" for number in range(len(step_tags))]
    steps = [
        PlannedStep(
            key=key,
            tags=tags,
            upstream=data.draw(st.frozensets(st.sampled_from(keys[:number])) if number else st.just(frozenset())),
        )
        for number, (key, tags) in enumerate(zip(keys, step_tags, strict=True))
    ]
    try:
        needs = read_needs(steps, run_tags, steps_at_once=at_once)
    except InvalidNeeds:
        return
    demand = needs.demand
    assert 0 <= demand.num_gpus <= 100_000
    assert 1 <= demand.gpu_milli <= 1000
    assert demand.gpu_milli == 1000 or demand.num_gpus == 1
    assert min(demand.gpu_memory_mib, demand.cpu_milli, demand.memory_mib) >= 0
    assert needs.expected_seconds is None or (math.isfinite(needs.expected_seconds) and needs.expected_seconds > 0)
    assert RunNeeds.from_json(needs.to_json()) == needs


@given(
    num_steps=st.integers(1, 7),
    weights=st.lists(st.integers(0, 4), min_size=7, max_size=7),
    seed=st.integers(0, 10**6),
    at_once=st.none() | st.integers(1, 4),
)
def test_no_order_of_events_holds_more_than_the_demand(
    num_steps: int, weights: list[int], seed: int, at_once: int | None
) -> None:
    draw = random.Random(seed)
    after = {step: {other for other in range(step) if draw.random() < 0.4} for step in range(num_steps)}
    steps = [
        make_step(str(step), gpus=str(weights[step]), after=tuple(str(other) for other in after[step]))
        for step in range(num_steps)
    ]
    for step in range(num_steps):
        for other in set(after[step]):
            after[step] |= after[other]
    together = max(
        sum(weights[step] for step in some)
        for size in range(1, num_steps + 1)
        for some in itertools.combinations(range(num_steps), size)
        if (at_once is None or size <= at_once) and not any(other in after[step] for step in some for other in some)
    )
    demand = demand_of(*steps, at_once=at_once)
    if at_once is None:
        assert demand.num_gpus == together
    else:
        assert together <= demand.num_gpus <= sum(sorted(weights[:num_steps], reverse=True)[:at_once])


def test_a_plan_of_a_thousand_gpu_steps_is_bounded_too() -> None:
    layers = [
        make_step(f"{layer}-{n}", gpus="1", after=(f"{layer - 1}-{n}",) if layer else ())
        for layer in range(100)
        for n in range(10)
    ]
    assert 10 <= demand_of(*layers).num_gpus <= 1000
    assert demand_of(*layers, at_once=4).num_gpus == 4


def make_json(**changed: object) -> str:
    return json.dumps(json.loads(RunNeeds(demand=Demand(num_gpus=1)).to_json()) | changed)


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "[]", "null", "foobar", "[" * 100_000, RunNeeds().to_json()[:-1],
        make_json(num_gpus=-1), make_json(num_gpus=1e9), make_json(num_gpus=True), make_json(num_gpus="1"),
        make_json(num_gpus=100_001), make_json(gpu_milli=0), make_json(gpu_milli=1001),
        make_json(num_gpus=2, gpu_milli=500), make_json(gang="all"), make_json(gpu_models=[1]),
        make_json(gpu_models=None), make_json(preemptible=1), make_json(expected_seconds=-1),
        make_json(expected_seconds=math.nan), make_json(expected_seconds=math.inf), make_json(queue=None),
        make_json(surprise=1),
    ],
)  # fmt: skip
def test_foreign_json_is_no_needs(text: str) -> None:
    with pytest.raises(ValueError, match="^Not a run's needs: "):
        RunNeeds.from_json(text)


@given(text=st.text() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_any_json_is_needs_or_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="^Not a run's needs: "):
        RunNeeds.from_json(text)
