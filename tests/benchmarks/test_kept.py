"""Results that a stopped run has kept."""

from pathlib import Path

from benchmarks.kept import KeptResults, digest_of


def test_a_run_that_was_stopped_while_it_wrote_goes_on_with_what_was_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "kept.jsonl"
    kept = KeptResults(path)
    for seed in (1, 2):
        kept.put({"seed": seed, "load": 0.9}, {"wait": seed})
    with path.open("a") as file:
        file.write('{"key": "{\\"seed\\"')
    again = KeptResults(path)
    assert [again.get({"load": 0.9, "seed": seed}) for seed in (1, 2, 3)] == [{"wait": 1}, {"wait": 2}, None]
    again.forget()
    assert again.get({"load": 0.9, "seed": 1}) is None
    assert KeptResults(path).get({"load": 0.9, "seed": 1}) is None
    again.forget()


def test_another_code_is_another_key(tmp_path: Path) -> None:
    files = [tmp_path / "a.py", tmp_path / "b.py"]
    for file in files:
        file.write_text(file.name)
    before = digest_of(files)
    assert digest_of(files) == before
    files[1].write_text("else")
    assert digest_of(files) != before
