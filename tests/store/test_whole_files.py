"""Files for people: whole or not at all, and in the place of nothing but a file."""

import errno
import os
import socket
import stat
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from headrace.errors import InvalidInput, StoreOutage, StoreRefused
from headrace.store.whole_files import made_when_whole, renamed_when_whole


def write(target: Path, text: str = "new", *, overwrite: bool = True) -> None:
    with renamed_when_whole(target, overwrite=overwrite) as partial:
        partial.write_text(text)


def write_half(whole: AbstractContextManager[Path], number: int) -> None:
    with whole as partial:
        (partial / "file" if partial.is_dir() else partial).write_text("half")
        raise OSError(number, os.strerror(number))


def put_a_pipe(place: Path) -> None:
    os.mkfifo(place)


def put_a_socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))


def put_a_link_to_a_device(place: Path) -> None:
    place.symlink_to("/dev/null")


def put_a_link_to_nothing(place: Path) -> None:
    place.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("put", "told"),
    [
        (put_a_pipe, "is a pipe, and only a file is ever replaced"),
        (put_a_socket, "is a socket, and only a file is ever replaced"),
        (put_a_link_to_a_device, "is a device, and only a file is ever replaced"),
        (put_a_link_to_nothing, "is a link to what is not there"),
        (Path.mkdir, "is a directory. Name a file in it."),
    ],
)
def test_what_is_no_file_is_never_replaced(tmp_path: Path, put: object, told: str) -> None:
    target = tmp_path / "x"
    put(target)  # pyright: ignore[reportCallIssue]
    before = target.lstat()

    with pytest.raises(InvalidInput, match=told):
        write(target)

    assert (target.lstat().st_ino, stat.S_IFMT(target.lstat().st_mode)) == (before.st_ino, stat.S_IFMT(before.st_mode))
    assert [one.name for one in tmp_path.iterdir()] == ["x"]


def test_a_pipe_that_comes_meanwhile_is_not_replaced_either(tmp_path: Path) -> None:
    target = tmp_path / "x"

    def write_while_somebody_makes_a_pipe() -> None:
        with renamed_when_whole(target, overwrite=True) as partial:
            partial.write_text("new")
            os.mkfifo(target)

    with pytest.raises(InvalidInput, match="is a pipe"):
        write_while_somebody_makes_a_pipe()

    assert target.is_fifo()
    assert [one.name for one in tmp_path.iterdir()] == ["x"]


def test_a_link_to_a_file_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("old")
    (tmp_path / "link").symlink_to("elsewhere/file")

    write(tmp_path / "link")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere/file").read_text() == "new"
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_text("old")
    for mode in (0o600, 0o664):
        target.chmod(mode)

        write(target)

        assert (target.read_text(), stat.S_IMODE(target.stat().st_mode)) == ("new", mode)


@pytest.mark.parametrize(
    ("number", "raised"),
    [(errno.ENOSPC, StoreOutage), (errno.EACCES, StoreRefused), (errno.ENAMETOOLONG, StoreRefused)],
)
def test_what_the_disk_refuses_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, number: int, raised: type[Exception]
) -> None:
    with pytest.raises(raised) as told:
        write_half(renamed_when_whole(tmp_path / "x"), number)

    assert str(told.value) == f"Cannot write {tmp_path}/x: {os.strerror(number)}. Nothing of it is left."
    assert list(tmp_path.iterdir()) == []


def test_a_name_may_be_as_long_as_the_disk_takes(tmp_path: Path) -> None:
    target = tmp_path / ("漢" * 85)

    write(target)

    assert target.read_text() == "new"


def test_a_directory_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    with made_when_whole(tmp_path / "made/x") as partial:
        (partial / "file").write_text("1")
    assert (tmp_path / "made/x/file").read_text() == "1"

    with pytest.raises(StoreOutage, match=r"Cannot write .*y: No space left"):
        write_half(made_when_whole(tmp_path / "y"), errno.ENOSPC)
    with pytest.raises(InvalidInput, match="is there already"), made_when_whole(tmp_path / "made"):
        pass
    assert [one.name for one in tmp_path.iterdir()] == ["made"]
