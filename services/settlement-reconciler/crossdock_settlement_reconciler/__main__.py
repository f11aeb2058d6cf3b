"""Run the settlement reconciler: `python -m crossdock_settlement_reconciler`."""

from crossdock_eventing.process import run
from crossdock_settlement_reconciler.service import service
from crossdock_settlement_reconciler.settings import Settings

if __name__ == "__main__":
    run(service(Settings()))
