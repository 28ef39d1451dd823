"""Sends numbered packets to TO (address:port) for ever: a sign of life that shows outside which copy of it runs, and where."""

import os
import socket
import time

address, port = os.environ["TO"].split(":")
nonce = os.urandom(8).hex()
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
n = 0
while True:
    n += 1
    try:
        sender.sendto(b"%s %d" % (nonce.encode(), n), (address, int(port)))
    except OSError:
        pass  # nobody listens yet
    time.sleep(0.005)
