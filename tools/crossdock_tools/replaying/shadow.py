"""A shadow run: recorded traffic through today's version of a service and through a candidate, each on a state of its own.

Called by `crossdock replay shadow`. Today's version replays the journal up to the window and through it; the candidate begins with
the state that this gave, and gets the same messages, answers, timers and table rows. Reads only, in no group; nothing is produced.
Timers that only the candidate sets do not fire, and calls that only it makes have no answer: nobody recorded them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from crossdock_eventing import names
from crossdock_eventing.broker.interface import Broker, TopicPartition
from crossdock_eventing.journal import Turn, UnknownVersion, read_turn
from crossdock_eventing.parking.formats import REPLAYS_KEY
from crossdock_eventing.replay import Difference, Replay, compare_runs
from crossdock_eventing.replay_check import (
    NotReplayable,
    Topics,
    compacted_topics,
    reading_codec,
    require_whole,
)
from crossdock_tools.replaying import parked
from crossdock_tools.replaying.candidate import (
    Choice,
    Piece,
    Ran,
    Remembering,
    composed,
    read_answer,
    require_schemas,
    run,
    write_job,
)
from crossdock_tools.replaying.errors import ReplayError
from crossdock_tools.replaying.progress import Progress, Steps, silent
from crossdock_tools.replaying.window import END, Bound, split_at_moment, split_at_offset

if TYPE_CHECKING:
    from crossdock_eventing.registry import SchemaSource
    from crossdock_eventing.service import Service

_WORDS: Final = parked.Words(new="is new", gone="is gone", changed="has changed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What to run. topic: whose offsets and time stamps bound it; None: bounds are moments of transactions.

    start, end: None: from the beginning, to the end as it is now. The end is excluded. partitions: only these; empty: all.
    """

    topic: str | None = None
    start: Bound | None = None
    end: Bound | None = None
    partitions: Collection[int] = ()


@dataclass(slots=True)
class Shadowed:
    """What a shadow run gave.

    counts: turns, messages, answers, timers and keys of the window. differences: what the candidate does otherwise.
    partitions: those in which the window holds anything. unlike: steps that today's version takes otherwise than recorded.
    """

    service: str
    differences: list[Difference] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    unlike: int = 0
    counts: Counter[str] = field(default_factory=Counter)


def shadow(
    service: Service,
    settings: Mapping[str, str],
    choice: Choice,
    broker: Broker,
    registry: SchemaSource,
    window: Window,
    *,
    progress: Progress = silent,
) -> Shadowed:
    """Run a window through `service`, composed with the settings that it ran under, and through the candidate.

    Raises ReplayError (no such window, beyond retention, a candidate that cannot be run), BrokerRefused, BrokerUnavailable.
    """
    known = {kind.TOPIC for kind in service.inputs}
    if window.topic is not None and window.topic not in known:
        raise ReplayError(f"{service.name} does not read {window.topic}; it reads {', '.join(sorted(known))}")
    if window.topic is None and any(
        each is not None and each.needs_topic for each in (window.start, window.end)
    ):
        raise ReplayError(
            "an offset is one of a topic: say which with --topic, or give --from and --to as times"
        )
    candidate = None if choice.checkout is not None else composed(service.name, settings, choice)
    journal = names.journal_topic(service.name)
    topics = Topics(
        broker,
        [journal, *sorted({names.retry_topic(service.name), *known})],
        partitions=(chosen := _chosen(broker, journal, window)),
        passes_max=1,
        progress=lambda done, total: progress(f"reading {service.name}", done, total),
    )
    count = topics.partitions[journal]
    compacted = compacted_topics(broker, [service])
    schemas = Remembering(registry)
    codec = reading_codec(schemas, service)
    found = Shadowed(service.name)
    today: list[Ran] = []
    pieces: list[Piece] = []
    beyond: list[str] = []
    steps = Steps(progress, f"today's {service.name}", sum(len(each) for each in topics.records.values()))
    for number in chosen:
        # What was rejected before the window was parked when it began, also where today's version would take it.
        replay = Replay(
            service, codec, partitions=count, compacted=compacted, rejections_stand=True, witness=steps
        )
        try:
            before, within = _cut(topics, TopicPartition(journal, number), window)
            require_whole(topics, TopicPartition(journal, number), [*before, *within])
            if not within:
                continue
            piece = _piece(replay, number, before, within, topics)
        except (NotReplayable, UnknownVersion) as reason:
            beyond.append(f"partition {number} ({reason})")
            continue
        ran = run(service, codec, piece, partitions=count, compacted=compacted, witness=steps)
        pieces.append(piece)
        today.append(ran)
        found.partitions.append(number)
        found.unlike += len(replay.differences) + len(ran.differences)
        found.counts += ran.counts
    steps.end()
    if beyond:
        raise ReplayError(
            f"beyond retention, so nobody knows the state at which the window begins: {'; '.join(beyond)}. "
            "Choose other partitions with --partition"
        )
    if not pieces:
        raise ReplayError(f"nothing was taken in this window: {_held(topics, window, chosen)}")
    if candidate is None:
        candidates = _in_checkout(service, settings, choice, pieces, schemas, count, compacted, progress)
    else:
        steps = Steps(progress, f"the candidate {service.name}", sum(found.counts.values()))
        codec = reading_codec(registry, candidate)
        candidates = [
            run(candidate, codec, piece, partitions=count, compacted=compacted, witness=steps)
            for piece in pieces
        ]
        steps.end()
    for piece, was, now in zip(pieces, today, candidates, strict=True):
        found.differences += _compared(service.name, piece, was, now)
        found.counts["keys"] += len(was.states.keys() | now.states.keys())
        found.counts["outputs"] += len(was.outputs)
    return found


def _chosen(broker: Broker, journal: str, window: Window) -> list[int]:
    """The partitions that are asked for. Raises ReplayError for one that does not exist."""
    admin = broker.admin()
    count = admin.partitions(journal)
    admin.close()
    chosen = set(range(count))
    for named in (
        set(window.partitions),
        *(each.partitions() for each in (window.start, window.end) if each is not None),
    ):
        if wrong := named - set(range(count)):
            raise ReplayError(f"there is no partition {min(wrong)}: they go from 0 to {count - 1}")
        if named:
            chosen &= named
    if not chosen:
        raise ReplayError("--from, --to and --partition name no partition in common")
    return sorted(chosen)


def _cut(topics: Topics, journal: TopicPartition, window: Window) -> tuple[list[Turn], list[Turn]]:
    """The turns of a task before the window, and those within. Raises ReplayError when it ends before it begins."""
    turns = [read_turn(record.value or b"{}") for record in topics.records[journal]]
    before: list[Turn] = []
    within = turns
    if window.topic is None:
        if window.end is not None and window.end.at_us is not None:
            within, _ = split_at_moment(within, window.end.at_us)
        if window.start is not None and window.start.at_us is not None:
            before, within = split_at_moment(within, window.start.at_us)
        return before, within
    records = topics.records[TopicPartition(window.topic, journal.partition)]
    start = None if window.start is None else window.start.offset_in(journal.partition, records)
    end = None if window.end is None else window.end.offset_in(journal.partition, records)
    if start is not None and end is not None and start > end and END not in (start, end):
        raise ReplayError(f"in partition {journal.partition} --to ({end}) lies before --from ({start})")
    if end is not None:
        within, _ = split_at_offset(within, window.topic, end)
    if start is not None:
        before, within = split_at_offset(within, window.topic, start)
    return before, within


def _piece(replay: Replay, number: int, before: list[Turn], within: list[Turn], topics: Topics) -> Piece:
    """Bring the replay to where the window begins. Raises NotReplayable."""
    records = [record for turn in within for run in turn.runs for record in topics.between(number, *run)]
    replay.task(number, before, topics.between)
    return Piece(number, dict(replay.states), dict(replay.own(number)), within, records)


def _held(topics: Topics, window: Window, chosen: Iterable[int]) -> str:
    """What there is instead."""
    if window.topic is None:
        return "choose other times"
    ends = [(number, topics.ends[TopicPartition(window.topic, number)]) for number in chosen]
    places = ", ".join(f"{number}: {end.low} to {end.high - 1}" for number, end in ends if end.high > end.low)
    return (
        f"{window.topic} holds, by partition, offsets {places}"
        if places
        else f"{window.topic} is empty there"
    )


def _compared(service: str, piece: Piece, was: Ran, now: Ran) -> Iterator[Difference]:
    """What the candidate does otherwise in one task: its steps, outputs, states and parked keys."""
    # Steps are told as differences from the record; those that today's version takes as well are none of the candidate's.
    alike = Counter(was.differences)
    for difference in now.differences:
        if alike[difference]:
            alike[difference] -= 1
        else:
            yield difference
    touched = was.states.keys() | now.states.keys()
    yield from compare_runs(
        service,
        was=(was.outputs, _states(piece, was, touched)),
        now=(now.outputs, _states(piece, now, touched)),
    )
    yield from parked.differences(service, _queues(was), _queues(now), _WORDS)


def _states(piece: Piece, ran: Ran, keys: Iterable[str]) -> dict[str, Any]:
    found = {key: ran.states[key] if key in ran.states else piece.states.get(key) for key in keys}
    return {key: state for key, state in found.items() if state is not None}


def _queues(ran: Ran) -> dict[str, bytes]:
    """What is parked; the link of the chain differs with anything else, and says nothing more."""
    return {name: value for name, value in ran.own.items() if name != REPLAYS_KEY}


# ---- a candidate in a process of its own


def _in_checkout(
    service: Service,
    settings: Mapping[str, str],
    choice: Choice,
    pieces: list[Piece],
    schemas: Remembering,
    partitions: int,
    compacted: frozenset[str],
    progress: Progress,
) -> list[Ran]:
    assert choice.checkout is not None
    places = _packages(choice.checkout, service.name)
    what = f"the candidate {service.name}"
    progress(what, 0, 0)
    require_schemas(schemas, pieces)
    with TemporaryDirectory(prefix="crossdock-shadow-") as folder:
        job, answer = Path(folder) / "job.json", Path(folder) / "answer.json"
        write_job(
            job,
            service,
            settings,
            choice,
            pieces,
            schemas=schemas,
            partitions=partitions,
            compacted=compacted,
        )
        # No address of a cluster reaches it, and -P keeps this directory's modules from standing in for the candidate's.
        bare = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("CROSSDOCK_", "KAFKA_", "SCHEMA_"))
        }
        ended = subprocess.run(  # noqa: S603 - this interpreter, on files of ours
            [sys.executable, "-P", "-m", "crossdock_tools.replaying.candidate", str(job), str(answer)],
            env={**bare, "PYTHONPATH": os.pathsep.join(map(str, places))},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if ended.returncode:
            last = (ended.stderr.strip() or f"exit code {ended.returncode}").splitlines()[-1]
            raise ReplayError(f"the candidate in {choice.checkout} cannot be run: {last}")
        file, ran = read_answer(answer, service.name)
    if not Path(file).resolve().is_relative_to(choice.checkout.resolve()):
        raise ReplayError(f"the candidate was imported from {file}, not from {choice.checkout}")
    progress(what, 1, 1)
    return ran


def _packages(checkout: Path, service: str) -> list[Path]:
    """What goes before the installed packages: the candidate's service, and its canonical model where the checkout has one."""
    package = f"crossdock_{service.replace('-', '_')}"
    for folder in (checkout / "services" / service, checkout):
        if (folder / package).is_dir():
            model = checkout / "libs" / "canonical"
            return [folder.resolve(), *([model.resolve()] if model.is_dir() else [])]
    raise ReplayError(f"{checkout} holds neither services/{service}/{package} nor {package}")
