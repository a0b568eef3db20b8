"""Files of embeddings by name, such as those of a shard's videos: written whole, checked, memory-mapped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gare.common.files import atomic_file

Floats = NDArray[np.float32]

RECIPE_KEY: Final = b"gare.vectors.recipe"
DIGEST_KEY: Final = b"gare.vectors.sha256"


@dataclass(frozen=True)
class VectorFile:
    """Rows ``starts[i]`` to ``starts[i + 1]`` of ``values`` [N, D] belong to ``names[i]``."""

    names: list[str]
    starts: NDArray[np.int32]
    values: Floats

    def digest(self) -> str:
        """Return the SHA-256 of its content."""
        digest = hashlib.sha256("\0".join(self.names).encode())
        digest.update(self.starts.tobytes())
        digest.update(self.values.tobytes())
        return digest.hexdigest()

    def counts(self) -> dict[str, int]:
        """Return the number of vectors by name."""
        return dict(zip(self.names, np.diff(self.starts).tolist(), strict=True))


class Vectors:
    """Embeddings float32 [n, D] by name, from any number of files."""

    def __init__(self, files: list[VectorFile]) -> None:
        self._files = files
        self._where = {name: (f, i) for f, file in enumerate(files) for i, name in enumerate(file.names)}
        self.dim = int(files[0].values.shape[1])

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def __getitem__(self, name: str) -> Floats:
        number, row = self._where[name]
        file = self._files[number]
        return file.values[file.starts[row] : file.starts[row + 1]]


@dataclass(frozen=True)
class Embedded:
    """What frozen towers make of a dataset: embeddings of kept frames by video id, of texts by caption.

    Of a text the first is its own; those of its words follow, if the pair head reads them. None of a trained tower.
    """

    frames: Vectors | None
    texts: Vectors | None


def write_vectors(path: Path, recipe: str, rows: Mapping[str, Floats]) -> None:
    """Write embeddings [n, D] by name, with the text that says how they were made; atomically.

    Raises InputError if the file cannot be written.
    """
    made = list(rows.values())
    starts = np.cumsum([0, *map(len, made)], dtype=np.int32)
    whole = VectorFile(list(rows), starts, np.concatenate(made).astype(np.float32, copy=False))
    values = pa.FixedSizeListArray.from_arrays(pa.array(whole.values.reshape(-1)), whole.values.shape[1])
    columns = [pa.array(whole.names, pa.string()), pa.ListArray.from_arrays(pa.array(starts), values)]
    table = pa.table(columns, names=["name", "vectors"])
    table = table.replace_schema_metadata({RECIPE_KEY: recipe.encode(), DIGEST_KEY: whole.digest().encode()})
    with atomic_file(path) as temporary, pa.ipc.new_file(temporary, table.schema) as writer:
        writer.write_table(table)


def read_vectors(path: Path, recipe: str, counts: Mapping[str, int | None], *, whole: bool) -> VectorFile:
    """Open a file of embeddings, memory-mapped; ValueError says why it cannot be used.

    Args:
        path: the file; FileNotFoundError if there is none.
        recipe: how its embeddings must have been made.
        counts: the names it must have, in order, each with its number of vectors; None for any number from 1 up.
        whole: also compute its digest, which reads all of it.

    """
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        table.validate(full=True)
        names, vectors = (table.column(name).chunk(0) for name in ("name", "vectors"))
        inner = vectors.values
        values = inner.values.to_numpy(zero_copy_only=True).reshape(-1, inner.type.list_size)
        found = VectorFile(names.to_pylist(), vectors.offsets.to_numpy(), values)
    except (OSError, ValueError, KeyError, IndexError, AttributeError, pa.ArrowException) as error:
        raise ValueError(str(error).partition("\n")[0] or "no file of embeddings") from None
    metadata = table.schema.metadata or {}
    if metadata.get(RECIPE_KEY) != recipe.encode():
        raise ValueError("its embeddings were made in another way")
    if values.dtype != np.float32 or found.names != list(counts):
        raise ValueError("its embeddings are those of other videos or captions")
    sizes = zip(found.counts().values(), counts.values(), strict=True)
    if not all(size == wanted if wanted is not None else size for size, wanted in sizes):
        raise ValueError("videos have another number of embeddings")
    if whole and metadata.get(DIGEST_KEY) != found.digest().encode():
        raise ValueError("its bytes are not those that were written")
    return found
