"""The gateway as a process: what it says when it cannot start."""

import os
import socket
import subprocess
import sys


def test_a_port_in_use_ends_with_one_line_that_names_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [sys.executable, "-m", "crossdock_channel_gateway"],
            env=os.environ | {"CROSSDOCK_GATEWAY_HOST": "127.0.0.1", "CROSSDOCK_GATEWAY_PORT": port},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    said = (ended.stdout + ended.stderr).strip()
    assert ended.returncode == 1
    assert len(said.splitlines()) == 1, said
    assert "CROSSDOCK_GATEWAY_PORT" in said
    assert f"127.0.0.1:{port}" in said
