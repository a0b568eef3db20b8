"""Whether a prepared folder is whole: every digest, every row, and a sample of the sources decoded again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from gare.common.files import file_digest
from gare.schema import DATASET_FILE, LEDGER_FOLDER, SHARD_FOLDER, UNIT_KEY
from pipelines.dataset import MANIFEST_FILE, RECIPE_FILE, ShardFile, recipe_digest
from pipelines.dataset.finished import dataset_manifest
from pipelines.dataset.inspection.contents import Contents
from pipelines.dataset.inspection.rows import ledger_problems, row_problems
from pipelines.dataset.inspection.sources import UnverifiableError, sampled, source_problem
from pipelines.manifest.rows import content_digest


@dataclass
class Verdict:
    """What was found, a sentence each, and how much was looked at.

    ``problems``: what is not as it should be; ``unverifiable``: sources of the sample that are gone or out of reach;
    ``shards`` and ``rows``: all of them were checked; ``sources``: decoded again.
    """

    problems: list[str] = field(default_factory=list)
    unverifiable: list[str] = field(default_factory=list)
    shards: int = 0
    rows: int = 0
    sources: int = 0


def verify(
    contents: Contents, *, sample: int | None, seed: int = 0, on_progress: Callable[[int, int], None] = lambda *_: None
) -> Verdict:
    """Check digests, files and rows of a folder, and decode ``sample`` of its videos again, drawn by ``seed``.

    ``sample``: 0 for none, None for all. ``on_progress`` is told how many shards and sources are done, and of how many.
    The decoded frames, times and facts of a source have to be those of its row, bit for bit.
    """
    verdict = Verdict([*_folder_problems(contents), *contents.damaged])
    shards = [shard for unit in contents.units for shard in unit.shards]
    sources = sampled(contents, sample, seed)
    done = 0
    for shard in shards:
        verdict.problems.extend(_shard_problems(contents, shard))
        done += 1
        on_progress(done, len(shards) + len(sources))
    for unit in contents.units:
        verdict.problems.extend(row_problems(contents, unit))
    verdict.shards, verdict.rows = len(shards), len(contents.ledger)
    for source in sources:
        try:
            problem = source_problem(source, contents)
            verdict.problems.extend([problem] if problem else [])
            verdict.sources += 1
        except UnverifiableError as error:
            verdict.unverifiable.append(str(error))
        done += 1
        on_progress(done, len(shards) + len(sources))
    return verdict


def _folder_problems(contents: Contents) -> Iterator[str]:
    output = contents.output
    if recipe_digest(output.recipe, output.lacking) != output.digest:
        yield f"{RECIPE_FILE} has another digest than its recipe gives: it was changed, or written by another version."
    with pa.memory_map(str(output.folder / MANIFEST_FILE)) as source:
        digest = content_digest(pa.ipc.open_file(source).read_all())
    if digest != output.manifest_sha256:
        yield f"{MANIFEST_FILE} has other rows than {RECIPE_FILE} says."
    yield from contents.unfinished.values()
    odd = list(ledger_problems(contents.ledger))
    yield from odd
    if contents.dataset is None:
        yield f"There is no {DATASET_FILE}: the folder is not finished."
    elif not contents.unfinished and not odd:
        for name, value in dataset_manifest(output).items():
            if contents.dataset.get(name) != value:
                yield f"{DATASET_FILE} has other {name} than the ledger parts say."
    yield from _strays(contents)


def _strays(contents: Contents) -> Iterator[str]:
    """Files that nothing in the folder refers to, unfinished units' aside: those are made anew."""
    known = {shard.file for unit in contents.units for shard in unit.shards}
    known |= {contents.output.ledger(number).name for number in range(contents.output.units())}
    unfinished = tuple(f"unit-{number:06d}" for number in contents.unfinished)
    for name in (SHARD_FOLDER, LEDGER_FOLDER):
        folder = contents.folder / name
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name not in known and not path.name.lstrip(".").startswith(unfinished or ("/",)):
                yield f"{name}/{path.name} belongs to no work unit."


def _shard_problems(contents: Contents, shard: ShardFile) -> Iterator[str]:
    try:
        digest = file_digest(contents.output.shards / shard.file)
    except OSError as error:
        yield f"The shard {shard.file} cannot be read: {error.strerror}."
        return
    if digest != shard.sha256:
        yield f"The shard {shard.file} has another SHA-256 than its ledger part says: it was changed or is damaged."
    table = contents.tables.get(shard.file)
    if table is not None and table.schema.metadata.get(UNIT_KEY) != str(shard.unit).encode():
        yield f"The shard {shard.file} is not of unit {shard.unit}, whose ledger part lists it."
