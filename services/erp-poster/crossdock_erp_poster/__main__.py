"""Run the service: `python -m crossdock_erp_poster`."""

from crossdock_erp_poster.service import service
from crossdock_erp_poster.settings import Settings
from crossdock_eventing.process import run

if __name__ == "__main__":
    run(service(Settings()))
