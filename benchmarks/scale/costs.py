"""Calculate the cost of preparing a corpus of any size and training on it, from measured unit costs and assumed prices.

Nothing here measures anything. ``Measured`` holds measured values; ``Assumed`` holds values that depend on the
machines, prices too, and that you should replace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipelines.prepare.ray_units import PER_SLOT, PORTION

KB, MB, GB, TB = 1e3, 1e6, 1e9, 1e12
HOUR, MONTH_H = 3600.0, 730.0
FLOAT32 = 4
DENSE, FACTORISED = "dense", "factorised"


@dataclass(frozen=True)
class Measured:
    """Unit costs: s, bytes and floating-point operations; docs/scale.md says where each comes from.

    ``decode_s``: a video on one core in the job. ``driver_s``: a work unit in the process that runs the job,
    ``driver_unit_bytes``: its memory for one until an execution ends. ``open_s``, ``reopen_s``: a manifest row before
    decoding in a new and in a finished folder; ``dataset_s``: a work unit when the dataset manifest is made.
    ``requests``: of the store for one ledger part. ``..._shard_...``: a shard in a training rank, ``..._video_...``: a
    video there (its row, and its place in the order of an epoch). ``..._read_s``: a video's frames from a shard in
    memory, on one core. ``encoder_flops``: forward and backward of a video with its caption; ``..._pair_flops``: of a
    pair of text and video; ``direction_flops``: of direction diversity, for a text and an ordered pair of videos.
    ``embedded``: floats of a video that ranks send each other.
    """

    decode_s: float = 0.093
    source_bytes: float = 634 * KB
    raw_bytes: float = 1782 * KB
    jpeg_bytes: float = 172 * KB
    ledger_bytes: float = 96
    manifest_bytes: float = 156
    entry_bytes: float = 195
    driver_s: float = 0.0124
    driver_unit_bytes: float = 10.3 * KB
    open_s: float = 27e-6
    open_bytes: float = 24
    reopen_s: float = 74e-6
    dataset_s: float = 1.5e-3
    requests: int = 3
    readers: int = 16
    rank_shard_s: float = 474e-6
    rank_shard_bytes: float = 29.5 * KB
    rank_video_s: float = 10.4e-6
    rank_video_bytes: float = 602 + 356
    order_video_s: float = 13.2e-6
    raw_read_s: float = 2.4e-3
    jpeg_read_s: float = 5.7e-3
    encoder_flops: float = 40.54e12 / 128
    dense_pair_flops: float = 3.85e6
    factorised_pair_flops: float = 0.83e6
    direction_flops: float = 6 * 512
    trained: int = 163_145_985
    parameters: int = 165_505_281
    embedded: int = 12 * 512


@dataclass(frozen=True)
class Assumed:
    """Values that depend on the machines: all are examples for you to replace.

    Prices in any currency: of a core-hour, a GPU-hour, a TB stored for a month, a thousand read requests.
    ``store_write``, ``store_read``: bytes/s of the storage that all nodes share. ``answer_s``: of one request. ``nic``:
    bytes/s of a training node's network; ``disk``: of its own disk. ``peak``: floating-point operations/s of a GPU in
    the precision used; ``utilisation``: the part of them that a step gets.
    """

    core_hour: float = 0.04
    gpu_hour: float = 2.0
    tb_month: float = 23.0
    thousand_reads: float = 0.0004
    node_cores: int = 16
    store_write: float = 1 * GB
    store_read: float = 2 * GB
    answer_s: float = 0.03
    node_gpus: int = 8
    nic: float = 12.5 * GB
    disk: float = 5 * GB
    peak: float = 312e12
    utilisation: float = 0.35


def stored_bytes(storage: str, measured: Measured) -> float:
    """Return the bytes that prepare stores of a video."""
    return {"raw": measured.raw_bytes, "jpeg": measured.jpeg_bytes}[storage]


@dataclass(frozen=True)
class Preparing:
    """A job on so many cores, with the limit of each part (videos/s), the least of which is the rate.

    ``driver_bytes``: memory of the driver for the units of an execution.
    """

    cores: int
    limits: dict[str, float]
    videos: float
    node_cores: int
    core_hour: float
    driver_bytes: float

    @property
    def nodes(self) -> float:
        """Return the number of machines."""
        return math.ceil(self.cores / self.node_cores)

    @property
    def bottleneck(self) -> str:
        """Return the part with the lowest limit."""
        return min(self.limits, key=self.limits.__getitem__)

    @property
    def rate(self) -> float:
        """Return videos per second."""
        return min(self.limits.values())

    @property
    def efficiency(self) -> float:
        """Return the rate as a share of the cores' rate."""
        return self.rate / self.limits["decoding"]

    @property
    def hours(self) -> float:
        """Return how many hours the cores run."""
        return self.videos / self.rate / HOUR

    @property
    def price(self) -> float:
        """Return the price of the cores, idle or not."""
        return self.hours * self.cores * self.core_hour


def preparing(
    videos: float, cores: int, unit_videos: int, storage: str, measured: Measured, assumed: Assumed
) -> Preparing:
    """Calculate prepare on so many cores, one task at a time on each."""
    limits = {
        "decoding": cores / measured.decode_s,
        "driver": unit_videos / measured.driver_s,
        "store, reading": assumed.store_read / measured.source_bytes,
        "store, writing": assumed.store_write / stored_bytes(storage, measured),
    }
    execution = min(math.ceil(videos / unit_videos), max(PORTION, PER_SLOT * cores))
    driver_bytes = execution * measured.driver_unit_bytes
    return Preparing(cores, limits, videos, assumed.node_cores, assumed.core_hour, driver_bytes)


@dataclass(frozen=True)
class Files:
    """The files of a prepared corpus, and the cost of opening it. Seconds are of one process.

    ``look_s``: of finding the remaining work in a finished folder; ``answers_s``: what an object store's answers add to
    it and to the dataset manifest each. ``rank_...``: of one training rank.
    """

    units: int
    shards: int
    stored_tb: float
    month: float
    ledger_gb: float
    dataset_mb: float
    open_s: float
    driver_gb: float
    look_s: float
    answers_s: float
    requests_price: float
    rank_start_s: float
    rank_gb: float
    order_s: float


def files(
    videos: float, unit_videos: int, shard_bytes: float, storage: str, measured: Measured, assumed: Assumed
) -> Files:
    """Calculate prepare's files for so many videos, units of ``unit_videos`` and shards of at most ``shard_bytes``."""
    units = math.ceil(videos / unit_videos)
    # A unit's shard is closed once it holds that much, so the last video may go beyond.
    per_shard = math.ceil(shard_bytes / stored_bytes(storage, measured))
    shards = units * math.ceil(unit_videos / per_shard)
    requests = units * measured.requests
    return Files(
        units=units,
        shards=shards,
        stored_tb=videos * stored_bytes(storage, measured) / TB,
        month=videos * stored_bytes(storage, measured) / TB * assumed.tb_month,
        ledger_gb=videos * (measured.ledger_bytes + measured.manifest_bytes) / GB,
        dataset_mb=shards * measured.entry_bytes / MB,
        open_s=videos * measured.open_s,
        driver_gb=videos * measured.open_bytes / GB,
        look_s=videos * measured.reopen_s + units * measured.dataset_s,
        answers_s=requests * assumed.answer_s / measured.readers,
        requests_price=2 * requests / 1000 * assumed.thousand_reads,
        rank_start_s=shards * measured.rank_shard_s + videos * measured.rank_video_s,
        rank_gb=(shards * measured.rank_shard_bytes + videos * measured.rank_video_bytes) / GB,
        order_s=videos * measured.order_video_s,
    )


@dataclass(frozen=True)
class Step:
    """A training step of one of ``gpus`` GPUs with ``rows`` videos each: seconds, and the bytes it needs.

    ``compute_s``: operations / (peak x utilisation), or the measured value; ``reduce_s``: summing the gradients over
    ranks, which follows the backward pass; ``gather_s``: sending embeddings and their gradients. ``read``: bytes of
    frames that a node reads for it; ``disk``: bytes/s that it can read; ``read_s``: seconds of a core for a video.
    """

    gpus: int
    rows: int
    compute_s: float
    pairs_share: float
    reduce_s: float
    gather_s: float
    read: float
    disk: float
    read_s: float

    @property
    def seconds(self) -> float:
        """Return a step's time without overlap, including the wait for frames that come too slowly."""
        return max(self.compute_s + self.reduce_s + self.gather_s, self.read / self.disk)

    @property
    def rate(self) -> float:
        """Return videos per second of all GPUs."""
        return self.gpus * self.rows / self.seconds

    @property
    def efficiency(self) -> float:
        """Return the share of a step without communication, waiting, and the pairs that one GPU would not have."""
        return self.compute_s * (1 - self.pairs_share) / self.seconds

    @property
    def readers(self) -> float:
        """Return the cores per GPU that are busy reading frames."""
        return self.rate / self.gpus * self.read_s

    @property
    def loses_most(self) -> str:
        """Return the largest part of a step that one GPU alone would not spend; "nothing" if there is none."""
        work = self.compute_s + self.reduce_s + self.gather_s
        lost = {
            "pairs": self.compute_s * self.pairs_share if self.gpus > 1 else 0.0,
            "gradients": self.reduce_s,
            "gather": self.gather_s,
            "frames": max(0.0, self.read / self.disk - work),
        }
        most = max(lost, key=lost.__getitem__)
        return most if lost[most] > 0 else "nothing"


def step(
    gpus: int,
    rows: int,
    storage: str,
    increments: str,
    measured: Measured,
    assumed: Assumed,
    step_s: float | None = None,
) -> Step:
    """Calculate a step of gare train; ``step_s``: a measured step of one GPU with so many rows, if there is one."""
    encoders, pairs = rows * measured.encoder_flops, pairs_flops(gpus, rows, increments, measured)
    speed = assumed.peak * assumed.utilisation
    if step_s is not None:
        speed = (encoders + pairs_flops(1, rows, increments, measured)) / step_s
    # A ring over nodes moves each byte over a node's network twice to sum and once to gather, less the node's own
    # share.
    nodes = math.ceil(gpus / assumed.node_gpus)
    crossing = (nodes - 1) / nodes / assumed.nic
    gradients = 2 * measured.trained * FLOAT32 * crossing
    gathered = 2 * gpus * rows * measured.embedded * FLOAT32 * crossing
    frames = min(gpus, assumed.node_gpus) * rows * stored_bytes(storage, measured)
    return Step(
        gpus=gpus,
        rows=rows,
        compute_s=(encoders + pairs) / speed,
        pairs_share=pairs / (encoders + pairs),
        reduce_s=gradients,
        gather_s=gathered,
        read=frames,
        disk=assumed.disk,
        read_s={"raw": measured.raw_read_s, "jpeg": measured.jpeg_read_s}[storage],
    )


def pairs_flops(gpus: int, rows: int, increments: str, measured: Measured) -> float:
    """Return a rank's operations on pairs of its ``rows`` texts with all ranks' videos, forward and backward."""
    videos = gpus * rows
    return rows * videos * (per_pair(increments, measured) + videos * measured.direction_flops)


def per_pair(increments: str, measured: Measured) -> float:
    """Return the operations of a pair, without direction diversity."""
    return {DENSE: measured.dense_pair_flops, FACTORISED: measured.factorised_pair_flops}[increments]


def checkpoint_bytes(measured: Measured) -> float:
    """Return the bytes of the weights, and AdamW's two moments of the trained ones, in float32."""
    return (measured.parameters + 2 * measured.trained) * FLOAT32


def scoring_hours(texts: float, videos: float, increments: str, measured: Measured, assumed: Assumed) -> float:
    """Return GPU-hours to score every text with every video once, forward alone: a third of forward and backward."""
    return texts * videos * per_pair(increments, measured) / 3 / (assumed.peak * assumed.utilisation) / HOUR
