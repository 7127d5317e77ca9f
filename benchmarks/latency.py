"""A proxy that makes a server answer later, at little cost: the kernel moves what the server answers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from typing_extensions import Self

_REQUEST_BYTES = 1 << 16
_ANSWER_BYTES = 1 << 20


class LatencyProxy:
    """Adds time to each request: a `with` block in which it serves (Linux only).

    Args:
        endpoint: The server's URL, `http://host:port`.
        seconds: How much later what a client sends at once comes to the server.
    """

    def __init__(self, endpoint: str, seconds: float) -> None:
        upstream = urlsplit(endpoint)
        self._upstream = str(upstream.hostname), int(upstream.port or 80)
        self._seconds = seconds

    @property
    def url(self) -> str:
        """The endpoint for the client."""
        return "http://{}:{}".format(*self._listener.getsockname())

    def __enter__(self) -> Self:
        """Begin to serve."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Take no more connections; those that are open end with their clients."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Pass on what a client sends, and what the server answers."""
        with client, contextlib.suppress(OSError), socket.create_connection(self._upstream) as server:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answers = threading.Thread(target=_move, args=(server, client), daemon=True)
            answers.start()
            while request := client.recv(_REQUEST_BYTES):
                time.sleep(self._seconds)
                server.sendall(request)
            server.shutdown(socket.SHUT_WR)
            answers.join()


def _move(source: socket.socket, target: socket.socket) -> None:
    """Have the kernel move all bytes from one connection to another."""
    out, into = os.pipe()
    try:
        with contextlib.suppress(OSError):
            fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, _ANSWER_BYTES)  # 64 KiB at a time takes twice as long
        with contextlib.suppress(OSError):
            while moved := os.splice(source.fileno(), into, _ANSWER_BYTES):
                while moved:
                    moved -= os.splice(out, target.fileno(), moved)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)  # whoever waits for the client waits no longer
    finally:
        os.close(out)
        os.close(into)
