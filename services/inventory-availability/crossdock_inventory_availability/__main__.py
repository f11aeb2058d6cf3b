"""Run the service: `python -m crossdock_inventory_availability`."""

from crossdock_eventing.process import run
from crossdock_inventory_availability.service import service
from crossdock_inventory_availability.settings import Settings

if __name__ == "__main__":
    run(service(Settings()))
