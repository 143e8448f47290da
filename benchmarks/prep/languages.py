"""Near de-duplication in scripts with and without blanks, and of Python: what is found, and how fast.

Sequences of three tokens (peers: of three characters), Jaccard 0.8. Speed is on a tenth of `--megabytes` of a language,
imports included, which weigh more there than on a large corpus; as much English is beside. What is found is judged on a
smaller corpus, of which the truth is every pair, exactly: by our own tokens, and by three characters in a row. Where
words have blanks between them, one changed word spoils three sequences of words, and fewer of characters in proportion,
so that pairs count as similar by characters that our rule keeps.
"""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.measuring import MB, Bars, at_least, in_turns, median, print_table, progress, require_peers, rounded
from benchmarks.parts import Outcome
from benchmarks.prep.corpus import LANGUAGES, write_corpus
from benchmarks.prep.near import deduplicated
from benchmarks.prep.parts import Given
from benchmarks.prep.truth import Truth, Verdict
from pipelines.setup import TRANSLATED

_BESIDE = "English"
PEERS: dict[str, str | Path] = {"datasketch": "datasketch"}
JACCARD, NUM_TOKENS = 0.8, 3
# Well above the threshold: what of our misses by characters is more than its neighbourhood.
_SURELY = 0.9
_JUDGED_MB = 4
_OURS, _CHARACTERS = "our tokens", "characters"


def run(given: Given, directory: Path) -> Outcome:
    require_peers({"other languages": TRANSLATED / "bin/python"})
    sides = ["headrace", *(peer for peer in given.peers if peer in PEERS)]
    megabytes = max(1, given.megabytes // 10)
    speeds: dict[str, dict[str, float]] = {side: {} for side in sides}
    verdicts: dict[str, dict[str, Verdict]] = {}
    costs: dict[str, list[float]] = {language: [] for language in LANGUAGES}
    for language in LANGUAGES:
        write_corpus(directory / f"{language}.parquet", megabytes * MB, 1, language)
    for turn, language in in_turns("languages", given.runs, list(LANGUAGES), num_warm_ups=1):
        result = deduplicated("headrace", directory / f"{language}.parquet", directory, JACCARD, NUM_TOKENS)
        if turn >= 0:
            costs[language].append(megabytes / result.cpu_seconds)
    speeds["headrace"] = {language: rounded(median(found)) for language, found in costs.items()}
    for language in LANGUAGES:
        progress.print(f"the truth: every pair of {_JUDGED_MB} MB of {language}")
        part = directory / "judged.parquet"
        write_corpus(part, _JUDGED_MB * MB, 2, language)
        texts = pq.read_table(part).column("text").to_pylist()
        truths = {tokens: Truth.of(texts, tokens, NUM_TOKENS, JACCARD) for tokens in (_OURS, _CHARACTERS)}
        verdicts[language] = {}
        for side in sides:
            found = deduplicated(side, part, directory, JACCARD, NUM_TOKENS, _CHARACTERS)
            if side != "headrace":
                speeds[side][language] = rounded(_JUDGED_MB / found.cpu_seconds)
            for tokens, truth in truths.items():
                verdicts[language][f"{side}, by {tokens}"] = truth.judge(found.body["kept"], JACCARD, JACCARD)
            surely = truths[_CHARACTERS].judge(found.body["kept"], JACCARD, _SURELY)
            verdicts[language][f"{side}, by {_CHARACTERS}, ≥ {_SURELY}"] = surely
    own = f"headrace, by {_OURS}"
    ways = [own, *(f"{side}, by {_CHARACTERS}" for side in sides), f"headrace, by {_CHARACTERS}, ≥ {_SURELY}"]
    print_table(
        f"Near de-duplication, J ≥ {JACCARD}: {megabytes} MB a language; found: of {_JUDGED_MB} MB",
        ["language", *(f"{side}: MB a CPU s" for side in sides), *(f"{way}: recall, precision" for way in ways)],
        [
            [
                language,
                *(f"{speeds[side][language]:g}" for side in sides),
                *(f"{1 - by_way[way].pairs_left:.1%}, {by_way[way].with_a_twin:.1%}" for way in ways),
            ]
            for language, by_way in verdicts.items()
        ],
    )
    bars: Bars = {}
    for language in LANGUAGES:
        if language == _BESIDE:
            continue
        verdict, name = verdicts[language][own], f"near_{language.lower()}"
        bars[f"{name}_recall"] = at_least(rounded(1 - verdict.pairs_left, 4), 0.95)
        bars[f"{name}_precision"] = at_least(rounded(verdict.with_a_twin, 4), 0.98)
        share = speeds["headrace"][language] / speeds["headrace"][_BESIDE]
        bars[f"{name}_speed_of_english"] = at_least(rounded(share), 0.5)
    return Outcome(body=_body(speeds, verdicts), bars=bars)


def _body(speeds: dict[str, dict[str, float]], verdicts: dict[str, dict[str, Verdict]]) -> dict[str, Any]:
    recall: dict[str, dict[str, float]] = {}
    precision: dict[str, dict[str, float]] = {}
    for language, by_way in verdicts.items():
        recall[language] = {way: rounded(1 - verdict.pairs_left, 4) for way, verdict in by_way.items()}
        precision[language] = {way: rounded(verdict.with_a_twin, 4) for way, verdict in by_way.items()}
    return {"mb_per_cpu_s": speeds, "recall": recall, "precision": precision}
