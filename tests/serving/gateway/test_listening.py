"""Where a gateway listens: whose socket it may replace, and how many connections it has descriptors for."""

import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from headrace.errors import InvalidInput
from headrace.serving.gateway.listening import leave, listen, num_connections_for
from headrace.serving.service import Limits
from headrace.unix_sockets import identity
from simulation.servers.gateway_site import Site
from tests.serving.gateway.raw_clients import RawClient, post


def listen_on(file: Path) -> socket.socket:
    return listen(host="", port=0, uds=file, reuse_port=False)


@pytest.fixture
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short: a socket's path has 107 bytes at most."""
    return tmp_path_factory.mktemp("uds") / "gateway.sock"


def test_a_port_takes_connections_as_soon_as_it_is_said_to_listen() -> None:
    with closing(listen(host="127.0.0.1", port=0, uds=None, reuse_port=False)) as listener:
        socket.create_connection(listener.getsockname(), timeout=60).close()


def test_of_two_gateways_on_one_port_the_second_is_told_before_it_serves() -> None:
    """Neither serves yet: the kernel lets any number of sockets that do not listen be bound to one port."""
    with (
        closing(listen(host="127.0.0.1", port=0, uds=None, reuse_port=False)) as first,
        pytest.raises(InvalidInput, match="Address already in use; choose another address"),
    ):
        listen(host="127.0.0.1", port=first.getsockname()[1], uds=None, reuse_port=False)


def test_a_file_of_another_kind_is_never_replaced(file: Path) -> None:
    file.write_text("somebody's thesis")
    with pytest.raises(InvalidInput, match="a file of another kind, which may be somebody's. Move it away"):
        listen_on(file)
    assert file.read_text() == "somebody's thesis"


@pytest.mark.parametrize("kind", ["directory", "link to a file", "link to nothing", "pipe"])
def test_nothing_but_a_socket_is_ever_replaced(file: Path, kind: str) -> None:
    match kind:
        case "directory":
            file.mkdir()
        case "pipe":
            os.mkfifo(file)
        case "link to a file":
            file.with_suffix(".txt").write_text("a thesis")
            file.symlink_to(file.with_suffix(".txt"))
        case _:
            file.symlink_to(file.with_suffix(".txt"))
    before = identity(file)
    with pytest.raises(InvalidInput, match="another kind"):
        listen_on(file)
    assert identity(file) == before


def test_a_living_socket_is_not_stolen(file: Path) -> None:
    with closing(listen_on(file)) as living:
        before = identity(file)
        with pytest.raises(InvalidInput, match="somebody listens there already. End that process first"):
            listen_on(file)
        assert identity(file) == before
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(str(file))
            living.accept()[0].close()


def test_a_living_socket_whose_line_is_full_is_not_stolen(file: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as living:
        living.bind(str(file))
        living.listen(0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(str(file))
        with pytest.raises(InvalidInput, match="somebody listens"):
            listen_on(file)
        for client in clients:
            client.close()


def test_somebody_elses_socket_of_another_kind_is_not_stolen(file: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as living:
        living.bind(str(file))
        with pytest.raises(InvalidInput, match="somebody listens"):
            listen_on(file)


def test_a_dead_socket_is_replaced(file: Path) -> None:
    listen_on(file).close()
    assert file.exists()
    with closing(listen_on(file)), closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(file))


def test_at_its_end_a_gateway_takes_its_own_socket_away_and_no_other(file: Path) -> None:
    first = listen_on(file)
    leave(first, file, identity(file))
    assert not file.exists()
    second = listen_on(file)
    made = identity(file)
    # Kept under another name, or the kernel could give its number to the next one.
    file.rename(file.with_suffix(".old"))
    with closing(listen_on(file)):
        leave(second, file, made)
        assert file.exists()


@pytest.mark.process
def test_a_second_gateway_on_the_same_file_ends_with_a_sentence_and_the_first_goes_on(
    make_site: Callable[..., Site], file: Path
) -> None:
    site = make_site()
    site.initialize()
    first = site.start("--uds", str(file))
    with pytest.raises(AssertionError, match="ended with 2"):
        site.start("--uds", str(file))
    assert "somebody listens there already" in (site.directory / "gateway-1.errors").read_text()
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(file))
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    assert first.terminate() == 0
    assert not file.exists()


@pytest.fixture
def descriptors() -> Iterator[Callable[[int], None]]:
    """Sets this process's own soft limit, for a moment."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda number: resource.setrlimit(resource.RLIMIT_NOFILE, (number, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_is_raised_as_far_as_the_connections_need(descriptors: Callable[[int], None]) -> None:
    descriptors(100)
    assert num_connections_for(Limits(num_units_max=10, num_waiting_max=10, num_connections_max=500)) == 500
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 500 + 10 + 48 + 16


@pytest.mark.process
def test_a_gateway_with_few_descriptors_has_fewer_connections_and_everybody_is_answered(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    site.initialize()
    gateway = site.start(num_descriptors=200)
    said = gateway.event("fewer connections")
    assert said is not None
    assert said["num_max"] == 200 - 64 - 48 - 16
    idle = [RawClient(gateway).send(b"GET /he") for _ in range(250)]
    assert RawClient(gateway).send(b"GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n").answer().status == 200
    assert RawClient(gateway).send(post(b"Connection: close")).until_closed().status == 200
    for client in idle:
        client.close()


@pytest.mark.process
def test_a_gateway_with_hardly_any_descriptors_says_how_many_it_needs(make_site: Callable[..., Site]) -> None:
    site = make_site()
    with pytest.raises(AssertionError, match="ended with 2"):
        site.start(num_descriptors=100)
    said = (site.directory / "gateway-0.errors").read_text()
    assert said.startswith("This process may open 100 files; with num_units_max=64 it needs at least 144.")
    assert "ulimit -n" in said
