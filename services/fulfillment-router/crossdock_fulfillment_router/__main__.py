"""Run one instance of the fulfilment router: `python -m crossdock_fulfillment_router`."""

from crossdock_eventing.process import run
from crossdock_fulfillment_router.service import service
from crossdock_fulfillment_router.settings import Settings

if __name__ == "__main__":
    run(service(Settings()))
