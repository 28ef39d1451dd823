"""nginx with two workers serving /mnt/www, and a client that keeps one connection alive and checks each file that it gets."""

import hashlib
import http.client
import os
import subprocess
import threading

import lib

CONFIG = """
daemon off;
master_process on;
worker_processes 2;
user root;
pid /tmp/nginx.pid;
error_log /tmp/error.log;
events { worker_connections 64; }
http {
    access_log /tmp/access.log;
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    keepalive_requests 1000000000;
    keepalive_time 24h;
    keepalive_timeout 24h;
    server { listen 127.0.0.1:8080; root /mnt/www; sendfile on; }
}
"""

with open("/tmp/nginx.conf", "w") as config:
    config.write(CONFIG)
lib.say("start")
server = subprocess.Popen(["/usr/sbin/nginx", "-c", "/tmp/nginx.conf"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL)

want = {}
for name in sorted(os.listdir("/mnt/www")):
    with open(os.path.join("/mnt/www", name), "rb") as file:
        want[name] = hashlib.sha256(file.read()).hexdigest()
names = sorted(want)

client = http.client.HTTPConnection("127.0.0.1", 8080)
client.auto_open = 0  # a lost connection must fail, not be replaced
while True:
    try:
        client.connect()
        break
    except ConnectionRefusedError:
        client.close()
        threading.Event().wait(0.02)


def get(connection, name):
    connection.request("GET", "/" + name)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise AssertionError("%s: status %d" % (name, response.status))
    return hashlib.sha256(body).hexdigest()


def work(n):
    name = names[n % len(names)]
    got = get(client, name)
    if got != want[name]:
        raise AssertionError("%s has another content than at the start" % name)


worker = lib.Worker(work)
worker.start()


def digest():
    fresh = http.client.HTTPConnection("127.0.0.1", 8080)
    return {name: get(fresh, name) for name in names}


def processes():
    """The master and its workers, by number."""
    with open("/proc/%d/task/%d/children" % (server.pid, server.pid)) as children:
        return {"master": server.pid, "alive": server.poll() is None, "workers": sorted(map(int, children.read().split()))}


def port():
    return {"client": client.sock.getsockname()[1]}


lib.serve(digest=digest, work=worker.report, processes=processes, port=port)
