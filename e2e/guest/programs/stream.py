"""Carries a known stream of bytes at a steady rate, on port 9000 of every address. The first line of a connection says which way:
"send RATE" for so many bytes a second until that fails, "check" for bytes that are compared to the peer's end,
and answered by a line of JSON."""

import hashlib
import json
import socket
import socketserver
import threading
import time

import lib

PORT = 9000
CHUNK_BYTES = 32 << 10
PERIOD_BYTES = (1 << 20) + 7  # after which the stream repeats: odd, so that nothing else has the same period

_period = hashlib.shake_128(b"stream").digest(PERIOD_BYTES)
_stream = memoryview(_period + _period[:1 << 20])


def part(at, size):
    """The stream's bytes from an offset on, at most 1 MiB of them."""
    start = at % PERIOD_BYTES
    return _stream[start:start + size]


def send(connection, rate):
    start, sent = time.monotonic(), 0
    while True:
        time.sleep(max(0, sent / rate - (time.monotonic() - start)))
        connection.sendall(part(sent, CHUNK_BYTES))
        sent += CHUNK_BYTES


def check(connection):
    buffer, received, wrong = memoryview(bytearray(256 << 10)), 0, None
    while n := connection.recv_into(buffer):
        if wrong is None and buffer[:n] != part(received, n):
            wrong = received
        received += n
    connection.sendall((json.dumps({"bytes": received, "wrongAfter": wrong}) + "\n").encode())


broken = []  # why connections ended that did not end well


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        line = b""
        while not line.endswith(b"\n"):
            line += self.request.recv(1)
        word, *args = line.split()
        try:
            if word == b"send":
                send(self.request, int(args[0]))
            else:
                check(self.request)
        except OSError as e:
            broken.append(type(e).__name__)


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6  # and IPv4
    allow_reuse_address = True
    daemon_threads = True


def retransmitted():
    """How many TCP segments this stack has sent again, ever."""
    with open("/proc/net/snmp") as f:
        names, values = [line.split() for line in f if line.startswith("Tcp:")]
    return {"segments": int(values[names.index("RetransSegs")])}


if __name__ == "__main__":
    server = Server(("::", PORT), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    lib.serve(retransmitted=retransmitted, broken=lambda: {"errors": broken})
