"""The command line as a whole."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "dlt --help",
        "trace --help",
        "topics --help",
        "demo --help",
        "reasons --help",
        "replay --help",
    ],
)
def test_help_loads_neither_the_kafka_client_nor_avro(command: str) -> None:
    """Else every mistyped option costs half a second."""
    program = (
        "import sys\n"
        "from crossdock_tools.main import main\n"
        f"sys.argv = ['crossdock', *{command.split()!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'confluent_kafka', 'fastavro', 'httpx', 'crossdock_canonical.records'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "Usage: crossdock" in answer.stdout
