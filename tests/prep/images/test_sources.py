"""Pictures and captions are found in folders, tars and tables; what cannot be read says why."""

import gzip
import io
import json
import os
import shutil
import tarfile
import tracemalloc
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.errors import InvalidInput
from headrace.prep.images.corpus import ImageCorpus
from headrace.prep.images.decoding import IMAGE_BYTES_MAX
from headrace.prep.images.sources import FoundImage, image_files, images_of
from headrace.prep.images.tars import CAPTION_BYTES_MAX
from headrace.user_files.layout import Unreadable
from tests.prep.images.pictures import make_images, put

Read = tuple[str | None, bytes, str | None] | str


def read(corpus: ImageCorpus, home: Path, shard: str = "shard-00") -> list[Read]:
    """Member, bytes and caption of each picture, or the reason why there is none."""
    found: list[Read] = []
    for path, dealt in image_files(corpus, shard, home):
        found += [
            one.reason if isinstance(one, Unreadable) else (one.member, one.body, one.caption)
            for one in images_of(corpus, path, path.name, shard=dealt)
        ]
    return found


def tar_of(path: Path, members: dict[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in members.items():
            body = content.encode() if isinstance(content, str) else content
            header = tarfile.TarInfo(name)
            header.size = len(body)
            tar.addfile(header, io.BytesIO(body))
    return path


def test_a_picture_of_a_folder_has_its_caption_beside_it(tmp_path: Path) -> None:
    put(tmp_path / "in/a.jpg", b"A")
    put(tmp_path / "in/a.txt", "\ufeffa cat\n")
    put(tmp_path / "in/b.PNG", b"B")
    put(tmp_path / "in/b.caption", "ein Hund")
    put(tmp_path / "in/c.webp", b"C")
    put(tmp_path / "in/d.gif", b"D")
    put(tmp_path / "in/d.txt", b"\xff\xfe")
    assert read(make_images(), tmp_path) == [
        (None, b"A", "a cat\n"),
        (None, b"B", "ein Hund"),
        (None, b"C", None),
        "its caption d.txt is not UTF-8",
    ]


@pytest.mark.parametrize("name", ["in/x.tar", "in/x.tar.gz"])
def test_a_sample_of_a_tar_is_its_members_of_one_name(tmp_path: Path, name: str) -> None:
    members: dict[str, bytes | str] = {
        "set/0001.jpg": b"A", "set/0001.json": '{"caption": "of json"}', "set/0001.txt": "of text",
        "set/0002.png": b"B", "set/0002.json": '{"caption": "of json"}', "set/0002.seg.png": b"a mask",
        "0003.txt": "no picture",
        "0004.jpg": b"C", "0004.png": b"D",
        "../../0005.jpg": b"E",
        "0006.jpg": b"F", "0006.json": '{"caption": 7}',
    }  # fmt: skip
    tar_of(tmp_path / name, members)
    assert read(make_images(), tmp_path) == [
        ("set/0001.jpg", b"A", "of text"),
        ("set/0002.png", b"B", "of json"),
        "its sample has no picture, wanted one",
        "its sample has 2 pictures, wanted one",
        ("../../0005.jpg", b"E", None),
        "key 'caption' of its .json must be a string, got int",
    ]
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "in", tmp_path / name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("name", ["b.jpg", "b.txt"])
def test_links_in_a_tar_lead_nowhere_and_their_sample_is_set_aside(name: str, kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(put(tmp_path / "in/x.tar", b""), "w") as tar:
        for one in ("a.jpg", "a.txt", "b.jpg", "b.txt", "b.seg.png"):
            header = tarfile.TarInfo(one)
            if one in (name, "b.seg.png"):
                header.type, header.linkname = kind, f"a.{one[-3:]}"
            tar.addfile(header)
    whole, link = read(make_images(), tmp_path)
    assert whole == ("a.jpg", b"", "")
    assert str(link).startswith(f"its member {name} is a link, wanted the file itself: pack it with `tar --deref")


def test_a_caption_that_stands_twice_in_a_json_member_is_none(tmp_path: Path) -> None:
    tar_of(
        tmp_path / "in/x.tar",
        {
            "a.jpg": b"A", "a.json": '{"caption": "a cat", "caption": "a dog"}',
            "b.jpg": b"B", "b.json": '{"size": 1, "size": 2, "caption": "a dog"}',
        },
    )  # fmt: skip
    assert read(make_images(), tmp_path) == [
        "key 'caption' stands twice in its .json, wanted once",
        ("b.jpg", b"B", "a dog"),
    ]


def test_an_empty_caption_hides_no_other_one(tmp_path: Path) -> None:
    of_json = '{"caption": "of json"}'
    tar_of(tmp_path / "in/x.tar", {"a.jpg": b"A", "a.txt": " \n", "a.json": of_json, "b.jpg": b"B", "b.txt": ""})
    put(tmp_path / "in/y.jpg", b"Y")
    put(tmp_path / "in/y.txt", "")
    put(tmp_path / "in/y.caption", "beside")
    assert read(make_images(), tmp_path) == [("a.jpg", b"A", "of json"), ("b.jpg", b"B", ""), (None, b"Y", "beside")]


def test_a_caption_beside_a_picture_may_be_named_in_capitals(tmp_path: Path) -> None:
    for picture, beside in (("A.JPG", "A.TXT"), ("b.jpg", "b.CAPTION"), ("C.Png", "C.Txt")):
        put(tmp_path / "in" / picture, picture)
        put(tmp_path / "in" / beside, beside)
    assert [one[2] for one in read(make_images(), tmp_path)] == ["A.TXT", "C.Txt", "b.CAPTION"]


def test_what_a_list_names_and_is_no_regular_file_is_set_aside_at_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in/pipe.png")
    (tmp_path / "in/directory.png").mkdir()
    lines = [json.dumps({"image": f"{name}.png", "caption": "x"}) for name in ("pipe", "directory")]
    put(tmp_path / "in/list.jsonl", "\n".join(lines))
    assert read(make_images(files=("in/*.jsonl",)), tmp_path) == [
        "is a pipe or device, wanted a regular file",
        "cannot be read: Is a directory",
    ]


def test_a_link_out_of_a_lists_directory_is_told_with_what_to_do(tmp_path: Path) -> None:
    """As caches leave them that keep each content once."""
    put(tmp_path / "blobs/1", b"A")
    put(tmp_path / "in/list.jsonl", '{"image": "a.jpg", "caption": "x"}')
    (tmp_path / "in/a.jpg").symlink_to("../blobs/1")
    corpus = make_images(files=("in/*.jsonl",))
    assert read(corpus, tmp_path) == [
        "is a link out of the table's directory: copy that with `cp -RL`, which follows links, and name the copy"
    ]
    shutil.copytree(tmp_path / "in", tmp_path / "copy")
    assert read(make_images(files=("copy/*.jsonl",)), tmp_path) == [("a.jpg", b"A", "x")]


def test_a_file_that_two_globs_reach_is_in_one_shard(tmp_path: Path) -> None:
    for shard in ("shard-00", "shard-01", "more"):
        for number in range(4):
            put(tmp_path / "in" / shard / f"{number}.jpg", f"{shard} {number}")
    corpus = make_images(files=("in/**/*.jpg", "in/{shard}/*.jpg"), num_shards=2)
    bodies = {shard: [str(one[1]) for one in read(corpus, tmp_path, shard)] for shard in corpus.shard_keys}
    assert len(set(chain(*bodies.values()))) == sum(map(len, bodies.values())) == 12
    assert not any("shard-01" in body for body in bodies["shard-00"])
    assert not any("shard-00" in body for body in bodies["shard-01"])


def test_a_tar_that_is_cut_off_gives_what_came_before(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "in/x.tar", {"1.jpg": b"A" * 2000, "2.jpg": b"B" * 2000})
    path.write_bytes(path.read_bytes()[:3800])
    first, lost = read(make_images(), tmp_path)
    assert first == ("1.jpg", b"A" * 2000, None)
    assert str(lost).startswith("unreadable after 1 samples: ")


def tar_bytes(directory: Path, *names: str) -> bytes:
    return tar_of(directory / "made.tar", {name: name.encode() * 100 for name in names}).read_bytes()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit in a header": lambda body: body[:2048] + bytes([body[2048] ^ 1]) + body[2049:],
    "cut between two members": lambda body: body[:2048],
    "cut in a header": lambda body: body[:2100],
    "another tar behind it": lambda body: body + body,
    "a member larger than any file": lambda body: body[:2048] + header_of("3.jpg", size=2**62) + body[2560:],
    "a name of gigabytes": lambda body: body[:2048] + header_of("3.jpg", size=2**32, type=tarfile.GNUTYPE_LONGNAME),
    "names without end": lambda body: (
        body[:2048] + (header_of("x", size=1, type=tarfile.GNUTYPE_LONGNAME) + b"y".ljust(512, b"\0")) * 1500
    ),
    "a damaged header of names": lambda body: (
        body[:2048] + header_of("3.jpg", size=9, type=tarfile.XHDTYPE) + b"0 xyz=abc".ljust(512, b"\0") + body[2048:]
    ),
    "a sparse file": lambda body: body[:2048] + header_of("3.jpg", size=0, type=tarfile.GNUTYPE_SPARSE) + body[2560:],
}


def header_of(name: str, *, size: int, type: bytes = tarfile.REGTYPE) -> bytes:  # noqa: A002
    header = tarfile.TarInfo(name)
    header.size, header.type = size, type
    return header.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("packed", ["x.tar", "x.tar.gz"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_tar_that_does_not_end_where_it_says_loses_a_file_that_is_counted(
    damage: str, packed: str, tmp_path: Path
) -> None:
    body = DAMAGES[damage](tar_bytes(tmp_path, "1.jpg", "2.jpg", "3.jpg", "4.jpg"))
    path = put(tmp_path / "in" / packed, gzip.compress(body) if packed.endswith("gz") else body)
    *whole, lost = images_of(make_images(), path, packed, shard=None)
    num = 4 if damage == "another tar behind it" else 2
    assert [one.member for one in whole if isinstance(one, FoundImage)] == [f"{n}.jpg" for n in range(1, num + 1)]
    assert isinstance(lost, Unreadable)
    assert lost.loses_file
    assert lost.reason.startswith(f"unreadable after {num} samples: ")


def test_gzip_streams_that_follow_each_other_are_read_and_their_checksums_count(tmp_path: Path) -> None:
    body = tar_bytes(tmp_path, "1.jpg", "2.jpg")
    two = gzip.compress(body[:700]) + gzip.compress(body[700:])
    put(tmp_path / "in/x.tar.gz", two)
    assert [one[0] for one in read(make_images(), tmp_path)] == ["1.jpg", "2.jpg"]
    put(tmp_path / "in/x.tar.gz", two[:-8] + b"\0" * 8)
    assert str(read(make_images(), tmp_path)[-1]).startswith("unreadable after 2 samples: CRC")


def test_a_member_that_is_there_twice_sets_its_sample_aside(tmp_path: Path) -> None:
    path = put(tmp_path / "in/x.tar", b"")
    with tarfile.open(path, "w") as tar:
        for name in ("a.jpg", "a.txt", "a.jpg", "a.txt", "b.jpg", "b.txt", "b.TXT", "c.jpg"):
            tar.addfile(header := tarfile.TarInfo(name), io.BytesIO(b"x" * header.size))
    assert read(make_images(), tmp_path) == [
        "its sample has 2 pictures, wanted one",
        "its sample has several .txt, wanted one",
        ("c.jpg", b"", None),
    ]


def test_pictures_of_one_name_are_not_all_in_memory(tmp_path: Path) -> None:
    path = put(tmp_path / "in/x.tar", b"")
    with tarfile.open(path, "w") as tar:
        for _ in range(20):
            tar.addfile(header := tarfile.TarInfo("a.jpg"), io.BytesIO(b""))
            header.size = 2**20
            tar.addfile(header, io.BytesIO(bytes(2**20)))
    tracemalloc.start()
    assert read(make_images(), tmp_path) == ["its sample has 40 pictures, wanted one"]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8 * 2**20


def test_a_name_in_a_tar_that_is_not_utf_8_is_shown_by_its_bytes(tmp_path: Path) -> None:
    path = put(tmp_path / "in/x.tar", b"")
    with tarfile.open(path, "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("stra\xdfe.jpg"))
    assert read(make_images(), tmp_path) == [("stra\\xdfe.jpg", b"", None)]


@pytest.mark.parametrize("name", ["a.txt", "a.caption", "a.json"])
def test_a_caption_that_is_too_long_is_set_aside_not_cut(name: str, tmp_path: Path) -> None:
    long = json.dumps({"caption": "x" * CAPTION_BYTES_MAX}) if name == "a.json" else "x" * (CAPTION_BYTES_MAX + 1)
    tar_of(tmp_path / "in/x.tar", {"a.jpg": b"A", name: long})
    expected = [f"its caption {Path(name).suffix} has more than 1,048,576 bytes, the most that is read"]
    assert read(make_images(), tmp_path) == expected
    if name != "a.json":
        put(tmp_path / "beside/a.jpg", b"A")
        put(tmp_path / "beside" / name, long)
        found = read(make_images(files=("beside/*.jpg",)), tmp_path)
        assert found == [f"its caption {name} has more than 1,048,576 bytes, the most that is read"]


def test_a_caption_in_a_table_is_as_long_at_most(tmp_path: Path) -> None:
    captions = ["x" * CAPTION_BYTES_MAX, "ü" * (CAPTION_BYTES_MAX // 2 + 1)]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"image": [b"A", b"B"], "caption": captions}), tmp_path / "in/x.parquet")
    whole, long = read(make_images(), tmp_path)
    assert whole == (None, b"A", captions[0])
    assert long == "its caption has more than 1,048,576 bytes, the most that is read"


def test_a_path_that_no_file_can_have_is_one_row_that_is_set_aside(tmp_path: Path) -> None:
    put(tmp_path / "in/a.jpg", b"A")
    (tmp_path / "in/loop").symlink_to("loop")
    lines = [json.dumps({"image": name, "caption": "x"}) for name in ("\ud800.png", "loop/a.jpg", "x" * 300, "a.jpg")]
    put(tmp_path / "in/list.jsonl", "\n".join(lines))
    half, loop, long, good = read(make_images(files=("in/*.jsonl",)), tmp_path)
    assert half == "column 'image' must be bytes or a path, got '\\ud800.png'"
    assert str(loop).startswith("cannot be read: ")
    assert str(long).startswith("cannot be read: ")
    assert good == ("a.jpg", b"A", "x")


def test_rows_of_a_list_name_pictures_below_its_directory(tmp_path: Path) -> None:
    put(tmp_path / "secret.jpg", b"S")
    put(tmp_path / "in/pictures/a.jpg", b"A")
    names = ["pictures/a.jpg", "pictures/none.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), None, 7]
    lines = [json.dumps({"file_name": name, "text": "a cat"}) for name in names]
    put(tmp_path / "in/metadata.jsonl", "\n".join([*lines, '{"file_name": "pictures/a.jpg"}', "{"]))
    corpus = make_images(files=("in/*.jsonl",), columns={"image": "file_name", "caption": "text"})
    found = read(corpus, tmp_path)
    outside = "names a picture outside of the table's directory"
    assert found[:6] == [
        ("pictures/a.jpg", b"A", "a cat"),
        "cannot be read: No such file or directory",
        outside,
        outside,
        "column 'file_name' must be bytes or a path, got null",
        "column 'file_name' must be bytes or a path, got int",
    ]
    assert found[6] == ("pictures/a.jpg", b"A", None)
    assert len(found) == 8


def test_a_csv_list_is_read_as_well(tmp_path: Path) -> None:
    put(tmp_path / "in/a.jpg", b"A")
    put(tmp_path / "in/list.csv", 'image;caption\na.jpg;"a cat; a dog"\n')
    assert read(make_images(files=("in/*.csv",)), tmp_path) == [("a.jpg", b"A", "a cat; a dog")]


COLUMNS: dict[str, tuple[list[Any], pa.DataType | None]] = {
    "bytes": ([b"A", b"B", None], pa.binary()),
    "large bytes": ([b"A", b"B", None], pa.large_binary()),
    "structs, as datasets writes them": (
        [{"bytes": b"A", "path": "a.jpg"}, {"bytes": b"B", "path": None}, None],
        pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    ),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_parquet_file_holds_pictures_as(kind: str, tmp_path: Path) -> None:
    values, type_of = COLUMNS[kind]
    table = pa.table({"image": pa.array(values, type_of), "caption": ["a cat", None, "nothing"]})
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in/x.parquet")
    assert read(make_images(), tmp_path) == [
        (None, b"A", "a cat"),
        (None, b"B", None),
        "column 'image' must be bytes or a path, got null",
    ]


@pytest.mark.parametrize("has_dictionary", [True, False])
@pytest.mark.parametrize("kind", COLUMNS)
def test_a_parquet_file_of_many_row_groups_and_pages_is_read_whole(
    kind: str, has_dictionary: bool, tmp_path: Path
) -> None:
    bodies = [b"%03d" % number * 100 for number in range(250)]
    values = [{"bytes": body, "path": None} for body in bodies] if kind.startswith("structs") else bodies
    table = pa.table({"image": pa.array(values, COLUMNS[kind][1]), "caption": [f"{n}" for n in range(250)]})
    (tmp_path / "in").mkdir()
    pages: dict[str, Any] = {"data_page_size": 1000, "dictionary_pagesize_limit": 5000}
    pq.write_table(table, tmp_path / "in/x.parquet", row_group_size=100, use_dictionary=has_dictionary, **pages)
    assert read(make_images(), tmp_path) == [(None, body, f"{number}") for number, body in enumerate(bodies)]


def test_a_struct_without_bytes_is_read_by_its_path(tmp_path: Path) -> None:
    put(tmp_path / "in/a.jpg", b"A")
    struct = pa.array([{"bytes": None, "path": "a.jpg"}], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(pa.table({"image": struct, "caption": ["a cat"]}), tmp_path / "in/x.parquet")
    assert read(make_images(files=("in/*.parquet",)), tmp_path) == [("a.jpg", b"A", "a cat")]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_parquet_file_of_paths_is_read_as_a_list_is(kind: pa.DataType, tmp_path: Path) -> None:
    put(tmp_path / "in/a.jpg", b"A")
    table = pa.table({"image": pa.array(["a.jpg"], kind), "caption": ["a cat"]})
    pq.write_table(table, tmp_path / "in/x.parquet")
    assert read(make_images(files=("in/*.parquet",)), tmp_path) == [("a.jpg", b"A", "a cat")]


def test_a_parquet_column_that_holds_no_pictures_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"image": [1, 2], "caption": ["a", "b"]}), tmp_path / "in/x.parquet")
    (found,) = images_of(make_images(), tmp_path / "in/x.parquet", "x", shard=None)
    assert isinstance(found, Unreadable)
    assert (found.reason, found.loses_file) == ("column 'image' must be bytes or a path, got int64", True)


def test_one_picture_that_every_row_of_a_small_parquet_file_names_fills_no_memory(tmp_path: Path) -> None:
    large = pa.DictionaryArray.from_arrays(pa.array([0] * 500, pa.int32()), pa.array([b"x" * 2**21], pa.binary()))
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"image": large, "caption": ["a cat"] * 500}), tmp_path / "in/x.parquet")
    before = pa.total_allocated_bytes()
    most = 0
    corpus = make_images()
    for one in images_of(corpus, tmp_path / "in/x.parquet", "x", shard=None):
        assert isinstance(one, FoundImage)
        most = max(most, pa.total_allocated_bytes() - before)
    # The rows stand for 1 GB.
    assert most < 64 * 2**20


def test_a_file_larger_than_any_picture_is_not_read_whole(tmp_path: Path) -> None:
    with put(tmp_path / "in/a.jpg", b"").open("r+b") as file:
        file.truncate(IMAGE_BYTES_MAX + 1000)
    ((_, body, _),) = read(make_images(), tmp_path)  # pyright: ignore[reportGeneralTypeIssues]
    assert len(body) == IMAGE_BYTES_MAX + 1


def test_missing_columns_lose_the_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"picture": [b"A"], "caption": ["a cat"]}), tmp_path / "in/x.parquet")
    (found,) = images_of(make_images(), tmp_path / "in/x.parquet", "x", shard=None)
    assert isinstance(found, Unreadable)
    assert found.reason == "missing column 'image'"
    assert found.loses_file


def test_every_picture_is_in_one_shard_and_a_list_is_dealt_by_its_rows(tmp_path: Path) -> None:
    for number in range(40):
        put(tmp_path / f"in/{number:02d}.jpg", b"%d" % number)
    put(tmp_path / "in/list.jsonl", "\n".join(json.dumps({"image": f"{n:02d}.jpg", "caption": "x"}) for n in range(40)))
    for files in (("in/*.jpg",), ("in/*.jsonl",)):
        corpus = make_images(files=files, num_shards=4)
        shards = [
            [one[1] for one in read(corpus, tmp_path, shard) if isinstance(one, tuple)] for shard in corpus.shard_keys
        ]
        assert all(shards)
        assert sorted(chain.from_iterable(shards)) == sorted(b"%d" % number for number in range(40))


def test_a_glob_may_name_the_shard(tmp_path: Path) -> None:
    put(tmp_path / "in/shard-00/a.jpg", b"A")
    put(tmp_path / "in/shard-01/b.jpg", b"B")
    corpus = make_images(files=("in/{shard}/*",), num_shards=2)
    assert [read(corpus, tmp_path, shard) for shard in corpus.shard_keys] == [
        [(None, b"A", None)],
        [(None, b"B", None)],
    ]


def test_what_matches_nothing_or_tells_no_kind_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "in/notes.txt", "text alone")
    with pytest.raises(InvalidInput, match=r"No picture, tar or table of images pictures matches .*in/\*, wanted"):
        read(make_images(), tmp_path)
    put(tmp_path / "in/photo.heic", b"A")
    with pytest.raises(InvalidInput, match=r"photo.heic does not tell by its name what it holds, wanted .avif, "):
        read(make_images(), tmp_path)
