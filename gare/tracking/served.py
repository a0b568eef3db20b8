"""The model that ``gare register`` puts into MLflow, as code: MLflow runs this file when it loads the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from gare.common.errors import InputError

TOP = 10


class TextToVideo(PythonModel):  # type: ignore[misc]
    """A model that answers sentences with matching videos, from an index and its checkpoint, in safetensors."""

    def load_context(self, context: Any) -> None:
        """Load the index and its checkpoint."""
        from gare.retrieval.opening import open_index

        self._index = open_index(Path(context.artifacts["index"]), Path(context.artifacts["checkpoint"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answer each row: its column ``query``, and ``top`` (the number of videos, 10 without it).

        Returns a row per answer, best first: query, rank (from 1), video_id, score (cosine). Raises InputError.
        """
        del context, params
        asked = pd.DataFrame(model_input)
        if "query" not in asked:
            raise InputError("The input has no column query; give a sentence per row.")
        tops = asked["top"] if "top" in asked else [TOP] * len(asked)
        rows = [
            {"query": query, "rank": hit.rank, "video_id": hit.video_id, "score": hit.score}
            for number, (query, top) in enumerate(zip(asked["query"], tops, strict=True))
            for hit in self._answer(number, query, top)
        ]
        return pd.DataFrame(rows, columns=["query", "rank", "video_id", "score"])

    def _answer(self, number: int, query: Any, top: Any) -> list[Any]:
        if not isinstance(query, str) or not query.strip():
            raise InputError(f"Row {number}: the query is empty; give a sentence.")
        wanted = TOP if pd.isna(top) else int(top)
        if wanted < 1:
            raise InputError(f"Row {number}: top is {wanted}; give how many videos are wanted, from 1 up.")
        return list(self._index.search(query, wanted))


set_model(TextToVideo())
