"""The daemon, and a note of each commit: python -m tests.benchmarks.daemon TIMELINE run -c FILE.

Nothing in the product knows of this: the commit is wrapped from outside before the verb starts.
"""

from __future__ import annotations

import os
import sys
import time

from anomaly_daemon import cli
from anomaly_daemon.adapters.kafka_sink import KafkaSink
from anomaly_daemon.domain.records import BatchOutput


def main(timeline: str, *command: str) -> int:
    """The verb, each commit noted with the monotonic time, the process and the offset of each partition's number."""
    file = os.open(timeline, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    commit = KafkaSink.commit

    def noted(sink: KafkaSink, output: BatchOutput) -> None:
        commit(sink, output)
        if output.next_offsets:
            offsets = ",".join(f"{partition.number}:{offset}" for partition, offset in output.next_offsets.items())
            os.write(file, f"{time.monotonic():.6f} {os.getpid()} {offsets}\n".encode())

    KafkaSink.commit = noted  # type: ignore[assignment, method-assign]
    return cli.main(command)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
