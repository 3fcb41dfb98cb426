"""Photos in and out: every format, 16 bit, profiles, EXIF, animations, and files that are no photos."""

from __future__ import annotations

import contextlib
import io
import logging
import resource
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageDraw, ImageSequence, IptcImagePlugin

from tests import tiny
from upsr.data.image_io import UnreadableImageError, decode_image, to_tensor
from upsr.errors import UpsrError
from upsr.images import writing
from upsr.images.photo import Photo
from upsr.images.reading import read_photo
from upsr.images.writing import WRITABLE_SUFFIXES, suffix_for, write_photo
from upsr.pipeline.frames import alpha_of, to_colour, to_frame

pyvips = pytest.importorskip("pyvips")

PICTURE = tiny.picture(60, 80)
RGB = Image.fromarray(PICTURE)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DEEP = (PICTURE.astype(np.uint16) * 251 + 7).astype(np.uint16)
MAKE, ORIENTATION, X_RESOLUTION, EXIF_IFD, DATE_TAKEN = 0x010F, 0x0112, 0x011A, 0x8769, 0x9003
FORMATS = sorted(set(WRITABLE_SUFFIXES.values()))


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def animation(format: str, frames: list[Image.Image], **options) -> bytes:
    return encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)


def vips(pixels: np.ndarray, interpretation: str, saver: str, **options) -> bytes:
    """A file by libvips, for what Pillow cannot write."""
    height, width, bands = pixels.shape
    kind = "uchar" if pixels.dtype == np.uint8 else "ushort" if pixels.dtype == np.uint16 else "float"
    image = pyvips.Image.new_from_memory(np.ascontiguousarray(pixels).data, width, height, bands, kind)
    return getattr(image.copy(interpretation=interpretation), saver)(**options)


def read(data: bytes, name: str = "x") -> Photo:
    return read_photo(data, name, max_pixels=10**6)


def still(pixels: np.ndarray, format: str = "PNG", **facts) -> Photo:
    return Photo((pixels,), format, **facts)


def opened(path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def camera_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[MAKE], exif[ORIENTATION], exif[X_RESOLUTION] = "ACME", orientation, 300.0
    exif.get_ifd(EXIF_IFD)[DATE_TAKEN] = "2020:01:02 03:04:05"
    return exif


def moving_squares(mode: str) -> list[Image.Image]:
    frames = []
    for step in range(5):
        frame = Image.new("RGBA", (50, 40), (9, 200, 30, 255 if mode == "RGB" else 0))
        box = (3 * step, 4 * step, 3 * step + 15, 4 * step + 9)
        ImageDraw.Draw(frame).rectangle(box, fill=(40 * step, 255 - 30 * step, 100, 255))
        frames.append(frame.convert(mode))
    return frames


# Reading


@pytest.mark.parametrize(
    "data",
    [
        encoded(RGB),
        encoded(RGB, interlace=1),
        encoded(RGB.convert("L")),
        encoded(RGB.convert("P")),
        encoded(RGB, "BMP"),
        *(
            encoded(RGB, "JPEG", quality=quality, subsampling=sampling, progressive=progressive)
            for quality in (60, 95)
            for sampling in (0, 1, 2)
            for progressive in (False, True)
        ),
        encoded(RGB.convert("L"), "JPEG"),
        encoded(RGB, "WEBP", lossless=True),
        encoded(RGB, "TIFF"),
        encoded(RGB, "TIFF", compression="tiff_lzw"),
        encoded(RGB, "GIF"),
        encoded(RGB, "PPM"),
    ],
)
def test_pixels_are_those_of_the_training_decoder(data):
    (frame,) = read(data).frames
    assert np.array_equal(frame, decode_image(data, frame.shape[-1], "x"))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF", "GIF", "BMP", "PPM", "ICO", "JPEG2000"])
def test_formats_are_recognised_by_content(format, tmp_path):
    path = tmp_path / "holiday.dat"
    path.write_bytes(encoded(RGB, format, **({"sizes": [(80, 60)]} if format == "ICO" else {})))
    photo = read_photo(path, path.name, max_pixels=4800)
    assert (photo.format, photo.durations, photo.loop) == (format, (), 0)
    assert photo.frames[0].shape[:2] == (60, 80)
    assert WRITABLE_SUFFIXES[suffix_for(photo)] == (format if format in FORMATS else "PNG")


MODES = {"1": 1, "L": 1, "LA": 2, "P": 3, "RGB": 3, "RGBA": 4}


@pytest.mark.parametrize(
    ("format", "mode", "shape"),
    [*(("PNG", *item) for item in MODES.items()), *(("TIFF", *item) for item in MODES.items()), ("TIFF", "CMYK", 3)],
)
def test_every_mode_becomes_grey_or_rgb(format, mode, shape):
    (frame,) = read(encoded(RGB.convert(mode), format)).frames
    expected = np.asarray(RGB.convert(mode).convert({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[shape]))
    assert frame.dtype == np.uint8
    assert frame.shape == (60, 80, shape)
    assert np.abs(frame.squeeze().astype(int) - expected).max() <= (1 if mode == "CMYK" else 0)


def test_palette_with_transparency_becomes_rgba():
    palette = RGB.convert("P")
    hole = int(np.asarray(palette)[0, 0])
    (frame,) = read(encoded(palette, transparency=hole)).frames
    assert frame.shape == (60, 80, 4)
    assert np.array_equal(frame[..., 3] == 0, np.asarray(palette) == hole)


@pytest.mark.parametrize(
    ("interpretation", "channels"), [("grey16", 1), ("grey16", 2), ("rgb16", 3), ("rgb16", 4)], ids=str
)
@pytest.mark.parametrize(("saver", "suffix"), [("pngsave_buffer", ".png"), ("tiffsave_buffer", ".tif")])
def test_sixteen_bits_stay_in_and_out(interpretation, channels, saver, suffix, tmp_path):
    pixels = np.concatenate([DEEP, 65535 - DEEP[..., :1]], -1)[..., :channels]
    photo = read(vips(pixels, interpretation, saver))
    assert photo.frames[0].dtype == np.uint16
    assert np.array_equal(photo.frames[0], pixels)
    path = tmp_path / f"x{suffix}"
    write_photo(path, photo)
    assert np.array_equal(read(path.read_bytes()).frames[0], pixels)


def test_sixteen_bit_grey_of_pillow_formats_stays():
    (frame,) = read(encoded(Image.fromarray(DEEP[..., 0]), "PPM")).frames
    assert np.array_equal(frame, DEEP[..., :1])


def test_sixteen_bits_are_rounded_where_a_format_holds_eight(tmp_path):
    for name in ("x.jpg", "x.webp", "x.bmp", "x.gif"):
        write_photo(tmp_path / name, still(DEEP))
        assert read((tmp_path / name).read_bytes()).frames[0].dtype == np.uint8
    bmp = read((tmp_path / "x.bmp").read_bytes()).frames[0]
    assert np.array_equal(bmp, np.rint(DEEP / 257).astype(np.uint8))


def test_cmyk_uses_its_profile_and_loses_it(tmp_path):
    cmyk = pyvips.Image.new_from_memory(PICTURE.data, 80, 60, 3, "uchar").copy(interpretation="srgb")
    cmyk = cmyk.icc_transform("cmyk", input_profile="srgb")
    for saver in ("jpegsave_buffer", "tiffsave_buffer"):
        photo = read(getattr(cmyk, saver)())
        assert photo.icc is None
        assert photo.frames[0].shape == (60, 80, 3)
        assert np.abs(photo.frames[0].astype(float) - PICTURE).mean() < 12  # of naive conversion: 40
    deep = cmyk.cast("ushort") * 257
    (frame,) = read(deep.cast("ushort").copy(interpretation="cmyk").tiffsave_buffer()).frames
    assert frame.dtype == np.uint16
    assert np.abs(frame / 257 - PICTURE).mean() < 12


@pytest.mark.parametrize("profile", [None, SRGB, b"garbage"], ids=["none", "of RGB", "garbage"])
def test_cmyk_without_a_usable_profile_is_what_pillow_makes_of_it(profile):
    options = {"icc_profile": profile} if profile else {}
    data = encoded(RGB.convert("CMYK"), "JPEG", quality=95, **options)
    photo = read(data)
    assert photo.icc is None
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(photo.frames[0] - expected).max() <= 1


def test_names_with_spaces_and_unicode(tmp_path):
    path = tmp_path / "Meine Größe [a=1] 照片 ✈.png"
    write_photo(path, still(PICTURE))
    assert np.array_equal(read_photo(path, path.name, max_pixels=4800).frames[0], PICTURE)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("shape", [(1, 1), (3, 5000), (5000, 3)])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif", ".gif", ".bmp"])
def test_extreme_shapes(shape, suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    write_photo(path, still(np.full((*shape, 3), 77, np.uint8)))
    (frame,) = read(path.read_bytes()).frames
    assert frame.shape[:2] == shape
    assert np.abs(frame.astype(int) - 77).max() <= 3


# EXIF and profiles


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_photos_are_upright(format, orientation, tmp_path):
    stored = Image.new("RGB", (64, 32), "white")
    stored.paste("red", (0, 0, 32, 16))
    stored.paste("blue", (32, 16, 64, 32))
    if format == "AVIF":  # turns by itself what is shown
        from PIL import ImageOps

        tagged = encoded(stored, "PNG", exif=camera_exif(orientation))
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(tagged))))
    data = encoded(stored, format, exif=camera_exif(orientation))
    if format != "AVIF":
        expected = decode_image(data, 3, "x")
    photo = read(data)
    assert photo.frames[0].shape == expected.shape
    assert np.abs(photo.frames[0].astype(int) - expected).mean() < 8
    path = tmp_path / f"x{suffix_for(photo)}"
    write_photo(path, photo)
    again = opened(path)
    assert again.getexif().get(ORIENTATION, 1) == 1
    assert again.size == expected.shape[1::-1]
    assert np.abs(np.asarray(again.convert("RGB")).astype(int) - expected).mean() < 8


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif"])
def test_exif_and_profile_are_kept(suffix, tmp_path):
    photo = read(encoded(RGB, "JPEG", exif=camera_exif(6), icc_profile=SRGB))
    assert photo.icc == SRGB
    path = tmp_path / f"x{suffix}"
    write_photo(path, photo)
    exif = opened(path).getexif()
    assert exif[MAKE] == "ACME"
    assert exif.get_ifd(EXIF_IFD)[DATE_TAKEN] == "2020:01:02 03:04:05"
    assert float(exif[X_RESOLUTION]) == pytest.approx(300, rel=1e-3)
    assert opened(path).info["icc_profile"] == SRGB
    assert read(path.read_bytes()).icc == SRGB


def test_profile_is_kept_in_tiff(tmp_path):
    write_photo(tmp_path / "x.tif", still(DEEP, icc=SRGB))
    assert read((tmp_path / "x.tif").read_bytes()).icc == SRGB


def test_thumbnail_in_exif_does_not_come_along(tmp_path):
    exif = bytearray(camera_exif(6).tobytes().removeprefix(b"Exif\0\0"))
    order = {b"II": "<", b"MM": ">"}[bytes(exif[:2])]
    (first,) = struct.unpack_from(f"{order}I", exif, 4)
    (entries,) = struct.unpack_from(f"{order}H", exif, first)
    struct.pack_into(f"{order}I", exif, first + 2 + 12 * entries, len(exif))
    thumbnail = encoded(Image.new("RGB", (8, 8), "red"), "JPEG")
    place = len(exif) + 2 + 2 * 12 + 4
    exif += struct.pack(f"{order}HHHIIHHIII", 2, 0x0201, 4, 1, place, 0x0202, 4, 1, len(thumbnail), 0) + thumbnail
    photo = read(encoded(RGB, "JPEG", exif=b"Exif\0\0" + bytes(exif)))
    write_photo(tmp_path / "x.jpg", photo)
    assert (tmp_path / "x.jpg").read_bytes().count(b"\xff\xd8\xff") == 1


def test_photos_without_exif_get_none_and_broken_exif_is_dropped(tmp_path):
    for data in (encoded(RGB, "JPEG"), encoded(RGB, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")):
        photo = read(data)
        assert photo.exif is None
        write_photo(tmp_path / "x.jpg", photo)
        assert not opened(tmp_path / "x.jpg").getexif()


# Resolution, XMP, texts, colour chunks

XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6" dc:creator="A. Nyone"/></x:xmpmeta>'
GAMMA = (b"gAMA", struct.pack(">I", 100_000))
TEXTS = (("parameters", "a cat, 20 steps"), ("Title", "Gr\xfc\xdfe"), ("Author", "\u7167\u7247"), ("Comment", "hello"))
SOURCES = {
    "JFIF": encoded(RGB, "JPEG", dpi=(300, 300)),
    "EXIF": encoded(RGB, "JPEG", exif=camera_exif(1)),
    "PNG": encoded(RGB, dpi=(300, 300)),
    "TIFF": encoded(RGB, "TIFF", dpi=(300, 300)),
    "TIFF in cm": encoded(RGB, "TIFF", resolution=300 / 2.54, resolution_unit="cm"),
    "BMP": encoded(RGB, "BMP", dpi=(300, 300)),
}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp", ".webp", ".avif"])
@pytest.mark.parametrize("source", SOURCES)
def test_the_resolution_is_kept_in_every_form(source, suffix, tmp_path):
    photo = read(SOURCES[source])
    assert photo.resolution == pytest.approx((300, 300), abs=0.01)
    losses = write_photo(tmp_path / f"x{suffix}", photo)
    assert not [loss for loss in losses if "resolution" in loss]
    with opened(tmp_path / f"x{suffix}") as image:
        exif = image.getexif()
        found = image.info.get("dpi", (exif.get(X_RESOLUTION), exif.get(X_RESOLUTION + 1)))
    assert [float(side) for side in found] == pytest.approx([300, 300], abs=0.01)


def test_a_resolution_that_differs_by_side_and_one_that_says_nothing(tmp_path):
    for suffix in (".png", ".tif", ".jpg"):
        write_photo(tmp_path / f"x{suffix}", still(PICTURE, resolution=(600, 300)))
        assert read((tmp_path / f"x{suffix}").read_bytes()).resolution == pytest.approx((600, 300), abs=0.01)
    assert read(encoded(RGB, "JPEG")).resolution is None  # JFIF's unit is then none
    assert read(encoded(RGB)).resolution is None


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".avif"])
def test_xmp_is_kept_and_turns_nothing_twice(suffix, tmp_path):
    photo = read(encoded(RGB, "JPEG", xmp=XMP))
    assert photo.frames[0].shape == (80, 60, 3)
    assert write_photo(tmp_path / f"x{suffix}", photo) == ()
    assert read((tmp_path / f"x{suffix}").read_bytes()).xmp == XMP.replace(b'"6"', b'"1"')


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_iptc_is_kept(suffix, tmp_path):
    caption = b"\x1c\x02\x78\x00\x05hello" + b"\x1c\x02\x50\x00\x02me"
    flag = b"8BIM\x04\x0a\0\0\0\0\0\x01\x01\0"
    block = b"Photoshop 3.0\0" + flag + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(caption)) + caption + b"\0"
    data = encoded(RGB, "JPEG")
    photo = read(data[:2] + b"\xff\xed" + struct.pack(">H", len(block) + 2) + block + data[2:])
    assert photo.iptc == caption
    assert write_photo(tmp_path / f"x{suffix}", photo) == ()
    assert read((tmp_path / f"x{suffix}").read_bytes()).iptc == caption
    assert IptcImagePlugin.getiptcinfo(opened(tmp_path / f"x{suffix}")) == {(2, 120): b"hello", (2, 80): b"me"}
    assert write_photo(tmp_path / "x.png", photo) == ("IPTC left out: PNG does not hold it",)


@pytest.mark.parametrize("comment", [b"hello", "Gr\u00fc\u00dfe".encode(), b"caf\xe9", b"x" * 65533])
def test_comments_of_jpegs_are_kept_byte_by_byte(comment, tmp_path):
    data = encoded(RGB, "JPEG")
    write_photo(
        tmp_path / "x.jpg", read(data[:20] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + data[20:])
    )
    assert opened(tmp_path / "x.jpg").info["comment"] == comment


def test_texts_of_a_png_are_kept_and_their_loss_is_said(tmp_path):
    photo = still(PICTURE, texts=TEXTS)
    assert write_photo(tmp_path / "x.png", photo) == ()
    assert read((tmp_path / "x.png").read_bytes()).texts == TEXTS
    assert dict(opened(tmp_path / "x.png").text) == dict(TEXTS)
    losses = write_photo(tmp_path / "x.jpg", photo)
    assert losses == tuple(f"text '{key}' left out: JPEG does not hold it" for key, _ in TEXTS[:3])
    assert opened(tmp_path / "x.jpg").info["comment"] == b"hello"
    assert len(write_photo(tmp_path / "x.gif", photo)) == 3
    assert read((tmp_path / "x.gif").read_bytes()).texts == (("Comment", "hello"),)
    assert len(write_photo(tmp_path / "x.webp", photo)) == 4


def test_a_long_comment_is_kept_in_a_gif_and_left_out_of_a_jpeg(tmp_path):
    photo = still(PICTURE, texts=(("Comment", "x" * 65534),))
    assert write_photo(tmp_path / "x.gif", photo) == ()
    assert read((tmp_path / "x.gif").read_bytes()).texts == photo.texts
    assert write_photo(tmp_path / "x.jpg", photo) == ("text 'Comment' left out: JPEG does not hold it",)
    assert "comment" not in opened(tmp_path / "x.jpg").info


def test_colour_chunks_of_a_png_are_kept_or_their_loss_is_said(tmp_path):
    photo = still(PICTURE, colour=(GAMMA,))
    assert write_photo(tmp_path / "x.png", photo) == ()
    assert read((tmp_path / "x.png").read_bytes()).colour == (GAMMA,)
    assert opened(tmp_path / "x.png").info["gamma"] == 1.0
    assert np.array_equal(read((tmp_path / "x.png").read_bytes()).frames[0], PICTURE)
    assert write_photo(tmp_path / "x.tif", photo) == (
        "gamma and other colour chunks of PNG left out: TIFF does not hold it",
    )
    usual = still(PICTURE, colour=((b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45455))))
    assert write_photo(tmp_path / "x.jpg", usual) == ()


def test_what_a_format_does_not_hold_is_said(tmp_path):
    photo = read(encoded(RGB, "JPEG", exif=camera_exif(1), icc_profile=SRGB, xmp=XMP))
    for suffix, more in ((".gif", ["resolution"]), (".bmp", [])):
        found = write_photo(tmp_path / f"x{suffix}", photo)
        assert [loss.partition(" left out")[0] for loss in found] == ["colour profile", "EXIF", "XMP", *more]
    hole = np.zeros((9, 9, 4), np.uint16)
    assert write_photo(tmp_path / "x.jpg", still(hole)) == (
        "transparency left out: JPEG does not hold it", "more than 8 bits left out: JPEG does not hold it"
    )  # fmt: skip


def test_exif_is_kept_in_tiff(tmp_path):
    exif = camera_exif(6)
    exif.get_ifd(0x8825)[1] = "N"
    photo = read(encoded(RGB, "JPEG", exif=exif))
    for frames in (photo.frames, (photo.frames[0], photo.frames[0])):
        assert write_photo(tmp_path / "x.tif", Photo(frames, "TIFF", exif=photo.exif)) == ()
        with opened(tmp_path / "x.tif") as image:
            found = image.getexif()
            assert (found[MAKE], found[ORIENTATION], image.n_frames) == ("ACME", 1, len(frames))
            assert found.get_ifd(EXIF_IFD)[DATE_TAKEN] == "2020:01:02 03:04:05"
            assert found.get_ifd(0x8825)[1] == "N"
        again = read((tmp_path / "x.tif").read_bytes())
        assert [page.tolist() for page in again.frames] == [page.tolist() for page in frames]
        write_photo(tmp_path / "x.jpg", Photo(again.frames[:1], "JPEG", exif=again.exif))
        assert opened(tmp_path / "x.jpg").getexif().get_ifd(EXIF_IFD)[DATE_TAKEN] == "2020:01:02 03:04:05"


# Animations


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("format", ["GIF", "WEBP"])
@pytest.mark.parametrize("disposal", [[1] * 5, [2] * 5, [1, 2, 1, 2, 1], [1, 3, 1, 3, 2]], ids=str)
def test_animations_are_composited_and_written_back(mode, format, disposal, tmp_path):
    options = {"disposal": disposal} if format == "GIF" else {"lossless": True}
    durations = [40, 100, 250, 70, 30]
    data = animation(format, moving_squares(mode), duration=durations, loop=3, **options)
    photo = read(data)
    assert list(photo.durations) == durations
    shown = [np.array(frame.convert("RGBA")) for frame in ImageSequence.Iterator(Image.open(io.BytesIO(data)))]
    assert len(photo.frames) == 5
    for frame, expected in zip(photo.frames, shown, strict=True):
        assert frame.shape == (40, 50, len(mode))
        visible = expected[..., 3:] > 0
        assert np.array_equal(frame[..., :3] * visible, expected[..., :3] * visible)
        assert mode == "RGB" or np.array_equal(frame[..., 3], expected[..., 3])

    path = tmp_path / f"x{suffix_for(photo)}"
    write_photo(path, photo, quality=100)
    again = read(path.read_bytes())
    assert (again.durations, again.loop, again.format) == (photo.durations, photo.loop, format)
    assert opened(path).info["loop"] == Image.open(io.BytesIO(data)).info["loop"]
    for frame, before in zip(again.frames, photo.frames, strict=True):
        visible = before[..., 3:] > 0 if mode == "RGBA" else np.ones((40, 50, 1), bool)
        wrong = (frame[..., :3].astype(float) - before[..., :3]) * visible
        assert np.abs(wrong).mean() < 4


def test_plays_once_by_default_and_zero_is_for_ever():
    for loop, played in ((None, 1), (0, 0)):
        options = {} if loop is None else {"loop": loop}
        assert read(animation("GIF", moving_squares("RGB"), duration=50, **options)).loop == played


def test_pixels_of_all_frames_count():
    data = animation("GIF", moving_squares("RGB"), duration=50)
    assert len(read_photo(data, "x", max_pixels=5 * 2000).frames) == 5
    with pytest.raises(UnreadableImageError, match=r"10,000 pixels are more than the 9,999 allowed"):
        read_photo(data, "x", max_pixels=9999)


def test_pages_are_no_animation(tmp_path):
    pages = Photo((PICTURE, PICTURE), "TIFF")
    for name in ("x.gif", "x.png", "x.jpg"):
        with pytest.raises(UpsrError, match=r"holds one picture, not 2 pages; use \.tif"):
            write_photo(tmp_path / name, pages)
    assert not list(tmp_path.iterdir())


def test_an_animation_is_not_written_as_one_picture(tmp_path):
    photo = read(animation("GIF", moving_squares("RGB"), duration=50))
    with pytest.raises(UpsrError, match=r"JPEG holds no animation of 5 frames; use \.webp, \.gif or \.png"):
        write_photo(tmp_path / "x.jpg", photo)
    assert not list(tmp_path.iterdir())


# Files that are no photos

WHOLE = {
    "png": encoded(RGB),
    "jpg": encoded(RGB, "JPEG"),
    "progressive.jpg": encoded(RGB, "JPEG", progressive=True),
    "webp": encoded(RGB, "WEBP"),
    "lossless.webp": encoded(RGB, "WEBP", lossless=True),
    "gif": encoded(RGB, "GIF"),
    "moving.gif": animation("GIF", moving_squares("RGB"), duration=50),
    "moving.webp": animation("WEBP", moving_squares("RGB"), duration=50),
    "tif": encoded(RGB, "TIFF"),
    "lzw.tif": encoded(RGB, "TIFF", compression="tiff_lzw"),
    "avif": encoded(RGB, "AVIF"),
    "bmp": encoded(RGB, "BMP"),
}


def refused(data: bytes, name: str) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        read(data, name)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert "\n" not in message
    assert len(message) < 300
    return message


END_MARKS = {"png": 12, "jpg": 2, "progressive.jpg": 2}
"""Bytes that say nothing but that the file is at its end."""


@pytest.mark.parametrize("kind", WHOLE)
def test_truncated_files_are_refused(kind, capfd):
    data = WHOLE[kind]
    read(data)
    for cut in (
        *(cut for cut in (1, 2, 5, 12) if cut > END_MARKS.get(kind, 0)),
        13,
        40,
        len(data) // 3,
        len(data) // 2,
        len(data) * 9 // 10,
        len(data) - 30,
        len(data) - 9,
    ):
        refused(data[:-cut], f"holiday.{kind}")
    assert capfd.readouterr() == ("", "")


def test_damaged_files_never_crash_and_say_nothing(capfd, caplog):
    rng = np.random.default_rng(0)
    with caplog.at_level(logging.WARNING):
        for name, data in WHOLE.items():
            for _ in range(12):
                damaged = bytearray(data)
                for place in rng.integers(12, len(data), 8):
                    damaged[place] = rng.integers(256)
                with contextlib.suppress(UnreadableImageError):
                    assert read(bytes(damaged), name).frames[0].ndim == 3
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty.png", b"", "the file is empty"),
        ("text.png", b"this is text, not a photo\n" * 9, "no photo format"),
        ("zeros.png", bytes(1000), "not a readable image"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "no photo format"),
        ("page.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no photo format"),
        ("DSC_1.NEF", encoded(RGB, "TIFF"), "a camera's raw file"),
        ("hdr.tif", vips(PICTURE.astype(np.float32) ** 3, "scrgb", "tiffsave_buffer"), "samples of type float32 from"),
        ("lab.tif", vips(PICTURE.astype(np.float32), "lab", "tiffsave_buffer"), "not a readable image"),
        ("many.tif", vips(np.zeros((9, 9, 7), np.uint8), "srgb", "tiffsave_buffer"), "7 channels"),
    ],
)
def test_what_is_no_photo_is_refused_with_the_reason(name, data, reason, capfd):
    assert reason in refused(data, name)
    assert capfd.readouterr() == ("", "")


def test_missing_files_and_folders_are_refused(tmp_path):
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(UnreadableImageError, match="cannot be read"):
            read_photo(path, path.name, max_pixels=1)


def png_bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + -(-width // 8)) * height), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["png", "gif", "bmp"])
def test_a_bomb_is_refused_before_it_is_decoded(format, monkeypatch):
    data = {
        "png": png_bomb(20_000, 10_000),
        "gif": WHOLE["gif"].replace(struct.pack("<HH", 80, 60), struct.pack("<HH", 20_000, 10_000)),
        "bmp": WHOLE["bmp"][:18] + struct.pack("<ii", 20_000, 10_000) + WHOLE["bmp"][26:],
    }[format]

    def decode(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(pyvips.Image, "write_to_memory", decode)
    monkeypatch.setattr(Image.Image, "load", decode)
    with pytest.raises(UnreadableImageError, match=r"^bomb: .*pixels") as caught:
        read_photo(data, "bomb", max_pixels=100_000_000)
    assert "\n" not in str(caught.value)


# Writing


@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
def test_the_same_photo_gives_the_same_bytes(suffix, tmp_path):
    photo = read(encoded(RGB, "JPEG", exif=camera_exif(6), icc_profile=SRGB))
    for name in ("a", "b"):
        write_photo(tmp_path / f"{name}{suffix}", photo)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert read((tmp_path / f"a{suffix}").read_bytes()).format == WRITABLE_SUFFIXES[suffix]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
def test_every_format_takes_every_kind_of_frame(suffix, channels, tmp_path):
    pixels = np.concatenate([PICTURE, np.full((60, 80, 1), 255, np.uint8)], -1)
    pixels = pixels[..., [[0], [0, 3], [0, 1, 2], [0, 1, 2, 3]][channels - 1]]
    write_photo(tmp_path / f"x{suffix}", still(pixels))
    (frame,) = read((tmp_path / f"x{suffix}").read_bytes()).frames
    back, there = to_colour(frame), to_colour(pixels)
    assert (back - there).abs().mean() < (0.03 if suffix == ".gif" else 0.012)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_goes_onto_white_where_a_format_has_none(suffix, dtype, tmp_path):
    pixels = np.zeros((32, 32, 4), dtype)
    pixels[:, 16:, 3] = np.iinfo(dtype).max
    write_photo(tmp_path / f"x{suffix}", still(pixels))
    (frame,) = read((tmp_path / f"x{suffix}").read_bytes()).frames
    assert frame.shape[-1] == 3
    assert (frame[:, :15] > 250).all()
    assert (frame[:, 17:] < 5).all()


@pytest.mark.parametrize(
    ("name", "shape", "options", "reason"),
    [
        ("x.txt", (4, 4, 3), {}, r"no photo format is named '\.txt'; use one of \.png"),
        ("x", (4, 4, 3), {}, "no photo format is named ''"),
        ("x.webp", (1, 16384, 3), {}, r"WEBP holds 16383 pixels a side, not 16384; use \.png"),
        ("x.jpg", (70000, 1, 1), {}, "JPEG holds 65500"),
        ("x.jpg", (4, 4, 3), {"quality": 0}, "quality 0 is not between 1 and 100"),
    ],
)
def test_what_cannot_be_written_is_said(name, shape, options, reason, tmp_path):
    with pytest.raises(UpsrError, match=reason):
        write_photo(tmp_path / name, still(np.zeros(shape, np.uint8)), **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit of the size of files")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif", ".gif", ".bmp"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(suffix, tmp_path, capfd):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"old")
    noise = np.random.default_rng(0).integers(0, 256, (120, 200, 3)).astype(np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))
    try:
        with pytest.raises(UpsrError, match=r"cannot be written \(File too large\)") as caught:
            write_photo(path, still(noise), quality=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UpsrError, match="cannot be written"):
        write_photo(tmp_path / "file" / "x.png", still(PICTURE))


def test_nothing_heavy_happens_at_import():
    assert "pyvips" not in vars(writing)


# Tensors


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_frames_survive_tensors(dtype, channels):
    rng = np.random.default_rng(0)
    largest = np.iinfo(dtype).max
    frame = rng.integers(1, largest, (7, 9, channels), endpoint=True).astype(dtype)
    colour, alpha = to_colour(frame), alpha_of(frame)
    assert colour.shape == (3, 7, 9)
    assert colour.dtype == torch.float32
    assert (alpha is None) == (channels in (1, 3))
    assert np.array_equal(to_frame(colour, alpha, frame), frame)
    if dtype == np.uint8 and channels == 3:
        assert torch.equal(colour, to_tensor(frame))


def test_restored_frames_take_channels_and_type_of_the_original():
    colour = torch.tensor([-0.5, 0.5, 2.0])[:, None, None].expand(3, 8, 6)
    assert to_frame(colour, None, np.zeros((4, 3, 4), np.uint16))[0, 0].tolist() == [0, 32768, 65535, 65535]
    assert to_frame(colour, torch.zeros(1, 8, 6), np.zeros((4, 3, 3), np.uint8))[0, 0].tolist() == [0, 128, 255]
    grey = to_frame(torch.full((3, 8, 6), 0.25), torch.full((1, 8, 6), 0.5), np.zeros((4, 3, 2), np.uint8))
    assert grey.shape == (8, 6, 2)
    assert grey[0, 0].tolist() == [64, 128]


@pytest.mark.parametrize("shape", [(37, 53), (1, 9), (64, 64)])
def test_hidden_colours_are_those_of_visible_pixels_nearby(shape):
    frame = np.zeros((*shape, 4), np.uint8)
    frame[..., 1] = 255  # hidden green
    frame[:, : shape[1] // 4] = (200, 0, 0, 255)
    frame[:, -(shape[1] // 4) :] = (0, 0, 200, 255)
    colour = to_colour(frame)
    assert colour[1].max() < 1e-6
    assert (colour.sum(0) * 255 - 200).abs().max() < 1e-2
    beside = shape[1] // 4
    assert (colour[0, :, beside] > colour[2, :, beside]).all()
    assert np.array_equal(to_frame(colour, alpha_of(frame), frame)[frame[..., 3] > 0], frame[frame[..., 3] > 0])


def test_alpha_that_is_nowhere_or_everywhere():
    frame = np.zeros((5, 5, 4), np.uint8) + np.uint8(9)
    frame[..., 3] = 0
    assert torch.isfinite(to_colour(frame)).all()
    frame[..., 3] = 255
    assert bool((alpha_of(frame) == 1).all())
