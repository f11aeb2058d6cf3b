"""inventory-availability as a program, with the bug that a file names, or none: `python faulty_service.py <file>`.

Whoever deploys another version writes the file and stops the process; its supervisor starts it again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from feeds import faulty, transfers

from crossdock_eventing.process import run
from crossdock_inventory_availability.service import service
from crossdock_inventory_availability.settings import Settings

made = service(Settings())
run(faulty(made, transfers) if Path(sys.argv[1]).read_text() == transfers.__name__ else made)
