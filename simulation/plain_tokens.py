"""The token rule of data prep once more, in plain Python over strings: an oracle for the compiled one."""

import unicodedata

from headrace.text.words import has_no_blanks

QUOTES = "'\"`´‘’‚‛“”„‟«»‹›"
INVISIBLE = "\u00ad\u200c\u200d\u2060\ufeff" + "".join(map(chr, range(0xFE00, 0xFE10)))


def reference_tokens(text: str) -> list[str]:
    tokens: list[str] = []
    word = ""
    at = 0
    while at < len(text):
        character, following = folded(text[at]), text[at + 1 : at + 2] or " "
        at += 1
        if text[at - 1] in INVISIBLE:
            continue
        category = unicodedata.category(character)
        begins_alone = bool(word) and unicodedata.category(word[0])[0] == "L" and has_no_blanks(word[0])
        if category[0] == "M" or (is_letter(character) and not begins_alone):
            word += character
            continue
        if word:
            tokens.append(word)
            word = ""
        if is_letter(character):
            word = character
        elif character == "\n":
            indentation = ""
            while at < len(text) and text[at] in " \t":
                indentation += text[at]
                at += 1
            if indentation and at < len(text) and text[at] > " ":
                tokens.append(f"\n{indentation}")
        elif category[0] == "L":
            word = character
        elif character in ".,;:!?":
            if not following.isascii() or is_letter(following) or is_sign(following):
                tokens.append(character)
        elif is_sign(character):
            tokens.append(character)
    return [*tokens, word] if word else tokens


def reference_sequences(text: str, num_tokens: int) -> set[tuple[str, ...]]:
    tokens = reference_tokens(text)
    length = min(len(tokens), num_tokens)
    return {tuple(tokens[first : first + length]) for first in range(len(tokens) - length + 1)} if tokens else set()


def folded(character: str) -> str:
    for form in (unicodedata.normalize("NFKC", character).lower(), character.lower()):
        if len(form) == 1:
            return form
    return character


def is_letter(character: str) -> bool:
    category = unicodedata.category(character)
    if category[0] == "L":
        return not has_no_blanks(character)
    return category[0] == "N" or category == "Pc"


def is_sign(character: str) -> bool:
    category = unicodedata.category(character)
    if character in QUOTES + ".,;:!?" or category == "Pc" or (category == "Po" and not character.isascii()):
        return False
    return category[0] in "PS"
