"""What stands between a client and the proxy: nginx as it comes, and one that cuts what is silent."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.proxied.running import starting

from .tools import free_port

__all__ = ["WAYS", "open_ways"]

#: The ways that are made here, beside none at all.
WAYS: Final = ("nginx", "cutter", "upgrade")

# nginx speaks HTTP/1.0 to what is behind it, keeps answers back, and takes 1 MB, unless it is told otherwise.
# Of these only the last is changed: nothing behind it could help that.
_NGINX: Final = """
daemon off;
pid nginx.pid;
user root;
worker_processes 1;
error_log stderr;
events {{ worker_connections 200; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    client_max_body_size 64m;
    server {{
        listen 127.0.0.1:{nginx};
        location / {{ proxy_pass http://127.0.0.1:{proxy}; }}
    }}
    server {{
        listen 127.0.0.1:{cutter};
        location / {{ proxy_pass http://127.0.0.1:{proxy}; proxy_read_timeout {cut}s; }}
    }}
    server {{
        listen 127.0.0.1:{upgrade};
        location / {{
            proxy_pass http://127.0.0.1:{proxy};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $http_connection;
        }}
    }}
}}
"""


@contextmanager
def open_ways(folder: Path, port: int, *, cut: int = 60) -> Generator[dict[str, int]]:
    """Ports that lead to the proxy's *port*, by way; the cutter is patient for so many seconds.

    Where there is no nginx there is only "none".
    """
    ports = {way: free_port() for way in WAYS}
    everything = {"none": port, **ports}
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/opt/homebrew/bin")
    if program is None:
        yield {"none": port}
        return
    (folder / "nginx.conf").write_text(_NGINX.format(proxy=port, cut=cut, **ports), encoding="utf-8")
    command = (program, "-e", "stderr", "-p", str(folder), "-c", "nginx.conf")
    with starting(command, log=folder / "nginx.log") as process:
        _wait(process, list(ports.values()), folder / "nginx.log")
        yield everything


def _wait(process: subprocess.Popen[str], ports: list[int], log: Path) -> None:
    deadline = time.monotonic() + 10
    for port in ports:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"nginx does not run:\n{log.read_text()}") from None
                time.sleep(0.02)
