"""A wire that breaks when it is told to: a TCP relay between real clients and a real director."""

import contextlib
import socket
import threading
import time

LINGER = 0.5
"""Seconds between the last byte sent and a cut, in which the director works off what is on its way."""


class Proxy:
    """Passes bytes on in both directions, until it is told to cut."""

    def __init__(self, target: str) -> None:
        """Listen on loopback, in front of host:port."""
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = 0
        """Bytes passed on to the director."""
        self.received = 0
        """Bytes passed on to the client."""
        self.cut_when_sent: int | None = None
        self.cut_when_received: int | None = None
        self.muted = False
        """Whether what the director says is dropped."""
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections; new ones are accepted."""
        with self._lock:
            broken, self._open = self._open, []
        for each in broken:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self) -> None:
        """Break all connections, and accept no more."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._target)
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._open += [client, server]
                threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, upwards: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                if upwards:
                    self.sent += len(data)
                    sink.sendall(data)
                elif not self.muted:
                    self.received += len(data)
                    sink.sendall(data)
                if self.cut_when_sent is not None and self.sent >= self.cut_when_sent:
                    self.cut_when_sent = None
                    time.sleep(LINGER)
                    self.cut()
                if self.cut_when_received is not None and self.received >= self.cut_when_received:
                    self.cut_when_received = None
                    self.cut()
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
