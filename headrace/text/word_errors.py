"""Word errors: how many words of a text were heard wrong, left out or added."""

from headrace.text.words import tokens


def word_errors(said: str, heard: str) -> tuple[int, int]:
    """The errors, and how many words were said: their quotient is the word error rate, which may exceed 1.

    Without case and punctuation; in scripts without blanks a word is a character. Needs rapidfuzz.
    """
    from rapidfuzz.distance import Levenshtein

    wanted = tokens(said)
    return Levenshtein.distance(wanted, tokens(heard)), len(wanted)
