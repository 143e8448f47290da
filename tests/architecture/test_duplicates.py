"""What the duplicate finder of `make check` takes for one thing written twice."""

from tests.architecture.duplicates import RUN_LINES_MIN, duplicate_pairs

WORK = """
def work(things):
    first = things.pop()
    total = first + 1
    for thing in things:
        total += thing * 2
    print(total, "things")
    return total
"""
FIELDS = """
class Thing:
    name: str
    size: int
    colour: str
    weight: int
    place: str
    price: int
"""


def renamed(source: str) -> str:
    for name, other in (("thing", "word"), ("total", "number"), ("first", "head"), ("size", "length"), ("2", "3")):
        source = source.replace(name, other)
    return source


def test_the_same_lines_and_lines_of_one_shape_are_found() -> None:
    for other, is_same in ((WORK, True), (renamed(WORK), False)):
        (pair,) = duplicate_pairs({"a.py": WORK, "b.py": "import os\n\n# Another place.\n" + other})
        assert pair.num_lines == RUN_LINES_MIN + 1
        assert str(pair).startswith("a.py:2-8 ~ b.py:5-11: 7 lines")
        assert ("of one shape" in str(pair)) != is_same


def test_fields_count_where_their_words_are_the_same() -> None:
    assert len(duplicate_pairs({"a.py": FIELDS, "b.py": FIELDS})) == 1
    assert duplicate_pairs({"a.py": FIELDS, "b.py": renamed(FIELDS)}) == []


def test_a_shape_that_stands_everywhere_is_an_idiom() -> None:
    assert len(duplicate_pairs({f"{number}.py": WORK for number in range(8)})) == 28
    assert duplicate_pairs({f"{number}.py": WORK for number in range(9)}) == []


def test_two_places_of_one_file_are_a_pair() -> None:
    (pair,) = duplicate_pairs({"a.py": WORK + "\n\nvalue = 1\n" + renamed(WORK)})
    assert {line.file for line in pair.longest[0]} == {"a.py"}
