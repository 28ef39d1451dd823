"""A python program that holds SIZE_MIB of random bytes and uses what programs use: threads, child processes, a pipe to a child,
locks, timers, signals, open and deleted files, and a sqlite file on the bind mount /mnt."""

import fcntl
import hashlib
import multiprocessing
import os
import select
import signal
import sqlite3
import subprocess
import threading
import time

import lib

SIZE = int(os.environ.get("SIZE_MIB", "32")) << 20


def helper(pipe, secret):
    """A child process: answers each number with a hash of it and of what only this child knows."""
    while True:
        n = pipe.recv()
        pipe.send(hashlib.sha256(secret + str(n).encode()).hexdigest())


def main():
    lib.say("start")
    memory = bytearray(SIZE)
    for at in range(0, SIZE, 1 << 20):
        memory[at:at + (1 << 20)] = lib.content(min(1 << 20, SIZE - at))

    secret = os.urandom(32)
    here, there = multiprocessing.Pipe()
    child = multiprocessing.Process(target=helper, args=(there, secret), daemon=True)
    child.start()

    chain = [hashlib.sha256(b"first").hexdigest()]
    pipe_lock = threading.Lock()
    monotonic = [time.monotonic()]

    def hash_chain(n):
        chain[0] = hashlib.sha256(chain[0].encode()).hexdigest()

    def ask_child(n):
        with pipe_lock:
            here.send(n)
            if not here.poll(60):
                raise TimeoutError("the child does not answer")
            answer = here.recv()
        if answer != hashlib.sha256(secret + str(n).encode()).hexdigest():
            raise AssertionError("the child answered %d wrongly" % n)

    def check_clock(n):
        now = time.monotonic()
        if now < monotonic[0]:
            raise AssertionError("monotonic time went back from %r to %r" % (monotonic[0], now))
        monotonic[0] = now

    database = []

    def insert(n):
        if not database:  # sqlite wants to be used by the thread that opened it
            database.append(sqlite3.connect("/mnt/data.sqlite"))
            database[0].execute("create table entries (n integer primary key, content text)")
        content = hashlib.sha256(str(n).encode()).hexdigest()
        with database[0]:
            database[0].execute("insert into entries values (?, ?)", (n, content))

    # A pipe and an epoll that watches it, across threads.
    reader, writer = os.pipe()
    poll = select.epoll()
    poll.register(reader, select.EPOLLIN)

    def through_pipe(n):
        message = b"%08d" % (n % 10**8)
        os.write(writer, message)
        events = poll.poll(60)
        if [fd for fd, _ in events] != [reader] or os.read(reader, 8) != message:
            raise AssertionError("pipe or epoll lost message %d: %r" % (n, events))

    # Files that live on only in a descriptor, at an offset that is not their end: one of the sandbox, one of the host.
    deleted = {}
    for place in "/tmp", "/mnt":
        deleted[place] = open(place + "/deleted", "w+b", buffering=0)
        os.unlink(place + "/deleted")
        deleted[place].write(os.urandom(1 << 16))
        deleted[place].seek(12345)

    # A file of the host that is locked.
    locked = open("/mnt/locked", "w")
    fcntl.flock(locked, fcntl.LOCK_EX)

    ticks = []
    signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)

    workers = {name: lib.Worker(work) for name, work in {
        "chain": hash_chain, "child": ask_child, "clock": check_clock, "sqlite": insert, "pipe": through_pipe}.items()}
    for worker in workers.values():
        worker.start()

    def digest():
        """Of everything that does not change by itself."""
        return {
            "memory": hashlib.sha256(memory).hexdigest(),
            "deleted": {place: content_and_position(file) for place, file in deleted.items()},
            "locked": subprocess.run(["/usr/bin/flock", "-n", "/mnt/locked", "/bin/true"]).returncode,
            "pid": os.getpid(), "child": child.pid, "alive": child.is_alive(),
            "threads": sorted(t.name for t in workers.values()),
        }

    def content_and_position(file):
        position = file.tell()
        file.seek(0)
        content = file.read()
        file.seek(position)
        return [hashlib.sha256(content).hexdigest(), position]

    def chain_now():
        """The chain beside what it must be after so many steps."""
        worker = workers["chain"]
        worker.wake.set()
        worker.join()
        want = hashlib.sha256(b"first").hexdigest()
        for _ in range(worker.count):
            want = hashlib.sha256(want.encode()).hexdigest()
        return {"count": worker.count, "want": want, "got": chain[0]}

    def rows():
        with sqlite3.connect("file:/mnt/data.sqlite?mode=ro", uri=True, timeout=60) as other:
            check = other.execute("pragma integrity_check").fetchone()[0]
            count, last = other.execute("select count(*), max(n) from entries").fetchone()
            wrong = [n for n, content in other.execute("select n, content from entries")
                     if content != hashlib.sha256(str(n).encode()).hexdigest()]
        return {"integrity": check, "count": count, "last": last, "wrong": len(wrong)}

    def work():
        return {name: worker.report() for name, worker in workers.items()} | {"alarm": {"count": len(ticks), "failure": None}}

    def change():
        """Changes one byte: the digest must notice."""
        memory[SIZE // 2] ^= 1
        return {}

    # The main thread must be free to run signal handlers.
    server = threading.Thread(target=lib.serve, daemon=True, kwargs={
        "digest": digest, "chain": chain_now, "rows": rows, "work": work, "change": change})
    server.start()
    while True:
        signal.pause()


if __name__ == "__main__":
    # fork, not spawn: the child shares memory copy-on-write.
    multiprocessing.set_start_method("fork")
    main()
