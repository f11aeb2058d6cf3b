"""How the user called this program, for next steps that can be copied as they are printed."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def command_name() -> str:
    """`crossdock` where that is on the PATH, else the path it was called by."""
    called = Path(sys.argv[0])
    if called.name != "crossdock" or shutil.which("crossdock"):
        return "crossdock"
    return os.path.relpath(called)
