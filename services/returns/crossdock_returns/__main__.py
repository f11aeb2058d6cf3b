"""Run the returns service: `python -m crossdock_returns`."""

from crossdock_eventing.process import run
from crossdock_returns.service import service
from crossdock_returns.settings import Settings

if __name__ == "__main__":
    run(service(Settings()))
