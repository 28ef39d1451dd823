"""A redis server with SIZE_MIB of values, and a client that stays connected and checks every answer."""

import os
import socket
import subprocess
import threading

import lib

VALUE_BYTES = 1024
BATCH = 1000
KEYS = int(os.environ.get("SIZE_MIB", "64")) * (1 << 20) // VALUE_BYTES


class Connection:
    """Speaks as much RESP as is needed here. Never reconnects: a lost connection is what the test looks for."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.connect(("127.0.0.1", 6379))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.replies = self.socket.makefile("rb")

    @staticmethod
    def encode(*words):
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            word = word if isinstance(word, bytes) else str(word).encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
        return b"".join(parts)

    def reply(self):
        line = self.replies.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError("connection closed")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            length = int(rest)
            if length < 0:
                return None
            return self.replies.read(length + 2)[:-2].decode()
        return rest.decode()

    def ask(self, *words):
        self.socket.sendall(self.encode(*words))
        return self.reply()


def start():
    # stdout is for signs of life, see lib.py
    subprocess.Popen(
        ["/usr/bin/redis-server", "--port", "6379", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
         "--dir", "/tmp", "--enable-debug-command", "yes", "--daemonize", "no", "--loglevel", "warning"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while True:
        try:
            return Connection()
        except ConnectionRefusedError:
            threading.Event().wait(0.002)


def fill(connection):
    for first in range(0, KEYS, BATCH):
        keys = range(first, min(first + BATCH, KEYS))
        connection.socket.sendall(b"".join(
            Connection.encode("SET", "key:%d" % k, lib.content(VALUE_BYTES)) for k in keys))
        for _ in keys:
            connection.reply()


client = start()
client.ask("PING")
lib.say("start")
fill(client)
client_id = client.ask("CLIENT", "ID")


def work(n):
    answer = client.ask("ECHO", "message %d" % n)
    if answer != "message %d" % n:
        raise AssertionError("asked for message %d, got %r" % (n, answer))


worker = lib.Worker(work)
worker.start()


def digest():
    # Redis hashes every key and value, in an order of its own.
    other = Connection()
    return {"keys": other.ask("DBSIZE"), "digest": other.ask("DEBUG", "DIGEST")}


def connected():
    """Whether the server still has the client's first connection."""
    clients = Connection().ask("CLIENT", "LIST").splitlines()
    return {"id": client_id, "listed": any(c.startswith("id=%d " % client_id) for c in clients)}


def write(key, value):
    return {"reply": Connection().ask("SET", key, value)}


lib.serve(digest=digest, connected=connected, work=worker.report, write=write)
