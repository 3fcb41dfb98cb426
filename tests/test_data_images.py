"""Reading images: decoding, folders, lmdb, lists, and files that are no images."""

from __future__ import annotations

import io
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from upsr.atomic import atomic_write
from upsr.cli import main
from upsr.data.backends import list_keys, open_backend
from upsr.data.copies import make_lmdb, make_meta_info, make_shards
from upsr.data.image_io import UnreadableImageError, decode_image, to_tensor, to_uint8, write_png
from upsr.errors import UpsrError


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


PICTURE = tiny.picture(20, 30)
RGB = Image.fromarray(PICTURE)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_rgb_or_grey(mode, channels):
    data = encoded(RGB.convert(mode), "TIFF" if mode == "CMYK" else "PNG")
    image = decode_image(data, channels, "x")
    assert image.dtype == np.uint8
    assert image.shape == (20, 30, channels)
    if mode in ("RGB", "RGBA") and channels == 3:
        assert np.array_equal(image, PICTURE)


def test_sixteen_bit_is_scaled_not_clipped():
    ramp = (np.arange(600).reshape(20, 30) * 109).astype(np.uint16)
    image = decode_image(encoded(Image.fromarray(ramp)), 1, "x")
    assert np.abs(image[..., 0].astype(float) - ramp / 257).max() <= 0.5


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    assert decode_image(encoded(RGB, "JPEG", exif=exif), 3, "x").shape == (30, 20, 3)


@pytest.mark.parametrize(
    "data",
    [b"", b"this is text", encoded(RGB, "JPEG")[:-200], encoded(RGB)[:-40], encoded(RGB, "JPEG")[:30]],
    ids=["empty", "text", "truncated jpeg", "truncated png", "jpeg head"],
)
def test_what_is_no_whole_image_is_refused_by_name(data):
    with pytest.raises(UnreadableImageError, match=r"holiday\.jpg: not a readable image"):
        decode_image(data, 3, "holiday.jpg")


def test_tensors_and_arrays_go_back_and_forth():
    tensor = to_tensor(PICTURE)
    assert tensor.shape == (3, 20, 30)
    assert tensor.max() <= 1
    assert np.array_equal(to_uint8(tensor), PICTURE)
    assert np.array_equal(to_uint8(tensor * 3 - 1), (PICTURE.astype(float) * 3 - 255).clip(0, 255).round())


def test_folder_keys_are_sorted_relative_and_recursive(tmp_path):
    for name in ("b.png", "a/c.PNG", "a/d.txt", ".hidden.png", "with space.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        RGB.save(tmp_path / name, format="PNG")
    assert list_keys(tmp_path) == ["a/c.PNG", "b.png", "with space.jpg"]


def test_lists_may_hold_sizes_and_spaces(tmp_path):
    tiny.save_pictures(tmp_path / "p", 3)
    meta = tmp_path / "meta.txt"
    meta.write_text("photo 2.png (106,102,3) 1\n\nphoto 0.png\n")
    assert list_keys(tmp_path / "p", meta) == ["photo 2.png", "photo 0.png"]
    meta.write_text("photo 0.png\nphoto 9.png\n")
    with pytest.raises(UpsrError, match=r"meta\.txt, entry 2: no image 'photo 9\.png'"):
        list_keys(tmp_path / "p", meta)


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(UpsrError, match="nowhere: no such folder"):
        list_keys(tmp_path / "nowhere")
    with pytest.raises(UpsrError, match="no images in this folder"):
        list_keys(tmp_path)
    make_shards(tiny.save_pictures(tmp_path / "p", 1), tmp_path / "s")
    with pytest.raises(UpsrError, match=r"s: a folder of shards; name their index in its place: .*/s/index\.json$"):
        list_keys(tmp_path / "s")
    (tmp_path / "s/index.json").unlink()
    with pytest.raises(UpsrError, match=r"in its place, which `upsr data shards --index-only .*/s` makes: "):
        list_keys(tmp_path / "s")


def test_lmdb_holds_the_same_bytes_as_the_folder(tmp_path):
    folder = tiny.save_pictures(tmp_path / "p", 3)
    (folder / "broken.png").write_bytes(b"no image")
    unreadable = make_lmdb(folder, tmp_path / "p.lmdb")
    assert [name for name, _ in unreadable] == ["broken.png"]
    backend = pickle.loads(pickle.dumps(open_backend(tmp_path / "p.lmdb")))
    assert backend.keys() == ["photo 0", "photo 1", "photo 2"]
    for key in list_keys(tmp_path / "p.lmdb"):
        assert backend.read(key) == (folder / f"{key}.png").read_bytes()
    with pytest.raises(UpsrError, match="no image 'absent'"):
        backend.read("absent")


def test_meta_info_lists_large_enough_readable_images(tmp_path):
    folder = tiny.save_pictures(tmp_path / "p", 3, size=60)
    (folder / "broken.jpg").write_bytes(b"")
    left_out = make_meta_info(folder, tmp_path / "meta.txt", min_size=62)
    assert (tmp_path / "meta.txt").read_text() == "photo 1.png (65,63,3)\nphoto 2.png (70,66,3)\n"
    assert [name for name, _ in left_out] == ["broken.jpg", "photo 0.png"]
    assert list_keys(folder, tmp_path / "meta.txt") == ["photo 1.png", "photo 2.png"]


def test_files_are_whole_or_not_there(tmp_path):
    path = tmp_path / "deep" / "image.png"
    write_png(path, PICTURE)
    before = path.read_bytes()

    def fail():
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("the power went out")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert torch.equal(to_tensor(decode_image(before, 3, "x")), to_tensor(PICTURE))
    (tmp_path / "file").touch()
    with pytest.raises(UpsrError, match="cannot be written"):
        write_png(tmp_path / "file" / "image.png", PICTURE)


def test_copies_say_what_they_hold_and_a_folder_without_whole_images_gives_none(tmp_path, capsys):
    folder = tiny.save_pictures(tmp_path / "p", 3)
    (folder / "broken.png").write_bytes(b"no image")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/broken.png").write_bytes(b"no image")
    for action, name, said in (
        ("meta-info", "list.txt", r"3 images listed in .*/list\.txt"),
        ("lmdb", "p.lmdb", r"3 images, (\d+\.\d) MB in .*/p\.lmdb; dataroot_gt: .*/p\.lmdb"),
        ("shards", "s", r"3 images, (\d+\.\d) MB in .*/s; dataroot_gt: .*/s/index\.json"),
    ):
        target = tmp_path / name
        assert main(["data", action, "--input", str(folder), "--output", str(target), "--workers", "1"]) == 0
        printed = capsys.readouterr()
        found = re.fullmatch(said, printed.out.strip())
        assert found
        assert "left out: broken.png" in printed.err
        if found.groups():
            assert float(found[1]) == pytest.approx(sum(f.stat().st_size for f in target.iterdir()) / 1e6, abs=0.051)
        none = tmp_path / f"none-{name}"
        assert main(["data", action, "--input", str(tmp_path / "bad"), "--output", str(none), "--workers", "1"]) == 2
        assert (
            "bad: all of its 1 images are left out, so nothing is written; broken.png for one: "
            in capsys.readouterr().err
        )
        assert not none.exists()
    assert main(["data", "meta-info", "--input", str(folder), "--output", str(none), "--min-size", "999"]) == 2
    assert "all of its 4 images are left out" in capsys.readouterr().err


def test_a_preview_is_written_under_names_of_png_alone(tmp_path, capsys):
    folder, out = tiny.save_pictures(tmp_path / "p", 1), tmp_path / "sheet.xyz"
    given = ["data", "preview", "--input", str(folder), "--count", "1", "--versions", "1", "--size", "64", "--output"]
    assert main([*given, str(out)]) == 2
    assert "sheet.xyz; the picture is a PNG, so give a name that ends in .png" in capsys.readouterr().err
    assert not out.exists()
    assert main([*given, str(out.with_suffix(".PNG"))]) == 0
    assert out.with_suffix(".PNG").read_bytes().startswith(b"\x89PNG")
