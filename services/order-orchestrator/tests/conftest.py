"""The tests of an order share `order_story`; nothing else imports it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
