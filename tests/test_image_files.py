"""Which files are photos: by suffix, by content, and what is never opened."""

from __future__ import annotations

import io
import os

import pytest
from PIL import Image

from tests import tiny
from upsr.images.kinds import PHOTO_SUFFIXES, is_photo

RGB = Image.fromarray(tiny.picture(20, 30))


def encoded(format: str, **options) -> bytes:
    buffer = io.BytesIO()
    RGB.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", sorted(PHOTO_SUFFIXES))
def test_files_with_the_suffix_of_a_format_are_photos(suffix, tmp_path):
    for name in (f"a{suffix}", f"b{suffix.upper()}"):
        (tmp_path / name).write_bytes(b"perhaps damaged")
        assert is_photo(tmp_path / name)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "AVIF", "PPM", "JPEG2000", "QOI"])
@pytest.mark.parametrize("name", ["photo", "photo.jpg_large", "photo.php"])
def test_other_names_are_photos_by_their_first_bytes(name, format, tmp_path):
    (tmp_path / name).write_bytes(encoded(format))
    assert is_photo(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"no photo"),
        ("empty", b""),
        ("film.mp4", b"\0\0\0\x18ftypisom" + bytes(50)),
        ("story", b"Plain prose"),
        ("camera.NEF", encoded("TIFF")),
    ],
)
def test_what_is_no_photo(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert not is_photo(tmp_path / name)


def test_pipes_folders_and_broken_links(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for ever
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    assert not is_photo(tmp_path / "pipe.jpg")
    assert not is_photo(tmp_path / "folder.jpg")
    assert is_photo(tmp_path / "broken.jpg")  # so that it costs a line
    assert not is_photo(tmp_path / "broken")


def test_names_are_bytes(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9"
    with open(path, "wb") as file:
        file.write(encoded("JPEG"))
    assert is_photo(os.fsdecode(path))
