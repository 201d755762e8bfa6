"""A proxy in front of a server on the loopback that cuts connections in the middle, or answers late."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlparse


class Proxy:
    """Relays to a server; of all connections a share breaks off, each after a random number of bytes of a direction."""

    def __init__(self, url: str, seed: int):
        self._server = (urlparse(url).hostname, urlparse(url).port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._rng = random.Random(seed)
        self.share, self.delay, self.cut = 0.0, 0.0, 0
        self.url = "http://{}:{}".format(*self._listening.getsockname())
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listening.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        server = socket.create_connection(self._server)
        # Some of the request, or all of it and some of the answer: what was asked for is then done, and nobody hears of it.
        breaks = self._rng.random() < self.share
        from_client = self._rng.random() < 0.5
        # Nothing comes, or at least the header: it is one packet.
        after = self._rng.choice([0, 2_000, 20_000])
        limits = (after if breaks and from_client else None, after if breaks and not from_client else None)
        both = (client, server)
        threads = [
            threading.Thread(target=self._pump, args=(source, target, limit, both), daemon=True)
            for source, target, limit in ((client, server, limits[0]), (server, client, limits[1]))
        ]
        for thread in threads:
            thread.start()

    def _pump(
        self, source: socket.socket, target: socket.socket, limit: int | None, both: tuple[socket.socket, socket.socket]
    ) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                time.sleep(self.delay)
                if limit is not None and passed + len(data) > limit:
                    target.sendall(data[: limit - passed])
                    self.cut += 1
                    break
                target.sendall(data)
                passed += len(data)
        for end in both:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxied(url: str, seed: int = 0) -> Iterator[Proxy]:
    """A proxy while the context lasts."""
    proxy = Proxy(url, seed)
    try:
        yield proxy
    finally:
        proxy.close()
