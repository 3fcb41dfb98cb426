"""What the one reader makes of odd files: sample types, TIFF's tags, orientation, end marks, frames, other containers."""

from __future__ import annotations

import io
import os
import struct
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from tests import tiny
from upsr.data.image_io import decode_image, decode_region, image_size
from upsr.images.kinds import UnreadableImageError
from upsr.images.photo import Photo
from upsr.images.reading import read_photo
from upsr.images.samples import UnclearSamplesError, to_integers

tifffile = pytest.importorskip(
    "tifffile", reason="makes the odd TIFFs; comes with scikit-image: pip install -e '.[dev]'"
)
pyvips = pytest.importorskip("pyvips")

PICTURE = tiny.picture(60, 80)
DEEP = PICTURE.astype(np.uint16) * 257
GREY = PICTURE[..., :1]
RGB = Image.fromarray(PICTURE)
ORIENTATION = 0x0112


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def tiff(*pages: np.ndarray, subfiles: tuple[int, ...] = (0, 0, 0), **options) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(
        buffer, bigtiff=options.pop("bigtiff", False), byteorder=options.pop("byteorder", "<")
    ) as file:
        for pixels, subfile in zip(pages, subfiles, strict=False):
            file.write(pixels, subfiletype=subfile, **options)
    return buffer.getvalue()


def read(data: bytes, name: str = "x") -> Photo:
    return read_photo(data, name, max_pixels=10**6)


def frame(data: bytes) -> np.ndarray:
    (only,) = read(data).frames
    return only


def with_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


# Sample types


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ((GREY / 255).astype(np.float32), GREY.astype(np.uint16) * 257),
        ((PICTURE / 255).astype(np.float32), DEEP),
        (GREY.astype(np.float32), GREY),
        (GREY.astype(np.int32), GREY),
        (GREY.astype(np.uint32), GREY),
        (GREY.astype(np.int16), GREY),
        (GREY.astype(np.int32) * 257, GREY.astype(np.uint16) * 257),
    ],
    ids=["float 0 to 1", "colour 0 to 1", "float 0 to 255", "int32", "uint32", "int16", "int32 with 16 bits"],
)
def test_samples_of_other_types_mean_what_their_values_say(samples, expected):
    squeezed = samples.squeeze()
    data = tiff(squeezed, photometric="rgb" if squeezed.ndim == 3 else "minisblack")
    assert frame(data).dtype == expected.dtype
    assert np.array_equal(frame(data), expected)
    eight = expected if expected.dtype == np.uint8 else expected // 257
    assert np.array_equal(decode_image(data, 3, "x"), np.broadcast_to(eight, (60, 80, 3)))
    assert image_size(data, "x") == (60, 80)


def test_fractions_of_eight_bit_values_keep_their_finer_step():
    assert to_integers(np.array([0.0, 0.5, 100.25, 255.0])).tolist() == [0, 128, 25764, 65535]
    assert to_integers(np.array([-0.0005, 1.0005], np.float32)).tolist() == [0, 65535]


@pytest.mark.parametrize(
    "samples",
    [
        (GREY[..., 0] / 255.0) ** 3 * 40,
        np.where(np.arange(4800).reshape(60, 80) == 9, 200.5, 0.5),
        GREY[..., 0] / 255.0 - 0.5,
        np.where(GREY[..., 0] == GREY[0, 0, 0], np.nan, 0.5),
        np.where(GREY[..., 0] == GREY[0, 0, 0], np.inf, 0.5),
        GREY[..., 0].astype(np.uint32) * 2**20,
        -GREY[..., 0].astype(np.int32),
    ],
    ids=[
        "high dynamic range",
        "few bright points",
        "negative",
        "not a number",
        "infinite",
        "large",
        "negative numbers",
    ],
)
def test_samples_that_may_mean_anything_are_one_line(samples):
    samples = samples.astype(np.float32) if samples.dtype.kind == "f" else samples
    with pytest.raises(UnclearSamplesError):
        to_integers(samples)
    data = tiff(samples, photometric="minisblack")
    for refuse in (read, lambda data: decode_image(data, 1, "x")):
        with pytest.raises(UnreadableImageError, match=r"^x: not a readable image \(samples of type .*8 or 16 bits$"):
            refuse(data)


def test_doubles_are_one_line():
    with pytest.raises(UnreadableImageError, match="samples of 64 bits"):
        read(tiff(GREY[..., 0] / 255.0))


@pytest.mark.parametrize("mode", ["P3", "P6"])
@pytest.mark.parametrize("largest", [65535, 1023])
def test_colour_of_a_deep_ppm_stays_deep(mode, largest):
    stored = np.rint(PICTURE * (largest / 255)).astype(np.uint16)
    head = f"{mode}\n# a comment 3\n80 60\n{largest}\n".encode()
    body = stored.astype(">u2").tobytes() if mode == "P6" else " ".join(map(str, stored.ravel())).encode()
    assert np.array_equal(frame(head + body), np.rint(stored * (65535 / largest)).astype(np.uint16))
    with pytest.raises(UnreadableImageError):
        read(head + body[:-9])


def test_dark_sixteen_bits_stay_sixteen():
    dark = np.arange(200, dtype=np.uint16).reshape(10, 20)
    assert np.array_equal(frame(b"P5\n20 10\n65535\n" + dark.astype(">u2").tobytes())[..., 0], dark)
    assert np.array_equal(frame(encoded(Image.fromarray(dark)))[..., 0], dark)


def test_a_grey_pfm_is_read():
    data = b"Pf\n80 60\n-1.0\n" + (GREY[::-1] / 255).astype("<f4").tobytes()
    assert np.array_equal(frame(data), GREY.astype(np.uint16) * 257)


@pytest.mark.parametrize("bits", [10, 12])
def test_white_of_a_deep_avif_is_white(bits):
    white = pyvips.Image.new_from_array(np.full((64, 64, 3), 65535, np.uint16)).copy(interpretation="rgb16")
    found = frame(white.heifsave_buffer(compression="av1", bitdepth=bits, lossless=True))
    assert found.dtype == np.uint16
    assert found.min() == 65535


def test_formats_that_lose_bits_say_so():
    cv2 = pytest.importorskip("cv2")
    photo = read(cv2.imencode(".jp2", DEEP)[1].tobytes())
    assert photo.frames[0].dtype == np.uint8
    assert photo.notes == ("more than 8 bits are read as 8",)


# TIFF by its tags


@pytest.mark.parametrize("deep", [False, True], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("planar", [False, True], ids=["together", "planar"])
@pytest.mark.parametrize(
    ("extra", "kept"),
    [(["unspecified"], 3), (["unassalpha"], 4), (["unspecified", "unassalpha"], [0, 1, 2, 4])],
    ids=["unspecified", "alpha", "unspecified and alpha"],
)
def test_only_channels_that_are_called_alpha_are(extra, kept, planar, deep):
    pixels = np.dstack([PICTURE, *(np.full((60, 80), 12 + n, np.uint8) for n in range(len(extra)))])
    pixels = pixels * np.uint16(257) if deep else pixels
    stored = pixels.transpose(2, 0, 1) if planar else pixels
    data = tiff(stored, photometric="rgb", extrasamples=extra, planarconfig="separate" if planar else "contig")
    assert np.array_equal(frame(data), pixels[..., kept] if isinstance(kept, list) else pixels[..., :kept])
    left_out = ("1 channel(s) of unspecified meaning left out",) if "unspecified" in extra else ()
    assert read(data).notes == left_out
    if extra == ["unspecified"]:
        assert np.array_equal(decode_image(data, 3, "x"), PICTURE)


def test_grey_with_an_unspecified_channel_is_grey():
    data = tiff(
        np.dstack([GREY, 255 - GREY]), photometric="minisblack", planarconfig="contig", extrasamples=["unspecified"]
    )
    assert np.array_equal(frame(data), GREY)


def test_alpha_that_colours_were_multiplied_by_is_divided_out():
    pixels = np.dstack([PICTURE // 2, np.full((60, 80), 128, np.uint8)])
    found = frame(tiff(pixels, photometric="rgb", extrasamples=["assocalpha"]))
    assert (found[..., 3] == 128).all()
    assert np.abs(found[..., :3].astype(int) - PICTURE).max() <= 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_may_be_zero(dtype):
    largest = np.iinfo(dtype).max
    stored = (GREY * dtype(largest // 255)).astype(dtype)
    data = tiff(stored[..., 0], photometric="miniswhite")
    assert np.array_equal(frame(data), largest - stored)
    assert np.array_equal(decode_image(data, 1, "x"), 255 - GREY)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("pixels", [PICTURE, DEEP], ids=["8 bit", "16 bit"])
def test_byte_orders_and_large_files(pixels, bigtiff, byteorder):
    data = tiff(pixels, photometric="rgb", bigtiff=bigtiff, byteorder=byteorder, resolution=(300, 150))
    assert np.array_equal(frame(data), pixels)
    assert np.array_equal(decode_image(data, 3, "x"), PICTURE)
    assert read(data).resolution == pytest.approx((300, 150))


@pytest.mark.parametrize(
    "options", [{"tile": (16, 16)}, {"compression": "zlib", "predictor": True}, {"rowsperstrip": 7}]
)
def test_layouts_and_compression(options):
    assert np.array_equal(frame(tiff(DEEP, photometric="rgb", **options)), DEEP)


def test_all_pages_that_are_alike_are_read_and_written(tmp_path):
    from upsr.images.writing import write_photo

    photo = read(tiff(PICTURE, 255 - PICTURE, photometric="rgb"))
    assert (len(photo.frames), photo.durations, photo.notes) == (2, (), ())
    assert np.array_equal(photo.frames[1], 255 - PICTURE)
    write_photo(tmp_path / "x.tif", photo)
    again = read((tmp_path / "x.tif").read_bytes())
    assert [page.tolist() for page in again.frames] == [page.tolist() for page in photo.frames]
    with pytest.raises(UnreadableImageError, match=r"9,600 pixels are more than the 9,599 allowed"):
        read_photo(tiff(PICTURE, PICTURE, photometric="rgb"), "x", max_pixels=9599)


def test_of_pages_that_differ_the_first_is_taken_and_said():
    photo = read(tiff(PICTURE, PICTURE[:30], photometric="rgb"))
    assert np.array_equal(photo.frames[0], PICTURE)
    assert photo.notes == ("the first of 2 pages was taken, as they differ in size or kind",)


def test_small_copies_and_masks_are_no_pages():
    data = tiff(PICTURE[:30], PICTURE, PICTURE[:7], subfiles=(1, 0, 1), photometric="rgb")
    assert np.array_equal(frame(data), PICTURE)
    assert read(data).notes == ()
    assert image_size(data, "x") == (60, 80)
    assert np.array_equal(decode_image(data, 3, "x"), PICTURE)


# Orientation


def corners() -> Image.Image:
    stored = Image.new("RGB", (64, 32), "white")
    stored.paste("red", (0, 0, 32, 16))
    stored.paste("blue", (32, 16, 64, 32))
    return stored


def noise() -> Image.Image:
    """Large enough for the fast way to a part of a PNG."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8))


def turned_png(image: Image.Image, orientation: int, how: str) -> bytes:
    exif, info = with_exif(orientation), PngInfo()
    if how == "eXIf":
        return encoded(image, exif=exif)
    if how.startswith("Raw"):
        content = exif.tobytes()
        info.add_text(how, f"\nexif\n{len(content):8}\n{content.hex()}\n", zip=how.endswith("exif"))
    else:
        value = f'tiff:Orientation="{orientation}"/>' if how == "attribute" else f"><tiff:Orientation>{orientation}<"
        info.add_itxt("XML:com.adobe.xmp", f"<x:xmpmeta><rdf:Description {value}", zip=how == "element")
    return encoded(image, pnginfo=info)


def turned(image: Image.Image, orientation: int) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(image, exif=with_exif(orientation))))))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("how", ["eXIf", "Raw profile type exif", "Raw profile type APP1", "attribute", "element"])
@pytest.mark.parametrize("image", [corners(), noise()], ids=["small", "large"])
def test_a_png_is_turned_wherever_it_says_so(image, how, orientation, tmp_path):
    from upsr.images.writing import write_photo

    data, expected = turned_png(image, orientation, how), turned(image, orientation)
    assert np.array_equal(frame(data), expected)
    assert np.array_equal(decode_image(data, 3, "x"), expected)
    assert image_size(data, "x") == expected.shape[:2]
    assert np.array_equal(decode_region(data, 3, "x", 3, 4, 20), expected[3:23, 4:24])
    write_photo(tmp_path / "x.png", read(data))
    assert np.array_equal(frame((tmp_path / "x.png").read_bytes()), expected)


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", lambda o: {"exif": with_exif(o)}),
        ("JPEG", lambda o: {"xmp": b'<rdf:Description tiff:Orientation="%d"/>' % o}),
        ("WEBP", lambda o: {"exif": with_exif(o), "lossless": True}),
        ("WEBP", lambda o: {"xmp": b'<rdf:Description tiff:Orientation="%d"/>' % o, "lossless": True}),
        ("TIFF", lambda o: {"exif": with_exif(o)}),
        ("TIFF", lambda o: {"tiffinfo": {700: b'<rdf:Description tiff:Orientation="%d"/>' % o}}),
        ("AVIF", lambda o: {"exif": with_exif(o)}),
    ],
)
def test_header_decoder_and_reader_agree_how_a_photo_is_turned(format, options, orientation):
    data, expected = encoded(corners(), format, **options(orientation)), turned(corners(), orientation)
    assert image_size(data, "x") == expected.shape[:2]
    assert np.abs(decode_image(data, 3, "x").astype(int) - expected).mean() < 8
    assert np.array_equal(frame(data), decode_image(data, 3, "x"))


# End marks, and what stands before a picture

JPEG = encoded(RGB, "JPEG", quality=92)


PROGRESSIVE = encoded(RGB, "JPEG", progressive=True)
PNG = encoded(RGB)
NO_END = "the file ends before its end mark"


@pytest.mark.parametrize(
    ("data", "whole", "note"),
    [
        (JPEG[:-2], JPEG, NO_END),
        (JPEG[:-1], JPEG, NO_END),
        (PROGRESSIVE[:-2], PROGRESSIVE, NO_END),
        (PNG[:-12], PNG, NO_END),
        (PNG[:-5], PNG, NO_END),
        (b"\r\n" + JPEG, JPEG, "2 bytes before the picture were passed over"),
        (b"a warning of a script\n" + JPEG, JPEG, "22 bytes before the picture were passed over"),
        (b"\n\n" + PNG, PNG, "2 bytes before the picture were passed over"),
    ],
)
def test_what_browsers_show_is_read_with_a_note(data, whole, note):
    assert read(data).notes == (note,)
    assert np.array_equal(frame(data), frame(whole))
    assert np.array_equal(decode_image(data, 3, "x"), decode_image(whole, 3, "x"))
    assert image_size(data, "x") == (60, 80)


@pytest.mark.parametrize("cut", [3, 4, 9, 200])
def test_a_jpeg_that_lacks_more_than_its_end_mark_is_refused(cut):
    for refuse in (read, lambda data: decode_image(data, 3, "x")):
        with pytest.raises(UnreadableImageError):
            refuse(JPEG[:-cut])


def test_what_follows_a_picture_does_not_matter():
    assert np.array_equal(frame(JPEG + b"a film, for example" * 99), decode_image(JPEG, 3, "x"))
    assert np.array_equal(frame(encoded(RGB) + b"x"), PICTURE)


# Frames


def three() -> list[Image.Image]:
    return [RGB, Image.fromarray(255 - PICTURE), RGB.rotate(180)]


def several(format: str, images: list[Image.Image], **options) -> bytes:
    return encoded(images[0], format, save_all=True, append_images=images[1:], **options)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_all_frames_of_a_moving_png_are_read_and_written(mode, tmp_path):
    from upsr.images.writing import write_photo

    images = [image.convert(mode) for image in three()]
    photo = read(several("PNG", images, duration=[40, 100, 250], loop=3))
    assert (photo.durations, photo.loop, photo.notes) == ((40, 100, 250), 3, ())
    for found, expected in zip(photo.frames, images, strict=True):
        assert np.array_equal(found.squeeze(), np.asarray(expected))
    write_photo(tmp_path / "x.png", photo)
    again = read((tmp_path / "x.png").read_bytes())
    assert (again.durations, again.loop) == (photo.durations, photo.loop)
    assert [page.tolist() for page in again.frames] == [page.tolist() for page in photo.frames]
    with pytest.raises(UnreadableImageError, match="14,400 pixels are more"):
        read_photo(several("PNG", images), "x", max_pixels=14_399)


def test_a_picture_for_those_who_know_no_animations_is_no_frame():
    data = several("PNG", three(), duration=50, default_image=True)
    assert len(read(data).frames) == 2
    assert np.array_equal(read(data).frames[0], 255 - PICTURE)
    assert np.array_equal(decode_image(data, 3, "x"), 255 - PICTURE)


def test_all_frames_of_a_moving_avif_are_read_and_written(tmp_path):
    from upsr.images.writing import write_photo

    photo = read(several("AVIF", three(), duration=80, quality=90))
    assert photo.durations == (80, 80, 80)
    write_photo(tmp_path / "x.avif", photo)
    again = read((tmp_path / "x.avif").read_bytes())
    assert again.durations == photo.durations
    for found, expected in zip(again.frames, three(), strict=True):
        assert np.abs(found.astype(int) - np.asarray(expected)).mean() < 4


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (several("MPO", three()), "the first picture of several was taken"),
        (encoded(RGB, "ICO", sizes=[(16, 16), (32, 24)]), "the largest of 2 pictures was taken"),
    ],
    ids=["stereo", "icon"],
)
def test_other_files_of_several_pictures_say_that_one_was_taken(data, note):
    photo = read(data)
    assert len(photo.frames) == 1
    assert photo.notes == (note,)


# Extras


@pytest.mark.parametrize(
    ("module", "kind", "data"),
    [
        ("pillow_heif", "HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)),
        ("pillow_jxl", "JPEG XL", b"\xff\x0a" + bytes(100)),
    ],
)
def test_a_missing_extra_is_named(module, kind, data, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnreadableImageError, match=rf"^x: {kind} needs an extra; pip install 'upsr\[formats\]'"):
        read(data)


def test_heic_is_read(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="needs the extra: pip install 'upsr[formats]'")
    buffer = io.BytesIO()
    heif.from_pillow(corners()).save(buffer, quality=100, exif=with_exif(1).tobytes())
    photo = read(buffer.getvalue())
    assert (photo.format, photo.exif is not None) == ("HEIC", True)
    assert np.abs(photo.frames[0].astype(int) - np.asarray(corners())).mean() < 8
    assert image_size(buffer.getvalue(), "x") == (32, 64)
    with pytest.raises(UnreadableImageError, match="2,048 pixels are more"):
        read_photo(buffer.getvalue(), "x", max_pixels=2047)
    with pytest.raises(UnreadableImageError, match="not a readable image"):
        read(buffer.getvalue()[:-200])


def test_jpeg_xl_is_read(tmp_path):
    pytest.importorskip("pillow_jxl", reason="needs the extra: pip install 'upsr[formats]'")
    for image in (RGB, RGB.convert("RGBA"), RGB.convert("L")):
        data = encoded(image, "JXL", lossless=True)
        assert np.array_equal(frame(data).squeeze(), np.asarray(image))
        assert image_size(data, "x") == (60, 80)
    with pytest.raises(UnreadableImageError, match="4,800 pixels are more"):
        read_photo(data, "x", max_pixels=4799)
    with pytest.raises(UnreadableImageError, match="not a readable image"):
        read(data[:-200])
    corners().save(tmp_path / "x.jpg", exif=with_exif(6))
    with Image.open(tmp_path / "x.jpg") as file:
        file.save(tmp_path / "x.jxl", lossless_jpeg=True)
    data = (tmp_path / "x.jxl").read_bytes()
    assert frame(data).shape == (64, 32, 3)
    assert image_size(data, "x") == (64, 32)


# Images to train on


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_hidden_colours_are_not_trained_on(mode):
    alpha = np.full((60, 80), 255, np.uint8)
    alpha[:9, :9] = 0
    image = RGB.convert("RGBA")
    image.putalpha(Image.fromarray(alpha))
    data = encoded(image.convert("LA")) if mode == "LA" else encoded(image)
    if mode == "P":
        data = encoded(RGB.convert("P"), transparency=int(np.asarray(RGB.convert("P"))[0, 0]))
    with pytest.raises(UnreadableImageError, match=r"^a\.png: not a usable image \(transparent pixels hide .*flatten"):
        decode_image(data, 3, "a.png")


def test_alpha_that_hides_nothing_is_dropped():
    image = RGB.convert("RGBA")
    image.putalpha(200)
    assert np.array_equal(decode_image(encoded(image), 3, "x"), PICTURE)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_reads_what_its_parent_has_read():
    """libvips would wait for the parent's threads for ever."""
    data = tiff(DEEP, photometric="rgb")
    read(data)
    large = encoded(noise())
    part = decode_region(large, 3, "x", 1, 2, 30)
    process = os.fork()
    if process == 0:
        try:
            same = np.array_equal(frame(data), DEEP) and np.array_equal(decode_region(large, 3, "x", 1, 2, 30), part)
            with pytest.raises(UnreadableImageError, match=r"^broken: not a readable image"):
                read(data[:-999], "broken")
            os._exit(0 if same else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def test_a_damaged_header_is_one_line():
    for data in (b"\x89PNG\r\n\x1a\n" + bytes(9), b"II*\0" + bytes(20), b"MM\0+" + struct.pack(">HHQ", 8, 0, 10**9)):
        for refuse in (read, lambda data: image_size(data, "x"), lambda data: decode_image(data, 3, "x")):
            with pytest.raises(UnreadableImageError, match=r"^x: not a readable image"):
                refuse(data)
