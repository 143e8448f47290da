"""One system's quality rules in its own process, Parquet to Parquet: `python -m benchmarks.prep.quality_sides TASK`.

`headrace` runs with this checkout's interpreter, `datatrove` with its own, which has nothing of ours. The verdict on a
page is the name of the rule that drops it, or null; the kept pages are written.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Verdicts = list[str | None]


def headrace(source: Path, target: Path, rules: str, words: str) -> Verdicts:
    """`rules`: limits of a rule set as the key `rules` of a corpus file has them, in JSON."""
    import polars as pl

    from headrace.prep.corpus import Corpus
    from headrace.prep.example_forms import ExamplePrompt
    from headrace.prep.quality import first_rule
    from headrace.prep.rule_sets import QualityRules

    given = json.loads(rules)
    corpus = Corpus(
        name="pages",
        files=(str(source),),
        rules=QualityRules.of(given.pop("set"), broken_characters="keep", **given),
        prompt=ExamplePrompt(user="Write a page."),
    )
    pages = pl.read_parquet(source)
    found = first_rule(pages, corpus)
    pages.filter(found.is_null()).write_parquet(target)
    return found.to_list()


def datatrove(source: Path, target: Path, rules: str, words: str) -> Verdicts:
    """`rules`: its filters and their options, in JSON; `words`: `own` (as it splits English) or `our` (by our rule)."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datatrove.data import Document  # pyright: ignore[reportMissingImports] (a peer: make bench-setup)
    from datatrove.pipeline import filters  # pyright: ignore[reportMissingImports]

    if words == "our":
        _split_as_we_do()
    chosen: list[Any] = [getattr(filters, name)(**options) for name, options in json.loads(rules).items()]
    table = pq.read_table(source)
    verdicts: Verdicts = []
    for number, text in enumerate(table.column("text").to_pylist()):
        page = Document(text=text, id=str(number))
        found = (one.filter(page) for one in chosen)
        verdicts.append(next((reason for result in found if (reason := _reason(result))), None))
    pq.write_table(table.filter(pa.array([verdict is None for verdict in verdicts])), target)
    return verdicts


def _reason(result: bool | tuple[bool, str]) -> str | None:
    kept, reason = result if isinstance(result, tuple) else (result, "dropped")
    return None if kept else reason


def _split_as_we_do() -> None:
    """Runs of letters, digits and marks in lower case, which in English is all that our token rule says of words."""
    import regex  # pyright: ignore[reportMissingImports, reportMissingModuleSource]
    from datatrove.pipeline.filters import (  # pyright: ignore[reportMissingImports]
        fineweb_quality_filter,
        gopher_quality_filter,
        gopher_repetition_filter,
    )

    word = regex.compile(r"[\p{L}\p{N}\p{M}\p{Pc}]+")
    modules: list[Any] = [fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter]
    for module in modules:
        module.split_into_words = lambda text, language: word.findall(text.lower())


SIDES: dict[str, Callable[[Path, Path, str, str], Sequence[str | None]]] = {
    "headrace": headrace,
    "datatrove": datatrove,
}


def main() -> None:
    task = json.loads(sys.argv[1])
    verdicts = SIDES[task["side"]](Path(task["source"]), Path(task["target"]), task["rules"], task["words"])
    # Not getrusage's, which begins with what the process that forked this one had.
    status = Path("/proc/self/status").read_text()
    peak_bytes = 1024 * int(status.partition("VmHWM:")[2].split()[0])
    print(json.dumps({"verdicts": list(verdicts), "peak_bytes": peak_bytes}))


if __name__ == "__main__":
    main()
