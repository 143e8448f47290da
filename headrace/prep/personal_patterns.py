"""Where a text holds an address, a number or a key that belongs to somebody: one finder for each kind.

A finder has a cheap pattern for polars, which most texts do not match, and says of the others where what stands.
Digits are proved by their checksum (Luhn, ISO 7064), numbers of telephones by their country's plan (phonenumbers),
addresses of machines by being public. Nothing here knows names, streets or birthdays, or what was disguised ("name at
example"). Wrongly found is what passes all of it by chance: one of ten numbers of 16 digits that begin like a card's
passes Luhn.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest

from headrace.prep.personal_reading import ENCODED, readings
from headrace.prep.personal_settings import Kind

Spans = Iterator[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Finder:
    """`may_hold`: a regular expression in Rust's syntax that every text with something of the kind matches as it is
    read (`personal_reading.read`)."""

    kind: Kind
    may_hold: str
    spans: Callable[[str], Spans]


def finder(kind: Kind, regions: Sequence[str] = ()) -> Finder:
    """Args:
    regions: countries (`US`, `CN`) whose telephone numbers are found without + and country code, too.
    """
    if kind == "phone":
        may_hold = _PHONE_RUN if regions else _PLUS
        return Finder(kind=kind, may_hold=may_hold, spans=lambda text: _read(text, lambda read: _phones(read, regions)))
    may_hold, spans = _FINDERS[kind]
    return Finder(kind=kind, may_hold=may_hold, spans=lambda text: _read(text, spans))


def _read(text: str, spans: Callable[[str], Spans]) -> Spans:
    return _apart(one.as_written(*span) for one in readings(text) for span in spans(one.text))


def _apart(spans: Iterable[tuple[int, int]]) -> Spans:
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


# Letters and digits, but for scripts that are written without blanks around a Latin word, as in 请联系a@b.cn谢谢, and
# those of India, whose letters are signs in part.
_WORD = r"[^\W\u0900-\u0eff\u1000-\u109f\u1780-\u17ff\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u3400-\u9fff\uac00-\ud7af]"
# What a number or key goes on in: other scripts' letters, and the underscore of `key_4111…`, end it.
_LETTER = r"[A-Za-z0-9\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0370-\u03ff\u0400-\u052f]"
_NAME = re.compile(rf"(?<!{_WORD}){_WORD}(?:{_WORD}|[.%+\-&'’]){{0,63}}\Z")
_DOMAIN = re.compile(
    rf"(?:(?:{_WORD}|-){{1,63}}\.){{1,8}}(?:xn--[a-z0-9\-]{{2,40}}|(?:(?![\d_]){_WORD}){{2,24}})(?!_*(?!_){_WORD})"
)
_NAME_CHARACTERS_MAX = 64
_AT = re.compile("@")
# `logo@2x.png` is a picture for sharp screens.
_FILES = frozenset({"avif", "bmp", "css", "gif", "htm", "html", "ico", "jpeg", "jpg", "js", "json", "map"})
_FILES |= {"mp4", "pdf", "png", "svg", "ts", "txt", "webp"}


# `a@b.dot(c)`, `q@k.to(device)`, `q@k.mT`: products of matrices, whose methods are called as domains end.
_METHOD = re.compile(r"[\w.]+\.(?:(?:dot|map|to)\(|mT\b)", re.ASCII)
_NO_VERSION = re.compile(r"(?!v?\d+\.\d)")
# In addresses of archives, a list's own one: "www.mail-archive.com/users@example.org/msg1.html".
_ARCHIVE = re.compile(r"(?:mail-archive\.com|/(?:archives|hyperkitty)/list)/\Z")
_ARCHIVE_CHARACTERS_MAX = 20
# What of a name is a URL's or a mail's encoded character: "%20bob@example.com", "=3Dbob@example.com".
_ENCODED_BEGINNING = re.compile(rf"(?:{ENCODED})(?=[^\W_])")
# Networks of houses and firms, and what standards set aside (RFC 2606, 6761, 6762, 8375).
_LOCAL = frozenset({"arpa", "corp", "example", "home", "intern", "internal", "intra", "intranet", "invalid", "lan"})
_LOCAL |= {"local", "localdomain", "localhost", "onion", "private", "test"}


def _emails(text: str) -> Spans:
    for at in _AT.finditer(text):
        name = _NAME.search(text, max(0, at.start() - _NAME_CHARACTERS_MAX), at.start())
        domain = name and _NO_VERSION.match(text, at.end()) and _DOMAIN.match(text, at.end())
        if not (name and domain) or not _is_top_level(domain[0].rpartition(".")[2].lower()):
            continue
        if _METHOD.match(text, at.end()):
            continue
        start = name.start()
        if _ARCHIVE.search(text, max(0, start - _ARCHIVE_CHARACTERS_MAX), start) and text.startswith("/", domain.end()):
            continue
        if encoded := _ENCODED_BEGINNING.match(text, max(0, start - 1), at.start()):
            start = encoded.end()
        if text[domain.end() : domain.end() + 1] in ("'", "’"):
            # Of `f'bob@example.com'` the mark is a quote.
            start += max(name[0].rfind(mark) for mark in "'’") + 1
        # git@host:path and ssh://user@host name a machine, not somebody.
        is_git = name[0] == "git" and text[domain.end() : domain.end() + 1] in (":", "/")
        if start < at.start() and not is_git and not text.endswith("//", 0, name.start()):
            # In "_bob@example.com_" they are the markup's.
            is_emphasis = text[start] == "_" and text.startswith("_", domain.end())
            yield start + is_emphasis, domain.end()


@cache
def _is_top_level(name: str) -> bool:
    """Whether a domain may end so: the list of all, or a country of two letters, or one that is not in ASCII."""
    if name in _FILES:
        return False
    if len(name) == 2 or name in _LOCAL or not name.isascii() or name.startswith("xn--"):
        return True
    # Loads its list for a quarter of a second.
    from tld import is_tld

    return is_tld(name)


_SEPARATOR = "[ .\\-‐-–]"
# After it may stand the month or the year until which it is valid.
_CARD = re.compile(
    rf"(?<!{_LETTER})(?<!\d[.\-])(?:\d{{13,19}}|\d{{4}}(?P<by>{_SEPARATOR})\d{{4}}(?P=by)\d{{4}}(?P=by)\d{{4}}"
    rf"(?P<more>(?P=by)\d{{1,3}})?|\d{{4}}(?P<of>{_SEPARATOR})\d{{6}}(?P=of)\d{{4,5}})"
    rf"(?!{_LETTER}|/(?:\d(?!\d)|\d{{3}}(?!\d))|[.\-]\d)"
)
# With two numbers before it, it is in a row of a table.
_ROW = re.compile(r"\d \d+ \Z")
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


_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ \-]?[A-Za-z0-9]){11,30}", re.ASCII)
_AFTER_GROUP = re.compile(r"[^A-Za-z0-9]|\Z")


def _ibans(text: str) -> Spans:
    from stdnum import iban

    at = 0
    while found := _IBAN.search(text, at):
        start, length = found.start(), _iban_length(found[0][:2].upper())
        places = [place for place, letter in enumerate(found[0]) if letter.isalnum()]
        # Words may follow, which the country's length tells from it. Its own check knows no banks that are gone.
        end = start + places[length - 1] + 1 if 0 < length <= len(places) else start
        if end > start and _AFTER_GROUP.match(text, end) and iban.is_valid(text[start:end], check_country=False):
            yield start, end
            at = end
        else:
            # What stands before a number may look like the beginning of one.
            at = start + 4


@cache
def _iban_length(country: str) -> int:
    """0: it has none."""
    from stdnum import numdb

    _, found = numdb.get("iban").info(country)[0]
    # As "8!n10!n".
    return 4 + sum(map(int, re.findall(r"(\d+)!", found["bban"]))) if "bban" in found else 0


# One, or a range of them.
_QUAD = r"(?:\d{1,3}\.){3}\d{1,3}"
# "host-93.184.216.34" is a name; two hyphens are a dash.
_IPV4 = rf"(?<![A-Za-z0-9.])(?:(?<!-)|(?<=--)){_QUAD}(?:-{_QUAD})?(?![A-Za-z0-9]|-(?!-)|\.\d)"
_IPV6 = r"(?<![A-Za-z0-9.])[23][0-9a-fA-F]{3}:[0-9a-fA-F:]{0,33}(?:[0-9a-fA-F]|::)(?![A-Za-z0-9]|:[A-Za-z0-9:])"
_IP = re.compile(f"{_IPV4}|{_IPV6}", re.ASCII)
# What four numbers with dots are, too: a version, a section of a text, an object's identifier.
_NO_ADDRESS = re.compile(
    r"(?:[A-Z][A-Za-z0-9]*|\))/\Z|[<>~^]=\s?[\"'`]?\Z|[!=]=\Z"
    r"|(?:[a-z]Version|(?<![A-Za-z])(?i:versions?|v|ver|rev|revision|release|build|firmware|driver|since \w+|sections?"
    r"|chapter|clause|oid|object.?identifier|version[eną]|versi[óo]n|versão|fassung|wersj[aię]|verze|sürüm|верси[яиюей])"
    r"|§|版本号?为?|版本號?為?|バージョンは?|버전은?)(?:[^\w\n]|_){0,8}\Z"
)
# "curl/7.1.2.3": a name with a slash before what may be a version, and a comparison with one.
_MAY_BE_VERSION = re.compile(r"[A-Za-z0-9)]/\Z|[!=]= [\"'`]?\Z|[!=]=[\"'`]\Z")
# "fe80::2001:…" and "fd00:2001:…" go on in a private address; "ip:2001:…" and "add:2001:…" name one.
_GROUP_BEFORE = re.compile(r"(?:[0-9a-fA-F]{0,4}:[0-9a-fA-F]{0,4}|(?<![A-Za-z0-9])[fF][c-fC-F][0-9a-fA-F]{2}):\Z")
# The number of a section stands before its title, and is small.
_HEADING = re.compile(r"(?:^|\n)[ \t#*§]*\Z")
_SECTION_MAX = 20
# "[3.3.2.4^1]" is one with its note.
_NOTE = re.compile(r"\^\d")
# In `versions = ["22.45.100.200", "22.45.100.201"]` one says of all what they are.
_NEXT_IN_QUOTES = re.compile(r"([\"'`]),\s{0,40}\1")
_CONTEXT = 24


def _ips(text: str) -> Spans:
    version_end = -1
    for found in _IP.finditer(text):
        before = text[max(0, found.start() - _CONTEXT) : found.start()]
        is_next_version = version_end >= 0 and _NEXT_IN_QUOTES.fullmatch(text, version_end, found.start())
        if is_next_version or _NO_ADDRESS.search(before):
            version_end = found.end()
            continue
        if ":" in found[0] and _GROUP_BEFORE.search(before):
            continue
        start = found.start()
        for address in found[0].split("-"):
            parts = address.split(".")
            is_small = len(parts) > 1 and all(int(part) <= _SECTION_MAX for part in parts)
            is_noted = _NOTE.match(text, found.end())
            is_numbering = is_small and (is_noted or _HEADING.search(before) or _MAY_BE_VERSION.search(before))
            if not is_numbering and _is_public(address):
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
# Within square brackets a number without 0 before it has no more; Spain's have three.
_BLANKS_MAX = 3
# What phonenumbers looks at beside a number: a letter, a currency.
_BESIDE = 4
# A number that something else goes on in, a sum of money, a term of a formula.
_TERM_AFTER = rf"(?:{_WORD}|[)\]*/]) ?[+\-] ?\Z|(?:{_WORD}|[)\]])\*+\Z"
_NO_PHONE_AFTER = re.compile(rf"(?:{_LETTER}|\d[./]|(?<!\d)0,|[#$€£¥%^@)\]])\Z|{_TERM_AFTER}")
# A plus before the country's code tells more: it may follow a cell of a table, "tel." and "tel=".
_NO_PLUS_AFTER = re.compile(rf"(?:{_LETTER}|[€£¥%^@)\]])\Z|{_TERM_AFTER}")
# "$+49 30 901820" is written as telephone numbers are; "$+4930901820" may be a sum or a formula.
_PLUS_SUM = re.compile(r"\+\d+")
# "（1）+86 138…", but for an argument or an index.
_ITEM_BEFORE_PLUS = re.compile(rf"(?:\A|[\s,;:。、\"'|]|(?!{_LETTER})[^\W_])(?:\([1-9]\)|[1-9]\d?\)|\[[1-9]\])\Z")
_GOES_ON = re.compile(r"\.?\d")
_PLUS_GOES_ON = re.compile(r"\.?\d")
_DECIMAL = re.compile(r"[(\-\[]*\d*\.\d+|0\.\d.*|.*[/\[].*|.*\d+\.\d+\.\d+\.\d+.*", re.DOTALL)
# "01.23.45.67.89", as in France: an address of a machine has four groups.
_DOTTED = re.compile(r"\(?0\d(?:\.\d\d){4}\)?")
# "+1.7035555555" as registries write it (RFC 5733) or a number with decimals: by what stands before it.
_PLUS_DECIMAL = re.compile(r"[+＋]\d*\.\d+")
_BEFORE_PLUS_DECIMAL = re.compile(r"(?:\A|[\n\t\"'>|]|[^\W\d]\.?[:：=] ?) ?\Z")


# What a list, a note or a desk has before a number: "1)", "2.", "(Büro 4)", "(3)", "[2]", "#6".
# Of "(030 90 18 20)" and "(0 30)" the end is the number's own.
# Chinese and Japanese have no blank behind it: "（1）13812345678". Behind a letter it is an argument or an index.
_ITEM = re.compile(
    r"(?<!\d)(?:(?<!\()(?:(?<![\d(] )[1-9]\d|(?<!\(\d )[1-9])[.)]|\([1-9]\)|\[\d{1,4}\]|#\d{1,4})[^\S\n]{1,4}"
    rf"|(?:(?<!{_LETTER})(?<![(\[])[1-9]\d?\)|(?<![A-Za-z_)\]])(?:\([1-9]\)|\[\d{{1,2}}\]))(?=\(?\d)"
)
# In "(11) 2345-6789" it is the number's own code, in "030 90 18 20. 415-555-2671" its end.
_ITEM_OR_PART = re.compile(r"(?<!\d)[\[(]?\d{1,4}[)\].][^\S\n]{1,4}")
_ITEM_CHARACTERS_MAX = 10


def _phones(text: str, regions: Sequence[str]) -> Spans:
    at = 0
    while run := _PHONE.search(text, at):
        start, end = run.span()
        at = end
        is_plus = run[0][0] in "+＋"
        if not (regions or is_plus):
            continue
        spans = [*_phones_between(text, start, end + _BESIDE, regions)]
        if regions:
            behind = [*_phones_behind(_ITEM, text, start, end, regions)]
            apart = [*_phones_behind(_ITEM_OR_PART, text, start, end, regions)]
            # Of those that find as many, the first: "1. 415-555-2671" may be read as one with the country's code,
            # "+61 (3) 9123 4567" is one.
            spans = max((spans, behind, apart) if is_plus else (behind, spans, apart), key=len)
        if not spans and is_plus:
            # A year or another number may follow after a blank.
            ends = (start + blank.start() for blank in reversed([*_BLANK.finditer(run[0])]))
            shorter = ([*_phones_between(text, start, end, ())] for end in ends)
            spans = next(filter(None, shorter), [])
        yield from spans
        if regions and spans and _ITEM_OR_PART.match(text, spans[-1][1] + 1):
            # The run may end within the next item's number.
            at = spans[-1][1]


def _phones_behind(item: re.Pattern[str], text: str, start: int, end: int, regions: Sequence[str]) -> Spans:
    """Telephone numbers in a run of digits, apart from the items that stand in it or beside it, if there are any.

    phonenumbers takes an item's number and the telephone's for one.
    """
    beside = item.finditer(text, max(0, start - _ITEM_CHARACTERS_MAX), end + _ITEM_CHARACTERS_MAX)
    items = [one for one in beside if one.end() >= start]
    if items and items[0].start() > start:
        yield from _phones_between(text, start, items[0].start(), regions)
    for one, after in zip_longest(items, items[1:]):
        if one.end() < end:
            seen = after.start() if after else end + _BESIDE
            yield from _phones_between(text, one.end(), seen, regions, num_beside=0)


def _phones_between(text: str, start: int, seen: int, regions: Sequence[str], *, num_beside: int = _BESIDE) -> Spans:
    """Telephone numbers in a run of digits; phonenumbers sees `num_beside` characters before it, and up to `seen`."""
    from phonenumbers import Leniency, PhoneNumberMatcher

    first = max(0, start - num_beside)
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
            # In "[415-555-2671]" too; one that opens "(415) 555-2671" is the number's.
            begin += not is_plus and is_half and window[begin] == "["
            # What is found before it is another one, whatever is between them.
            before = window[done:begin] if done else window[:begin]
            if found.start < done or not is_phone(before, window[begin : found.end], after):
                continue
            yield first + start, first + found.end
            done = found.end


def _is_international(before: str, written: str, after: str) -> bool:
    if _PLUS_DECIMAL.fullmatch(written) and not _BEFORE_PLUS_DECIMAL.search(before):
        return False
    if before.endswith("$") and _PLUS_SUM.fullmatch(written):
        return False
    if _NO_PLUS_AFTER.search(before) and not _ITEM_BEFORE_PLUS.search(before):
        return False
    return not (written[1].isspace() or "/" in written or _PLUS_GOES_ON.match(after))


def _is_national(before: str, written: str, after: str) -> bool:
    """Whether it is written as one: with groups, or with 0 before it; so is a Chinese mobile number, which is 11 digits
    in a row."""
    if before.endswith("[") and written.count(" ") > _BLANKS_MAX and written[0] not in "(0":
        # A row of a matrix.
        return False
    is_decimal = _DECIMAL.fullmatch(written) and not _DOTTED.fullmatch(written)
    if _NO_PHONE_AFTER.search(before) or is_decimal or _GOES_ON.match(after):
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
_KEY = re.compile("|".join(rf"(?<![A-Za-z0-9])(?:{shape})(?![A-Za-z0-9])" for shape in SECRETS.values()))
_PRIVATE_KEY = re.compile(r"-----(BEGIN|END) (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PRIVATE_KEY_CHARACTERS_MIN = 20
# What stands in a private key whose end is cut off: a few headers, then lines of base64, perhaps in quotes.
_KEY_HEADER = re.compile(r"\s{0,40}[A-Z][A-Za-z0-9\-]{0,40}: [^\n]{0,200}(?=\n)")
_KEY_HEADERS_MAX = 8
_KEY_LINE = re.compile(r"\s{0,40}[>|#\"',]{0,4}\s{0,8}[A-Za-z0-9+/]{16,}+={0,2}")
_KEY_LAST_LINE = re.compile(r"[\"',]{0,2}\r?\n[>|#\"', \t]{0,8}[A-Za-z0-9+/]{1,15}+={0,2}(?=[\"',]{0,2}(?:\r?\n|\Z))")
# Two at signs: the last one ends the password.
_URL_PASSWORD = re.compile(r"(?<![a-z])[a-z][a-z0-9+.\-]{1,20}://[^\s/:@\"'<>]{0,100}:([^\s/\"'<>]{3,200})@(?=[\w\[])")
# `$PASSWORD`, `${PASSWORD}`, `{password}`, `%s` are put in later; words of manuals stand for a password.
_NO_PASSWORD = re.compile(
    r"\$\w+|\$?\{[^{}]*\}|\{\{[^{}]*\}\}|\$\([^()]*\)|%\w|%\(\w+\)s|\*+|x+|\.+"
    r"|(?i:[a-z]*(?:password|passwort|passwd|passphrase|secret|token)|pass|pw|pwd|tiger|changeme|user(?:name)?|admin|guest"
    r"|root|postgres|example|test)"
)
_ANY_SECRET = (
    r"AKIA|ASIA|ABIA|ACCA|gh[pousr]_|github_pat_|gl(?:pat|dt|rt|ptt|soat)-|xox[abeoprs]-|xapp-|hooks\.slack\.com|AIza"
    r"|GOCSPX-|ya29\.|sk-|[rs]k_(?:live|test|prod)_|hf_|npm_|pypi-AgE|SG\.|:AA|eyJ|PRIVATE KEY|://[^\s/:@]*:[^\s/@]+@"
)


def _secrets(text: str) -> Spans:
    found = [*_private_keys(text)]
    found += [one.span(1) for one in _URL_PASSWORD.finditer(text) if not _NO_PASSWORD.fullmatch(one[1])]
    found += [one.span() for one in _KEY.finditer(text) if _looks_drawn(one[0])]
    yield from found


def _private_keys(text: str) -> Spans:
    """To the line of its end, or as far as lines are a key's where that is cut off.

    By the places of such lines, as an expression over what is between needs memory for each character of it.
    """
    marks = [*_PRIVATE_KEY.finditer(text)]
    for begin, after in zip_longest(marks, marks[1:]):
        if begin[1] == "END":
            continue
        if after and after[1] == "END":
            if after.start() - begin.end() >= _PRIVATE_KEY_CHARACTERS_MIN:
                yield begin.start(), after.end()
        elif (end := _end_of_key(text, begin.end())) > begin.end():
            yield begin.start(), end


def _end_of_key(text: str, start: int) -> int:
    at = start
    for _ in range(_KEY_HEADERS_MAX):
        if header := _KEY_HEADER.match(text, at):
            at = header.end()
    first = at
    while line := _KEY_LINE.match(text, at):
        at = line.end()
    if at == first:
        return start
    last = _KEY_LAST_LINE.match(text, at)
    return last.end() if last else at


# Of letters and digits that are drawn, more than half are digits or capitals; hexadecimal ones too.
_DRAWN_SHARE_MIN = 0.25


def _looks_drawn(key: str) -> bool:
    """False for what begins like a key and is words or a placeholder: sk-this-is-my-favourite-scikit-model-name."""
    if not key.startswith("sk-"):
        return len(set(key)) >= 8
    drawn = sum(not letter.islower() for letter in key if letter.isalnum())
    return len(set(key)) >= 8 and drawn >= _DRAWN_SHARE_MIN * len(key)


_FINDERS: dict[Kind, tuple[str, Callable[[str], Spans]]] = {
    "secret": (_ANY_SECRET, _secrets),
    "email": (r"[\w.%+\-&'’]@[\w\-]", _emails),
    "iban": (r"[A-Za-z]{2}[0-9]{2}(?:[ \-]?[A-Za-z0-9]){11}", _ibans),
    "card": (r"[0-9](?:[ .\-‐-–]?[0-9]){11}", _cards),
    "ip": (r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|[23][0-9a-fA-F]{3}:[0-9a-fA-F:]{2}", _ips),
}
