"""moto's S3 as one process on a loopback port, everything in memory; it trusts any signature.

It prints `READY http://127.0.0.1:PORT` and ends at SIGTERM, or when its standard input ends.
"""

from __future__ import annotations

import sys

from moto.moto_server.threaded_moto_server import ThreadedMotoServer

if __name__ == "__main__":
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    print("READY http://{}:{}".format(*server.get_host_and_port()), flush=True)
    sys.stdin.read()
