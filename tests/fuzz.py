"""Damage to every kind of file that the project reads: ``python -m tests.fuzz --count 200`` prints what came of it.

Each kind has its own process with a limit to its memory; a mutant is named by kind and number, which are its seed.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import io
import json
import math
import os
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from gare.common.errors import GareError

SPARE_BYTES = 2**30
SECONDS = 20
LONGEST = 2000
SEED = 25

VALUES = (
    None, True, -1, -5, 0, 10**6, 10**30, -(10**30), 2**63, 0.5, 1e308, math.nan, math.inf, "", "text",
    "\ud800", "../x", "a\x1b[31m\u202e",
    "x" * 100_000, [], {}, [[]], [None], [-9], [1.5], ["a", 1], {"a": {"b": [1]}}, {"": None},
    "https://me:secret@host/x?token=abc", 1j,
)  # fmt: skip
CELLS = ("", '"', "nan", "-1", "1e999", "9" * 400, "x" * 100_000, "\0", "[" * 50_000, "['a'", '"a,b"', "a,b", "\r")
DEEP = object()


@dataclass(frozen=True)
class Kind:
    """A file that is read. ``read``: reads it as the commands do, and gives what was found as plain values.

    ``form``: what structured damage it can have; ``check``: whether a result other than the whole file's can be right;
    ``whole``: no other result can be, since the file has a checksum. ``table`` and ``write``: of columns.
    """

    name: str
    path: Path
    read: Callable[[], Any]
    form: str = "bytes"
    check: Callable[[Any], bool] = lambda _: True
    whole: bool = False
    table: Callable[[bytes], pa.Table] | None = None
    write: Callable[[pa.Table], bytes] | None = None


@dataclass
class Came:
    """What came of a kind's mutants. ``wrong``: by mutant, what was neither a right result nor a sentence."""

    mutants: int = 0
    same: int = 0
    other: int = 0
    sentence: int = 0
    wrong: dict[str, str] = field(default_factory=dict)
    sentences: Counter[str] = field(default_factory=Counter)


# Damage


def cut_or_flipped(content: bytes, chance: random.Random) -> bytes:
    """Bytes cut off, left out, repeated, flipped or overwritten, often near the ends of the file."""
    span = len(content)
    if not span:
        return b"\0"
    at = chance.choice(
        [chance.randrange(span), chance.randrange(min(span, 512)), span - 1 - chance.randrange(min(span, 2048))]
    )
    changed = bytearray(content)
    match chance.randrange(7):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + content[at + chance.randrange(1, 40) :]
        case 2:
            return content[:at] + content[at : at + 40] + content[at:]
        case 3:
            changed[at : at + 8] = chance.choice([b"\xff" * 8, b"\0" * 8, b"\x7f" * 8, chance.randbytes(8)])
        case 4:
            changed[at : at + 1] = chance.randbytes(1)
        case _:
            for _ in range(chance.randrange(1, 4)):
                changed[(at + chance.randrange(64)) % span] ^= 1 << chance.randrange(8)
    return bytes(changed)


def mutated(value: Any, chance: random.Random) -> Any:
    """A copy of a plain value with one part of it replaced, left out, added or renamed."""
    value = copy.deepcopy(value)
    places = parts_of(value)
    if not places or not chance.randrange(25):
        return odd(chance)
    inner, key = chance.choice(places)
    action = chance.randrange(10)
    if action == 0:
        del inner[key]
    elif action == 1 and isinstance(inner, dict):
        inner[f"{key}x"] = inner.pop(key)
    elif action == 2 and isinstance(inner, list):
        inner.append(odd(chance))
    else:
        inner[key] = odd(chance)
    return value


def parts_of(value: Any) -> list[tuple[Any, Any]]:
    """Every part of a plain value: what it is in, and its key or number there."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found += [(value, key), *parts_of(value[key])]
    return found


def odd(chance: random.Random) -> Any:
    """A value that may not be expected."""
    if not chance.randrange(len(VALUES)):
        return DEEP
    return chance.choice(VALUES[:-1])


def as_json(value: Any) -> str:
    """JSON as Python writes it, NaN included, with very deep lists for DEEP."""
    return json.dumps(value, default=lambda _: "DEEP", ensure_ascii=True).replace(
        '"DEEP"', "[" * 100_000 + "]" * 100_000
    )


def json_mutant(content: bytes, chance: random.Random) -> bytes:
    return as_json(mutated(json.loads(content), chance)).encode()


def lines_mutant(content: bytes, chance: random.Random) -> bytes:
    lines = content.decode().splitlines()
    at = chance.randrange(len(lines))
    lines[at] = as_json(mutated(json.loads(lines[at]), chance))
    return "\n".join(lines).encode() + b"\n"


def yaml_mutant(content: bytes, chance: random.Random) -> bytes:
    from gare.config import yaml

    changed = as_json(mutated(yaml.parse(content.decode(), ""), chance))
    return changed.replace("NaN", ".nan").replace("-Infinity", "-.inf").replace("Infinity", ".inf").encode()


def csv_mutant(content: bytes, chance: random.Random) -> bytes:
    rows = [line.split(",") for line in content.decode().splitlines()]
    row = chance.choice(rows)
    cell = chance.choice(CELLS)
    row[chance.randrange(len(row))] = cell
    if not chance.randrange(8):
        rows[0] = rows[0] * 5000
    return "\n".join(",".join(row) for row in rows).encode() + b"\n"


def tensors_mutant(content: bytes, chance: random.Random) -> bytes:
    """safetensors with another header, or with other tensors and a header that fits them."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    if chance.randrange(2):
        said = as_json(mutated(header, chance)).encode()
        return struct.pack("<Q", len(said)) + said + content[8 + length :]
    from safetensors.torch import load, save

    tensors = load(content)
    name = chance.choice(sorted(tensors))
    tensors[name] = odd_tensor(tensors[name], chance)
    if not chance.randrange(6):
        del tensors[name]
    return save(tensors, header.get("__metadata__"))


def odd_tensor(tensor: Any, chance: random.Random) -> Any:
    import torch

    match chance.randrange(9):
        case 0:
            return torch.full_like(tensor, math.nan) if tensor.is_floating_point() else tensor - 7
        case 1:
            return torch.full_like(tensor, math.inf) if tensor.is_floating_point() else tensor + 10**6
        case 2:
            return tensor.to(chance.choice([torch.int64, torch.float64, torch.float16, torch.bool, torch.uint8]))
        case 3:
            return tensor[None]
        case 4:
            return tensor.flatten()
        case 5:
            return tensor[:-1].clone() if tensor.ndim and len(tensor) else torch.zeros(3)
        case 6:
            return torch.zeros(0)
        case 7:
            return torch.cat([tensor, tensor]) if tensor.ndim else torch.zeros(2)
    return tensor.to(torch.complex64) if chance.randrange(2) else torch.zeros(tensor.shape, dtype=torch.float64)


def pickle_mutant(content: bytes, chance: random.Random) -> bytes:
    """A file of torch.save with another tensor or value in it."""
    import torch

    value = torch.load(io.BytesIO(content), weights_only=True)
    inner, key = chance.choice(parts_of(value))
    if isinstance(inner[key], torch.Tensor) and chance.randrange(3):
        inner[key] = odd_tensor(inner[key], chance)
    elif chance.randrange(4):
        found = odd(chance)
        inner[key] = [] if found is DEEP else found
    else:
        del inner[key]
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def columns_mutant(kind: Kind, content: bytes, chance: random.Random) -> bytes:
    """A file of columns, whole as such, with other columns, types, values or metadata than it should have."""
    assert kind.table is not None
    assert kind.write is not None
    table = kind.table(content)
    at = chance.randrange(table.num_columns)
    name, rows = table.column_names[at], table.num_rows
    metadata = dict(table.schema.metadata or {})
    match chance.randrange(9):
        case 0:
            table = table.remove_column(at)
        case 1:
            table = table.append_column(chance.choice([name, "more", "x" * 5000]), [pa.nulls(rows)])
        case 2:
            wide = {f"column {n}": pa.nulls(rows) for n in range(2000)}
            table = pa.table(wide if chance.randrange(2) else {name: table.column(at), **wide})
        case 3 if metadata:
            key = chance.choice(sorted(metadata))
            metadata[key] = as_json(odd(chance)).encode()[:1000] if chance.randrange(2) else chance.randbytes(5)
            table = table.replace_schema_metadata(metadata)
        case 4 if rows > 1:
            backwards = table.take(pa.array(range(rows - 1, -1, -1)))
            table = chance.choice([table.slice(1), table.slice(0, 0), pa.concat_tables([table, table]), backwards])
        case _:
            column = odd_column(table.column(at), rows, chance)
            table = table.set_column(at, name, column).replace_schema_metadata(metadata)
    return kind.write(table)


def odd_column(column: pa.ChunkedArray, rows: int, chance: random.Random) -> pa.Array:
    """A column of the same length and another type, or of other values."""
    kind = column.type
    values: list[Callable[[], pa.Array]] = [
        lambda: pa.nulls(rows),
        lambda: pa.nulls(rows, kind),
        lambda: pa.array([2**63] * rows, pa.uint64()),
        lambda: pa.array([-(2**40)] * rows, pa.int64()),
        lambda: pa.array([10**30] * rows, pa.decimal128(38)),
        lambda: pa.array([math.nan] * rows),
        lambda: pa.array([math.inf] * rows),
        lambda: pa.array([[["deep"]]] * rows),
        lambda: pa.array([{"a": [1]}] * rows),
        lambda: pa.array(["x"] * rows).dictionary_encode(),
        lambda: pa.array([""] * rows),
        lambda: pa.array(["same"] * rows),
        lambda: pa.array(["x" * 10_000] * rows, pa.large_string()),
        lambda: pa.array(["\x1b[31m\u202e\n"] * rows),
        lambda: pa.array([b"\xff\xfe"] * rows, pa.binary()),
        lambda: pa.array([b"\xff\xfe"] * rows, pa.binary()).view(pa.string()),
        lambda: pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16] * rows, pa.binary(16))),
        lambda: pa.array([0] * rows, pa.timestamp("ns", "UTC")),
        lambda: pa.array([2**62] * rows, pa.timestamp("us")),
        lambda: pa.array([2**62] * rows, pa.duration("us")),
        lambda: pa.array([[None]] * rows, pa.list_(pa.string())),
        lambda: pa.array([[]] * rows, pa.list_(pa.string())),
        lambda: pa.array([["a", ""]] * rows, pa.list_(pa.large_string())),
        lambda: pa.array([[("a", "b"), ("a", "c")]] * rows, pa.map_(pa.string(), pa.string())),
        lambda: pa.array([[(1, 2)]] * rows, pa.map_(pa.int64(), pa.int64())),
    ]
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        bad = pa.array([b"\xff\xfe"] * rows, pa.binary()).view(pa.string())
        values.append(lambda: pa.ListArray.from_arrays(pa.array(range(rows + 1), pa.int32()), bad))
    return chance.choice(values)()


def packed(form: Callable[[bytes, random.Random], bytes]) -> Callable[[bytes, random.Random], bytes]:
    """Damage inside of a gzipped file."""
    return lambda content, chance: gzip.compress(form(gzip.decompress(content), chance), mtime=0)


STRUCTURED = {
    "packed lines": packed(lines_mutant),
    "packed csv": packed(csv_mutant),
    "json": json_mutant,
    "lines": lines_mutant,
    "yaml": yaml_mutant,
    "csv": csv_mutant,
    "tensors": tensors_mutant,
    "pickle": pickle_mutant,
}


def mutant(kind: Kind, content: bytes, number: int) -> bytes:
    """One damaged file; the same for the same kind and number."""
    chance = random.Random(f"{SEED} {kind.name} {number}")
    if number % 2 or kind.form == "bytes":
        return cut_or_flipped(content, chance)
    return columns_mutant(kind, content, chance) if kind.form == "columns" else STRUCTURED[kind.form](content, chance)


def finite(found: Any) -> bool:
    """Whether every number in a plain value is one."""
    if isinstance(found, dict):
        return all(map(finite, found.values()))
    if isinstance(found, list | tuple):
        return all(map(finite, found))
    return not isinstance(found, float) or math.isfinite(found)


# Reading


class TookTooLong(BaseException):
    """A reader that does not end."""


def _alarm(*_: object) -> None:
    raise TookTooLong


def plain(value: Any) -> Any:
    """What two results are compared by."""
    return json.dumps(value, default=repr, sort_keys=True)


def come_of(kind: Kind, numbers: Iterable[int], tell: Callable[[str], None] = lambda _: None) -> Came:
    """Read the mutants with these numbers."""
    content = kind.path.read_bytes()
    kind.read()
    expected, came = plain(kind.read()), Came()
    for number in numbers:
        seed = f"{kind.name} {number}"
        data = mutant(kind, content, number)
        if data == content:
            continue
        kind.path.write_bytes(data)
        came.mutants += 1
        tell(seed)
        signal.alarm(SECONDS)
        try:
            _read(kind, expected, seed, came)
        except TookTooLong:
            came.wrong[seed] = f"did not end in {SECONDS} s"
        finally:
            signal.alarm(0)
    return came


def _read(kind: Kind, expected: str, seed: str, came: Came) -> None:
    try:
        found = kind.read()
    except GareError as error:
        said = str(error)
        if len(said) > LONGEST or "Traceback" in said or not said.strip():
            came.wrong[seed] = f"a sentence of {len(said)} characters: {said[:300]}"
        elif "secret" in said or "abc&" in said:
            came.wrong[seed] = f"a secret in: {said[:300]}"
        else:
            came.sentence += 1
            came.sentences[said[:160].replace(str(kind.path.parent), "")] += 1
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        where = traceback.extract_tb(error.__traceback__)
        at = next(
            (
                f
                for f in reversed(where)
                if "/gare/" in f.filename or "/pipelines/" in f.filename or "/tune/" in f.filename
            ),
            where[-1],
        )
        came.wrong[seed] = (
            f"{type(error).__name__}: {str(error)[:150]!r} at {at.filename.rpartition('/')[2]}:{at.lineno} {at.name}"
        )
        return
    if plain(found) == expected:
        came.same += 1
    elif kind.whole or not kind.check(found):
        came.wrong[seed] = f"not a right result: {str(found)[:200]}"
    else:
        came.other += 1


def in_a_process(kind: Kind, numbers: range) -> Came:
    """``come_of`` in a process of its own with a limit to its memory; a process that dies is told with its mutant."""
    whole = kind.path.read_bytes()
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as result:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.signal(signal.SIGALRM, _alarm)
                limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + SPARE_BYTES
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
                quiet = os.open(os.devnull, os.O_WRONLY)
                os.dup2(quiet, 1)

                def tell(seed: str) -> None:
                    os.pwrite(told.fileno(), seed.encode().ljust(80), 0)

                came = come_of(kind, numbers, tell)
                result.write(json.dumps(came.__dict__).encode())
                result.flush()
                code = 0
            except BaseException:  # noqa: BLE001
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        kind.path.write_bytes(whole)
        if status:
            told.seek(0)
            seed = told.read().decode().strip()
            return Came(
                len(numbers), wrong={seed or kind.name: f"the process ended with {os.waitstatus_to_exitcode(status)}"}
            )
        result.seek(0)
        return Came(**json.loads(result.read()))


def main(arguments: list[str] | None = None) -> int:
    """Print a line per kind: mutants, right results (the same, another), sentences, anything else."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch comes: its threads do not survive a fork
    from tests.fuzz_kinds import every_kind

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--kind", default="", help="only kinds whose name has this in it")
    parser.add_argument("--json", type=Path, help="write the outcomes here")
    parser.add_argument("--say", action="store_true", help="print the sentences")
    asked = parser.parse_args(arguments)
    outcomes: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind in every_kind(Path(scratch)):
            if not re.search(asked.kind, kind.name):
                continue
            begun = time.monotonic()
            came = in_a_process(kind, range(asked.first, asked.first + asked.count))
            outcomes[kind.name] = came.__dict__
            print(  # noqa: T201
                f"{kind.name:32} {came.mutants:5} mutants  {came.same:4} the same  {came.other:4} other  "
                f"{came.sentence:4} sentences  {len(came.wrong):3} wrong  {time.monotonic() - begun:5.1f} s",
                flush=True,
            )
            for text, count in Counter(came.wrong.values()).most_common(12):
                seed = next(s for s, said in came.wrong.items() if said == text)
                print(f"    {seed} ({count}): {text}")  # noqa: T201
            if asked.say:
                for text, count in Counter(came.sentences).most_common(15):
                    print(f"      {count}: {text!r}")  # noqa: T201
    if asked.json:
        asked.json.write_text(json.dumps(outcomes))
    return int(any(came["wrong"] for came in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
