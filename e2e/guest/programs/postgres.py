"""postgres on the bind mount /mnt/data, a session with an open transaction, and one that looks on from outside of it."""

import glob
import subprocess
import threading

import lib

BIN = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
END = "-- end of answer --"


class Session:
    """One psql that stays connected. Its stdin and stdout are pipes, its connection a TCP one."""

    def __init__(self):
        self.lock = threading.Lock()
        self.psql = subprocess.Popen(
            [BIN + "/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres", "-d", "postgres"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def ask(self, statement):
        with self.lock:
            self.psql.stdin.write(statement + ";\n\\echo '" + END + "'\n")
            self.psql.stdin.flush()
            lines = []
            for line in self.psql.stdout:
                if line.rstrip("\n") == END:
                    return "\n".join(lines)
                lines.append(line.rstrip("\n"))
        raise EOFError("psql ended: " + "\n".join(lines))


lib.say("start")
server = subprocess.Popen(
    [BIN + "/postgres", "-D", "/mnt/data", "-k", "/tmp", "-c", "listen_addresses=127.0.0.1", "-c", "shared_buffers=32MB",
     "-c", "fsync=off", "-c", "log_destination=stderr"],
    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
while subprocess.run([BIN + "/pg_isready", "-q", "-h", "127.0.0.1"]).returncode != 0:
    threading.Event().wait(0.1)

session, onlooker = Session(), Session()
onlooker.ask("create table entries as select n, md5(n::text) as content from generate_series(1, 20000) n")
session.ask("begin")
session.ask("insert into entries select n, 'not committed' from generate_series(20001, 20100) n")
pid = session.ask("select pg_backend_pid()")
txid = session.ask("select txid_current()")


def work(n):
    if onlooker.ask("select %d" % n) != str(n):
        raise AssertionError("the onlooker got another answer")


worker = lib.Worker(work)
worker.start()

CHECKSUM = "select count(*) || ' ' || md5(string_agg(n || content, ',' order by n)) from entries"


def digest():
    return {
        "inside": session.ask(CHECKSUM), "outside": onlooker.ask(CHECKSUM),
        "pid": session.ask("select pg_backend_pid()"), "txid": session.ask("select txid_current()"),
        "same": [pid, txid],
    }


def commit():
    session.ask("commit")
    return {"inside": session.ask(CHECKSUM), "outside": onlooker.ask(CHECKSUM)}


lib.serve(digest=digest, work=worker.report, commit=commit)
