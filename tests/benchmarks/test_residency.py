"""Replays of image requests: what is read, and what policies do on a trace that shows it."""

import random
from pathlib import Path

import pytest

from benchmarks.residency.image_trace import Job, at_own_times, at_poisson_times, read_jobs, with_parts
from benchmarks.residency.ours import Asked, Brought, Simulated
from benchmarks.residency.peers import PEERS, Fleet
from benchmarks.residency.predicting import Predictor
from headrace.errors import InvalidInput

HEADER = (
    "gmt_create,predict_status,exec_time_seconds,num_images_per_prompt,num_inference_steps,"
    "checkpoint_model_version_id,num_lora\n"
)


def trace(directory: Path, *rows: str) -> Path:
    file = directory / "trace.csv"
    file.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return file


def job(number: int, *, arrives: float = 0.0, checkpoint: str = "a", seconds: float = 10.0) -> Job:
    return Job(
        number=number,
        arrives=arrives,
        seconds=seconds,
        checkpoint=checkpoint,
        num_images=1,
        num_steps=30,
        num_loras=0,
    )


def test_a_trace_is_read_in_order_without_what_never_ran(tmp_path: Path) -> None:
    jobs = read_jobs(
        trace(
            tmp_path,
            "2024-11-15 16:57:50,SUCCEED,32.0,1.0,30.0,M0,0",
            "2024-11-15 16:57:52,PENDING,0.0,,,,0",
            "2024-11-15 16:58:00,FAILED,4.0,2.0,20.0,M1,2",
        )
    )
    assert [(one.number, one.arrives, one.seconds, one.checkpoint, one.num_loras) for one in jobs] == [
        (0, 0.0, 32.0, "M0", 0),
        (1, 10.0, 4.0, "M1", 2),
    ]


def test_a_trace_with_a_wrong_time_names_its_line(tmp_path: Path) -> None:
    file = trace(tmp_path, "2024-11-15 16:57:50,SUCCEED,1.0,1.0,30.0,M0,0", "yesterday,SUCCEED,1.0,1.0,30.0,M0,0")
    with pytest.raises(InvalidInput, match="line 3: gmt_create must be a time such as .*, got 'yesterday'"):
        read_jobs(file)


def test_arrivals_keep_their_share_of_the_workers_at_work() -> None:
    jobs = [job(number, arrives=float(number % 100 + number)) for number in range(2000)]
    for timed in (
        at_poisson_times(jobs, num_workers=4, load=0.5, draw=random.Random(1)),
        at_own_times(jobs, num_workers=4, load=0.5),
    ):
        assert 10 * len(jobs) / (4 * (timed[-1].arrives - timed[0].arrives)) == pytest.approx(0.5, rel=0.1)


def test_parts_are_drawn_by_seed_for_requests_that_name_some() -> None:
    jobs = [job(0), *(Job(**{**vars(job(number)), "num_loras": 2}) for number in range(1, 500))]
    named = list(with_parts(jobs, random.Random(1)))
    assert named == list(with_parts(jobs, random.Random(1)))
    assert [sum(part.startswith("lora") for part in one.parts) for one in named] == [0, *[2] * 499]
    share = sum("controlnet" in one.parts for one in named) / len(named)
    assert share == pytest.approx(0.2, abs=0.06)


def test_work_in_line_is_done_once_and_switches_cost_what_they_cost() -> None:
    jobs = [job(0), job(1), job(2, checkpoint="b"), job(3)]
    found = PEERS["jsq"](jobs, Fleet(1, 5.0, random.Random(0)))
    # 5 + 10, + 10, + 5 + 10, + 5 + 10
    assert (found.mean, found.num_brought) == ((15 + 25 + 40 + 55) / 4, 3)


def test_one_queue_finds_a_free_workers_checkpoint_among_its_oldest() -> None:
    jobs = [job(0), job(1, arrives=1, checkpoint="b"), job(2, arrives=2)]
    found = PEERS["central_affinity_16"](jobs, Fleet(1, 5.0, random.Random(0)))
    assert (found.num_brought, found.wait_max) == (2, 29)


def test_rays_rule_keeps_a_model_where_it_is_until_its_replica_is_full() -> None:
    jobs = [job(number, arrives=number / 100) for number in range(7)]
    found = PEERS["ray_multiplex"](jobs, Fleet(3, 5.0, random.Random(0)))
    assert found.num_brought == 2
    found = PEERS["ray_multiplex_1"](jobs[:3], Fleet(3, 5.0, random.Random(0)))
    assert found.num_brought == 3


@pytest.mark.parametrize("policy", sorted(PEERS))
def test_every_policy_does_all_of_the_work(policy: str) -> None:
    draw = random.Random(2)
    jobs = [job(number, checkpoint=draw.choice("abcdef"), seconds=draw.expovariate(1 / 20)) for number in range(300)]
    timed = at_poisson_times(jobs, num_workers=4, load=0.6, draw=draw)
    found = PEERS[policy](timed, Fleet(4, 8.0, draw))
    assert found.mean >= found.wait_mean + 15
    assert found.num_brought >= 6


def test_ours_switches_less_than_any_of_them_and_answers_sooner() -> None:
    draw = random.Random(3)
    jobs = [job(number, checkpoint=draw.choice("aaabbcdefg"), seconds=draw.uniform(5, 40)) for number in range(800)]
    timed = at_poisson_times(jobs, num_workers=4, load=0.6, draw=draw)
    ours = Simulated(
        num_workers=4,
        worker_mib=100,
        brought={one.checkpoint: Brought(seconds=20, mib=80) for one in timed},
        asked=lambda one: Asked(key=one.checkpoint),
    ).replayed(timed)
    for peer in PEERS.values():
        found = peer(timed, Fleet(4, 20.0, random.Random(3)))
        assert ours.num_brought < found.num_brought
        assert ours.mean < found.mean


def test_lengths_are_predicted_from_requests_that_ended_before() -> None:
    predictor = Predictor()
    first = predictor.seconds(job(0))
    for number in range(50):
        predictor.has_ended(job(number, seconds=60))
    assert first == 25
    assert predictor.seconds(job(51)) == pytest.approx(60, rel=0.02)
    assert predictor.seconds(job(51, checkpoint="new")) == pytest.approx(60, rel=0.05)
