"""What can go wrong between the shell and the broker, as types that each name one remedy.

Raised by both brokers (`confluent`, `memory`), caught by the transactional loop. The loop never looks at an
error code: the class alone says what to do. Anything the loop does not catch ends the process, and the
supervisor restarts it with back-off.
"""


class BrokerError(Exception):
    """Base of all broker failures.

    `code` is the protocol's or the client's own name of the error (`UNKNOWN_MEMBER_ID`, `_TIMED_OUT`), for
    logs and metrics only; `reason` is its text.
    """

    def __init__(self, code: str, reason: str = "") -> None:
        super().__init__(f"{code}: {reason}" if reason else code)
        self.code = code
        self.reason = reason


class TransactionOutcomeUnknown(BrokerError):
    """Nobody here knows whether the transaction landed. Remedy: **recover** (new producer, re-read the
    changelog).

    Covers: a commit past its time-out (`_TIMED_OUT`: it has usually landed); an abort, begin or offset send
    that runs into the call still pending after one (`_CONFLICT`), or that itself timed out. All are
    retriable on paper, but retrying the same call on the same producer settles nothing within a bounded
    time.
    """


class AbortRequired(BrokerError):
    """The open transaction cannot commit. Remedy: `abort()`, drop overlays, poll, go on.

    Covers: `UNKNOWN_MEMBER_ID`, `ILLEGAL_GENERATION`, `STALE_MEMBER_EPOCH` and `FENCED_MEMBER_EPOCH` at
    `send_offsets` (the group moved on); a record that could not be delivered; a full local queue.
    The consumer has to seek back to its committed offsets, as the records of this step were not processed.
    """


class Fenced(BrokerError):
    """This process has been replaced, or looks as if it had. Remedy: exit non-zero; never re-initialise in
    process.

    Covers: `_FENCED` / `PRODUCER_FENCED` / `INVALID_PRODUCER_EPOCH` (a twin with the same transactional id,
    or the coordinator timed the transaction out: they look alike), `FENCED_INSTANCE_ID` /
    `UNRELEASED_INSTANCE_ID` (a twin with the same group instance id, or our own predecessor whose session
    still runs), any fatal error of a client.
    """


class BrokerUnavailable(BrokerError):
    """The broker did not answer in time and nothing is at stake. Remedy: try the same call again, with
    back-off.

    Covers: `CONCURRENT_TRANSACTIONS` or a time-out at `init_transactions` (retried inside until its
    deadline, then raised), and time-outs of queries: `committed`, `watermarks`, `topic_id` and the like.
    """


class OffsetMissing(BrokerError):
    """A partition has no committed offset, or one that lies outside the log. Remedy: exit; a person or
    deploy decides.

    Follows from `auto.offset.reset=error`: starting at either end would skip or repeat silently.
    """


class BrokerRefused(BrokerError):
    """The request itself is wrong: unknown topic, record too large, bad setting, a call out of order.
    Remedy: crash.
    """
