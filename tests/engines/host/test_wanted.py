"""What makes two wishes one model, and what makes them two."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from headrace.engines.host.wanted import (
    WANTED,
    Place,
    StoreAddress,
    Wanted,
    code_of,
    environment_at,
    guessed_mib,
    numeric_environment,
)
from headrace.version_sets.sets import Decoding, EngineSpec
from tests.generation.builders import make_member


def make_wanted(**changes: Any) -> Wanted:
    fields: dict[str, Any] = {
        "member": make_member(),
        "engine": EngineSpec(name="transformers", build="torch 2.0", cpu="AMD AVX2"),
        "place": Place(device="cpu", environment={}),
        "store": StoreAddress(url="file:///store"),
        "build": "torch 2.1",
        "code": "c",
        "guess_mib": 500,
    }
    return Wanted(**(fields | changes))


WANTED_ONE = make_wanted()


@pytest.mark.parametrize(
    "other",
    [
        make_wanted(store=StoreAddress(url="file:///moved"), guess_mib=700),
        make_wanted(engine=EngineSpec(name="transformers", build="torch 2.1", cpu="Intel AVX512")),
        make_wanted(member=make_member(role="editor", system_prompt="Be brief.", user_template="{text}?")),
        make_wanted(member=make_member(weights_uri="file:///elsewhere")),
    ],
    ids=["another store", "another set's record of the build", "another role and prompt", "moved weights"],
)
def test_what_changes_no_byte_is_the_same_model(other: Wanted) -> None:
    assert other.key == WANTED_ONE.key


@pytest.mark.parametrize(
    "other",
    [
        make_wanted(member=make_member(weights_digest="f" * 64)),
        make_wanted(member=make_member(decoding=Decoding(temperature=0.1, top_p=0.9, max_new_tokens=12))),
        make_wanted(member=make_member(weights_uri="")),
        make_wanted(engine=EngineSpec(name="transformers", num_threads=2)),
        make_wanted(build="torch 2.2"),
        make_wanted(code="d"),
        make_wanted(place=Place(device="cpu", environment={"ATEN_CPU_CAPABILITY": "avx2"})),
    ],
    ids=["weights", "decoding", "no weights of the store", "threads", "library versions", "code", "kernels"],
)
def test_what_may_change_a_byte_is_another_model(other: Wanted) -> None:
    assert other.key != WANTED_ONE.key


def test_a_wish_is_read_as_it_was_written() -> None:
    read = WANTED.checked(json.dumps(asdict(WANTED_ONE)))
    assert read == WANTED_ONE
    assert read.key == WANTED_ONE.key


def test_a_models_process_computes_with_the_askers_variables_alone() -> None:
    asker = numeric_environment({"OMP_NUM_THREADS": "2", "ATEN_CPU_CAPABILITY": "avx2", "HOME": "/home"})
    assert asker == {"ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "2"}
    host = {"OMP_NUM_THREADS": "8", "MKL_CBWR": "AVX", "PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0"}
    assert environment_at(Place(device="cpu", environment=asker), host) == {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "",
        **asker,
    }


def test_an_edit_of_an_engines_package_makes_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "shouting"
    (package / "parts").mkdir(parents=True)
    for file in ("__init__.py", "engine.py", "parts/__init__.py"):
        (package / file).write_text("")
    (tmp_path / "alone.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {module: code_of(module) for module in ("shouting.engine", "alone")}
    (package / "parts/__init__.py").write_text("volume = 3")
    os.utime(tmp_path / "alone.py", (1, 1))
    code_of.cache_clear()
    assert all(code_of(module) != before for module, before in found.items())


@pytest.mark.parametrize(("dtype", "mib"), [("float32", 600), ("bfloat16", 500)])
def test_a_model_is_first_taken_for_its_weights_and_what_a_process_holds(dtype: str, mib: int) -> None:
    assert guessed_mib(100 * 2**20, replace(WANTED_ONE.engine, dtype=dtype)) == mib
