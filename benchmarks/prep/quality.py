"""Quality rules beside datatrove's filters, Parquet to Parquet: speed, and the same verdicts under one token rule.

Each system is a process of its own that reads the same file of pages; they take turns. CPU seconds are of the whole
process, imports and compiling included; our first run compiles (once a machine) and is a warm-up, told by itself.
datatrove runs on the slice, once with the words that it finds itself (spaCy's, signs among them: of documentation it
drops nearly all as too few words with letters), and once with the words that our token rule finds, which is what
verdicts are compared under. Gopher's stop words are asked for on both sides.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import (
    MB,
    Bars,
    ChildResult,
    at_least,
    in_turns,
    median,
    print_table,
    progress,
    rounded,
    run_child,
)
from benchmarks.parts import Outcome
from benchmarks.prep.parts import Given
from benchmarks.prep.web_pages import write_pages
from pipelines.setup import DATATROVE

_PEER = "datatrove"
_INTERPRETER = DATATROVE / "bin/python"
PEERS: dict[str, str | Path] = {_PEER: _INTERPRETER}

# Of C4's, what judges whole documents.
_NO_LINES = dict.fromkeys(("filter_no_terminal_punct", "filter_javascript", "filter_policy", "remove_citations"), False)
# Name → our limits, and datatrove's filters for the same, with their options.
_RULES: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "Gopher": ({"set": "web", "stop_words_min": 2}, {"GopherQualityFilter": {}, "GopherRepetitionFilter": {}}),
    "FineWeb": (
        {
            "set": "none",
            "ended_lines_share_min": 0.12,
            "short_lines_share_max": 0.67,
            "newlines_share_max": 0.3,
            # datatrove's; the paper's is 0.1.
            "repeated_line_characters_share_max": 0.01,
        },
        {"FineWebQualityFilter": {}},
    ),
    "C4": (
        {"set": "none", "sentences_min": 5, "curly_brackets_max": 0, "filler_max": 0},
        {"C4QualityFilter": {**_NO_LINES, "min_words_per_line": -1, "max_word_length": -1}},
    ),
}
_OF_SPEED = "Gopher"


def run(given: Given, directory: Path) -> Outcome:
    peers = [peer for peer in given.peers if peer in PEERS]
    pages, part = directory / "pages.parquet", directory / "part.parquet"
    num_pages = write_pages(pages, given.megabytes * MB, seed=1)
    num_in_part = write_pages(part, given.slice_megabytes * MB, seed=2)
    progress.print(f"{num_pages:,} pages; {num_in_part:,} in the slice")
    ways = ["headrace", *(f"{peer}, {words} words" for peer in peers for words in ("own", "our"))]
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    peaks: dict[str, int] = {}
    compiling = 0.0
    for turn, way in in_turns("quality rules", given.runs, ways, num_warm_ups=1):
        side, _, words = way.partition(", ")
        on, megabytes = (pages, given.megabytes) if side == "headrace" else (part, given.slice_megabytes)
        result = _child(side, on, directory, _OF_SPEED, words.removesuffix(" words"))
        peaks[way] = result.body["peak_bytes"]
        if turn >= 0:
            speeds[way].append(megabytes / result.cpu_seconds)
        elif side == "headrace":
            compiling = result.cpu_seconds
    found = {way: rounded(median(each)) for way, each in speeds.items()}
    print_table(
        f"Gopher's rules, {given.megabytes} MB; {given.slice_megabytes} MB for {_PEER}",
        ["system", "MB a CPU s", "peak MB"],
        [[way, f"{found[way]:g}", f"{peaks[way] / MB:.0f}"] for way in ways],
        caption=f"Our first run, which compiles: {compiling:.1f} CPU s.",
    )
    bars: Bars = {"rules_mb_per_cpu_s": at_least(found["headrace"], 30.0)}
    body: dict[str, Any] = {
        "megabytes": given.megabytes,
        "pages": num_pages,
        "first_run_cpu_s": rounded(compiling),
        "mb_per_cpu_s": found,
        "peak_bytes": peaks,
    }
    if peers:
        for name in _RULES:
            shares = _agreement(name, part, directory)
            body[f"agreement_{name}"] = shares
            # C4's counts sentences, and spaCy tells them apart in another way.
            if name != "C4":
                bars[f"rules_same_verdicts_{name}"] = at_least(shares["same_verdict"], 0.99)
    return Outcome(body=body, bars=bars)


def _child(side: str, source: Path, directory: Path, name: str, words: str = "our") -> ChildResult:
    ours, filters = _RULES[name]
    task = {
        "side": side,
        "source": str(source),
        "target": str(directory / f"{side}.parquet"),
        "rules": json.dumps(ours if side == "headrace" else filters),
        "words": words,
    }
    interpreter = None if side == "headrace" else _INTERPRETER
    return run_child("benchmarks.prep.quality_sides", task, interpreter=interpreter)


def _agreement(name: str, part: Path, directory: Path) -> dict[str, Any]:
    """Prints, for each rule, what both drop; the shares of all pages, and of those that one of them drops."""
    ours, theirs = (_child(side, part, directory, name).body["verdicts"] for side in ("headrace", _PEER))
    pairs: Sequence[tuple[str | None, str | None]] = list(zip(ours, theirs, strict=True))
    num_same = sum((one is None) == (other is None) for one, other in pairs)
    num_dropped = sum(one is not None or other is not None for one, other in pairs)
    both = Counter(one for one, other in pairs if one and other)
    alone = Counter(one for one, other in pairs if one and not other)
    missed = Counter(other for one, other in pairs if other and not one)
    print_table(
        f"{name}'s rules: ours, and whether {_PEER} drops the page, too, under one token rule",
        ["rule", "both drop", "we alone", "it alone"],
        [
            *([str(rule), str(both[rule]), str(alone[rule]), ""] for rule in sorted({*both, *alone})),
            *([f"({rule})", "", "", str(number)] for rule, number in sorted(missed.items())),
        ],
        caption=f"The same verdict on {num_same:,} of {len(pairs):,} pages, of which {num_dropped:,} are dropped.",
    )
    return {
        "pages": len(pairs),
        "same_verdict": rounded(num_same / len(pairs), 4),
        "same_of_dropped": rounded(1 - (len(pairs) - num_same) / max(1, num_dropped), 4),
    }
