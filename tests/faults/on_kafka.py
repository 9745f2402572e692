"""Bad input through a real broker: every codec, records as large as the broker takes, compression bombs, headers that are no text."""

from __future__ import annotations

import json
import random
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
from kafka import KafkaAdminClient, KafkaProducer

from anomaly_daemon.adapters.kafka_unpacking import RECORD_BYTES_MAX
from anomaly_daemon.domain.records import Message, Record
from tests.end_to_end.harness import Site, kill, make_site
from tests.faults.bad_input import mixed, without_offsets
from tests.faults.dead_letters import mended_records
from tests.faults.serving import serve
from tests.faults.verdict import Verdict
from tests.kafka.broker import shared_broker
from tests.small import stream

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
BOMB_BYTES = {"gzip": 900 << 20, "zstd": 1000 << 20, "lz4": 200 << 20, "snappy": 15 << 20}
_TIMES_MS = 1 << 41  # beyond the year 2039 the broker takes no record
_BATCH = "input.batch_records_max=512"
# Of key, value and headers: more the broker takes of nobody.
_RECORD_BYTES_MAX = 1_048_400
_NARROW_BYTES, _FITTING = 16_384, "output.dead_letter_bytes_max=16000"
_DEADLINE_S = 120.0
_PIECE_BYTES = 256 << 10
_PEAK_BYTES_MAX = 768 << 20


def run(is_full: bool, seed: int) -> Iterator[Verdict]:
    """One codec after the other, on a broker of our own or the one that KAFKA_BOOTSTRAP names."""
    bootstrap = shared_broker().bootstrap
    for codec in CODECS:
        with tempfile.TemporaryDirectory() as name:
            yield mangled_through(bootstrap, codec, Path(name), 200_000 if is_full else 1_000, seed)
    with tempfile.TemporaryDirectory() as name:
        yield narrow_dead_letters(bootstrap, Path(name))
    with tempfile.TemporaryDirectory() as name:
        yield mended_records(Path(name), bootstrap)
    for codec, size in BOMB_BYTES.items():
        for pieces in (1, max(1, size // _PIECE_BYTES)):
            with tempfile.TemporaryDirectory() as name:
                yield bomb(bootstrap, codec, Path(name), size, pieces)


def kafka_site(bootstrap: str, folder: Path, codec: str, *assignments: str) -> Site:
    """A site on the broker, with topics of its own that are still empty."""
    name = f"faults-{uuid.uuid4().hex[:12]}"
    # The records bear times long past, by which the broker would soon delete them.
    options = (_BATCH, "topics.retention=36500d", f"kafka.compression={codec}", *assignments)
    return make_site(folder / "kafka", f"kafka://{bootstrap}", (), topic=name, group=name, partitions=1, assignments=options)


def embedded_twin(site: Site, folder: Path) -> Site:
    """The same on the embedded log: what the result is held against."""
    topic, group = site.settings.input.topics[0], site.settings.input.group
    return make_site(folder / "embedded", f"sqlite:///{folder}/topics.db", (), topic=topic, group=group, partitions=1, assignments=(_BATCH,))


def fill(site: Site, records: list[Record]) -> None:
    """Append, keeping key, headers and time, but for times to come: those the broker itself refuses."""
    topic = site.settings.input.topics[0]
    site.send(Message(topic, one.key, one.value, one.headers, one.timestamp_ms % _TIMES_MS) for one in records)


def mangled_through(bootstrap: str, codec: str, folder: Path, times: int, seed: int) -> Verdict:
    """Mangled records among good ones, also as large as the broker takes: the same alerts and dead letters as on the embedded log."""
    dice = random.Random(f"{seed} {codec}")
    records = [
        *(record for record in mixed(stream(seed, 4, max(400, times // 10)), times, dice) if _size(record) <= _RECORD_BYTES_MAX),
        *(_incompressible(dice, size) for size in (1_000_001, 1_048_000, 1_048_400)),
    ]
    site = kafka_site(bootstrap, folder, codec)
    twin = embedded_twin(site, folder)
    for one in (site, twin):
        fill(one, records)
        serve(one)
    letters = site.dead_letters()
    failures = []
    if site.alerts() != twin.alerts():
        failures.append(f"{len(site.alerts())} alerts, {len(twin.alerts())} on the embedded log, or other ones")
    if letters != twin.dead_letters():
        failures.append(f"{len(letters)} dead letters, {len(twin.dead_letters())} on the embedded log, or other ones")
    return Verdict(
        f"mangled records through Kafka, {codec}", times, tuple(failures), f"{len(letters)} dead letters, {len(site.alerts())} alerts equal"
    )


def narrow_dead_letters(bootstrap: str, folder: Path) -> Verdict:
    """A dead-letter topic that takes less than a dead letter: stopped before the record and the settings named; once they fit, nothing is missing.

    Beside the large one small ones, of which the topic takes fewer at once than the client sends.
    """
    good, dice = stream(1, 6, 200), random.Random(1)
    records = [*good[:100], *(_incompressible(dice, size) for size in (100_000, *[1_000] * 100)), *good[100:]]
    site = kafka_site(bootstrap, folder, "none")
    topic = site.settings.output.dead_letter_topic
    with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
        admin.delete_topics([topic])
        admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1, "configs": {"max.message.bytes": str(_NARROW_BYTES)}}})
    fill(site, records)
    process = site.daemon("--until-end")
    process.join(_DEADLINE_S)
    kill(process)
    failures = [] if process.exitcode == 2 else [f"it ended with {process.exitcode}: {site.log_tail()}"]
    told = site.log()
    if not all(word in told for word in (topic, "max.message.bytes", "output.dead_letter_bytes_max")) or "Traceback" in told:
        failures.append(f"not told which topic takes too little, and which settings decide: {told[-1000:]}")
    if site.dead_letters():
        failures.append("the dead letter is there after all")
    fitting, twin = (Site(one.folder, (*one.assignments, _FITTING)) for one in (site, embedded_twin(site, folder)))
    fill(twin, records)
    for one in (fitting, twin):
        serve(one)
    if fitting.alerts() != twin.alerts():
        failures.append(f"{len(fitting.alerts())} alerts, {len(twin.alerts())} on the embedded log, or other ones")
    letters = fitting.dead_letters()
    if letters != twin.dead_letters() or sum(len(value or b"") > _NARROW_BYTES // 2 for _, value, _ in letters) != 1:
        failures.append(
            f"{len(letters)} dead letters, {len(twin.dead_letters())} on the embedded log, or not the large one cut to what the topic takes"
        )
    return Verdict(f"a dead-letter topic of max.message.bytes {_NARROW_BYTES}", 1, tuple(failures), "exit code 2 before the record, gone on cut")


def bomb(bootstrap: str, codec: str, folder: Path, size: int, pieces: int) -> Verdict:
    """One batch within the broker's limit that unpacks to hundreds of megabytes, of so many records, among good ones."""
    good = stream(1, 6, 200)
    site = kafka_site(bootstrap, folder, codec)
    twin = embedded_twin(site, folder)
    fill(site, good[:100])
    _explode(bootstrap, codec, site.settings.input.topics[0], size, pieces)
    fill(site, good[100:])
    fill(twin, good)
    serve(twin)
    process = site.daemon("--until-end")
    peak = 0
    while process.exitcode is None:
        process.join(0.02)
        try:
            peak = max(peak, psutil.Process(process.pid).memory_info().rss)
        except psutil.Error:
            break
    process.join()
    letters = site.dead_letters()
    failures = [] if process.exitcode == 0 else [f"exit code {process.exitcode}: {site.log_tail()}"]
    if peak > _PEAK_BYTES_MAX:
        failures.append(f"peak memory {peak >> 20} MiB, more than {_PEAK_BYTES_MAX >> 20}")
    reasons = Counter(headers["dead_letter.reason"] for _, _, headers in letters)
    if ("record_cut" in site.events()) != (pieces == 1 and size > RECORD_BYTES_MAX and codec != "snappy"):
        failures.append("whether a record was cut was not told as it is")
    if reasons != {b"oversized" if pieces == 1 else b"malformed_json": pieces}:
        failures.append(f"dead letters {dict(reasons)}, not the {pieces} of the bomb alone")
    told, unharmed = (sorted(json.dumps(without_offsets(alert), sort_keys=True) for alert in one.alerts()) for one in (site, twin))
    if told != unharmed or not told:
        failures.append(f"{len(told)} alerts, {len(unharmed)} without the bomb, or other ones")
    broken = f"a compression bomb of {size >> 20} MiB in {pieces} records, {codec}"
    return Verdict(broken, 1, tuple(failures), f"peak memory of the daemon {peak >> 20} MiB")


def _explode(bootstrap: str, codec: str, topic: str, size: int, pieces: int) -> None:
    """One batch of so many records, each a number that does not end."""
    arguments = {"max_request_size": 1 << 30, "batch_size": 1 << 30, "request_timeout_ms": 120_000, "delivery_timeout_ms": 300_000}
    with closing(KafkaProducer(bootstrap_servers=bootstrap, compression_type=codec, linger_ms=60_000, **arguments)) as producer:
        piece = b'{"flow": ' + b"0" * (size // pieces)
        sent = [producer.send(topic, piece, b"bomb") for _ in range(pieces)]
        producer.flush()
        assert len({one.get(120).partition for one in sent}) == 1


def _size(record: Record) -> int:
    return len(record.key or b"") + len(record.value or b"") + sum(len(name.encode()) + len(value) for name, value in record.headers)


def _incompressible(dice: random.Random, size: int) -> Record:
    """One that no codec makes smaller."""
    return Record(None, 0, 0, b"mangled-0", dice.randbytes(size))  # type: ignore[arg-type]  # only its content is appended
