"""The `crossdock` command: the composition root that puts the command groups together.

Each group is a module whose commands import what is heavy only when they run, so that `crossdock --help`
stays fast. A group with its own failures that a user can put right adds their class to `anticipated`.
"""

import sys

import typer

from crossdock_local.errors import LocalError
from crossdock_tools import auditing, documents, infrastructure, reasons, topics
from crossdock_tools import simulate as simulating
from crossdock_tools import trace as tracing
from crossdock_tools.chaos import command as disturbing
from crossdock_tools.dead_letters import command as dead_letters
from crossdock_tools.dead_letters.errors import DeadLetterError
from crossdock_tools.demo import command as demonstrating
from crossdock_tools.replaying import command as replaying
from crossdock_tools.schemas import commands as schemas
from crossdock_tools.schemas.contracts import ContractError

app = typer.Typer(
    name="crossdock",
    help="Run and operate the Crossdock event backbone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("up")(infrastructure.up)
app.command("down")(infrastructure.down)
app.command("status")(infrastructure.status)
app.command("demo")(demonstrating.demo)
app.command("chaos")(disturbing.chaos)
app.command("simulate")(simulating.simulate)
app.command("trace")(tracing.trace)
app.command("audit")(auditing.audit)
app.command("documents")(documents.documents)
app.command("reasons")(reasons.reasons)
app.add_typer(schemas.app, name="schemas")
app.add_typer(topics.app, name="topics")
app.add_typer(dead_letters.app, name="dlt")
app.add_typer(replaying.app, name="replay")


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 1, no traceback."""
    try:
        app()
    except Exception as error:
        if not isinstance(error, anticipated()):
            raise
        print(f"crossdock: {_told(error)}", file=sys.stderr)
        sys.exit(1)


def _told(error: Exception) -> str:
    """The error in the user's terms, with the next step."""
    from crossdock_eventing.broker.failure import BrokerUnavailable
    from crossdock_local import addresses

    if isinstance(error, BrokerUnavailable):
        return (
            f"no Kafka answers at {addresses.bootstrap_servers()} ({error.code}): crossdock up, "
            f"or check {addresses.BOOTSTRAP_VARIABLE}"
        )
    return str(error)


def anticipated() -> tuple[type[Exception], ...]:
    """The failures a user can put right. Imported only after one: Kafka's client is slow to load."""
    from crossdock_eventing.broker.failure import BrokerError
    from crossdock_eventing.registry import RegistryUnavailable, UnknownSchema
    from crossdock_tools.audit.ledgers import LedgerError
    from crossdock_tools.chaos.run import ChaosError
    from crossdock_tools.demo.client import Unexpected
    from crossdock_tools.demo.run import DemoError

    return (
        LocalError,
        ContractError,
        BrokerError,
        UnknownSchema,
        RegistryUnavailable,
        tracing.TraceError,
        auditing.AuditError,
        replaying.ReplayError,
        LedgerError,
        DeadLetterError,
        reasons.ReasonError,
        simulating.SimulationError,
        DemoError,
        ChaosError,
        Unexpected,
    )


if __name__ == "__main__":
    main()
