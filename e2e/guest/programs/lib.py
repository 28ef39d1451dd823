"""What the guest programs share: signs of life on stdout, and a server that answers the test's questions.

Signs of life are lines: "start" as soon as the program runs, "ready" once its content is there, then "tick N" after each
piece of work if TICK_MS is set. Questions are lines on 127.0.0.1:7000, each answered by one line of JSON.
"""

import itertools
import json
import os
import socketserver
import sys
import threading

PORT = 7000

_say = threading.Lock()


def say(line):
    with _say:
        try:
            os.write(1, (line + "\n").encode())
        except OSError:
            pass  # nobody is listening any more; the work goes on


def tick_seconds():
    """The pause between pieces of work: TICK_MS for benchmarks, otherwise short enough to fall into a checkpoint."""
    return int(os.environ.get("TICK_MS", "10")) / 1000


_lines = itertools.count()


def content(size):
    """Random bytes, which nothing compresses; with CONTENT=mixed the second half is text, no two lines of it alike."""
    if os.environ.get("CONTENT") != "mixed":
        return os.urandom(size)
    text = b"".join(b"%012d: a line of text as programs keep it in memory\n" % n
                    for n in itertools.islice(_lines, size // 2 // 59 + 1))
    return os.urandom(size - size // 2) + text[:size // 2]


def tick(n):
    if "TICK_MS" in os.environ:
        say("tick %d" % n)


def serve(**answers):
    """Answers each question with what the function of that name returns. Does not return."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                word, *args = line.decode().split()
                try:
                    answer = answers[word](*args)
                except Exception as e:  # the test shows it; a dead server would hide it
                    answer = {"error": "%s: %s" % (type(e).__name__, e)}
                self.wfile.write((json.dumps(answer, sort_keys=True) + "\n").encode())

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", PORT), Handler) as server:
        say("ready")
        sys.stdout.flush()
        server.serve_forever()


class Worker(threading.Thread):
    """Runs one piece of work after another until one fails, and remembers why."""

    def __init__(self, work):
        super().__init__(daemon=True)
        self.work = work
        self.count = 0
        self.failure = None
        self.wake = threading.Event()

    def run(self):
        try:
            while not self.wake.wait(tick_seconds()):
                self.work(self.count + 1)
                self.count += 1
                tick(self.count)
        except BaseException as e:
            self.failure = "%s: %s" % (type(e).__name__, e)

    def report(self):
        return {"count": self.count, "failure": self.failure}
