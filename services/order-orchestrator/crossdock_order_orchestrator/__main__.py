"""Run the order orchestrator: `python -m crossdock_order_orchestrator`."""

from crossdock_eventing.process import run
from crossdock_order_orchestrator.service import service
from crossdock_order_orchestrator.settings import Settings

if __name__ == "__main__":
    run(service(Settings()))
