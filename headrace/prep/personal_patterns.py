"""Where a text holds an address, a number or a key that belongs to somebody: one finder for each kind.

A finder has a cheap pattern for polars, which most texts do not match, and says of the others where what stands.
Digits are proved by their checksum (Luhn, ISO 7064), numbers of telephones by their country's plan (phonenumbers),
addresses of machines by being public. Nothing here knows names, streets or birthdays, or what was disguised ("name at
example"). Wrongly found is what passes all of it by chance: one of ten numbers of 16 digits that begin like a card's
passes Luhn.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from headrace.prep.personal_settings import Kind

Spans = Iterator[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Finder:
    """`may_hold`: a regular expression in Rust's syntax that every text with something of the kind matches."""

    kind: Kind
    may_hold: str
    spans: Callable[[str], Spans]


def finder(kind: Kind, regions: Sequence[str] = ()) -> Finder:
    """Args:
    regions: countries (`US`, `CN`) whose telephone numbers are found without + and country code, too.
    """
    if kind == "phone":
        may_hold = _PHONE_RUN if regions else _PLUS
        return Finder(kind=kind, may_hold=may_hold, spans=lambda text: _apart(_phones(text, regions)))
    may_hold, spans = _FINDERS[kind]
    return Finder(kind=kind, may_hold=may_hold, spans=lambda text: _apart(spans(text)))


def _apart(spans: Spans) -> Spans:
    """Spans that overlap as one, such as a password that holds a token, in order."""
    start = done = 0
    for begin, end in sorted(spans):
        if begin >= done:
            if done:
                yield start, done
            start = begin
        done = max(done, end)
    if done:
        yield start, done


# Letters and digits, but for scripts that are written without blanks around a Latin word, as in 请联系a@b.cn谢谢.
_WORD = r"[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u3400-\u9fff\uac00-\ud7af]"
_NAME = re.compile(rf"(?<!{_WORD}){_WORD}(?:{_WORD}|[.%+\-]){{0,63}}\Z")
_DOMAIN = re.compile(
    rf"(?:(?:{_WORD}|-){{1,63}}\.){{1,8}}(?:xn--[a-z0-9\-]{{2,40}}|(?:(?![\d_]){_WORD}){{2,24}})(?!_*(?!_){_WORD})"
)
_NAME_CHARACTERS_MAX = 64
_AT = re.compile("[@＠]")
# `logo@2x.png` is a picture for sharp screens.
_FILES = frozenset({"avif", "bmp", "css", "gif", "htm", "html", "ico", "jpeg", "jpg", "js", "json", "map"})
_FILES |= {"mp4", "pdf", "png", "svg", "ts", "txt", "webp"}


def _emails(text: str) -> Spans:
    for at in _AT.finditer(text):
        name = _NAME.search(text, max(0, at.start() - _NAME_CHARACTERS_MAX), at.start())
        domain = name and _DOMAIN.match(text, at.end())
        if not (name and domain) or domain[0].rpartition(".")[2].lower() in _FILES:
            continue
        # git@host:path and ssh://user@host name a machine, not somebody.
        is_git = name[0] == "git" and text[domain.end() : domain.end() + 1] in (":", "/")
        if not is_git and not text.endswith("//", 0, name.start()):
            # In "_bob@example.com_" they are the markup's.
            is_emphasis = name[0][0] == "_" and text.startswith("_", domain.end())
            yield name.start() + is_emphasis, domain.end()


_SEPARATOR = "[ \u00a0\u2009\u202f\\-‑]"
# After it may stand the month or the year until which it is valid.
_CARD = re.compile(
    rf"(?<!{_WORD})(?<!\d[.,\-])(?:\d{{13,19}}|\d{{4}}(?P<by>{_SEPARATOR})\d{{4}}(?P=by)\d{{4}}(?P=by)\d{{4}}"
    rf"(?P<more>(?P=by)\d{{1,3}})?|\d{{4}}(?P<of>{_SEPARATOR})\d{{6}}(?P=of)\d{{4,5}})"
    rf"(?!{_WORD}|/(?!\d\d(?!\d))|[.,\-]\d)"
)
# With two numbers before it, it is in a row of a table.
_ROW = re.compile(r"\d[^\S\n]\d+[^\S\n]\Z")
# Beginning and lengths. Source: ISO/IEC 7812 and the networks' published ranges.
_NETWORKS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|65\d\d|64[4-9]\d)\d{12,15}|3(?:0[0-5]|[68]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
)


def _cards(text: str) -> Spans:
    at = done = 0
    while found := _CARD.search(text, at):
        start, end = found.span()
        # The last group may be a number of its own.
        ends = (end, found.start("more")) if found["more"] else (end,)
        end = next((end for end in ends if _is_card(text[start:end])), None)
        is_row = not found[0].isdecimal() and _ROW.search(text, max(done, start - _CONTEXT), start)
        if end and not is_row:
            yield start, end
            at = done = end
        else:
            # So may its first.
            at = start + len(re.split(r"\D", found[0], maxsplit=1)[0])


def _is_card(written: str) -> bool:
    from stdnum import luhn

    digits = "".join(str(int(digit)) for digit in written if digit.isdecimal())
    return bool(_NETWORKS.fullmatch(digits)) and luhn.is_valid(digits)


_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ \u00a0]?[A-Z0-9]){11,30}(?![a-z0-9])", re.ASCII)
_IBAN_CHARACTERS_MIN = 15


def _ibans(text: str) -> Spans:
    from stdnum import iban

    for found in _IBAN.finditer(text):
        # Words in capitals may follow, which only the country's length and the checksum tell from it.
        for length in range(len(found[0]), _IBAN_CHARACTERS_MIN - 1, -1):
            number, after = found[0][:length], text[found.start() + length : found.start() + length + 1]
            if not (after.isascii() and after.isalnum()) and iban.is_valid(number.replace("\u00a0", "")):
                yield found.start(), found.start() + len(number.rstrip())
                break


# One, or a range of them.
_QUAD = r"(?:\d{1,3}\.){3}\d{1,3}"
_IPV4 = rf"(?<![\w.\-]){_QUAD}(?:-{_QUAD})?(?![\w\-]|\.\d)"
_IPV6 = r"(?<![\w:.])[23][0-9a-fA-F]{3}:[0-9a-fA-F:]{0,33}(?:[0-9a-fA-F]|::)(?!\w|:[\w:])"
_IP = re.compile(f"{_IPV4}|{_IPV6}", re.ASCII)
# What four numbers with dots are, too: a version, a section of a text, an object's identifier.
_NO_ADDRESS = re.compile(
    r"(?i)(?:[a-z)]/|[<>=~!^]=\s?[\"'`]?"
    r"|(?<![a-z])(?:versions?|v|release|build|firmware|driver|since \w+|sections?|§+|chapter|clause|oid"
    r"|object.?identifier|版本号?为?|版本號?為?|バージョンは?|버전은?)[_\W]{0,8})\Z"
)
# The number of a section stands before its title, and is small.
_HEADING = re.compile(r"(?:^|\n)[ \t#*§]*\Z")
_SECTION_MAX = 20
_CONTEXT = 24


def _ips(text: str) -> Spans:
    for found in _IP.finditer(text):
        before = text[max(0, found.start() - _CONTEXT) : found.start()]
        if _NO_ADDRESS.search(before):
            continue
        start = found.start()
        for address in found[0].split("-"):
            parts = address.split(".")
            is_small = len(parts) > 1 and all(int(part) <= _SECTION_MAX for part in parts)
            if not (is_small and _HEADING.search(before)) and _is_public(address):
                yield start, start + len(address)
            start += len(address) + 1


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


_PLUS = r"[+＋]\(?\d"
_PHONE_RUN = r"\d(?:[^\S\n]?[().\-‐-―·]{0,2}[^\S\n]?\d){5}"
# Ends where a group of digits does, so that no number of a row is cut in two.
_PHONE = re.compile(r"(?:[+＋]\(?|\(\s?)?(?<!\d)\d(?:[^\S\n]?[().\-‐-―·/]{0,2}[^\S\n]?\d){5,24}(?!\d)")
_BLANK = re.compile(r"\s")
_BRACKETS = ("()", "[]")
# What phonenumbers looks at beside a number: a letter, a currency.
_BESIDE = 4
# A number that something else goes on in, a sum of money, a term of a formula.
_TERM_AFTER = rf"(?:{_WORD}|[)\]*/]) ?[+\-] ?\Z|(?:{_WORD}|[)\]])\*+\Z"
_NO_PHONE_AFTER = re.compile(rf"(?:{_WORD}|[_./=#$€£¥%^@)\]]|\d,)\Z|{_TERM_AFTER}")
# A plus before the country's code tells more: it may follow a cell of a table, "tel." and "tel=".
_NO_PLUS_AFTER = re.compile(rf"(?:{_WORD}|[_/#$€£¥%^@)\]])\Z|{_TERM_AFTER}")
_GOES_ON = re.compile(r"[.,]?\d")
_PLUS_GOES_ON = re.compile(r"\.?\d")
_DECIMAL = re.compile(r"[(\-\[]*\d*\.\d+|.*[/\[].*|.*\d+\.\d+\.\d+\.\d+.*", re.DOTALL)
# "+1.7035555555" as registries write it (RFC 5733) or a number with decimals: by what stands before it.
_PLUS_DECIMAL = re.compile(r"[+＋]\d*\.\d+")
_BEFORE_PLUS_DECIMAL = re.compile(r"(?:\A|[\n\t\"'>|]|[^\W\d]\.?[:：=] ?) ?\Z")


def _phones(text: str, regions: Sequence[str]) -> Spans:
    for run in _PHONE.finditer(text):
        if not regions and run[0][0] not in "+＋":
            continue
        spans = [*_phones_between(text, run.start(), run.end() + _BESIDE, regions)]
        if not spans and run[0][0] in "+＋":
            # A year or another number may follow after a blank.
            ends = (run.start() + blank.start() for blank in reversed([*_BLANK.finditer(run[0])]))
            shorter = ([*_phones_between(text, run.start(), end, ())] for end in ends)
            spans = next(filter(None, shorter), [])
        yield from spans


def _phones_between(text: str, start: int, seen: int, regions: Sequence[str]) -> Spans:
    """Telephone numbers in a run of digits; phonenumbers sees the characters up to `seen`."""
    from phonenumbers import Leniency, PhoneNumberMatcher

    first = max(0, start - _BESIDE)
    window = text[first:seen]
    done = 0
    # Without a country, phonenumbers reads nothing that has no plus.
    anywhere = (None,) if "+" in window or "＋" in window else ()
    for region in (*anywhere, *regions):
        leniency = Leniency.STRICT_GROUPING if region else Leniency.VALID
        for found in PhoneNumberMatcher(window, region, leniency=leniency):
            # In "(+1 415 555 2671)" and "[+1 415 555 2671](tel:…)" the bracket is not the number's.
            is_half = any(found.raw_string.count(left) > found.raw_string.count(right) for left, right in _BRACKETS)
            start, after = found.start + is_half, text[first + found.end : first + found.end + _BESIDE]
            is_plus = window[start] in "+＋"
            begin, is_phone = (start, _is_international) if is_plus else (found.start, _is_national)
            if found.start < done or not is_phone(window[:begin], window[begin : found.end], after):
                continue
            yield first + start, first + found.end
            done = found.end


def _is_international(before: str, written: str, after: str) -> bool:
    if _PLUS_DECIMAL.fullmatch(written) and not _BEFORE_PLUS_DECIMAL.search(before):
        return False
    return not (written[1].isspace() or "/" in written or _NO_PLUS_AFTER.search(before) or _PLUS_GOES_ON.match(after))


def _is_national(before: str, written: str, after: str) -> bool:
    """Whether it is written as one: with groups, or with 0 before it; so is a Chinese mobile number, which is 11 digits
    in a row."""
    if _NO_PHONE_AFTER.search(before) or _DECIMAL.fullmatch(written) or _GOES_ON.match(after):
        return False
    digits = written.strip("()[] -")
    return not digits.isdecimal() or digits[0] == "0" or (len(digits) == 11 and digits[0] == "1")


# Whose key it is → what it looks like. Source: the issuers' documentation; the same shapes as gitleaks' and
# detect-secrets', of those that begin with something unmistakable.
SECRETS = {
    "AWS": r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}",
    "GitHub": r"(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})",
    "GitLab": r"gl(?:pat|dt|rt|ptt|soat)-[A-Za-z0-9_\-]{20,64}",
    "Slack": r"xox[abeoprs]-[A-Za-z0-9\-]{10,250}|xapp-\d-[A-Z0-9]+-\d+-[a-z0-9]+",
    "Slack's webhooks": r"https://hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9+/]{40,80}",
    "Google": r"AIza[A-Za-z0-9_\-]{35}",
    "Google's OAuth": r"GOCSPX-[A-Za-z0-9_\-]{28}|ya29\.[A-Za-z0-9_\-]{30,}",
    "OpenAI, Anthropic": r"sk-(?:proj-|svcacct-|admin-|ant-(?:api|admin)\d\d-|or-v1-)?[A-Za-z0-9_\-]{32,200}",
    "Stripe": r"[rs]k_(?:live|test|prod)_[A-Za-z0-9]{10,99}",
    "Hugging Face": r"hf_[A-Za-z]{34}",
    "npm": r"npm_[A-Za-z0-9]{36}",
    "PyPI": r"pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_\-]{50,}",
    "SendGrid": r"SG\.[A-Za-z0-9_\-]{22}\.[A-Za-z0-9_\-]{43}",
    "Telegram": r"\d{8,10}:AA[A-Za-z0-9_\-]{33}",
    "JSON Web Token": r"eyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*",
}
_KEY = re.compile("|".join(rf"(?<![A-Za-z0-9_\-])(?:{shape})(?![A-Za-z0-9])" for shape in SECRETS.values()))
_PRIVATE_KEY = re.compile(r"-----BEGIN ((?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?)-----")
_PRIVATE_KEY_CHARACTERS_MIN = 20
_URL_PASSWORD = re.compile(
    r"(?<![a-z])[a-z][a-z0-9+.\-]{1,20}://[^\s/:@\"'<>]{0,100}:([^\s/@\"'<>{}$]{3,200})@(?=[\w\[])"
)
_ANY_SECRET = (
    r"AKIA|ASIA|ABIA|ACCA|gh[pousr]_|github_pat_|gl(?:pat|dt|rt|ptt|soat)-|xox[abeoprs]-|xapp-|hooks\.slack\.com|AIza"
    r"|GOCSPX-|ya29\.|sk-|[rs]k_(?:live|test|prod)_|hf_|npm_|pypi-AgE|SG\.|:AA|eyJ|PRIVATE KEY|://[^\s/:@]*:[^\s/@]+@"
)


def _secrets(text: str) -> Spans:
    found = [*_private_keys(text)]
    # "password" and "tiger" stand for a password in most manuals.
    found += [one.span(1) for one in _URL_PASSWORD.finditer(text) if not one[1].isalpha()]
    found += [one.span() for one in _KEY.finditer(text) if _looks_drawn(one[0])]
    yield from found


def _private_keys(text: str) -> Spans:
    """By the place of the end, as an expression over what is between needs memory for each character of it."""
    for begin in _PRIVATE_KEY.finditer(text):
        at, end = text.find("-----", begin.end()), f"-----END {begin[1]}-----"
        if at - begin.end() >= _PRIVATE_KEY_CHARACTERS_MIN and text.startswith(end, at):
            yield begin.start(), at + len(end)


def _looks_drawn(key: str) -> bool:
    """False for what begins like a key and is words or a placeholder: sk-this-is-my-favourite-scikit-model-name."""
    is_mixed = any(map(str.isdigit, key)) or (key.lower() != key and key.upper() != key)
    return len(set(key)) >= 8 and (is_mixed or not key.startswith("sk-"))


_FINDERS: dict[Kind, tuple[str, Callable[[str], Spans]]] = {
    "secret": (_ANY_SECRET, _secrets),
    "email": (r"[\w.%+\-][@＠][\w\-]", _emails),
    "iban": (r"[A-Z]{2}[0-9]{2}(?:[ \x{a0}]?[A-Z0-9]){11}", _ibans),
    "card": (r"\d(?:[ \x{a0}\x{2009}\x{202f}\-‑]?\d){11}", _cards),
    "ip": (r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|[23][0-9a-fA-F]{3}:[0-9a-fA-F:]{2}", _ips),
}
