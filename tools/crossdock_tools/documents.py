"""`crossdock documents`: the documents that the ERP did not take, each with why. Mounted by `main`.

A refused document is an event and no dead letter: its chain goes on, and the document has to be entered by hand.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated, Any

import typer

from crossdock_tools.cluster import reachable_cluster
from crossdock_tools.schemas.commands import DemoOption, JsonOption


def documents(
    code: Annotated[
        str | None, typer.Option(help="Only those that failed with this code, such as erp.rejected.")
    ] = None,
    demo: DemoOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the documents that were not posted: what has to be entered by hand, under which key, in which ERP, and why."""
    from crossdock_canonical.records import ErpDocumentFailed
    from crossdock_tools.topic_reader import TopicReader

    with reachable_cluster(demo=demo) as cluster:
        reader = TopicReader(cluster.broker(), cluster.registry(), [ErpDocumentFailed.TOPIC])
        try:
            failed = [
                entry
                for entry in reader.entries()
                if isinstance(entry.body, ErpDocumentFailed) and code in (None, entry.body.code)
            ]
        finally:
            reader.close()
    # In the order in which they failed, which is that in which they have to be entered: the one before comes first.
    failed.sort(key=lambda entry: (entry.meta.recorded_at, entry.record.partition, entry.record.offset))
    rows: list[dict[str, Any]] = [
        {
            "at": entry.meta.recorded_at.isoformat(timespec="milliseconds"),
            "erp": entry.body.erp,
            "document_type": entry.body.document_type.value,
            "business_key": entry.body.business_key,
            "version": entry.body.version,
            "order_id": entry.body.order_id,
            "code": entry.body.code,
            "detail": entry.body.detail,
        }
        for entry in failed
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(
            f"{row['at'][:19].replace('T', ' ')}  {row['erp']}  {row['business_key']}  {row['code']}  {row['detail']}"
        )
    codes = ", ".join(f"{count:,} {name}" for name, count in sorted(Counter(r["code"] for r in rows).items()))
    chains = len({entry.body.chain for entry in failed})
    print(f"{len(rows):,} documents of {chains:,} chains failed{f': {codes}' if codes else ''}")
