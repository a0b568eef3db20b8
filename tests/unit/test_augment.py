"""Random augmentation of clips: the same for a sample wherever it is, and the same on all its frames."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from gare.common.errors import ConfigError
from gare.data import augment
from gare.data.augment import TABLE, Draw, apply, augment_draws, augmented, check_augment, warp
from gare.data.batches import Batch

needs_kornia = pytest.mark.skipif(find_spec("kornia") is None, reason="kornia is not installed (gare-ray[augment])")
STRENGTH = 0.7
FACTORS = {sign: 1 + sign * 0.9 * STRENGTH for sign in (1, -1)}


BICUBIC, GREY = Image.Resampling.BICUBIC, (128, 128, 128)


def moved(image, come_from):
    return image.transform(image.size, Image.Transform.AFFINE, come_from, BICUBIC, fillcolor=GREY)


def clips(count, frames=3, side=24):
    """Smooth pictures, so that a warp's rounding is small."""
    coarse = torch.rand(count * frames, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 255
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 255)
    return fine.to(torch.uint8).view(count, frames, 3, side, side)


def batch_of(frames, lengths):
    mask = torch.arange(frames.shape[1]) < torch.tensor(lengths)[:, None]
    frames = frames * mask[:, :, None, None, None]
    ids = torch.zeros(len(frames), 4, dtype=torch.int64)
    return Batch(frames, mask, ids, ids.bool(), [str(i) for i in range(len(frames))])


def test_draws_are_those_of_seed_epoch_and_sample():
    assert augment_draws(1, 2, (3, 4)) == augment_draws(1, 2, (3, 4))
    others = [augment_draws(*place) for place in [(0, 2, (3, 4)), (1, 0, (3, 4)), (1, 2, (0, 4)), (1, 2, (3, 0))]]
    assert augment_draws(1, 2, (3, 4)) not in others


def test_draws_are_the_published_ones():
    drawn = [augment_draws(0, 0, (video, 0)) for video in range(2000)]
    counts = Counter(len(operations) for operations in drawn)
    assert set(counts) == {0, 1, 2, 3, 4}  # each of 4 with probability 0.5
    flat = [draw for operations in drawn for draw in operations]
    assert abs(len(flat) / 2000 - 2) < 0.1
    strengths = np.array([draw.strength for draw in flat])
    assert abs(strengths.mean() - 0.7) < 0.005
    assert abs(strengths.std() - 0.05) < 0.005
    names = Counter(draw.name for draw in flat)
    assert set(names) == set(TABLE)
    assert max(names.values()) < 2 * min(names.values())
    assert any(len({draw.name for draw in operations}) < len(operations) for operations in drawn)  # with replacement
    assert abs(np.mean([draw.sign for draw in flat])) < 0.1


@needs_kornia
def test_a_sample_becomes_the_same_in_any_batch():
    frames = clips(8)
    samples = [(video, 0) for video in range(8)]
    whole = augmented(batch_of(frames, [3] * 8), samples, 0, 1).frames
    turned = augmented(batch_of(frames.flip(0), [3] * 8), samples[::-1], 0, 1).frames
    assert torch.equal(whole, turned.flip(0))
    assert not torch.equal(whole, frames)
    assert torch.equal(whole[5], augmented(batch_of(frames[5:6], [3]), samples[5:6], 0, 1).frames[0])
    assert not torch.equal(whole, augmented(batch_of(frames, [3] * 8), samples, 0, 2).frames)


@needs_kornia
def test_the_batch_before_and_its_padded_frames_stay_as_they_are():
    batch = batch_of(clips(30), [1, 2, 3] * 10)
    before = batch.frames.clone()
    after = augmented(batch, [(video, 0) for video in range(30)], 0, 0)
    assert torch.equal(batch.frames, before)
    assert after.frames.dtype == torch.uint8
    assert not after.frames[~batch.frame_mask].any()
    assert torch.equal(after.frame_mask, batch.frame_mask)


@needs_kornia
@pytest.mark.parametrize("name", list(TABLE))
@pytest.mark.parametrize("sign", [1, -1])
def test_every_operation_does_the_same_to_all_frames_of_a_clip(name, sign):
    draw = Draw(name, STRENGTH, sign)
    picture = clips(1)[0, :1]
    together = apply(picture.expand(3, -1, -1, -1), [draw])
    assert torch.equal(together[0], together[2])
    assert torch.equal(together[:1], apply(picture, [draw]))
    assert not torch.equal(together[:1], picture)
    two = clips(1)[0, :2]
    assert torch.equal(apply(two, [draw])[1:], apply(two[1:], [draw]))  # nothing of one frame enters another


@needs_kornia
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("name", "with_pil"),
    [
        ("auto_contrast", lambda image, _: ImageOps.autocontrast(image)),
        ("equalize", lambda image, _: ImageOps.equalize(image)),
        ("invert", lambda image, _: ImageOps.invert(image)),
        ("posterize", lambda image, _: ImageOps.posterize(image, 2)),
        ("solarize", lambda image, _: ImageOps.solarize(image, 256 - 179)),
        ("colour", lambda image, sign: ImageEnhance.Color(image).enhance(FACTORS[sign])),
        ("contrast", lambda image, sign: ImageEnhance.Contrast(image).enhance(FACTORS[sign])),
        ("brightness", lambda image, sign: ImageEnhance.Brightness(image).enhance(FACTORS[sign])),
        ("sharpness", lambda image, sign: ImageEnhance.Sharpness(image).enhance(FACTORS[sign])),
        ("rotate", lambda image, sign: image.rotate(sign * 21, BICUBIC, fillcolor=GREY)),
        ("shear_x", lambda image, sign: moved(image, (1, -sign * 0.3 * STRENGTH, 0, 0, 1, 0))),
        ("shear_y", lambda image, sign: moved(image, (1, 0, 0, -sign * 0.3 * STRENGTH, 1, 0))),
        ("shift_x", lambda image, sign: moved(image, (1, 0, -sign * 0.45 * STRENGTH * image.width, 0, 1, 0))),
        ("shift_y", lambda image, sign: moved(image, (1, 0, 0, 0, 1, -sign * 0.45 * STRENGTH * image.height))),
    ],
)
def test_operations_are_those_of_pil_to_a_grey_level_or_so(name, with_pil, sign):
    clip = clips(1, side=48)[0][..., :40]  # wider than high is another thing than the reverse
    ours = apply(clip, [Draw(name, STRENGTH, sign)])
    for frame, changed in zip(clip, ours, strict=True):
        image = Image.fromarray(frame.permute(1, 2, 0).numpy())
        expected = np.asarray(with_pil(image, sign)).astype(float)
        difference = np.abs(expected - changed.permute(1, 2, 0).numpy())
        assert difference.mean() < 1.0


def test_a_warp_is_that_of_pil_to_its_rounding_and_grey_where_nothing_comes_from():
    noise = torch.randint(0, 256, (1, 3, 33, 47), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = Image.fromarray(noise[0].permute(1, 2, 0).numpy())
    for come_from in ((1, 0, 9.3, 0, 1, -4.6), (1, 0.4, 0, 0, 1, 0), (0.9, -0.3, 3.1, 0.25, 1.1, -2)):
        ours = (warp(noise.float() / 255, come_from).clamp(0, 1) * 255).round()[0].permute(1, 2, 0).numpy()
        expected = np.asarray(moved(image, come_from)).astype(float)
        assert np.abs(ours - expected).max() <= 1
        uncovered = (expected == 128).all(axis=2)
        assert uncovered.mean() > 0.05
        assert (ours[uncovered] == 128).all()


@needs_kornia
def test_shifts_and_shears_move_pixels_by_their_share_of_the_side():
    picture = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    picture[..., 20, 20] = 255

    def place(name, strength, sign):
        moved = apply(picture, [Draw(name, strength, sign)])[0, 0].float()
        return tuple(float(i) for i in divmod(int(moved.argmax()), 40))

    assert place("shift_x", 1 / 1.8, 1) == (20, 30)  # 0.45 x 40 / 1.8 pixels
    assert place("shift_y", 1 / 1.8, -1) == (10, 20)
    assert place("shear_x", 0.5, 1) == (20, 23)  # 0.3 x 0.5 x 20 pixels
    assert place("shear_y", 0.5, -1) == (17, 20)


@needs_kornia
def test_solarize_inverts_from_the_very_grey_level_of_pil_on():
    greys = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    image = Image.fromarray(greys[0].permute(1, 2, 0).contiguous().numpy())
    for strength, threshold in ((0.0, 256), (0.7, 77), (0.72, 72), (1.0, 0)):
        ours = apply(greys, [Draw("solarize", strength, 1)])[0].permute(1, 2, 0)
        assert (ours.numpy() == np.asarray(ImageOps.solarize(image, threshold))).all()


@needs_kornia
def test_solarize_add_makes_dark_pixels_lighter_and_leaves_the_others():
    picture = torch.tensor([0, 127, 128, 255], dtype=torch.uint8).expand(1, 3, 4, 4)
    made = apply(picture, [Draw("solarize_add", 1.0, 1)])
    assert made[0, 0, 0].tolist() == [110, 237, 128, 255]


def test_augmentation_without_kornia_says_what_to_install(monkeypatch):
    monkeypatch.setattr(augment, "find_spec", lambda _: None)
    check_augment("none")
    with pytest.raises(ConfigError, match=r"gare-ray\[augment\]"):
        check_augment("rand")
