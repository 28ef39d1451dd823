"""Does what a client asks for over TCP, on port 7000, one client at a time: a word and perhaps a number, on a line.

receive     takes bytes until the client has sent all, then says how many came
send        gives bytes until the client goes
fork N      starts a small program so many times, then says "done"
mmap N      maps, writes and unmaps memory so many times, then says "done"
"""

import mmap
import os
import socket

import lib

PORT = 7000
CHUNK = 1 << 20
MAPPED_BYTES = 64 << 10


def receive(client):
    buffer, total = bytearray(CHUNK), 0
    while n := client.recv_into(buffer):
        total += n
    client.sendall(b"%d\n" % total)


def send(client):
    chunk = bytes(CHUNK)
    try:
        while True:
            client.sendall(chunk)
    except (BrokenPipeError, ConnectionResetError):
        pass


def fork(client, times):
    for _ in range(times):
        pid = os.fork()
        if pid == 0:
            os.execv("/bin/busybox", ["busybox", "true"])
        _, status = os.waitpid(pid, 0)
        if status:
            raise RuntimeError("busybox ended with %d" % status)
    client.sendall(b"done\n")


def churn(client, times):
    for _ in range(times):
        with mmap.mmap(-1, MAPPED_BYTES) as m:
            for at in range(0, MAPPED_BYTES, mmap.PAGESIZE):
                m[at] = 1
    client.sendall(b"done\n")


def read_line(client):
    line = b""
    while not line.endswith(b"\n"):
        byte = client.recv(1)
        if not byte:
            return []
        line += byte
    return line.decode().split()


server = socket.create_server(("0.0.0.0", PORT))
lib.say("start")
lib.say("ready")
while True:
    connection, _ = server.accept()
    with connection:
        while words := read_line(connection):
            if words[0] == "receive":
                receive(connection)
                break
            if words[0] == "send":
                send(connection)
                break
            {"fork": fork, "mmap": churn}[words[0]](connection, int(words[1]))
