"""The broker in memory: Kafka's transaction and group rules, deterministic, without threads or a clock of
its own.

Used by unit tests of the shell and the services, and by the simulator. `MemoryBroker` is the entrance.
"""

from crossdock_eventing.broker.memory.broker import MemoryBroker
from crossdock_eventing.broker.memory.cluster import Faults, Timeouts

__all__ = ["Faults", "MemoryBroker", "Timeouts"]
