"""A TCP proxy between client and broker that knows just enough of Kafka's protocol to break it in a given request.

A request is a length, an api key, a version and a correlation id; an answer is a length and the correlation id. Bytes are
passed on in chunks, each once the one before it was taken: what is under way is bounded by the sockets' own buffers.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field

_CHUNK_BYTES = 64 << 10
_START_TIMEOUT_S = 10.0


class Api(enum.Enum):
    """The requests of a transaction, by their key."""

    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    PRODUCE = 0
    ADD_OFFSETS_TO_TXN = 25
    TXN_OFFSET_COMMIT = 28
    END_TXN = 26


class Moment(enum.Enum):
    """When the connection is cut: the broker never sees the request; sees half of it; may have acted; has acted."""

    BEFORE = "before"
    HALFWAY = "halfway"
    AFTER = "after"
    UNANSWERED = "unanswered"


@dataclass(slots=True)
class Cut:
    """Cuts the connection of one request, once: the `passing`-th of its kind from now on."""

    api: Api
    moment: Moment
    passing: int = 1
    is_done: threading.Event = field(default_factory=threading.Event)

    def is_due(self, api_key: int) -> bool:
        """Counts a request."""
        if self.is_done.is_set() or self.passing <= 0 or api_key != self.api.value:
            return False
        self.passing -= 1
        return self.passing == 0


class Proxy:
    """Runs in a thread of its own until closed. latency_s: of every answer; bytes_per_s: of each connection and direction."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.latency_s = 0.0
        self.bytes_per_s: float | None = None
        self._cut: Cut | None = None
        self._is_refusing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()

    def begin(self, broker: tuple[str, int]) -> None:
        """Pass everything on to this address."""

        async def serve() -> None:
            self._server = await asyncio.start_server(lambda reader, writer: self._connect(reader, writer, broker), sock=self._listener)

        self._run(serve())

    def arm(self, cut: Cut) -> None:
        """From now on; the one before it, if it is not done, is off."""
        self._cut = cut

    def refuse(self) -> None:
        """Cut everything; whoever connects is turned away."""

        self._is_refusing = True
        self._run(_cut_all())

    def restore(self) -> None:
        """Let everybody connect again."""
        self._is_refusing = False

    def close(self) -> None:
        """Cut everything and stop."""

        async def stop() -> None:
            self._server.close()
            await _cut_all()

        self._run(stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_TIMEOUT_S)
        self._loop.close()

    def _run(self, work: Coroutine[object, object, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_START_TIMEOUT_S)

    async def _connect(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter, broker: tuple[str, int]) -> None:
        try:
            if self._is_refusing:
                raise ConnectionRefusedError
            broker_reader, to_broker = await asyncio.open_connection(*broker)
        except OSError:
            to_client.close()
            return
        with suppress(asyncio.CancelledError):  # by `refuse` and `close`; asyncio would tell of it
            await _Pair(self, client, to_client, broker_reader, to_broker).run()

    def taken(self, api_key: int) -> Cut | None:
        """The armed cut, where it is due with this request."""
        cut = self._cut
        return cut if cut is not None and cut.is_due(api_key) else None


class _Pair:
    """A client's connection and the one to the broker that belongs to it; either's end is the end of both."""

    def __init__(
        self,
        proxy: Proxy,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        broker: asyncio.StreamReader,
        to_broker: asyncio.StreamWriter,
    ) -> None:
        self._proxy, self._client, self._to_client, self._broker, self._to_broker = proxy, client, to_client, broker, to_broker
        self._unanswered: dict[int, Cut] = {}

    async def run(self) -> None:
        ways = [asyncio.ensure_future(self._requests()), asyncio.ensure_future(self._answers())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for writer in (self._to_client, self._to_broker):
                # Not a gentle close: whoever is cut off is to notice at once.
                writer.transport.abort()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _requests(self) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await self._client.readexactly(12)
                length, api_key, _, correlation_id = struct.unpack(">ihhi", head)
                rest = length - 8
                cut = self._proxy.taken(api_key)
                if cut is not None and cut.moment is not Moment.UNANSWERED:
                    await self._cut_in(cut, head, rest)
                    return
                if cut is not None:
                    self._unanswered[correlation_id] = cut
                await self._pass_on(self._client, self._to_broker, head, rest)

    async def _cut_in(self, cut: Cut, head: bytes, rest: int) -> None:
        if cut.moment is Moment.HALFWAY:
            await self._pass_on(self._client, self._to_broker, head, rest // 2)
        if cut.moment is Moment.AFTER:
            await self._pass_on(self._client, self._to_broker, head, rest)
            await _flushed(self._to_broker)
        cut.is_done.set()

    async def _answers(self) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await self._broker.readexactly(8)
                length, correlation_id = struct.unpack(">ii", head)
                if (cut := self._unanswered.pop(correlation_id, None)) is not None:
                    cut.is_done.set()
                    return
                if self._proxy.latency_s:
                    await asyncio.sleep(self._proxy.latency_s)
                await self._pass_on(self._broker, self._to_client, head, length - 4)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, rest: int) -> None:
        writer.write(head)
        while rest > 0:
            chunk = await reader.read(min(rest, _CHUNK_BYTES))
            if not chunk:
                raise ConnectionError("closed within a frame")
            rest -= len(chunk)
            writer.write(chunk)
            await writer.drain()
            if self._proxy.bytes_per_s is not None:
                await asyncio.sleep(len(chunk) / self._proxy.bytes_per_s)
        await writer.drain()


async def _cut_all() -> None:
    """Every connection; the proxy's loop does nothing else."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _flushed(writer: asyncio.StreamWriter) -> None:
    """Until the operating system has taken everything: an abort right after a write would drop it."""
    while writer.transport.get_write_buffer_size():
        await asyncio.sleep(0.001)
