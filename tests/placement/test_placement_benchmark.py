"""The replay of openb tables, on tables made here."""

import json
from pathlib import Path

import pytest

from benchmarks.placement.__main__ import main
from benchmarks.placement.openb import arrivals, gpu_milli, list_name, read_nodes, read_tasks
from benchmarks.placement.peers import POLICIES
from benchmarks.placement.replay import replay
from headrace.placement.demand import Demand

NODES = "sn,cpu_milli,memory_mib,gpu,model\n" + "".join(
    f"node-{number},32000,131072,{gpus},{model}\n"
    for number, (gpus, model) in enumerate([(4, "V100"), (4, "V100"), (2, "T4"), (2, "T4")])
)
TASKS = "cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n" + "".join(
    ["4000,8192,1,500,\n"] * 8 + ["4000,8192,1,1000,T4\n"] * 2 + ["8000,8192,4,1000,\n"] + ["4000,8192,0,0,\n"] * 4
)


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    nodes, tasks = tmp_path / "nodes.csv", tmp_path / "openb_pod_list_small.csv"
    nodes.write_text(NODES)
    tasks.write_text(TASKS)
    return nodes, tasks


def test_tasks_are_read_as_demands(tables: tuple[Path, Path]) -> None:
    tasks = read_tasks(tables[1])
    assert tasks[0] == Demand(num_gpus=1, gpu_milli=500, cpu_milli=4000, memory_mib=8192)
    assert tasks[8].gpu_models == {"T4"}
    assert [gpu_milli(task) for task in tasks[-5:-3]] == [4000, 0]
    assert read_nodes(tables[0]).num_gpus == 12
    assert list_name(tables[1]) == "small"


def test_every_task_of_the_list_arrives_before_one_arrives_again(tables: tuple[Path, Path]) -> None:
    tasks = read_tasks(tables[1])
    coming = arrivals(tasks, 12_000, 1.3, seed=1)
    assert sorted(map(repr, coming[: len(tasks)])) == sorted(map(repr, tasks))
    assert sum(map(gpu_milli, coming)) >= 15_600 > sum(map(gpu_milli, coming[:-1]))
    assert coming == arrivals(tasks, 12_000, 1.3, seed=1) != arrivals(tasks, 12_000, 1.3, seed=2)


@pytest.mark.parametrize("num_places", [0, 5])
@pytest.mark.parametrize("name", POLICIES)
def test_what_is_given_out_grows_with_what_arrives_and_repeats(
    tables: tuple[Path, Path], name: str, num_places: int
) -> None:
    inventory, tasks = read_nodes(tables[0]), read_tasks(tables[1])
    runs = [replay(inventory, tasks, name=name, ties="random", seed=3, num_places=num_places) for _ in range(2)]
    assert runs[0].allocated == runs[1].allocated
    assert 0 < runs[0].allocated[0] <= runs[0].allocated[1] <= runs[0].allocated[2] <= 100


def test_the_last_line_is_json_of_every_list_and_tie(
    tables: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--nodes", str(tables[0]), "--pods", str(tables[1]), "--seeds", "2"]) == 0
    body = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert body["policy"] == "headrace"
    assert body["lists"]["small"]["name"].keys() == {"95", "100", "130", "sd130"}
    assert body["mean130"]["random"] == body["lists"]["small"]["random"]["130"]
    assert body["decisions_per_s"] > 0


def test_each_list_is_compared_with_what_was_published_of_it(
    tables: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = tmp_path / "published.csv"
    header, nodes, pods = "workload,sc_policy,seed,95,100,130\n", str(tables[0]), str(tables[1])
    rows = ["06-FGD,42,99.5,0,10.0", "06-FGD,43,100,0,20.0", "01-Random,42,0,0,0"]
    published.write_text(header + "".join(f"openb_pod_list_small,{row}\n" for row in rows))
    command = ["--nodes", nodes, "--pods", pods, "--seeds", "1", "--ties", "name", "--published", str(published)]
    assert main(command) == 1
    bars = json.loads(capsys.readouterr().out.splitlines()[-1])["bars"]
    assert (bars["small_95_name_fgd"]["bar"], bars["small_95_name_fgd"]["met"]) == (99.75, False)
    assert (bars["small_130_name_fgd"]["bar"], bars["small_130_name_fgd"]["met"]) == (15.0, True)
    published.write_text(f"{header}openb_pod_list_small,06-FGD,42,much,0,10\n")
    assert main(command) == 2
    assert "line 2: 95 must be from 0 to 100 per cent, got 'much'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sn,gpu\na,1\n", "lacks the columns cpu_milli, memory_mib, model of an openb node list"),
        ("sn,cpu_milli,memory_mib,gpu,model\na,1,1,many,T4\n", "line 2: gpu must be a whole number of 0 or more"),
        ("sn,cpu_milli,memory_mib,gpu,model\na,1,1,0,T4\n", "has no node with a GPU"),
    ],
)
def test_a_bad_table_ends_in_one_sentence(
    tables: tuple[Path, Path], capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    tables[0].write_text(text)
    assert main(["--nodes", str(tables[0]), "--pods", str(tables[1])]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_missing_file_ends_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nodes", str(tmp_path / "none.csv"), "--pods", str(tmp_path / "none.csv")]) == 2
    assert "cannot be read as an openb node list" in capsys.readouterr().err
