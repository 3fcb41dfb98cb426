"""The pipeline: any image in, the same result however it came; tiles, fidelity, saving and loading."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import upsr
from tests import tiny
from upsr import cli
from upsr.archs import CompactSR, SpandrelSR, UNetModelSwin
from upsr.config.schema import TileOptions
from upsr.errors import UpsrError
from upsr.images.photo import Photo
from upsr.images.writing import write_photo
from upsr.pipeline.hardware import dtype_for
from upsr.pipeline.images import photo_of
from upsr.pipeline.memory import OVERLAP, TILE_SIDES, choose_tile, tile_memory
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.pipeline.settings import Settings
from upsr.restoring.restore import restore, restore_planned
from upsr.tiling.colour import COLOUR_FIXES
from upsr.tiling.scratch import Scratch
from upsr.tiling.tiles import TilePlan, Tiles, whole_plan
from upsr.tiling.windows import Tile, grid_windows


@pytest.fixture(scope="module")
def pipe():
    return UPSRPipeline.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def scene():
    """A photo of 192 x 160 with edges, texture and flat parts."""
    from skimage import data

    return np.asarray(Image.fromarray(data.astronaut()).resize((192, 192), Image.Resampling.LANCZOS))[:160]


def small(height=32, width=40, channels=3, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def array(image):
    return np.asarray(image)


def test_every_kind_of_input_gives_the_same_result(pipe, tmp_path):
    pixels = small()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = array(pipe(pixels).images[0])
    assert expected.shape == (128, 160, 3)
    assert np.array_equal(array(pipe(tmp_path / "a.png").images[0]), expected)
    assert np.array_equal(array(pipe(str(tmp_path / "a.png")).images[0]), expected)
    assert np.array_equal(array(pipe(Image.fromarray(pixels)).images[0]), expected)
    both = pipe([pixels, small(seed=1)]).images
    assert np.array_equal(array(both[0]), expected)
    assert not np.array_equal(array(both[1]), expected)


def test_numbers_of_every_type_are_the_same_picture():
    levels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    tensor = torch.from_numpy(levels).permute(2, 0, 1)
    assert (photo_of(tensor).frames[0] == levels).all()
    assert (photo_of(tensor // 128).frames[0] == levels // 128).all()
    assert (photo_of(np.ones((4, 4, 3), np.float16)).frames[0] == 65535).all()
    expected = photo_of(levels / np.float32(255)).frames[0].astype(int)
    for image in (tensor.to(torch.bfloat16) / 255, tensor.half() / 255, tensor.double() / 255):
        assert abs(photo_of(image).frames[0].astype(int) - expected).max() <= 65535 * 2**-8
    grey = torch.full((4, 4), 0.5, dtype=torch.bfloat16, requires_grad=True)
    assert photo_of(grey).frames[0].shape == (4, 4, 1)


def test_tensors_and_outputs(pipe):
    batch = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tensors = pipe(batch, output_type="pt").images
    assert [tuple(image.shape) for image in tensors] == [(3, 128, 128)] * 2
    arrays = pipe(batch, output_type="np").images
    assert np.allclose(arrays[0], tensors[0].permute(1, 2, 0).numpy())
    assert tensors[0].min() >= 0
    assert tensors[0].max() <= 1


def test_seed_decides(pipe):
    first, again, other = (array(pipe(small(), seed=seed).images[0]) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("settings", "size"),
    [({"outscale": 2}, (80, 64)), ({"outscale": 1.5}, (60, 48)),
     ({"outscale": 5}, (200, 160)), ({"size": (100, None)}, (100, 80)),
     ({"size": (33, 44)}, (33, 44))],
)  # fmt: skip
def test_any_size(pipe, settings, size):
    assert pipe(small(), steps=0, **settings).images[0].size == size


def test_grey_alpha_and_sixteen_bit_stay(pipe):
    assert pipe(small(channels=1), steps=1).images[0].mode == "L"
    assert pipe(small(channels=4), steps=1).images[0].mode == "RGBA"
    deep = Photo((small().astype(np.uint16) * 257,), "PNG")
    assert pipe.upscale(deep, Settings.of(steps=1)).frames[0].dtype == np.uint16


def test_frames_of_an_animation_share_their_noise(pipe):
    still = Photo((small(), small()), "GIF", durations=(50, 70), loop=3)
    large = pipe.upscale(still, Settings.of(steps=1))
    assert np.array_equal(*large.frames)
    assert (large.durations, large.loop) == ((50, 70), 3)


def test_fidelity_moves_from_noise_to_g(pipe, scene):
    part = scene[:64, 64:128]
    results = {f: array(pipe(part, fidelity=f).images[0]).astype(float) for f in (0, 0.5, 0.75, 1)}
    estimate = array(pipe(part, return_intermediates=True).intermediates[0]["g(y)"]).astype(float)
    distances = [np.abs(results[f] - estimate).mean() for f in (0, 0.5, 0.75, 1)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-9
    assert np.array_equal(results[0.5], array(pipe(part).images[0]))
    assert np.abs(results[0.75] - (results[0.5] + estimate) / 2).max() <= 1, "half and half, but for rounding to 8 bit"


def test_no_value_of_the_fidelity_covers_a_flat_photo_with_a_mesh(pipe):
    flat = np.full((64, 64, 3), 150, np.uint8)
    roughness = {
        f: np.abs(np.diff(array(pipe(flat, fidelity=f).images[0]).astype(float), axis=1)).mean() for f in (0, 0.5)
    }
    assert roughness[0.5] < roughness[0] < 3, "full noise everywhere leaves 14 grey levels from pixel to pixel"


def test_steps_and_what_is_shown(pipe):
    out = pipe(small(), steps=2, return_intermediates=True)
    assert list(out.intermediates[0]) == ["g(y)", "x_T", "t=4", "t=0"]
    assert out.uncertainty[0].size == out.weight[0].size == (160, 128)
    assert out.uncertainty[0].mode == "L"
    assert array(out.weight[0]).min() >= round(0.2 * 255) - 1  # b_u of UPSR-tiny
    assert np.array_equal(array(out.images[0]), array(out.intermediates[0]["t=0"]))


def test_progress_counts_and_can_end_the_work(pipe):
    calls = []
    pipe(small(), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 6) for i in range(1, 7)]

    def stop(done, total):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        pipe(small(), progress=stop)


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"steps": 6}, "steps"), ({"fidelity": 1.5}, "fidelity"),
     ({"outscale": 0}, "outscale"), ({"outscale": float("nan")}, "outscale"),
     ({"tile": 8}, "tile"), ({"colour_fix": "magic"}, "colour_fix"), ({"size": (None, None)}, "size"),
     ({"adaptive": 2}, "adaptive"), ({"output_type": "jpg"}, "output_type"), ({"tiles_at_once": 0}, "tiles_at_once")],
)  # fmt: skip
def test_settings_out_of_range_are_named(pipe, settings, word):
    with pytest.raises(UpsrError, match=word):
        pipe(small(), **settings)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_a_pil_image_is_turned_as_its_file_is(pipe, tmp_path, ending):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"turned.{ending}"
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    Image.fromarray(small()).save(path, exif=exif, **({"tiffinfo": {700: xmp}} if ending == "tif" else {"xmp": xmp}))
    assert Image.open(path).size[::-1] == small().shape[:2] or ending == "tif"
    from_file, from_pil = (pipe(image, steps=0).images[0] for image in (path, Image.open(path)))
    assert from_file.size == tuple(4 * side for side in small().shape[:2])
    assert np.array_equal(array(from_file), array(from_pil))
    upright = ImageOps.exif_transpose(Image.open(path))
    assert np.array_equal(array(pipe(upright, steps=0).images[0]), array(from_pil)), "not turned twice"


def test_a_pil_image_whose_xmp_is_text_is_turned_too(pipe):
    image = Image.fromarray(small())
    image.info["xmp"] = '<rdf:Description tiff:Orientation="6"/>'
    assert pipe(image, steps=0).images[0].size == tuple(4 * side for side in small().shape[:2])


def test_bits_that_a_pil_image_does_not_hold_are_said(pipe):
    deep = small().astype(np.uint16) * 257
    images = [Image.fromarray(deep[..., 0]), deep, small(), small().astype(np.float32) / 255]
    (said,) = {note for notes in pipe(images, steps=0).notes for note in notes}
    assert said == "more than 8 bits left out: output_type='pil' has 8; 'np' and 'pt' keep them"
    assert pipe(images, steps=0).notes == [(said,), (said,), (), ()]
    assert pipe(images, steps=0, output_type="np").notes == [(), (), (), ()]


def test_adaptive_has_an_effect_in_one_step(pipe):
    """A window that g is sure of keeps g(y); one with detail takes the step."""
    flat = np.full((24, 24, 3), 120, np.uint8)
    flat[10:12] = 130
    once, left_out, faithful = (array(pipe(flat, **how).images[0]) for how in (
        {"steps": 1}, {"steps": 1, "adaptive": 0.1}, {"fidelity": 1},
    ))  # fmt: skip
    assert np.array_equal(left_out, faithful)
    assert not np.array_equal(left_out, once)
    assert np.array_equal(*(array(pipe(small(), steps=1, **how).images[0]) for how in ({}, {"adaptive": 0.004})))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"outscale": "2"}, "outscale is '2'; give a number"), ({"outscale": True}, "outscale is True; give a number"),
     ({"consistent": "no"}, "consistent is 'no'; give True or False"), ({"seed": 1.5}, "seed is 1.5; give a whole number"),
     ({"seed": "a"}, "seed is 'a'; give a whole"), ({"seed": [1, 2]}, r"seed is \[1, 2\]; give a whole"),
     ({"seed": float("inf")}, "seed is inf; give a whole"), ({"seed": True}, "seed is True; give a whole"),
     ({"steps": True}, "steps is True; give whole numbers from 0"), ({"tile": 64.5}, "tile is 64.5; give a whole number of LR"),
     ({"tile": "x"}, "tile is 'x'; give a whole number of LR pixels, 'auto' or None"),
     ({"tiles_at_once": 1.5}, "tiles_at_once is 1.5; give a whole"), ({"size": "x"}, "size is 'x'; give .width, height."),
     ({"size": 100}, "size is 100; give .width, height."), ({"size": (100, "x")}, "a side of size is 'x'; give"),
     ({"knobs": 5}, "knobs is 5; give the method's settings by name"), ({"output_type": ["pil"]}, "output_type is"),
     ({"width": 100}, r"^width: no such setting; give size=\(width, height\)"),
     ({"height": 100, "outscale": 2}, r"^height: no such setting; give size="),
     ({"out_scale": 2}, "^out_scale: no such setting; did you mean 'outscale'"),
     ({"heat": 2}, "^heat: the method UPSR has no such setting; it has steps, fidelity, adaptive")],
)  # fmt: skip
def test_settings_of_another_kind_are_named_with_what_is_wanted(pipe, settings, message):
    with pytest.raises(UpsrError, match=message):
        pipe(small(), **settings)


def test_whole_numbers_of_any_type_are_the_same_settings():
    plain = Settings(seed=3, tile=64, size=(None, 90), tiles_at_once=2, consistent=True)
    numpy = Settings(seed=np.int64(3), tile=64.0, size=[None, np.uint16(90)], tiles_at_once=2.0, consistent=np.True_)
    assert repr(numpy) == repr(plain)


def test_a_type_is_no_device_and_a_misspelt_argument_none(pipe):
    with pytest.raises(UpsrError, match=r"device is torch.float16, which is a type; give dtype=torch.float16"):
        pipe.to(torch.float16)
    with pytest.raises(UpsrError, match=r"device '\[\]' cannot be used here"):
        pipe.to([])
    with pytest.raises(UpsrError, match=r"dtype is '\[\]'; there are auto, float32"):
        pipe.to(dtype=[])
    with pytest.raises(UpsrError, match=r"^devise: no such argument of from_pretrained; did you mean 'device'\?"):
        UPSRPipeline.from_pretrained("tiny", devise="cpu")
    with pytest.raises(UpsrError, match="nowhere: no such file or folder"):
        UPSRPipeline.from_pretrained("nowhere", revision="main", local_files_only=True)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 5), np.uint8), np.zeros((0, 4, 3), np.uint8), np.full((4, 4), 7.0), 3, "nowhere.png"]
)
def test_what_is_no_image_is_refused(pipe, image):
    with pytest.raises(UpsrError):
        pipe(image)


def lq_of(pixels):
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def stepwise(pipe, lq, size, overlap, room=1 << 30, tiles_at_once=1, seed=0):
    plan = TilePlan(TileOptions(size=size, overlap=overlap), Scratch(lq.device, room), tiles_at_once)
    with torch.inference_mode():
        return restore_planned(pipe.method, lq, plan, seed=seed, names=["a"])


def psnr(a, b, border=64):
    inside = (..., slice(border, -border), slice(border, -border))
    return float(-10 * (a[inside] - b[inside]).square().mean().log10())


def test_one_tile_is_the_whole_image(pipe, scene):
    lq = lq_of(scene[:38, :56])
    whole = restore(pipe.method, lq, seed=0, names=["a"])
    assert torch.equal(stepwise(pipe, lq, 256, 32), whole)
    assert torch.equal(stepwise(pipe, lq, 256, 32, room=0), whole), "what lies in files is the same"


def test_tiles_agree_with_the_whole_and_better_than_blending_at_the_end(pipe, scene):
    lq = lq_of(scene[:64, :128])
    whole = restore(pipe.method, lq, seed=0, names=["a"])
    tiled = stepwise(pipe, lq, 64, 32)
    at_the_end = restore(pipe.method, lq, seed=0, names=["a"], tile=TileOptions(size=64, overlap=32))
    assert psnr(tiled, whole) > 45
    assert psnr(tiled, whole) > psnr(at_the_end, whole)
    assert abs(seam_ratio(tiled, whole, 48 * 4) - 1) < 0.05


def test_tiles_are_the_same_in_files_and_several_at_once(pipe, scene):
    lq = lq_of(scene[:40, :120])
    tiled = stepwise(pipe, lq, 64, 32)
    torch.testing.assert_close(stepwise(pipe, lq, 64, 32, room=0), tiled, rtol=0, atol=0)
    torch.testing.assert_close(stepwise(pipe, lq, 64, 32, tiles_at_once=3), tiled, rtol=0, atol=1e-4)


def test_tiles_with_little_left_to_do_are_left_alone(pipe, scene):
    calls = []
    hook = pipe._working.denoiser.register_forward_hook(lambda *_: calls.append(1))
    found = {}
    for bound in (0.0, 0.012, 0.9):
        image = pipe(scene[32:128, :96], tile=64, adaptive=bound, output_type="pt").images[0]
        found[bound] = (len(calls), image)
        calls.clear()
    hook.remove()
    (all_calls, every_step), (some_calls, adaptive), (no_calls, none) = found.values()
    assert all_calls > some_calls > no_calls == 0
    torch.testing.assert_close(
        none, pipe(scene[32:128, :96], tile=64, steps=0, output_type="pt").images[0], rtol=0, atol=0.01
    )
    assert 0 < (adaptive - every_step).square().mean().sqrt() < 0.012


def seam_ratio(tiled, whole, place):
    """Gradient energy on both sides of a tile border over that of the untiled image there."""
    lines = slice(place - 2, place + 2)
    energies = [image.diff(dim=-1)[..., lines].square().mean() for image in (tiled, whole)]
    return float(energies[0] / energies[1])


def equal_windows(length, size, overlap, multiple):
    """Pixels of the equally large windows of at most ``size`` that make the least work along one side by itself."""
    if length <= size:
        return length
    counts = range(-(-(length - overlap) // (size - overlap)), length)
    sizes = ((n, -(-(length + (n - 1) * overlap) // (n * multiple)) * multiple) for n in counts)
    return min(n * own for n, own in itertools.islice(sizes, 4) if own <= size)


@pytest.mark.parametrize("multiple", [1, 2, 4, 8, 12, 16, 32, 64])
def test_tiles_cover_each_pixel_once_and_make_no_more_work_than_equal_ones(multiple):
    draw, alignment = np.random.default_rng(multiple), math.gcd(8, multiple)
    for _ in range(500):
        height, width = (multiple * int(draw.integers(1, max(900 // multiple, 4))) for _ in range(2))
        tile = TileOptions(size=(size := int(draw.integers(8, 300))), overlap=int(draw.integers(size)))
        most, work, largest = max(size // multiple, 1) * multiple, 1, 1
        overlap = min(-(-tile.overlap // alignment), most // 2 // alignment) * alignment
        grid = grid_windows(height, width, tile, multiple, torch.device("cpu"))
        for length, windows in zip((height, width), grid, strict=True):
            starts, sizes = list(windows), [len(weights) for weights in windows.values()]
            ends = [start + own for start, own in zip(starts, sizes, strict=True)]
            overlaps = [end - start for end, start in zip(ends, starts[1:], strict=False)]
            assert (starts[0], ends[-1]) == (0, length)
            assert all(start % alignment == 0 for start in starts)
            assert all(own % multiple == 0 for own in sizes)
            assert max(sizes) - min(sizes) <= multiple
            assert max(sizes) <= 2 * most
            assert all(overlap <= own for own in overlaps), (length, tile)
            assert not overlaps or max(overlaps) - min(overlaps) <= alignment
            # None lies inside of another.
            assert sorted(set(starts)) == starts
            assert sorted(set(ends)) == ends
            total = np.zeros(length)
            for start, weights in windows.items():
                total[start : start + len(weights)] += weights.numpy()
            assert abs(total - 1).max() < 1e-6, (length, tile)
            work, largest = work * sum(sizes), largest * max(sizes)
        assert largest <= 1.5 * most**2
        assert work <= math.prod(equal_windows(length, most, overlap, multiple) for length in (height, width))
        assert max(height, width) > most or [len(windows) for windows in grid] == [1, 1]


def test_a_whole_image_is_one_tile_whatever_its_sides():
    for height, width in ((8, 8), (640, 64), (64, 4096)):
        tiles = Tiles(whole_plan(torch.device("cpu")), torch.zeros(1, 1, height, width), 8, passes=1)
        assert tiles.windows == [Tile(0, height, 0, width)]


class Rank:
    """One of several threads that share tiles as processes do."""

    is_main = True

    def __init__(self, rank, shared):
        self.rank, self._shared = rank, shared
        self.world_size = shared.parties
        shared.given = [None] * shared.parties

    def from_main(self, item):
        return item

    def gather_tensors(self, tensor):
        self._shared.given[self.rank] = tensor
        self._shared.wait(timeout=60)
        given = list(self._shared.given)
        self._shared.wait(timeout=60)
        assert len({part.shape for part in given}) == 1
        return given


def blended(image, processes, at_once):
    """Windows' results, blended, of each of the processes, and the sizes of the network's calls."""
    shared, sizes = threading.Barrier(processes), []

    def of(rank):
        plan = TilePlan(TileOptions(size=24, overlap=8), Scratch(image.device), at_once, peers=rank)
        tiles = Tiles(plan, image, 8, passes=1)

        def of_windows(windows):
            sizes.append({window.size for window in windows})
            parts = tiles.cut(image, windows)
            # Of a sample for itself: a product of another batch may be summed in another order.
            return torch.cat([part / part.square().sum() for part in parts.split(1)])

        return tiles.blend(tiles.blank(image.shape[1], 2), lambda w: of_windows(w).repeat(1, 1, 2, 2), 2)

    if processes == 1:
        return [of(None)], sizes
    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(of, [Rank(rank, shared) for rank in range(processes)])), sizes


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_tiles_of_several_sizes_give_the_same_bytes_however_they_are_shared(processes, at_once):
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) + 0.1
    [alone], sizes = blended(image, 1, 1)
    assert len({size for call in sizes for size in call}) == 4, "sizes of windows"
    results, sizes = blended(image, processes, at_once)
    assert all(len(call) == 1 for call in sizes), "a call takes windows of one size"
    for result in results:
        assert torch.equal(result, alone)


@pytest.mark.parametrize("side", [12, 20, 36])
def test_tiles_of_a_network_of_a_small_multiple_are_the_photo(side):
    unet = {**tiny.UNET, "image_size": 8, "channel_mult": [1], "window_size": 4, "attention_resolutions": [8]}
    model = tiny.model(tiny.random_weights(CompactSR(num_feat=8, num_block=1)), unet=unet)
    assert model.facts.multiple == 4
    lq = torch.from_numpy(tiny.picture(side, side)).permute(2, 0, 1)[None].float() / 255
    tiled, whole = (
        restore(model, lq, seed=0, names=["x"], tile=TileOptions(size=size, overlap=0, blend="step"))
        for size in (8, 64)
    )
    assert tiled.shape == (1, 3, 4 * side, 4 * side)
    assert not (tiled == 0.5).all(dim=1).any(), "pixels that belong to no tile"
    assert (tiled - whole).abs().mean() < 0.1


def test_tiles_make_no_more_work_than_they_must():
    for sides, size, multiple, most in (
        ((512, 512), 256, 64, 1.13),
        ((1024, 1024), 256, 64, 1.2),
        ((1024, 1024), 256, 32, 1.17),
        ((320, 448), 128, 64, 1.38),
    ):
        grid = grid_windows(*sides, TileOptions(size=size, overlap=OVERLAP), multiple, torch.device("cpu"))
        assert math.prod(sum(map(len, windows.values())) for windows in grid) <= most * math.prod(sides)


def test_the_tile_fits_the_memory(pipe, monkeypatch):
    import upsr.pipeline.memory as memory

    for free, expected in (
        (64 << 30, TILE_SIDES[0]),
        (2 * tile_memory(pipe.method, 128), 128),
        (1 << 20, TILE_SIDES[-1]),
    ):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        assert choose_tile(pipe.method, torch.device("cpu")) == expected


@pytest.mark.parametrize("kind", ["adain", "wavelet"])
def test_colour_fixes_bring_back_the_photos_colours(kind):
    lq = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    image = torch.nn.functional.interpolate(lq, scale_factor=4, mode="bicubic").clamp(0, 1) * 0.7 + 0.05
    fixed = COLOUR_FIXES[kind](image.clone(), lq, Scratch(lq.device, 1 << 30))
    before, after = ((x.mean(dim=(2, 3)) - lq.mean(dim=(2, 3))).abs().max() for x in (image, fixed))
    assert after < 0.1 * before


def test_wavelet_in_bands_is_the_same_as_at_once(monkeypatch):
    import upsr.tiling.colour as colour

    lq, image = torch.rand(1, 3, 40, 24), torch.rand(1, 3, 160, 96)
    whole = colour.wavelet(image, lq, Scratch(lq.device, 1 << 30))
    monkeypatch.setattr(colour, "BAND", 24)
    torch.testing.assert_close(colour.wavelet(image, lq, Scratch(lq.device, 1 << 30)), whole, rtol=0, atol=1e-5)


def test_saved_and_loaded_it_is_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        "config.json",
        "denoiser.safetensors",
        "g.safetensors",
    }
    loaded = UPSRPipeline.from_pretrained(tmp_path / "saved", device="cpu")
    assert np.array_equal(array(loaded(small()).images[0]), array(pipe(small()).images[0]))
    assert loaded.digest() == pipe.digest()


def test_weights_in_the_authors_layout_become_safetensors(pipe, tmp_path, monkeypatch):
    import upsr.methods.upsr.files as files

    sections = {key: value for key, value in pipe.config.items() if not key.startswith("_")}
    monkeypatch.setattr(files, "RELEASED", sections)  # the released shapes are too large for a test
    state = {f"module.{name}": value for name, value in pipe.method.denoiser.state_dict().items()}
    torch.save({"params_ema": state, "params": {}}, tmp_path / "upsr.pth")
    torch.save({"params": pipe.method.g.network.state_dict()}, tmp_path / "atd_real.pth")
    official = UPSRPipeline.from_pretrained(tmp_path / "upsr.pth", g=tmp_path / "atd_real.pth", device="cpu")
    expected = array(pipe(small()).images[0])
    assert np.array_equal(array(official(small()).images[0]), expected)
    official.save_pretrained(tmp_path / "converted")
    converted = UPSRPipeline.from_pretrained(tmp_path / "converted", device="cpu")
    assert np.array_equal(array(converted(small()).images[0]), expected)


def test_option_files_are_sources_too(pipe):
    loaded = UPSRPipeline.from_pretrained("options/tiny/test.yml", device="cpu")
    assert loaded.digest() == pipe.digest()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda folder: folder / "absent", "no such"),
        (lambda folder: folder, "neither a saved pipeline"),
        (lambda folder: written(folder / "upsr.pth", b"junk"), "upsr.pth: not a readable weight file"),
        (lambda folder: written(folder / "config.json", b"{").parent, "config"),
        (
            lambda folder: written(folder / "config.json", json.dumps({"_class_name": "Other"}).encode()).parent,
            "UPSRPipeline",
        ),
    ],
)
def test_what_is_no_model_is_refused(make, word, tmp_path):
    with pytest.raises(UpsrError, match=word):
        UPSRPipeline.from_pretrained(make(tmp_path), device="cpu")


def written(path, data):
    path.write_bytes(data)
    return path


def test_a_config_that_was_tampered_with_is_refused(tmp_path, pipe):
    pipe.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["network_g"]["widht"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UpsrError, match="widht"):
        UPSRPipeline.from_pretrained(tmp_path, device="cpu")


def test_the_denoiser_is_compiled_if_asked_for(monkeypatch):
    modes = []
    monkeypatch.setattr("upsr.pipeline.pipeline.Compiled", lambda network, mode: modes.append(mode) or network)
    pipe = UPSRPipeline.from_pretrained("tiny", device="cpu", compile="max-autotune")
    pipe.to(dtype="float32")
    assert modes == ["max-autotune"] * 2
    with pytest.raises(UpsrError, match="compile is 'fast'; there are none, default, reduce-overhead, max-autotune"):
        UPSRPipeline.from_pretrained("tiny", device="cpu", compile="fast")
    assert modes == ["max-autotune"] * 2


def test_devices_and_types_that_are_not_there_are_named():
    with pytest.raises(UpsrError, match="device 'nonsense'"):
        UPSRPipeline.from_pretrained("tiny", device="nonsense")
    with pytest.raises(UpsrError, match="dtype"):
        UPSRPipeline.from_pretrained("tiny", device="cpu", dtype="int4")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, "bfloat16"), ({"avx512_bf16": False}, "float32"), ({}, "float32")],
)
def test_the_type_that_is_taken_unasked(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert dtype_for("auto", torch.device("cpu")) == getattr(torch, expected)
    assert dtype_for("float16", torch.device("cpu")) == dtype_for(torch.float16, torch.device("cpu")) == torch.float16


def test_the_hub_gets_what_is_saved(pipe, monkeypatch):
    import huggingface_hub

    uploads = {}

    class Api:
        def __init__(self, token=None):
            uploads["token"] = token

        def create_repo(self, repo_id, **how):
            uploads["repo"] = repo_id

        def upload_folder(self, *, repo_id, folder_path):
            uploads["folder"] = shutil.copytree(folder_path, tmp := folder_path + "_copy")
            return f"address of {repo_id} {tmp}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert "someone/upsr" in pipe.push_to_hub("someone/upsr", token="t")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **how: uploads["folder"])
    loaded = UPSRPipeline.from_pretrained("someone/upsr", device="cpu")
    assert loaded.digest() == pipe.digest()
    shutil.rmtree(uploads["folder"])


def test_photos_written_are_read_back(pipe, tmp_path):
    large = pipe.upscale(Photo((small(),), "PNG"), Settings.of(steps=0))
    write_photo(tmp_path / "a.png", large)
    assert np.array_equal(array(Image.open(tmp_path / "a.png")), large.frames[0])


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A network that spandrel knows, and its file."""
    from basicsr.archs.srvgg_arch import SRVGGNetCompact

    path = tmp_path_factory.mktemp("foreign") / "compact_x2.pth"
    network = tiny.random_weights(SRVGGNetCompact(num_in_ch=3, num_out_ch=3, num_feat=16, num_conv=2, upscale=2))
    torch.save({"params": network.state_dict()}, path)
    return network, path


def test_a_network_that_spandrel_knows_upscales_by_itself(foreign, tmp_path):
    network, path = foreign
    pipe = UPSRPipeline.from_pretrained(path, device="cpu")
    assert (pipe.scale, pipe.draws, pipe.knobs()) == (2, False, {})
    pixels = tiny.picture(40, 52)
    with torch.inference_mode():
        expected = network(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)[0].clamp(0, 1)
    out = pipe(pixels, output_type="pt", return_intermediates=True)
    torch.testing.assert_close(out.images[0], expected, atol=0.51 / 255, rtol=0)
    assert expected.std() > 0.05
    assert (out.uncertainty, out.weight, out.intermediates) == (None, None, [{}])
    torch.testing.assert_close(pipe(pixels, tile=24, output_type="pt").images[0], expected, atol=0.02, rtol=0)
    assert np.array_equal(array(pipe(pixels, seed=1).images[0]), array(pipe(pixels, seed=2).images[0]))
    assert pipe(small(channels=4)).images[0].mode == "RGBA"
    pipe.save_pretrained(tmp_path / "saved")
    shutil.move(tmp_path / "saved", tmp_path / "moved")
    moved = UPSRPipeline.from_pretrained(tmp_path / "moved", device="cpu")
    assert moved.digest() == pipe.digest()
    assert np.array_equal(array(moved(pixels).images[0]), array(pipe(pixels).images[0]))


@pytest.mark.parametrize(
    "settings", [{"steps": 1}, {"steps": 0}, {"fidelity": 0.5}, {"fidelity": 1, "steps": 2}, {"adaptive": 0.01}]
)
def test_settings_of_the_diffusion_are_refused_by_name_without_one(foreign, settings):
    with pytest.raises(UpsrError, match=f"^({'|'.join(settings)}): the method SR has no such setting"):
        UPSRPipeline.from_pretrained(foreign[1], device="cpu")(small(), **settings)


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"dtype": "int8"}, {"compile": "default"}])
def test_options_of_the_denoiser_are_refused_by_name_without_one(foreign, options):
    with pytest.raises(UpsrError, match=f"^{next(iter(options))}.*this method"):
        UPSRPipeline.from_pretrained(foreign[1], device="cpu", **options)


def test_a_network_from_elsewhere_as_g_moves_with_a_saved_pipeline(foreign, tmp_path):
    _, path = foreign
    g = SpandrelSR(str(path))
    unet = {**tiny.UNET, "scale": 2, "in_channels": 12, "cond_channels": 24}
    options = {
        "scale": 2,
        "network_g": {"type": "UNetModelSwin", **unet},
        "network_aux": {"type": "SpandrelSR", "path": str(path)},
        "path": {"pretrain_network_g": str(tmp_path / "denoiser.pth")},
    }
    torch.save(tiny.random_weights(UNetModelSwin(**unet)).state_dict(), tmp_path / "denoiser.pth")
    (tmp_path / "options.yml").write_text(
        json.dumps({"name": "x", "model_type": "UPSRModel", "datasets": {}, **options})
    )
    pipe = UPSRPipeline.from_pretrained(tmp_path / "options.yml", device="cpu")
    pipe.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/config.json").read_text())["network_aux"]["path"] == "g.safetensors"
    moved = UPSRPipeline.from_pretrained(shutil.move(tmp_path / "saved", tmp_path / "moved"), device="cpu")
    assert moved.digest() == pipe.digest()
    assert moved.method.g.network.scale == g.scale


def run_folder(folder, options, network, name="net_g_latest.pth"):
    """What a training run leaves of options and weights."""
    (folder / "models").mkdir(parents=True)
    (folder / "options.yml").write_text(json.dumps({"name": "run", "datasets": {}, **options}))
    torch.save({"params": network.state_dict(), "params_ema": network.state_dict()}, folder / "models" / name)
    return folder


def stage_one(folder, name="net_g_latest.pth", **path):
    """A run of stage one, and what its network makes of the small picture."""
    network = tiny.random_weights(CompactSR(num_feat=8, num_block=1))
    options = {"model_type": "AuxiliarySRModel", "network_g": {"type": "CompactSR", "num_feat": 8, "num_block": 1}}
    run_folder(folder, {**options, "path": path}, network, name)
    with torch.inference_mode():
        return network(torch.from_numpy(small()).permute(2, 0, 1)[None].float() / 255)[0].clamp(0, 1)


@pytest.mark.parametrize("file", [None, "net_g_latest.pth", "net_g_20.pth"])
def test_a_run_of_stage_one_upscales_and_so_does_a_file_of_it(tmp_path, file):
    expected = stage_one(tmp_path / "run", file or "net_g_latest.pth")
    source = tmp_path / "run" if file is None else tmp_path / "run/models" / file
    pipe = UPSRPipeline.from_pretrained(source, device="cpu")
    assert repr(pipe) == "UPSRPipeline(SR x4, g CompactSR (0.0 M), float32 on cpu)"
    torch.testing.assert_close(pipe(small(), output_type="pt").images[0], expected, atol=0.51 / 255, rtol=0)
    pipe.save_pretrained(tmp_path / "saved")
    assert UPSRPipeline.from_pretrained(tmp_path / "saved", device="cpu").digest() == pipe.digest()


def test_keys_and_places_of_the_weights_that_a_run_began_with_are_not_those_it_wrote(tmp_path):
    expected = stage_one(tmp_path / "run", pretrain_network_g=str(tmp_path / "gone.pth"), param_key_g="state")
    pipe = UPSRPipeline.from_pretrained(tmp_path / "run", device="cpu")
    torch.testing.assert_close(pipe(small(), output_type="pt").images[0], expected, atol=0.51 / 255, rtol=0)


def test_a_run_without_weights_says_so(tmp_path):
    stage_one(tmp_path / "run", "net_g_5.pth")
    with pytest.raises(UpsrError, match=r"has no models/net_g_latest\.safetensors yet"):
        UPSRPipeline.from_pretrained(tmp_path / "run", device="cpu")


def test_a_g_that_would_not_be_read_is_refused(pipe, foreign, tmp_path):
    stage_one(tmp_path / "run")
    for source in ("tiny", tmp_path / "run", tmp_path / "run/models/net_g_latest.pth", "options/tiny/test.yml"):
        with pytest.raises(UpsrError, match=r"g=: .*absent\.pth would not be read"):
            UPSRPipeline.from_pretrained(source, g=tmp_path / "absent.pth", device="cpu")


def test_weights_of_an_unknown_network_say_what_was_assumed(pipe, foreign, tmp_path):
    torch.save(tiny.random_weights(UNetModelSwin(**tiny.UNET)).state_dict(), tmp_path / "mine.pth")
    torch.save(CompactSR(num_feat=8, num_block=1).state_dict(), tmp_path / "g.pth")
    with pytest.raises(UpsrError, match=r"mine\.pth: holds the denoiser alone; .*--g.* or the folder of its run"):
        UPSRPipeline.from_pretrained(tmp_path / "mine.pth", device="cpu")
    with pytest.raises(UpsrError, match=r"the authors' networks were assumed.*folder of its run"):
        UPSRPipeline.from_pretrained(tmp_path / "mine.pth", g=tmp_path / "g.pth", device="cpu")
    with pytest.raises(UpsrError, match=r"g\.pth; .*one of your own the folder of its run"):
        UPSRPipeline.from_pretrained(tmp_path / "g.pth", device="cpu")


def test_grey_networks_take_colours_one_by_one(tmp_path):
    network = tiny.random_weights(CompactSR(channels=1, num_feat=8, num_block=1))
    component = {"type": "CompactSR", "channels": 1, "num_feat": 8, "num_block": 1}
    run_folder(tmp_path / "run", {"model_type": "AuxiliarySRModel", "network_g": component}, network)
    grey, colour = (
        UPSRPipeline.from_pretrained(tmp_path / "run", device="cpu")(x, output_type="pt").images[0]
        for x in (small()[..., 1], small())
    )
    torch.testing.assert_close(colour[1:2], grey, atol=1e-6, rtol=0)


def test_maps_of_a_network_without_uncertainty_are_refused(foreign, tmp_path, capsys):
    Image.fromarray(small()).save(tmp_path / "a.png")
    arguments = ["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--weights", str(foreign[1])]
    assert cli.main([*arguments, "--save-uncertainty"]) == 2
    said = capsys.readouterr().err
    assert "--save-uncertainty: has no effect on" in said
    assert "a method without such a setting" in said
    assert cli.main([*arguments, "--quiet"]) == 0
    assert Image.open(tmp_path / "out/a.png").size == (80, 64)


def test_the_package_has_the_pipeline_and_loads_it_when_asked():
    assert upsr.UPSRPipeline is UPSRPipeline
    code = "import sys, upsr; assert 'torch' not in sys.modules; assert not hasattr(upsr, 'Pipeline')"
    slow = {"torchvision", "basicsr", "scipy", "lpips", "diffusers"}
    code += f"; upsr.UPSRPipeline; assert not sys.modules.keys() & {slow}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_pipeline_says_what_it_is(pipe):
    assert repr(pipe).startswith("UPSRPipeline(UPSR x4, denoiser UNetModelSwin (5.0 M), g CompactSR (0.6 M), ")
