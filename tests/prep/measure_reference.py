"""What the quality rules measure, once more in plain Python over strings: the compiled counts are compared with it."""

import unicodedata
from collections import Counter

from headrace.prep.measures import WINDOW_WORDS
from headrace.text.words import has_no_blanks
from simulation.plain_tokens import INVISIBLE, folded, is_sign, reference_tokens

# Of Unicode's Sentence_Terminal, those that the tests write.
ENDS, QUOTES = ".!?。！？।", "\"'”’»」』"
BLANKS = "".join(map(chr, range(0x21)))


def reference_measures(text: str) -> dict[str, float]:
    """Over strings, as the rules' sources describe their figures."""
    words = [token for token in reference_tokens(text) if not is_sign(token[0]) and token[0] not in "\n.,;:!?"]
    lengths = [len(word) for word in words]
    spaced = [word for word in words if not (word[0].isalpha() and has_no_blanks(word[0]))]
    lines = [line.strip(BLANKS) for line in text.split("\n") if line.strip(BLANKS)]
    paragraphs = [one.strip("\n") for one in text.split("\n\n")]
    paragraphs = [one for one in paragraphs if one.strip(BLANKS)]
    categories = [unicodedata.category(folded(one))[0] for one in text if one not in INVISIBLE]
    found: dict[str, float] = {
        "length": len(text),
        "characters": sum(one not in "CZ" for one in categories),
        "letters": sum(one in "LM" for one in categories),
        "words": len(words),
        "word_characters": sum(lengths),
        "spaced_words": len(spaced),
        "spaced_word_characters": sum(map(len, spaced)),
        "letter_words": sum(any(one.isalpha() for one in word) for word in words),
        "repeated_words": sum(word in words[max(0, at - WINDOW_WORDS) : at] for at, word in enumerate(words)),
        "stop_words": len({"the", "be", "to", "of", "and", "that", "have", "with"} & set(words)),
        "hashes": text.count("#"),
        "ellipses": text.count("...") + text.count("…"),
        "lines": len(lines),
        "longest_line": max(map(len, lines), default=0),
        "line_characters": sum(map(len, lines)),
        "bullet_lines": sum(line[0] in "•-" for line in lines),
        "ellipsis_lines": sum(line.endswith(("...", "…")) for line in lines),
        "repeated_lines": len(lines) - len(set(lines)),
        "repeated_line_characters": sum(map(len, repeated(lines))),
        "paragraphs": len(paragraphs),
        "repeated_paragraphs": len(paragraphs) - len(set(paragraphs)),
        "repeated_paragraph_characters": sum(map(len, repeated(paragraphs))),
    }
    found |= {
        "sentences": sum(
            one in ENDS and (not one.isascii() or text[at + 1 : at + 2] in {"", *BLANKS, '"', "'"})
            for at, one in enumerate(text)
        ),
        "newlines": text.count("\n"),
        "curly_brackets": text.count("{"),
        "ended_lines": sum(folded(line[-1]) in ENDS + QUOTES for line in lines),
        "short_lines": sum(len(line) <= 30 for line in lines),
    }
    for length in (2, 3, 4):
        grams = Counter(" ".join(words[at : at + length]) for at in range(len(words) - length + 1))
        [(top, occurrences)] = grams.most_common(1) or [("", 0)]
        found[f"top_{length}_gram_characters"] = len(top) * occurrences
    for length in range(5, 11):
        seen: set[tuple[str, ...]] = set()
        at = characters = 0
        while at <= len(words) - length:
            gram = tuple(words[at : at + length])
            characters += sum(map(len, gram)) if gram in seen else 0
            at += length if gram in seen else 1
            seen.add(gram)
        found[f"repeated_{length}_gram_characters"] = characters
    return found


def repeated(parts: list[str]) -> list[str]:
    return [part for at, part in enumerate(parts) if part in parts[:at]]
