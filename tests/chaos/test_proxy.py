from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.chaos.proxy import Api, Cut, Moment, Proxy

BODY = b"x" * 200_000


class Echo:
    """Answers each request with its own body; knows what has come."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.seen: list[int] = []
        self.ended = threading.Semaphore(0)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                try:
                    while head := stream.read(12):
                        length, api_key, _, correlation_id = struct.unpack(">ihhi", head)
                        body = stream.read(length - 8)
                        if len(body) < length - 8:
                            break
                        self.seen.append(api_key)
                        connection.sendall(struct.pack(">ii", len(body) + 4, correlation_id) + body)
                except ConnectionError:
                    pass
            self.ended.release()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    with closing(Echo()) as echo:
        yield echo


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with closing(Proxy()) as proxy:
        proxy.begin(echo.address)
        yield proxy


def ask(proxy: Proxy, *api_keys: int) -> list[bytes]:
    """The answers that came before the connection was cut."""
    answers = []
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as client, client.makefile("rb") as stream:
        for number, api_key in enumerate(api_keys):
            try:
                client.sendall(struct.pack(">ihhi", len(BODY) + 8, api_key, 0, number) + BODY)
                head = stream.read(8)
            except ConnectionError:
                break
            if len(head) < 8:
                break
            length, correlation_id = struct.unpack(">ii", head)
            assert correlation_id == number
            answers.append(stream.read(length - 4))
    return answers


def test_what_is_not_to_be_cut_passes_unchanged(proxy: Proxy, echo: Echo) -> None:
    assert ask(proxy, 0, 26, 3) == [BODY] * 3
    assert echo.seen == [0, 26, 3]


@pytest.mark.parametrize("moment", Moment)
def test_a_cut_takes_the_request_it_is_for_at_its_moment_once(proxy: Proxy, echo: Echo, moment: Moment) -> None:
    cut = Cut(Api.END_TXN, moment, passing=2)
    proxy.arm(cut)

    answers = ask(proxy, 0, 26, 0, 26, 0)
    assert echo.ended.acquire(timeout=30)

    assert answers == [BODY] * 3
    assert cut.is_done.is_set()
    assert echo.seen[:3] == [0, 26, 0]
    if moment in (Moment.BEFORE, Moment.HALFWAY):
        assert len(echo.seen) == 3
    if moment is Moment.UNANSWERED:
        assert echo.seen[3:] == [26]
    assert ask(proxy, 26, 26) == [BODY] * 2
