"""Uses sockets as programs do: answers UDP on port 9001 and TCP on port 9002 of every address, the latter once it is told to "accept",
and passes descriptors through Unix sockets, some of which are always on their way."""

import array
import os
import socket
import threading
import time

import lib

UDP_PORT, TCP_PORT = 9001, 9002
BACKLOG = 8
PASSED = 16  # descriptors on their way at any time


def answer_datagrams():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
        s.bind(("::", UDP_PORT))
        while True:
            request, sender = s.recvfrom(2048)
            s.sendto(b"answer to " + request, sender)


listener = socket.create_server(("::", TCP_PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
accepting = threading.Event()


def answer_connections():
    accepting.wait()
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            connection.sendall(b"answer to " + lines.readline())
        time.sleep(0.005)  # so that some wait


def accept():
    accepting.set()
    return {}


class Passing:
    """Sends the read ends of pipes through a Unix socket, whose content nobody else has, and takes them out again much later."""

    def __init__(self, kind):
        self.sender, self.receiver = socket.socketpair(socket.AF_UNIX, kind)

    def step(self, n):
        reader, writer = os.pipe()
        os.write(writer, b"content %d" % n)
        self.sender.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [reader]))])
        os.close(reader)
        os.close(writer)
        if n > PASSED:
            self.take(n - PASSED)

    def take(self, n):
        _, ancillary, _, _ = self.receiver.recvmsg(1, socket.CMSG_SPACE(4))
        (passed,) = array.array("i", ancillary[0][2])
        content = os.read(passed, 100)
        end = os.read(passed, 100)
        os.close(passed)
        if content != b"content %d" % n or end:
            raise AssertionError("descriptor %d has %r, then %r" % (n, content, end))


workers = {name: lib.Worker(Passing(kind).step) for name, kind in {
    "stream": socket.SOCK_STREAM, "datagram": socket.SOCK_DGRAM, "seqpacket": socket.SOCK_SEQPACKET}.items()}

if __name__ == "__main__":
    for target in answer_datagrams, answer_connections:
        threading.Thread(target=target, daemon=True).start()
    for worker in workers.values():
        worker.start()
    lib.serve(accept=accept, work=lambda: {name: worker.report() for name, worker in workers.items()})
