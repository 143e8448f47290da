"""A gang over hosts, as the run worker hears it through the store: the hosts' words are written by the tests."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.errors import InvalidInput, InvalidTrainingRun, TrainingFailed
from headrace.store.chain import Chain
from headrace.store.local import LocalStore
from headrace.training.gang import run_gang
from headrace.training.gang_report import GangReport, RankReport
from headrace.training.gang_store import GangObjects, GangTask, HostSays, Notice, WorkerSays, notices, rows_text
from headrace.training.host_agent import HostAgent, free_port, interface_of
from headrace.training.hosts_runner import HostsRunner
from headrace.training.progress import RankFailure, RankPhase
from headrace.training.run_config import RunConfig
from tests.training_builders import make_recipe, make_run_config

HOSTS = ("host-a", "host-b")


class Hosts:
    """Two agents' words, said by the test in their place."""

    def __init__(self, store: LocalStore, config: RunConfig) -> None:
        self.objects = GangObjects(store, config.training_id, config.attempt)
        self.words = {name: self.objects.host(name) for name in HOSTS}

    def say(self, host: str, **word: object) -> None:
        self.words[host].say(HostSays(**word))  # pyright: ignore[reportArgumentType]

    def end(self, host: str, rank: RankReport, code: int) -> None:
        self.say(host, report=GangReport(ranks=(rank,), exit_code=code, first_exit=rank.rank if code else None))


def make_rank(number: int, failure: str | None = None, *, secondary: bool = False) -> RankReport:
    told = failure and RankFailure(rank=number, reason=failure, permanent=False, secondary=secondary, at=1.0)
    return RankReport(
        rank=number, phase=RankPhase(rank=number, phase="training", pid=7, at=0.0), failure=told or None, exit_code=1
    )


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return make_run_config(tmp_path / "work", recipe=make_recipe(start_timeout_seconds=2))


@pytest.fixture
def run(store: LocalStore, config: RunConfig) -> Callable[..., list[int]]:
    def run(silence_seconds: float = 5.0) -> list[int]:
        steps: list[int] = []
        runner = HostsRunner(config, store, HOSTS, silence_seconds=silence_seconds)
        run_gang(runner, config, on_rows=lambda rows: steps.extend(row["step"] for row in rows), tick_seconds=0.01)
        return steps

    return run


def test_rows_of_the_first_host_arrive_once_and_nothing_stays_in_the_store(
    store: LocalStore, config: RunConfig, run: Callable[..., list[int]]
) -> None:
    hosts = Hosts(store, config)
    hosts.say("host-a", rows=rows_text([{"step": 1, "gradient_norm": float("inf")}, {"step": 2}]))
    hosts.say("host-a", rows=rows_text([{"step": 3}]))
    for number, name in enumerate(HOSTS):
        hosts.end(name, make_rank(number), 0)
    assert run() == [1, 2, 3]
    assert store.list(f"training/{config.training_id}") == []
    assert notices(store, "host-b").last() == (1, Notice(training_id=config.training_id, attempt=config.attempt))


def test_the_host_whose_rank_failed_first_is_told_not_the_one_that_lost_it(
    store: LocalStore, config: RunConfig, run: Callable[..., list[int]]
) -> None:
    hosts = Hosts(store, config)
    hosts.end("host-a", make_rank(0, "Connection closed by peer", secondary=True), 1)
    hosts.end("host-b", make_rank(1, "ValueError: wrong"), 1)
    with pytest.raises(TrainingFailed, match="rank 1 on host-b failed .exception. .* ValueError: wrong") as failure:
        run()
    assert failure.value.culprits["rank"] == 1


def test_a_host_that_never_answers_is_lost(store: LocalStore, config: RunConfig, run: Callable[..., list[int]]) -> None:
    Hosts(store, config).end("host-a", make_rank(0), 0)
    with pytest.raises(TrainingFailed, match="host host-b has said nothing for 1 s, with rank 1 .lost host."):
        run(silence_seconds=0.6)


def test_a_stuck_gang_asks_its_hosts_where_their_ranks_are(
    store: LocalStore, config: RunConfig, run: Callable[..., list[int]]
) -> None:
    hosts, ear = Hosts(store, config), GangObjects(store, config.training_id, config.attempt).worker()
    for number, name in enumerate(HOSTS):
        hosts.say(name, report=GangReport(ranks=(make_rank(number),)), is_stuck=True)
    with pytest.raises(TrainingFailed, match=r"took no step for 2 s .*\(hang\)"):
        run()
    assert ear.new() == []  # deleted with the gang


def test_words_are_heard_once_and_in_order(store: LocalStore, config: RunConfig) -> None:
    objects = GangObjects(store, config.training_id, config.attempt)
    mouth, ear = objects.worker(), objects.worker()
    mouth.say(WorkerSays(asks_stacks=True))
    mouth.say(WorkerSays(stop=True))
    assert [word.stop for word in ear.new()] == [False, True]
    assert ear.new() == []


def test_ranks_that_do_not_divide_among_the_hosts_are_refused(store: LocalStore, config: RunConfig) -> None:
    with pytest.raises(InvalidTrainingRun, match=r"2 ranks do not divide among 3 hosts \(a, b, c\); set ranks to a"):
        HostsRunner(config, store, ["a", "b", "c"])


def test_an_address_that_is_another_hosts_is_refused() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert 0 < free_port("127.0.0.1") < 65536
    with pytest.raises(InvalidInput, match=r"--address must be one of this host's, got '203\.0\.113\.9'; it has 127"):
        interface_of("203.0.113.9")


def make_agent(store: LocalStore, work: Path) -> HostAgent:
    return HostAgent(store=store, name="host-a", address="127.0.0.1", work_root=work, environment={})


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ({"hosts": ("host-b", "host-c")}, "its task is for host-b, host-c, and this agent is host-a"),
        ({"run_json": "{}"}, "its task cannot be read here: training_id: Field required"),
    ],
)
def test_a_task_that_is_not_for_this_host_or_release_is_refused_before_a_word(
    store: LocalStore, config: RunConfig, tmp_path: Path, task: dict[str, object], told: str
) -> None:
    objects = GangObjects(store, config.training_id, 1)
    given = {"run_json": config.text().decode(), "hosts": HOSTS, "silence_seconds": 5.0} | task
    objects.create_task(GangTask(**given))  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidInput, match=told):
        make_agent(store, tmp_path).run(Notice(training_id=config.training_id, attempt=1))
    assert objects.host("host-a").new() == []


def test_of_two_agents_with_one_name_the_second_starts_no_ranks(
    store: LocalStore, config: RunConfig, tmp_path: Path
) -> None:
    objects = GangObjects(store, config.training_id, 1)
    objects.create_task(GangTask(run_json=config.text().decode(), hosts=HOSTS, silence_seconds=5.0))
    objects.host("host-a").say(HostSays())
    with pytest.raises(InvalidInput, match="two are named host-a"):
        make_agent(store, tmp_path / "second").run(Notice(training_id=config.training_id, attempt=1))
    assert not (tmp_path / "second").exists()


def test_an_agent_outlives_notices_that_it_cannot_use(
    store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Notice] = []

    class Served(Exception):
        pass

    def run(agent: HostAgent, notice: Notice) -> None:
        asked.append(notice)
        if len(asked) == 1:
            raise OSError(28, "No space left on device")
        raise Served

    monkeypatch.setattr(HostAgent, "run", run)
    # What lies there when it begins is not its own: all that follows is.
    monkeypatch.setattr(Chain, "newest", lambda chain: 0)
    chain = notices(store, "host-a")
    store.create(chain.key(1), b"not ours")
    for attempt in (1, 2):
        chain.create(attempt + 1, Notice(training_id="t", attempt=attempt), is_listed=True)
    with pytest.raises(Served):
        make_agent(store, tmp_path).serve()
    said = capsys.readouterr().out
    assert [notice.attempt for notice in asked] == [1, 2]
    assert "is damaged" in said
    assert "No space left on device" in said


def test_a_host_that_is_named_twice_is_refused(store: LocalStore, config: RunConfig) -> None:
    with pytest.raises(InvalidTrainingRun, match="hosts must name each host's agent once, got host-a, host-a"):
        HostsRunner(config, store, ("host-a", "host-a"))


def test_a_host_named_as_another_word_of_the_gang_is_heard_as_a_host(store: LocalStore, config: RunConfig) -> None:
    objects = GangObjects(store, config.training_id, 1)
    objects.worker().say(WorkerSays(stop=True))
    assert objects.host("worker").new() == []


def test_agents_of_one_gang_may_share_their_scratch_space(store: LocalStore, tmp_path: Path) -> None:
    agents = [replace(make_agent(store, tmp_path), name=name) for name in HOSTS]
    assert len({agent.work_of(Notice(training_id="t", attempt=1)) for agent in agents}) == 2
