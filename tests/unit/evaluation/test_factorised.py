"""Factorised scoring against the dense head: every variant, masks, cancellation, memory, storage."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from gare.common.errors import ConfigError, InputError
from gare.config import ModelConfig
from gare.evaluation.encode import score_pairs
from gare.objective.world import World
from gare.scoring.factors import ScoreStats, Texts, Videos
from gare.scoring.gallery import score_all
from gare.scoring.head import masked_mean
from gare.scoring.increment.head import GareHead
from gare.scoring.video_index import VideoIndex
from tests.unit.model.test_head import golden, with_golden_psi

VARIANTS = st.fixed_dictionaries(
    {
        "corrected": st.sampled_from(["text", "video"]),
        "context": st.sampled_from(["frames", "words"]),
        "gap_sign": st.sampled_from([1, -1]),
        "query": st.sampled_from(["gap", "text"]),
        "video_base": st.sampled_from(["pooled", "mean"]),
        "pool_temperature": st.floats(0.5, 20),
    }
)
SIZES = {
    "texts": st.integers(1, 5),
    "videos": st.integers(1, 6),
    "frames": st.integers(1, 9),
    "words": st.integers(1, 9),
}


def make_head(dim, std=0.3, **variant):
    """A head with weights of a trained model's kind: larger than at the start, gains off 1, biases off 0."""
    head = GareHead(dim, ModelConfig(**variant))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=std)
    for name, parameter in head.named_parameters():
        if "layer_norm" in name and name.endswith("weight"):
            torch.nn.init.normal_(parameter, 1, std)
    return head


def make_case(texts=5, videos=6, frames=5, words=7, dim=24):
    """text, frames, frame_mask, words, word_mask; from 1 to all positions valid, junk in the others."""
    frame_mask = torch.arange(frames) < torch.randint(1, frames + 1, (videos, 1))
    word_mask = torch.arange(words) < torch.randint(1, words + 1, (texts, 1))
    return (
        torch.randn(texts, dim),
        torch.randn(videos, frames, dim) + torch.randn(dim),
        frame_mask,
        torch.randn(texts, words, dim),
        word_mask,
    )


def in_double(case):
    return tuple(x.double() if x.is_floating_point() else x for x in case)


def index_of(head, case, **more):
    return VideoIndex.build(SimpleNamespace(head=head), case[1], case[2], **more)


def index_scores(index, case, stats=None):
    return index.score(case[0], words=case[3], word_mask=case[4], stats=stats)


@torch.no_grad()
def dense(head, case):
    return head(*case).scores


@settings(max_examples=120)
@given(seed=st.integers(0, 2**20), variant=VARIANTS, sizes=st.fixed_dictionaries(SIZES), dim=st.integers(1, 23))
def test_float64_scores_equal_the_dense_head(seed, variant, sizes, dim):
    torch.manual_seed(seed)
    head, case = make_head(dim, **variant).double(), in_double(make_case(**sizes, dim=dim))
    stats = ScoreStats()
    assert (index_scores(index_of(head, case), case, stats) - dense(head, case)).abs().max() <= 1e-10
    assert stats.pairs == sizes["texts"] * sizes["videos"]


@settings(max_examples=60, derandomize=True)
@given(
    seed=st.integers(0, 2**20),
    variant=VARIANTS,
    sizes=st.fixed_dictionaries(SIZES),
    dim=st.sampled_from([16, 33, 64, 129]),
    std=st.sampled_from([0.02, 0.05, 0.1]),
)
def test_float32_scores_equal_the_dense_head(seed, variant, sizes, dim, std):
    torch.manual_seed(seed)
    head, case = make_head(dim, std, **variant), make_case(**sizes, dim=dim)
    assert (index_scores(index_of(head, case), case) - dense(head, case)).abs().max() <= 1e-5


def near(case, gap):
    """The case with every text ``gap`` of its length away from the mean of a video's frames."""
    mean = masked_mean(case[1], case[2])
    text = mean[torch.randint(0, len(mean), (len(case[0]),))]
    away = torch.nn.functional.normalize(torch.randn_like(text), dim=-1) * text.norm(dim=-1, keepdim=True)
    return text + gap * away, *case[1:]


def test_two_hundred_random_configurations_fifty_of_them_near_the_mean():
    worst, dense_pairs = 0.0, 0
    for seed in range(200):
        torch.manual_seed(seed)
        pick = random.Random(seed)
        variant = {
            "corrected": pick.choice(["text", "video"]),
            "context": pick.choice(["frames", "words"]),
            "gap_sign": pick.choice([1, -1]),
            "video_base": pick.choice(["pooled", "mean"]),
        }
        dim = pick.choice([24, 48, 96])
        head, case = make_head(dim, pick.choice([0.02, 0.05, 0.1]), **variant), make_case(dim=dim)
        stats = ScoreStats()
        if seed % 4 == 0:
            case = near(case, pick.choice([0.01, 0.003, 0.001]))
        difference = (index_scores(index_of(head, case), case, stats) - dense(head, case)).abs().max()
        worst, dense_pairs = max(worst, float(difference)), dense_pairs + (stats.dense_pairs if seed % 4 == 0 else 0)
    assert worst <= 1e-5
    assert dense_pairs >= 50 * 5  # every text of those configurations has such a video


@pytest.mark.parametrize(("side", "context"), itertools.product(["text", "video"], ["frames", "words"]))
@pytest.mark.parametrize("gap", [0.05, 0.03, 0.01, 0.001, 0.0])
def test_a_text_close_to_the_mean_of_the_frames_is_scored_densely(gap, side, context):
    torch.manual_seed(3)
    head, case = make_head(64, 0.1, corrected=side, context=context), near(make_case(dim=64), gap)
    stats = ScoreStats()
    assert (index_scores(index_of(head, case), case, stats) - dense(head, case)).abs().max() <= 1e-5
    assert stats.dense_pairs == 0 if gap > 0.045 else 5 <= stats.dense_pairs < stats.pairs


@pytest.mark.parametrize("left", [1.0, 0.1, 0.01, 0.001, 0.0])
@pytest.mark.parametrize("context", ["frames", "words"])
def test_an_increment_that_cancels_the_text_is_scored_densely(left, context):
    torch.manual_seed(4)
    head, case = make_head(64, 0.05, context=context), make_case(dim=64)
    with torch.no_grad():
        head.psi.mean_proj.weight.mul_(left)
        head.psi.mean_proj.bias.copy_(-case[0][2])
    stats = ScoreStats()
    got, expected = index_scores(index_of(head, case), case, stats), dense(head, case)
    if left:
        assert (got - expected).abs().max() <= 1e-5
    else:  # t + D is nothing but rounding there, and both cosines with it are arbitrary but finite
        assert (got - expected)[[0, 1, 3, 4]].abs().max() <= 1e-5
        assert got.abs().max() <= 1 + 1e-6
    assert stats.dense_pairs == (0 if left == 1.0 else 6)


def test_a_model_without_an_increment_is_the_plain_cosine():
    torch.manual_seed(5)
    head, case = make_head(24, increment="none"), make_case()
    assert (index_scores(index_of(head, case), case) - dense(head, case)).abs().max() <= 1e-6


@pytest.mark.parametrize("query", ["residual", "residual_scaled"])
def test_a_residual_query_is_scored_by_the_head(query):
    torch.manual_seed(6)
    head, case = make_head(24, 0.05, query=query), make_case()
    index, stats = index_of(head, case), ScoreStats()
    assert torch.allclose(index_scores(index, case, stats), dense(head, case), atol=1e-6)
    assert stats.dense_pairs == stats.pairs == 30


@pytest.mark.parametrize("name", ["head_square", "head_rect"])
def test_scores_equal_the_released_code(fixtures_dir, name):
    tensors, config = golden(fixtures_dir, name)
    head = GareHead(config["dim"], ModelConfig(pool_temperature=config["pool_temperature"]))
    with_golden_psi(head, tensors)
    mask = torch.ones(tensors["frames"].shape[:2], dtype=torch.bool)
    scores = score_all(head, tensors["text"], tensors["frames"], mask)
    assert (scores - tensors["scores"]).abs().max() <= 2e-6


@pytest.mark.parametrize(
    ("side", "context", "sign"), itertools.product(["text", "video"], ["frames", "words"], ["plus", "minus"])
)
def test_masked_variants_equal_the_stored_transcription(fixtures_dir, side, context, sign):
    tensors, config = golden(fixtures_dir, "variants_masked")
    variant = {"corrected": side, "context": context, "gap_sign": 1 if sign == "plus" else -1}
    head = GareHead(config["dim"], ModelConfig(pool_temperature=config["pool_temperature"], **variant)).double()
    with_golden_psi(head, tensors)
    scores = score_all(head, *(tensors[k] for k in ("text", "frames", "frame_mask", "words", "word_mask")))
    assert (scores - tensors[f"scores.{side}_{context}_{sign}"]).abs().max() <= 1e-12


@pytest.mark.parametrize("context", ["frames", "words"])
def test_equal_frames_and_blocks_of_every_size_change_nothing(context):
    torch.manual_seed(7)
    head, case = make_head(16, 0.1, context=context).double(), in_double(make_case(300, 270, 2, 3, 16))
    case[1][::2, 1] = case[1][::2, 0]
    scores = index_scores(index_of(head, case), case)
    assert (scores - dense(head, case)).abs().max() <= 1e-10
    assert torch.allclose(score_all(head, *case), scores, atol=1e-12)
    one = (case[0][7:8], case[1][9:10], case[2][9:10], case[3][7:8], case[4][7:8])
    assert torch.allclose(score_all(head, *one), scores[7:8, 9:10], atol=1e-12)


@pytest.mark.parametrize("context", ["frames", "words"])
def test_padding_never_changes_a_score_whatever_it_holds(context):
    torch.manual_seed(8)
    head, case = make_head(24, context=context), make_case()
    plain = index_scores(index_of(head, case), case)
    frames = case[1].masked_fill(~case[2][..., None], float("nan"))
    words = case[3].masked_fill(~case[4][..., None], float("inf"))
    junk = (case[0], frames, case[2], words, case[4])
    assert torch.equal(index_scores(index_of(head, junk), junk), plain)


def test_a_video_that_is_nan_scores_nan_and_spoils_no_other():
    torch.manual_seed(9)
    head, case = make_head(24), make_case()
    plain = index_scores(index_of(head, case), case)
    case[1][2] = float("nan")
    scores = index_scores(index_of(head, case), case)
    assert scores[:, 2].isnan().all()
    kept = [0, 1, 3, 4, 5]
    assert torch.allclose(scores[:, kept], plain[:, kept], atol=1e-6)


def test_words_context_without_words_is_refused():
    head, case = make_head(24, context="words"), make_case()
    with pytest.raises(ConfigError, match="needs words"):
        index_of(head, case).score(case[0])


def test_scoring_is_float32_under_autocast():
    torch.manual_seed(10)
    head, case = make_head(24), make_case()
    index = index_of(head, case)
    plain = index_scores(index, case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(index_scores(index, case), plain)
        assert torch.equal(index_scores(index_of(head, case), case), plain)


class Largest(TorchDispatchMode):
    """The most numbers of any tensor an operation made, those of the given shape aside."""

    def __init__(self, but=()):
        super().__init__()
        self.numbers, self.but = 0, tuple(but)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor) and tuple(x.shape) != self.but:
                self.numbers = max(self.numbers, x.numel())
        return out


@pytest.mark.parametrize("context", ["frames", "words"])
@pytest.mark.parametrize("side", ["text", "video"])
def test_no_tensor_grows_with_the_number_of_pairs(context, side):
    videos, dim = 300, 64
    head = make_head(dim, 0.05, context=context, corrected=side)
    largest = []
    for texts in (300, 600):
        case = make_case(texts, videos, 3, 4, dim)
        index = index_of(head, case)
        with Largest(but=(texts, videos)) as seen:
            index_scores(index, case)
        with Largest(but=(texts, videos)) as at_once:
            score_all(head, *case)
        largest.append((seen.numbers, at_once.numbers))
        assert max(largest[-1]) < texts * videos * dim / 10
    assert largest[0] == largest[1]


def test_many_doubtful_pairs_stay_in_bounded_memory(monkeypatch):
    monkeypatch.setattr("gare.scoring.increment.dense.GATHERED_NUMBERS", 5000)
    torch.manual_seed(11)
    head, case = make_head(24, 0.05), make_case(40, 30)
    case = (case[0][:1].expand(40, -1).contiguous(), *case[1:])
    with torch.no_grad():
        head.psi.mean_proj.weight.mul_(0.05)
        head.psi.mean_proj.bias.copy_(-case[0][0])
    index, stats = index_of(head, case), ScoreStats()
    with Largest(but=(40, 30)) as seen:
        scores = index_scores(index, case, stats)
    assert stats.dense_pairs > 1000
    assert seen.numbers < 40 * 30 * 24
    assert (scores - dense(head, case)).abs().max() <= 1e-5


@pytest.mark.parametrize(("storage", "off"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("context", ["frames", "words"])
def test_half_storage_is_off_by_its_precision_only(storage, off, context):
    torch.manual_seed(12)
    head, case = make_head(64, 0.05, context=context), make_case(20, 30, dim=64)
    index = index_of(head, case, storage=storage)
    scores = index_scores(index, case)
    assert index.frames.dtype == storage
    assert scores.dtype == torch.float32
    assert 0 < (scores - dense(head, case)).abs().max() <= off


@pytest.mark.parametrize("variant", [{}, {"context": "words"}, {"increment": "none"}, {"query": "residual"}])
@pytest.mark.parametrize("storage", [None, torch.float16])
def test_a_saved_index_scores_the_same_and_is_mapped(tmp_path, variant, storage):
    torch.manual_seed(13)
    head, case = make_head(24, 0.05, **variant), make_case()
    index = index_of(head, case, storage=storage)
    path = tmp_path / "index.safetensors"
    index.save(path)
    loaded = VideoIndex.load(SimpleNamespace(head=head), path)
    assert len(loaded) == 6
    assert torch.equal(loaded.frames, index.frames)
    assert torch.equal(loaded.frame_mask, case[2])
    assert torch.allclose(index_scores(loaded, case), index_scores(index, case), atol=1e-6)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(path) in maps.read_text(encoding="utf-8")


def test_an_index_of_another_model_or_kind_is_refused(tmp_path):
    from safetensors.torch import save_file

    case = make_case()
    index_of(make_head(24), case).save(tmp_path / "index.safetensors")
    with pytest.raises(ConfigError, match="build it again"):
        VideoIndex.load(SimpleNamespace(head=make_head(24, gap_sign=-1)), tmp_path / "index.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="not a video index"):
        VideoIndex.load(SimpleNamespace(head=make_head(24)), tmp_path / "other.safetensors")


@pytest.mark.parametrize("context", ["frames", "words"])
def test_candidates_are_scored_exactly(context):
    torch.manual_seed(15)
    head, case = make_head(24, 0.1, context=context), make_case(7, 40)
    index = index_of(head, case)
    given_words = {"words": case[3], "word_mask": case[4]}
    candidates = torch.randint(0, 40, (7, 5))
    exact = index_scores(index, case).gather(1, candidates)
    assert torch.allclose(index.score_candidates(case[0], candidates, **given_words), exact, atol=1e-6)


class TwoRanks(World):
    """One of two ranks, alone: what it would gather from the other is a copy of its own."""

    size = 2

    def __init__(self, rank):
        self.rank = rank

    def gather_constant(self, x):
        return torch.cat([x, x])


@pytest.mark.parametrize("context", ["frames", "words"])
def test_score_pairs_is_the_head_and_each_rank_scores_its_texts(context):
    torch.manual_seed(17)
    head, case = make_head(24, 0.1, context=context), make_case(texts=7)
    model = SimpleNamespace(head=head)
    texts, videos = Texts(case[0], case[3], case[4]), Videos(case[1], case[2])
    whole = score_pairs(model, texts, videos, 2)
    assert (whole - dense(head, case)).abs().max() <= 1e-5
    first, second = (score_pairs(model, texts, videos, 2, TwoRanks(rank)) for rank in (0, 1))
    assert torch.allclose(first[:4], whole[:4], atol=1e-6)
    assert torch.allclose(second[:3], whole[4:], atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("context", ["frames", "words"])
def test_scores_on_cuda_equal_those_on_the_cpu(context):
    torch.manual_seed(18)
    head, case = make_head(64, 0.1, context=context), near(make_case(40, 50, dim=64), 0.01)
    expected = index_scores(index_of(head, case), case)
    head, case = head.cuda(), tuple(x.cuda() for x in case)
    assert (index_scores(index_of(head, case), case).cpu() - expected).abs().max() <= 1e-5
