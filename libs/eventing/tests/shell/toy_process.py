"""The toy service as a program, for `test_process`: `python toy_process.py <name>`, its topics under that name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from toy import RECORDS, toy_service

from crossdock_eventing.process import run

name = sys.argv[1]
for kind in RECORDS:
    kind.TOPIC = f"{name}.{kind.TOPIC}"
run(toy_service(name))
