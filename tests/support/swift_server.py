"""OpenStack Swift with its S3 API as one process on a loopback port, serving from a folder.

    python swift_server.py FOLDER --access ACCOUNT:USER --secret SECRET [--temporary] [--cert PEM --key PEM]

It prints `READY http://127.0.0.1:PORT` and ends at SIGTERM, or when its standard input ends, which it does
when whoever started it is killed. What was stored stays in the folder, unless `--temporary` has it removed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any

BLOCK_BYTES = 1 << 20
"""What is sent at once; Swift's own 64 KiB take a quarter more time for large objects."""
PARTS = ("account", "container", "object")  # the servers that keep what the fourth, the proxy, is asked for
FILTERS = "catch_errors gatekeeper listing_formats cache bulk s3api tempauth copy slo"

SWIFT = """
[swift-hash]
swift_hash_path_suffix = benchkit
[storage-policy:0]
name = default
default = yes
"""
DEFAULT = """
[DEFAULT]
swift_dir = {folder}/etc
devices = {folder}/devices
mount_check = false
fallocate_reserve = 0
log_level = ERROR
"""
PART = """
[pipeline:main]
pipeline = part
[app:part]
use = egg:swift#{part}
disk_chunk_size = {block_bytes}
network_chunk_size = {block_bytes}
"""
PROXY = """
[pipeline:main]
pipeline = {filters} proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
object_chunk_size = {block_bytes}
client_chunk_size = {block_bytes}
[filter:cache]
paste.filter_factory = benchkit_swift_cache:factory
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
ratelimit_as_client_error = no
[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{user} = {secret} .admin
"""


class Cache:
    """What Swift keeps in memcached, in this process: no second server, and a fifth of the latency."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[Any, float]] = {}

    def get(self, key: str, raise_on_error: bool = False) -> Any:
        value, until = self._values.get(key, (None, 0.0))
        return None if until and until < _now() else value

    def set(self, key: str, value: Any, *, time: float = 0, **_unused: Any) -> None:
        self._values[key] = (value, _now() + time if time else 0.0)

    def delete(self, key: str, server_key: str | None = None) -> None:
        self._values.pop(key, None)


_now = time.time


def configure(folder: Path, ports: dict[str, int], access: str, secret: str) -> None:
    """Write the settings and rings of the four servers, each on its port, into `folder/etc`."""
    from swift.common.ring import RingBuilder

    etc = folder / "etc"
    default = DEFAULT.format(folder=folder)
    for part in PARTS:
        builder = RingBuilder(4, 1, 0)
        place = {"ip": "127.0.0.1", "port": ports[part]}
        again = {f"replication_{key}": value for key, value in place.items()}
        builder.add_dev({"region": 1, "zone": 1, "device": "d1", "weight": 1, "meta": "", **place, **again})
        builder.rebalance()
        builder.get_ring().save(str(etc / f"{part}.ring.gz"))
        (etc / f"{part}.conf").write_text(default + PART.format(part=part, block_bytes=BLOCK_BYTES))
    account, user = access.split(":")
    proxy = PROXY.format(filters=FILTERS, account=account, user=user, secret=secret, block_bytes=BLOCK_BYTES)
    rest = [name for name in FILTERS.split() if f"[filter:{name}]" not in proxy]
    filters = "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in rest)
    (etc / "proxy.conf").write_text(default + proxy + filters)


def offer_cache() -> None:
    """Make the cache a filter that the proxy's settings can name."""
    cache, module = Cache(), types.ModuleType("benchkit_swift_cache")

    def factory(_settings: dict[str, str], **_local: str) -> Any:
        def add_to(app: Any) -> Any:
            def call(env: dict[str, Any], start: Any) -> Any:
                env["swift.cache"] = cache
                return app(env, start)

            return call

        return add_to

    module.factory = factory  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module


def main() -> None:
    """Serve until told to end."""
    options = parse()
    folder: Path = options.folder.resolve()
    (folder / "etc").mkdir(parents=True, exist_ok=True)
    (folder / "devices/d1").mkdir(parents=True, exist_ok=True)
    (folder / "etc/swift.conf").write_text(SWIFT)

    def end(*_signal: object) -> None:
        if options.temporary:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)  # the green threads of open connections would be waited for

    from swift.common import utils

    utils.monkey_patch()  # before anything of Swift's that opens a socket is imported
    import eventlet
    import eventlet.hubs
    import eventlet.wsgi

    utils.SWIFT_CONF_FILE = str(folder / "etc/swift.conf")
    utils.validate_hash_conf()
    from swift.common.http_protocol import SwiftHttpProtocol
    from swift.common.storage_policy import reload_storage_policies
    from swift.common.wsgi import loadapp

    eventlet.hubs.use_hub(utils.get_hub())
    signal.signal(signal.SIGTERM, end)
    reload_storage_policies()
    offer_cache()
    sockets = {part: eventlet.listen(("127.0.0.1", 0), backlog=1024) for part in (*PARTS, "proxy")}
    ports = {part: socket.getsockname()[1] for part, socket in sockets.items()}
    configure(folder, ports, options.access, options.secret)
    if options.cert:
        tls = {"certfile": options.cert, "keyfile": options.key, "server_side": True}
        sockets["proxy"] = eventlet.wrap_ssl(sockets["proxy"], **tls)
    serving = {
        "log": utils.NullLogger(),
        "protocol": SwiftHttpProtocol,
        "custom_pool": eventlet.GreenPool(4096),
        "debug": False,
        "capitalize_response_headers": False,
    }
    for part, socket in sockets.items():
        app = loadapp(str(folder / f"etc/{part}.conf"), global_conf={"log_level": "ERROR"})
        eventlet.spawn(eventlet.wsgi.server, socket, app, **serving)
    print(f"READY {'https' if options.cert else 'http'}://127.0.0.1:{ports['proxy']}", flush=True)
    eventlet.hubs.trampoline(sys.stdin.fileno(), read=True)
    end()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--access", required=True)
    parser.add_argument("--secret", required=True)
    parser.add_argument("--temporary", action="store_true")
    parser.add_argument("--cert")
    parser.add_argument("--key")
    return parser.parse_args()


if __name__ == "__main__":
    main()
