"""Values of people as they are written, and what looks like them and is none; made without the code that finds them."""

import random
import string
from collections.abc import Iterator

# From the networks' lists of test numbers, and from the directories and manuals of the numbering plans.
PHONES = {
    "international": ["+1 415-555-2671", "+44 20 7946 0958", "+49 30 901820", "+86 138 0013 8000", "+33 1 42 68 53 00"],
    "compact": ["+14155552671", "+442079460958", "+8613800138000", "+919876543210", "+819012345678"],
    "other digits": ["＋８６ １３８ ００１３ ８０００", "+٢٠ ١٠٠ ١٢٣ ٤٥٦٧", "+९१ ९८७६५ ४३२१०"],
    "brackets": ["+44 (0)20 7946 0958", "+1 (415) 555-2671", "+39 (06) 6982"],
}
NATIONAL_PHONES = {
    "US": ["(415) 555-2671", "415-555-2671", "415.555.2671", "1-800-275-2273"],
    "GB": ["020 7946 0958", "(020) 7946 0958", "02079460958"],
    "CN": ["13800138000", "138 0013 8000", "010-62791133"],
    "DE": ["030 901820", "(030) 901820", "0151 23456789"],
    "FR": ["01 23 45 67 89", "01.23.45.67.89", "06-12-34-56-78"],
}
TRAPS = [
    *("born 1999-12-31", "at 2026-11-29 21:30:45", "on 31.12.1999", "版本 2.10.1", "version 8.8.4.4", "lib>=1.7.4.2"),
    *("ISBN 978-3-16-148410-0", "ISBN 0-306-40615-2", "ISSN 2049-3630", "order 4155552671", "invoice 2026-0001234"),
    *("Chrome/120.0.6099.109", "192.168.0.1", "10.0.0.254", "127.0.0.1:8080", "1.2.3.4 Scope", "§ 5.4.3.2"),
    *("sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "12:34:56", "std::vector<int>"),
    *("git@github.com:apache/arrow.git", "logo@2x.png", "@pytest.mark.slow", "npm i left-pad@1.3.0", "x = a @ b.T"),
    *("3.14159265358979", "1e-10", "4,111,111,111", "p**4 + 13192187500*q", "price: $4155552671", "2**31 = 2147483648"),
    *("4111 1111 1111 1112", "6e9f4111111111111111", "4111-1111-1111-11110", "id 4111111111111111/7"),
    *("DE89 3704 0044 0532 0130 01", "GB82 WEST", "uuid 550e8400-e29b-41d4-a716-446655440000", "sk-learn", "AKIAshort"),
    *("https://user@example.org/a", "postgres://user:password@localhost/x", "hf_token", "eyJhbGciOiJub25lIn0", "%@%.%"),
    *("共有 20260101 件", "٢٠٢٦-١١-٢٩", "pages 480-487", "1920x1080", "[20 21 22 23 24]", "0.9999999996"),
    *("sk-this-is-my-favourite-scikit-learn-model-name", "x +1.4142135623*y", "[+1.4142135623, +1.4142135623]"),
    *("版本号为8.8.4.4", "バージョン 8.8.4.4"),
    *("(a)+4930901820", "2**+4930901820", "0.4111111111111111", "12 13 4111 1111 1111 1111", "host-93.184.216.34"),
]
# Each beside what stands before or after it where people write it.
BESIDE: list[tuple[str, str, list[str]]] = [
    ("email", "_bob@example.com_, __ann@example.com__", ["bob@example.com", "_ann@example.com"]),
    ("email", "x@firma.md", ["x@firma.md"]),
    ("phone", "Anna Schmidt\n+49 30 901820", ["+49 30 901820"]),
    ("phone", "Regards.\n+49 30 901820\n+49 30 901821\n", ["+49 30 901820", "+49 30 901821"]),
    ("phone", "Phone: +1.4155552671", ["+1.4155552671"]),
    ("phone", "call +1.415.555.2671 or +33.1.42.68.53.00", ["+1.415.555.2671", "+33.1.42.68.53.00"]),
    ("phone", "12,+49 30 901820,10115,Berlin", ["+49 30 901820"]),
    ("phone", "**+49 30 901820** tel.+49 30 901820", ["+49 30 901820"] * 2),
    ("phone", "[+49 30 901820](tel:+4930901820) tel=+4930901820", ["+49 30 901820", "+4930901820", "+4930901820"]),
    ("card", "2 4111111111111111", ["4111111111111111"]),
    ("card", "1 4111 1111 1111 1111 123", ["4111 1111 1111 1111"]),
    ("card", "4111111111111111/12, 4111 1111 1111 1111 12/27", ["4111111111111111", "4111 1111 1111 1111"]),
    ("card", "4111 1111 1111 1111 5555 5555 5555 4444", ["4111 1111 1111 1111", "5555 5555 5555 4444"]),
    ("card", "Card no.4111111111111111", ["4111111111111111"]),
    ("ip", "2001:4860:4860::8888: is up", ["2001:4860:4860::8888"]),
    ("ip", "93.184.216.34-93.184.216.40, 10.0.0.1-93.184.216.41", ["93.184.216.34", "93.184.216.40", "93.184.216.41"]),
]
SENTENCES = (
    "Write to {} before noon.",
    "({})",
    "请联系{}，谢谢。",
    "連絡先：{}まで。",
    "اتصل بنا: {} شكرا",
    "値:「{}」",
    '{{"value": "{}"}}',
    "a | {} | b",
    "see <{}>; then\ngo on",
    "{}",
)


def emails(draw: random.Random) -> Iterator[str]:
    while True:
        name = "".join(draw.choices(string.ascii_lowercase + string.digits, k=draw.randint(2, 12)))
        mark = draw.choice(["", ".", "_", "-", "+"])
        domain = draw.choice(
            ["example.com", "mail.example.co.uk", "uni-köln.de", "a-b.museum", "xn--e1afmkfd.xn--p1ai"]
        )
        yield f"{name}{mark}{draw.choice(string.ascii_letters)}@{domain}"


def cards(draw: random.Random) -> Iterator[str]:
    forms = (("4", 16), ("51", 16), ("2221", 16), ("37", 15), ("6011", 16), ("3530", 16), ("62", 16))
    while True:
        beginning, length = draw.choice(forms)
        body = beginning + "".join(draw.choices(string.digits, k=length - len(beginning) - 1))
        # Luhn's check digit, as in ISO/IEC 7812-1, annex B.
        doubled = [int(digit) * (2 - place % 2) for place, digit in enumerate(reversed(body))]
        number = body + str(-sum(value - 9 * (value > 9) for value in doubled) % 10)
        groups = (
            [number[:4], number[4:10], number[10:]] if length == 15 else [number[at : at + 4] for at in range(0, 16, 4)]
        )
        yield draw.choice(["", " ", "-"]).join(groups)


def ibans(draw: random.Random) -> Iterator[str]:
    while True:
        country, length = draw.choice([("DE", 22), ("AT", 20), ("CH", 21), ("LI", 21)])
        body = "".join(draw.choices(string.digits, k=length - 4))
        # ISO 13616: the country behind the number, letters as 10 to 35, 98 less the rest of 97.
        as_number = body + "".join(str(ord(letter) - ord("A") + 10) for letter in country) + "00"
        number = f"{country}{98 - int(as_number) % 97:02d}{body}"
        yield draw.choice([number, " ".join(number[at : at + 4] for at in range(0, length, 4))])


def addresses(draw: random.Random) -> Iterator[str]:
    while True:
        yield f"{draw.choice([8, 52, 93, 185])}.{draw.randint(21, 250)}.{draw.randint(21, 250)}.{draw.randint(1, 250)}"
        yield f"2001:4860:{draw.randrange(16**4):x}:{draw.randrange(16**4):x}::{draw.randrange(1, 16**4):x}"


def secrets(draw: random.Random) -> Iterator[str]:
    alphabet = string.ascii_letters + string.digits

    def drawn(length: int, letters: str = alphabet) -> str:
        return "".join(draw.choices(letters, k=length))

    while True:
        yield "AKIA" + drawn(16, string.ascii_uppercase + "234567")
        yield "ghp_" + drawn(36)
        yield f"github_pat_{drawn(22)}_{drawn(59)}"
        yield "glpat-" + drawn(20)
        yield f"xoxb-{drawn(12, string.digits)}-{drawn(12, string.digits)}-{drawn(24)}"
        yield "AIza" + drawn(35)
        yield "sk-proj-" + drawn(48)
        yield f"sk-ant-api03-{drawn(93)}-{drawn(6)}AA"
        yield "sk_live_" + drawn(24)
        yield "hf_" + drawn(34, string.ascii_letters)
        yield f"SG.{drawn(22)}.{drawn(43)}"
        yield f"eyJ{drawn(33)}.eyJ{drawn(40)}.{drawn(43)}"
        yield f"-----BEGIN RSA PRIVATE KEY-----\n{drawn(64)}\n{drawn(64)}\n-----END RSA PRIVATE KEY-----"


MAKERS = {"email": emails, "card": cards, "iban": ibans, "ip": addresses, "secret": secrets}

# Valid by the registry's structures and checksums, of which python-stdnum knows the banks of some countries, too.
COUNTRIES_IBANS = [
    *("DE89370400440532013000", "GB82WEST12345698765432", "FR1420041010050500013M02606", "NL91ABNA0417164300"),
    *("MT84MALT011000012345MTLCAST001S", "NO9386011117947", "CH9300762011623852957", "PL61109010140000071219812874"),
    *(
        "ES91 2100 0418 4502 0005 1332",
        "IT60 X054 2811 1010 0000 0123 456",
        "BE68-5390-0754-7034",
        "gb82west12345698765432",
    ),
]
# Program text, tables and prose, each a whole text that stays byte for byte.
INNOCENT = [
    "scores = q@k.transpose(-2, -1)",
    "y = x@self.weight + b",
    "M@N.shape",
    "y = a@b.dot(c)",
    "q@k.to(device)",
    "q@k.mT",
    "go get x@v1.2.3-beta.foo",
    "npm i @types/node@20.1.0-rc.dev",
    "import a from 'b@1.0.0.js'",
    "x @ y.T",
    "@app.get('/a')",
    '[assembly: AssemblyVersion("22.45.100.200")]',
    "Ver. 22.45.100.200",
    "rev 22.45.100.200",
    "версия 22.45.100.200",
    "Fassung 22.45.100.200",
    "version = '22.45.100.200'",
    'FILE_VERSION: "22.45.100.200"',
    "lib==22.45.100.200",
    "Chrome/9.0.197.11 Safari",
    "curl/7.1.2.3",
    "lib >= 22.45.100.200",
    "fd00:2001:4860::8888",
    "std::2001::x",
    "sk-learn-contrib-package-name-here-long1",
    "sk-my-favourite-estimator-of-the-year-2026-edition",
    "task-ak47",
    "https://$USER:$PASSWORD@host",
    "https://u:${PW}@host",
    "f'https://{user}:{password}@host'",
    "https://u:xxxx@host",
    "postgres://scott:tiger@host/db",
    "mysql://root:mypassword@host",
    "https://u:%s@host",
    "https://u:***@host",
    "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
    "It begins with -----BEGIN PRIVATE KEY----- and on.",
    "4111111111111111.5",
    "0.4111111111111111",
    "a4111111111111111",
    "4111111111111111a",
    "IS89370400440532013000 x",
    "C:\\new\\temp\\report",
    "\\alpha \\nu \\tau \\rho_{12}",
    "re.compile(r'\\d{3}\\.\\d{4}')",
    '{"a": "\\u4e2d\\u6587\\n"}',
    "第１章\u3000１２３４５６７８９",
    "１２：３４：５６",
    "می\u200cخواهم ۱۴۰۳/۰۵/۱۲",
    "१२३४५६७८९०१२३",
    "10² + 20² = 500",
    "by [3.3.2.4^1] and [5.2.1.3^2]",
    'versions = ["22.45.100.200", "22.45.100.201",\n    "22.45.100.202"]',
    "https://www.mail-archive.com/users@example.org/msg30517.html",
    "https://lists.example.org/archives/list/users@example.org/thread/AB/",
    "price: $+4930901820",
    "2 ^+4930901820",
    "host-93.184.216.34 and host--a",
    "print('%20d%2d%s' % (a, b, c))",
    "a。b。c",
]
