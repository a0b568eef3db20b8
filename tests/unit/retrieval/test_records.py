"""Compact records: exact scores from the smallest gallery, and files of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gare.common.errors import ConfigError, InputError
from gare.retrieval import records
from gare.retrieval.records import RecordFile, RecordFormat, read_pool, record_factors
from gare.scoring.factors import ScoreStats, Texts, Videos
from gare.scoring.increment.compact import CompactFactors
from gare.scoring.video_index import VideoIndex
from tests.unit.evaluation.test_factorised import dense, in_double, make_case, make_head

FRAMES_VARIANTS = st.fixed_dictionaries(
    {
        "corrected": st.sampled_from(["text", "video"]),
        "gap_sign": st.sampled_from([1, -1]),
        "query": st.sampled_from(["gap", "text"]),
        "video_base": st.sampled_from(["pooled", "mean"]),
        "pool_temperature": st.floats(0.5, 20),
    }
)
SIZES = {"texts": st.integers(1, 5), "videos": st.integers(1, 6), "frames": st.integers(1, 9)}


def compact_scores(head, case, storage=None):
    factors = CompactFactors(head)
    gallery = factors.build(Videos(case[1], case[2]), storage)
    return factors.score(gallery, Texts(case[0]), ScoreStats())


@settings(max_examples=60, derandomize=True)
@given(
    seed=st.integers(0, 2**20),
    variant=FRAMES_VARIANTS,
    sizes=st.fixed_dictionaries(SIZES),
    dim=st.sampled_from([16, 33, 64]),
    std=st.sampled_from([0.02, 0.05, 0.1]),
)
def test_float32_scores_of_compact_galleries_equal_the_dense_head_in_float64(seed, variant, sizes, dim, std):
    torch.manual_seed(seed)
    head, case = make_head(dim, std, **variant), make_case(**sizes, dim=dim)
    scores = compact_scores(head, case)
    assert (scores - dense(head.double(), in_double(case))).abs().max() <= 1e-5


def test_a_half_precision_gallery_scores_its_rounded_frames_exactly():
    torch.manual_seed(0)
    head, case = make_head(32, 0.1), make_case(dim=32)
    rounded = (case[0], case[1].half().float(), *case[2:])
    scores = compact_scores(head, case, torch.float16)
    assert (scores - dense(head.double(), in_double(rounded))).abs().max() <= 1e-5
    assert (scores - dense(head, in_double(case))).abs().max() <= 5e-3


@pytest.mark.parametrize(
    ("variant", "reason"),
    [({"query": "residual"}, "model.query residual"), ({"context": "words"}, "frames"), ({"increment": "none"}, "psi")],
)
def test_heads_without_factors_of_frames_are_refused_with_the_reason(variant, reason):
    with pytest.raises(ConfigError, match=reason):
        CompactFactors(make_head(16, **variant))


@pytest.mark.parametrize("variant", [{}, {"context": "words"}, {"query": "residual"}, {"increment": "none"}])
@pytest.mark.parametrize("storage", [None, torch.float16])
def test_records_on_disk_give_the_scores_of_the_gallery_in_any_order(tmp_path, monkeypatch, variant, storage):
    monkeypatch.setattr(records, "RUN_BYTES", 3000)  # more than one read of neighbours
    torch.manual_seed(0)
    head, case = make_head(16, **variant), make_case(videos=20, dim=16)
    factors, texts = record_factors(head), Texts(case[0], *case[3:])
    gallery = factors.build(Videos(case[1], case[2]), storage)
    form = RecordFormat.of(gallery)
    path = tmp_path / "some.records"
    path.write_bytes(form.pack(gallery).tobytes())
    rows = np.array([*range(19, -1, -2), *range(20), 3, 3])
    with read_pool() as pool:
        read = form.tensors(RecordFile(path, form.dtype, 20).read(rows, pool))
    scores = factors.score(factors.read(read), texts, ScoreStats())
    whole = factors.score(gallery, texts, ScoreStats())
    assert torch.allclose(scores, whole[:, torch.from_numpy(rows)], atol=1e-6)


def test_a_record_of_the_default_head_is_a_fifth_of_the_size_of_its_plain_factors():
    head, videos = make_head(512), Videos(torch.randn(1, 12, 512), torch.ones(1, 12, dtype=torch.bool))
    plain = VideoIndex.build(SimpleNamespace(head=head), videos.frames, videos.frame_mask)
    size = RecordFormat.of(record_factors(head).build(videos, torch.float16)).dtype.itemsize
    assert size * 4.9 < sum(x.nbytes for x in plain._gallery.tensors().values())


def test_record_files_of_another_length_or_gone_are_refused(tmp_path):
    path, kind = tmp_path / "some.records", np.dtype([("x", "<f8")])
    with pytest.raises(InputError, match="Cannot read"):
        RecordFile(path, kind, 2)
    path.write_bytes(bytes(15))
    with pytest.raises(InputError, match="15 bytes, not the 16"):
        RecordFile(path, kind, 2)


def test_a_record_file_cut_while_it_is_open_is_an_error(tmp_path):
    path, kind = tmp_path / "some.records", np.dtype([("x", "<f8")])
    path.write_bytes(bytes(16))
    opened = RecordFile(path, kind, 2)
    path.write_bytes(bytes(8))
    with read_pool() as pool, pytest.raises(InputError, match="ended early"):
        opened.read(np.array([0, 1]), pool)
