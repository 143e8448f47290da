"""The queueing benchmark on small tables: its protocol, its peers and how it refuses."""

import json
from pathlib import Path

import pytest

from benchmarks.queueing.__main__ import main
from benchmarks.queueing.fleet import simulate_fleet
from benchmarks.queueing.jobs import Job, arrivals, read_tasks
from benchmarks.queueing.ours import Headrace
from benchmarks.queueing.peers import BestEffort, Easy, Fifo
from benchmarks.queueing.picture import draw, watched
from benchmarks.queueing.simulation import Outcome, Policy, Simulation
from headrace.errors import InvalidInput
from headrace.placement.demand import Demand
from headrace.placement.queueing import Preempting, QueuePolicy
from tests.placement.queueing_builders import make_fleet

HEADER = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time"


@pytest.fixture
def pods(tmp_path: Path) -> Path:
    """60 tasks of 1 GPU and 100 to 690 s, 4 gangs of 8, and lines that are no use."""
    lines = [f"s{index},1,1,1,1000,,LS,Succeeded,0,{100 + 10 * index},0" for index in range(60)]
    lines += [f"g{index},1,1,8,1000,,LS,Succeeded,0,2000,1000" for index in range(4)]
    lines += [
        "cpu,1,1,0,0,,LS,Succeeded,0,9,0",
        "never,1,1,1,1000,,LS,Pending,0,,",
        "long,1,1,1,500,,LS,Failed,0,999999,0",
    ]
    path = tmp_path / "pods.csv"
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def job(name: str, gpus: int, arrival: float, seconds: float, estimate: float | None = None) -> Job:
    return Job(
        name=name,
        demand=Demand(num_gpus=gpus),
        arrival=arrival,
        run_seconds=seconds,
        estimate_seconds=estimate or seconds,
    )


def simulated(policy: Policy, *jobs: Job) -> Outcome:
    return Simulation(make_fleet(2), jobs, policy).run()


def test_only_gpu_tasks_with_both_times_count_and_a_day_is_the_longest(pods: Path):
    tasks = read_tasks(pods)
    assert len(tasks) == 65
    assert max(task.run_seconds for task in tasks) == 86_400


def test_estimates_are_noisy_alike_for_every_policy_and_change_no_arrival(pods: Path):
    tasks = read_tasks(pods)
    fields = {"seed": 3, "fleet_gpus": 32, "load": 0.9, "shares": False}
    noisy, again = (arrivals(tasks, sigma=1.0, **fields) for _ in range(2))
    exact = arrivals(tasks, sigma=0.0, **fields)
    assert noisy == again
    assert [job.arrival for job in noisy] == [job.arrival for job in exact]
    assert all(job.estimate_seconds == job.run_seconds for job in exact)
    assert any(job.estimate_seconds != job.run_seconds for job in noisy)


def test_the_peers_differ_as_their_names_say():
    # One GPU is busy until 100; a gang waits for it; one short and one long job come behind.
    jobs = (job("a", 1, 0, 100), job("gang", 2, 1, 10), job("short", 1, 2, 50), job("long", 1, 3, 500))
    assert simulated(Fifo(), *jobs).waits.tolist() == [0, 99, 108, 107]
    assert simulated(BestEffort(), *jobs).waits.tolist() == [0, 551, 0, 49]
    assert simulated(Easy(), *jobs).waits.tolist() == [0, 99, 0, 107]


def test_a_wrong_estimate_makes_easy_push_the_first_back_but_not_us():
    jobs = (job("a", 1, 0, 100), job("gang", 2, 1, 10), job("liar", 1, 2, 5000, 5))
    assert simulated(Easy(), *jobs).waits[1] == 5001
    ours = QueuePolicy(gang_patience=1e-9)
    outcome = simulated(Headrace(make_fleet(2), ours), *jobs)
    assert outcome.waits[1] == 99
    assert set(outcome.pushes.tolist()) == {0}


def test_a_stopped_job_does_its_last_minute_again():
    policy = QueuePolicy(gang_patience=1e-9, patience=1e-9, preemption=Preempting(min_run_seconds=0.0))
    jobs = (job("firm", 2, 0, 100), job("gang", 2, 50, 10), job("soft", 1, 20, 1000))
    # `soft` starts at 100 beside nobody: the gang goes by age, first.
    assert simulated(Headrace(make_fleet(2), policy), *jobs).redone == 0
    jobs = (job("busy", 1, 0, 200), job("gang", 2, 100, 10), job("soft", 1, 150, 1000))
    outcome = simulated(Headrace(make_fleet(2), policy), *jobs)
    assert outcome.num_stops == 1
    assert outcome.waits.tolist() == pytest.approx([10, 0, 0], abs=0.001)
    assert outcome.redone == pytest.approx(60 / (200 + 20 + 1000))


def test_it_prints_one_line_of_json_at_the_end(pods: Path, capsys: pytest.CaptureFixture):
    assert main(["--pods", str(pods), "--seeds", "1"]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    bars = results.pop("bars")
    assert list(results) == ["headrace", "headrace_no_preemption", "fifo", "best_effort", "easy"]
    assert bars["pushed_back_headrace"] == {"value": 0.0, "bar": 0.0, "met": True}
    assert set(results["easy"]) == {"mean_wait", "p99_wait", "big_max_wait", "max_wait", "pushed_back", "redone"}
    assert results["headrace"]["pushed_back"] == 0
    assert results["headrace_no_preemption"]["pushed_back"] == 0


def test_a_small_fleet_is_simulated_to_its_end():
    result = simulate_fleet(num_nodes=4, num_runs=300, seed=1)
    assert result["num_runs"] == 300
    assert result["num_plans"] > 0


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("name,num_gpu\n", "lacks the columns gpu_milli, scheduled_time, deletion_time"),
        (HEADER + "\n", "has no GPU task with both"),
        (HEADER + "\na,1,1,one,1000,,LS,x,0,9,0\n", "line 2: num_gpu must be a whole number of 0 or more"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path: Path, content: str, sentence: str):
    path = tmp_path / "pods.csv"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=sentence):
        read_tasks(path)


def test_a_missing_file_and_an_unknown_policy_end_it(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["--pods", str(tmp_path / "none.csv")]) == 1
    assert "none.csv cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--pods", "x", "--policies", "lifo"])
    assert "must be some of headrace" in capsys.readouterr().err


def test_a_picture_needs_sets_a_known_ending_and_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture):
    for arguments, sentence in (
        (["--picture", "queue.svg"], "give --sets N, too"),
        (["--sets", "1", "--picture", "queue.pdf"], "must end with one of .png, .svg"),
        (["--sets", "1", "--picture", str(tmp_path / "none" / "queue.svg")], "a directory that exists"),
    ):
        with pytest.raises(SystemExit):
            main(["--pods", "x", *arguments])
        assert sentence in capsys.readouterr().err


def test_the_queue_over_time_is_drawn_for_ours_and_both_ends(tmp_path: Path):
    jobs = [job("a", 1, 0, 100), job("gang", 2, 1, 10), job("short", 1, 2, 50), job("long", 1, 3, 500)]
    found = watched(jobs, 2)
    assert list(found) == ["headrace", "easy", "sjf"]
    assert (2, 2.0) in [(count, age) for _, count, age in found["easy"]]
    for name in ("queue.png", "queue.svg"):
        draw(tmp_path / name, found, "a title")
    assert (tmp_path / "queue.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "queue.svg").read_text()
