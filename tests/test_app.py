"""The page of ``upsr serve``, in a browser; its limits; what cannot be reached through it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from tests import tiny
from tests.page import (
    PATIENCE,
    FakePipeline,
    choose_several,
    downloaded,
    free_port,
    open_section,
    opened,
    photo,
    served,
    type_into,
    upload,
    upscale,
    wait_for_image,
    wait_for_status,
    zipped,
)
from upsr.app.jobs import Jobs, Token
from upsr.app.limits import Limits, RateLimit
from upsr.cli import main
from upsr.errors import UpsrError
from upsr.images.photo import Photo
from upsr.images.reading import read_photo
from upsr.images.writing import write_photo
from upsr.pipeline.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def server(fake) -> Iterator[str]:
    with served(
        fake, upload_bytes=300_000, batch_bytes=350_000, batch_photos=4, upload_pixels=250_000, output_pixels=400_000
    ) as (url, folder):
        yield url
    assert not folder.exists()


@pytest.fixture
def page(browser, server, fake):
    fake.slow = fake.failing = False
    with opened(browser, server) as page:
        yield page


CLICK_AS_SOON_AS_POSSIBLE = """() => new Promise((clicked) => {
    const button = document.querySelector("#run");
    const look = () => button.disabled ? setTimeout(look, 0) : clicked(button.click());
    look();
})"""


def test_a_photo_is_upscaled_shown_and_downloaded(page, tmp_path):
    upload(page, photo(tmp_path / "photo.png", 60, 40))
    wait_for_status(page, "60 x 40 pixels")
    wait_for_image(page, "#preview img")
    assert "60 x 40 to 240 x 160 pixels, seed 0" in upscale(page)

    wait_for_image(page, "#pair img")
    handle = page.locator("#pair .outer, #pair [role=slider]").first
    before = handle.bounding_box()
    middle = before["x"] + before["width"] / 2, before["y"] + before["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 80, middle[1], steps=4)
    page.mouse.up()
    page.wait_for_function(
        "x => document.querySelector('#pair .outer, #pair [role=slider]').getBoundingClientRect().x > x + 40",
        arg=before["x"],
    )

    page.get_by_role("tab", name="Uncertainty").click()
    wait_for_image(page, "#heat img")
    page.get_by_role("tab", name="Steps").click()
    wait_for_image(page, "#gallery img")
    captions = page.locator("#gallery .caption-label").all_inner_texts()
    assert [caption.strip() for caption in captions] == ["g(y)", "x_T", "t=4", "weight"]

    first = downloaded(page)
    assert first.size == (240, 160)
    page.fill("#seed input", "7")
    page.press("#seed input", "Tab")
    upscale(page, "seed 7")
    other = downloaded(page)
    page.fill("#seed input", "0")
    page.press("#seed input", "Tab")
    upscale(page, "seed 0")
    again = downloaded(page)
    assert np.array_equal(np.asarray(first), np.asarray(again))
    assert not np.array_equal(np.asarray(first), np.asarray(other))


def test_the_settings_are_the_knobs_of_the_method(page, fake, tmp_path):
    upload(page, photo(tmp_path / "photo.png", 40, 40))
    wait_for_status(page, "40 x 40 pixels")
    assert "Fewer: faster." in page.locator("#steps").inner_text()
    assert "faithfulness" in page.locator("#fidelity").inner_text()
    assert page.locator("#colour_fix").count() == 0  # the method corrects colours itself
    upscale(page)
    given = {"steps": 4, "fidelity": 0.5, "prompt": "", "colour": "adain", "eta": None, "start": None, "level": None}
    assert fake.given == Settings(seed=0, outscale=4, tile=64, knobs=given)
    type_into(page, {"prompt": "a red barn"})
    page.locator("#colour input").click()
    page.get_by_role("option", name="wavelet").click()
    page.get_by_label("number input for Steps").fill("2")
    page.keyboard.press("Tab")
    page.get_by_label("number input for Fidelity").fill("0.75")
    page.keyboard.press("Tab")
    type_into(page, {"level": "2"})
    open_section(page, "#more")
    assert page.locator("#scale").count() == 1
    type_into(page, {"eta": "0.5"})
    page.locator("#start input").click()
    page.get_by_role("option", name="noise").click()
    page.get_by_label("Consistent").check()
    page.fill("#seed input", "3")
    page.press("#seed input", "Tab")
    upscale(page, "seed 3")
    given = {"steps": 2, "fidelity": 0.75, "prompt": "a red barn", "colour": "wavelet"}
    given |= {"eta": 0.5, "start": "noise", "level": 2}
    assert fake.given == Settings(seed=3, outscale=4, tile=64, consistent=True, knobs=given)


def test_size_format_quality_and_tile_are_chosen(page, fake, tmp_path):
    Image.fromarray(np.full((30, 40), 30_000, np.uint16)).save(tmp_path / "photo.png")
    upload(page, tmp_path / "photo.png")
    wait_for_status(page, "40 x 30 pixels")
    open_section(page, "#more")
    type_into(page, {"width": "100", "tile": "32"})
    page.get_by_label("number input for Quality").fill("60")
    page.keyboard.press("Tab")
    lost = "; more than 8 bits left out"
    for seed, (form, note) in enumerate({"AVIF": "", "WebP": lost, "JPEG": lost}.items(), 1):
        page.locator("#format input").click()
        page.get_by_role("option", name=form, exact=True).click()
        page.fill("#seed input", str(seed))
        page.press("#seed input", "Tab")
        upscale(page, f"40 x 30 to 100 x 75 pixels, seed {seed}{note}")
        page.wait_for_function(
            "t => document.querySelector('#download').innerText.trim() === t", arg=f"Download {form.upper()}"
        )
        wait_for_image(page, "#pair img")
        with page.expect_download() as waiting:
            page.click("#download")
        assert waiting.value.suggested_filename.startswith(f"photo_w100_seed{seed}.")
        with Image.open(waiting.value.path()) as image:
            assert (image.format, image.size) == (form.upper(), (100, 75))
    assert (fake.given.size, fake.given.outscale, fake.given.tile) == ((100, None), None, 32)
    for name, value, message in (
        ("tile", "65", "Tile: at most 64 pixels fit into the memory here, not 65."),
        ("tile", "", "Done in"),
        ("height", "wide", "Height: wide is no number of pixels, 1 to 1000000."),
        ("height", "9000", "The result would have 0.9 megapixels, more than the 0.4 allowed"),
    ):
        type_into(page, {name: value})
        upscale(page, message)
    assert fake.given.tile == 64


def test_a_limit_counts_what_the_model_computes_though_the_result_is_small(tmp_path):
    pytest.importorskip("gradio", reason="needs the extra: pip install 'upsr[app]'")
    from upsr.app.models import Model
    from upsr.app.pictures import Region
    from upsr.app.work import Work

    work, free = Work(Limits(output_pixels=160_000), tmp_path), FakePipeline()
    fixed = FakePipeline()
    fixed.knobs = dict  # type: ignore[method-assign]
    for pipe, most in ((fixed, 10_000), (free, 160_000)):  # x4; at the result's scale
        model, settings = Model(pipe, {}, "fake"), Settings(outscale=1)
        work.check(Region(0, 0, most // 100, 100), model, settings)
        with pytest.raises(UpsrError, match="megapixels"):
            work.check(Region(0, 0, most // 100 + 1, 100), model, settings)
    with pytest.raises(
        UpsrError, match=r"computes x4, 0\.3 megapixels, before .*; 0\.16 are allowed: choose a smaller crop"
    ):
        work.check(Region(0, 0, 200, 100), Model(fixed, {}, "fake"), Settings(size=(10, None)))


def test_each_of_several_photos_is_decoded_once(tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="needs the extra: pip install 'upsr[app]'")
    from upsr.app import pictures
    from upsr.app.models import Saving, named
    from upsr.app.work import Work

    (model,) = named([(FakePipeline(), {"source": "fake", "method": None, "parts": {}})])
    read: list[str] = []
    monkeypatch.setattr(
        pictures, "read_photo", lambda path, *a, **k: read.append(path.name) or read_photo(path, *a, **k)
    )
    photos = [photo(tmp_path / "a.png", 20, 20), photo(tmp_path / "thin.png", 40, 8), photo(tmp_path / "b.jpg", 20, 20)]
    batch, _ = Work(Limits(), tmp_path).several(
        photos, model, Settings(outscale=2, tile=64), Saving(".webp", 50), Token(), lambda *_, **__: None
    )
    assert read == ["a.png", "thin.png", "b.jpg"]
    assert (batch.done, batch.refused) == (2, ("thin.png: the photo is smaller than 16 pixels",))
    assert batch.path is not None
    with zipfile.ZipFile(batch.path) as archive:
        assert {"a_x2_seed0.webp", "b_x2_seed0.webp"} <= set(archive.namelist())
        assert json.loads(archive.read("settings.json"))["options"]["quality"] == 50


@pytest.mark.parametrize(("ending", "consistent"), [(".webp", True), (".webp", False), (".png", True)])
def test_notes_of_several_photos_say_that_a_format_is_not_consistent(tmp_path, ending, consistent):
    pytest.importorskip("gradio", reason="needs the extra: pip install 'upsr[app]'")
    from upsr.app.models import Saving, named
    from upsr.app.work import Work

    (model,) = named([(FakePipeline(), {"source": "fake", "method": None, "parts": {}})])
    settings = Settings(outscale=2, tile=64, consistent=consistent)
    batch, _ = Work(Limits(), tmp_path).several(
        [photo(tmp_path / "a.png", 20, 20)], model, settings, Saving(ending, 50), Token(), lambda *_, **__: None
    )
    assert batch.path is not None
    with zipfile.ZipFile(batch.path) as archive:
        said = archive.read("notes.txt").decode() if "notes.txt" in archive.namelist() else ""
    note = "a_x2_seed0.webp: not consistent: WEBP changes values; the formats png and tif keep them\n"
    assert said == (note if consistent and ending == ".webp" else "")


def test_a_network_that_spandrel_knows_has_no_seed_no_sliders_and_nothing_on_the_way(browser, tmp_path):
    from basicsr.archs.srvgg_arch import SRVGGNetCompact

    from upsr.pipeline.pipeline import UPSRPipeline

    network = tiny.random_weights(SRVGGNetCompact(num_in_ch=3, num_out_ch=3, num_feat=16, num_conv=2, upscale=2))
    torch.save({"params": network.state_dict()}, tmp_path / "compact_x2.pth")
    pipe = UPSRPipeline.from_pretrained(tmp_path / "compact_x2.pth", device="cpu")
    picture = photo(tmp_path / "photo.png", 40, 30)
    with served(pipe) as (url, _), opened(browser, url) as page:
        assert page.locator("#scale").count() == 1
        assert page.locator("#seed, #steps, #fidelity, #heat").count() == 0
        upload(page, picture)
        wait_for_status(page, "40 x 30 pixels")
        assert upscale(page).endswith("40 x 30 to 80 x 60 pixels.")
        with Image.open(picture) as image:
            assert np.array_equal(np.asarray(downloaded(page)), np.asarray(pipe(image).images[0]))
        assert page.get_by_role("tab").all_inner_texts() == ["Before / after"]


def test_a_method_without_noise_may_show_pictures_on_the_way(browser, tmp_path):
    pipe = FakePipeline()
    pipe.draws, pipe.maps, pipe.pictures = False, (), ("half way",)
    with served(pipe) as (url, _), opened(browser, url) as page:
        upload(page, photo(tmp_path / "photo.png", 40, 30))
        wait_for_status(page, "40 x 30 pixels")
        upscale(page)
        page.get_by_role("tab", name="Steps").click()
        wait_for_image(page, "#gallery img")
        captions = page.locator("#gallery .caption-label").all_inner_texts()
        assert [caption.strip() for caption in captions] == ["half way"]


def test_what_a_photo_carries_is_in_the_download(page, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ramp = np.arange(40 * 60 * 4, dtype=np.uint16).reshape(40, 60, 4) * 6
    ramp[..., 3] = 65535
    ramp[:20, :, 3] = 0
    write_photo(
        tmp_path / "photo.png", Photo((ramp,), "PNG", icc=profile, resolution=(300, 300), texts=(("Title", "T"),))
    )
    upload(page, tmp_path / "photo.png")
    wait_for_status(page, "60 x 40 pixels")
    upscale(page)
    with page.expect_download() as waiting:
        page.click("#download")
    result = read_photo(Path(waiting.value.path()), "result", max_pixels=10**6)
    assert result.frames[0].dtype == np.uint16
    assert result.frames[0].shape == (160, 240, 4)
    assert (result.icc, result.texts) == (profile, (("Title", "T"),))
    assert result.resolution == pytest.approx((300, 300), abs=0.01)


def test_of_several_frames_the_page_says_that_it_takes_one(page, tmp_path):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:], duration=50)
    upload(page, tmp_path / "moving.png")
    wait_for_status(page, "40 x 30 pixels; the first of 3 frames was taken")


def test_a_crop_is_chosen_by_a_click(page, tmp_path):
    upload(page, photo(tmp_path / "photo.jpg", 400, 300))
    wait_for_status(page, "400 x 300 pixels")
    wait_for_image(page, "#preview img")
    page.get_by_label("Whole photo").check()
    assert "more than the 0.4 allowed" in upscale(page, "megapixels")  # 400 x 300 x 16
    page.locator("#preview img").click(position={"x": 5, "y": 5})
    page.wait_for_function("document.querySelector('#region input[value=\"Square crop\"]').checked")
    page.get_by_label("number input for Side").fill("50")
    page.keyboard.press("Tab")
    assert "50 x 50 to 200 x 200" in upscale(page)
    mean = np.asarray(downloaded(page)).mean(axis=(0, 1))
    assert mean[0] < 40  # the top left corner, where red and green are dark
    assert mean[1] < 40


def test_cancel_stops_the_work_itself(page, fake, tmp_path):
    upload(page, photo(tmp_path / "photo.png", 40, 40))
    wait_for_status(page, "40 x 40 pixels")
    fake.slow = True
    page.click("#run")
    assert fake.started.wait(PATIENCE / 1000)
    page.wait_for_selector("#progress .progress-bar, #progress .progress-text")
    assert page.locator("#run").is_disabled()
    page.click("#cancel")
    wait_for_status(page, "Cancelled.")
    assert fake.ended.is_set(), "the work ends at its next report of progress"
    assert fake.steps_done < 1500
    fake.slow = False
    page.evaluate(CLICK_AS_SOON_AS_POSSIBLE)
    wait_for_status(page, "Done in")


def test_one_who_waits_can_cancel_and_the_other_goes_on(page, browser, server, fake, tmp_path):
    picture = photo(tmp_path / "photo.png", 40, 40)
    fake.slow = True
    with opened(browser, server) as other:
        for visitor in (page, other):
            upload(visitor, picture)
            wait_for_status(visitor, "40 x 40 pixels")
            visitor.click("#run")
            assert fake.started.wait(PATIENCE / 1000)
        other.wait_for_function("document.querySelector('#progress').innerText.includes('queue')")
        other.click("#cancel")
        wait_for_status(other, "Cancelled.")
    assert fake.started.is_set()
    page.click("#cancel")
    wait_for_status(page, "Cancelled.")
    assert fake.ended.wait(PATIENCE / 1000), "the work ends at its next report of progress"


def test_a_cancelled_task_ends_its_thread_first():
    jobs, ended, looks = Jobs(), threading.Event(), threading.Event()

    def work(token: Token) -> None:
        try:
            while True:
                token.check()
                looks.set()
        finally:
            ended.set()

    async def cancelled_task() -> bool:
        task = asyncio.ensure_future(jobs.run("session", work))
        await asyncio.to_thread(looks.wait, PATIENCE / 1000)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return ended.is_set()

    assert in_a_loop(cancelled_task())


def test_a_full_queue_is_said(browser, fake, tmp_path):
    picture = photo(tmp_path / "photo.png", 40, 40)
    fake.slow = True
    with contextlib.ExitStack() as stack:
        url, _ = stack.enter_context(served(fake, queue=1))
        visitors = [stack.enter_context(opened(browser, url)) for _ in range(3)]
        for visitor in visitors:
            upload(visitor, picture)
            wait_for_status(visitor, "40 x 40 pixels")
        for visitor in visitors[:2]:
            visitor.click("#run")
            assert fake.started.wait(PATIENCE / 1000)
        visitors[1].wait_for_function("document.querySelector('#progress').innerText.includes('queue')")
        visitors[2].click("#run")
        visitors[2].wait_for_selector("[data-testid=toast-body]")
        assert "busy" in visitors[2].locator("[data-testid=toast-body]").inner_text()
        visitors[2].wait_for_selector("#run:enabled")
    fake.slow = False


def test_leaving_the_page_stops_the_work(browser, server, fake, tmp_path):
    with opened(browser, server) as page:
        upload(page, photo(tmp_path / "photo.png", 40, 40))
        wait_for_status(page, "40 x 40 pixels")
        fake.slow = True
        page.click("#run")
        assert fake.started.wait(PATIENCE / 1000)
    assert fake.ended.wait(PATIENCE / 1000)
    assert fake.steps_done < 1999
    fake.slow = False


def test_what_cannot_be_used_is_said_in_one_line(page, fake, tmp_path):
    for name in ("text.txt", "text.png"):
        text = tmp_path / name
        text.write_text("no photo")
        upload(page, text)
        assert str(tmp_path) not in wait_for_status(page, "not a readable image")
        page.locator("#photo [aria-label=Clear]").click()
        wait_for_status(page, "Drop a photo")

    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_header(50_000, 50_000))
    upload(page, bomb)
    assert "2,500,000,000 pixels are more than the 250,000 allowed" in wait_for_status(page, "pixels are more")

    page.locator("#photo [aria-label=Clear]").click()
    wait_for_status(page, "Drop a photo")
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)).save(noise)
    assert noise.stat().st_size > 300_000
    upload(page, noise)
    page.wait_for_selector("[data-testid=toast-body]")
    assert "size" in page.locator("[data-testid=toast-body]").first.inner_text()

    assert "Drop a photo first" in upscale(page, "first")
    upload(page, photo(tmp_path / "photo.png", 40, 40))
    wait_for_status(page, "40 x 40 pixels")
    fake.failing = True
    assert "server's log says why" in upscale(page, "failed")
    assert "secret" not in page.content()
    fake.failing = False
    upscale(page)


def test_errors_do_not_name_the_folder_of_the_server(tmp_path):
    pytest.importorskip("gradio", reason="needs the extra: pip install 'upsr[app]'")
    from upsr.app.work import Work

    (tmp_path / "full").touch()
    with pytest.raises(UpsrError) as error:
        write_photo(tmp_path.resolve() / "full/photo_x4.png", Photo((np.zeros((2, 2, 3), np.uint8),), "PNG"))
    said = Work(Limits(), tmp_path).public(str(error.value))
    assert said.startswith("full/photo_x4.png: the folder cannot be written to")


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be large and has next to no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def ask(url: str, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, text


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        f"/gradio_api/file={REPOSITORY / 'upsr/app/layout.py'}",
        "/gradio_api/file=upsr/app/layout.py",
        "/gradio_api/file=README.md",
        "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file=%2e%2e/%2e%2e/etc/passwd",
        "/gradio_api/file=file:///etc/passwd",
        "/gradio_api/file=http://example.com/",
        "/gradio_api/file=HTTPS://example.com/",
        "/gradio_api/proxy=http://example.com/",
        "/gradio_api/info",
        "/static/../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/routes.py",
        "/assets/%2e%2e/%2e%2e/%2e%2e/routes.py",
        "/custom_component/1/client/component/x",
        "/monitoring/summary",
        "/docs",
    ],
)
def test_nothing_else_can_be_read(server, path):
    status, text = ask(server, "GET", path)
    assert status in (403, 404)
    assert "root:" not in text
    assert "import" not in text


def test_the_server_fetches_nothing_and_takes_nothing_large(server):
    join, kind = "/gradio_api/queue/join", {"Content-Type": "application/json"}
    body = {"data": [{"path": "http://example.com/a.png", "meta": {"_type": "gradio.FileData"}}], "fn_index": 0}
    assert ask(server, "POST", join, json.dumps(body).encode(), **kind)[0] == 403
    assert ask(server, "POST", join, b"[" * 600_000, **kind)[0] == 413
    assert ask(server, "POST", join, b"no JSON", **kind)[0] == 400
    for route in ("component_server", "call/upscale", "api/upscale", "run/upscale"):
        assert ask(server, "POST", f"/gradio_api/{route}", b"{}", **kind)[0] == 403
    assert ask(server, "DELETE", "/")[0] == 403
    assert ask(server, "POST", "/gradio_api/upload", bytes(400_000))[0] == 413


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_every_answer_keeps_the_browser_at_home(server, path):
    connection = http.client.HTTPConnection(server.removeprefix("http://"), timeout=10)
    connection.request("GET", path)
    headers = connection.getresponse().headers
    connection.close()
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_visitors_behind_a_proxy_count_by_their_own_address(fake):
    with served(fake, requests_per_minute=1) as (url, _):
        codes = [
            ask(url, "POST", "/gradio_api/upload", b"x", **{"X-Forwarded-For": address})[0]
            for address in ("10.0.0.1", "10.0.0.1", "10.0.0.2")
        ]
    assert [code == 429 for code in codes] == [False, True, False]


def test_a_path_of_the_server_is_no_upload(server):
    body = {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}], "fn_index": 0, "session_hash": "x"}
    for route in ("run/predict", "queue/join"):
        text = ask(
            server, "POST", f"/gradio_api/{route}", json.dumps(body).encode(), **{"Content-Type": "application/json"}
        )[1]
        assert "root:" not in text
        assert "Traceback" not in text


def in_a_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Its result; in another thread, as the browser's driver has a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def test_uploads_of_a_client_are_limited():
    pytest.importorskip("gradio", reason="needs the extra: pip install 'upsr[app]'")
    from upsr.app.guard import Guard

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def statuses(client: str, count: int) -> list[int]:
        sent: list[Any] = []

        async def send(message):
            sent.append(message)

        headers = [(b"content-length", b"5")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/gradio_api/upload",
            "headers": headers,
            "client": (client, 1),
        }
        for _ in range(count):
            await guard(scope, None, send)
        return [message["status"] for message in sent if message["type"] == "http.response.start"]

    guard = Guard(app, Limits(requests_per_minute=2))
    assert in_a_loop(statuses("one", 3)) == [200, 200, 429]
    assert in_a_loop(statuses("other", 1)) == [200]


def test_the_rate_counts_a_sliding_minute():
    now = 0.0
    rate = RateLimit(2, clock=lambda: now)
    assert [rate.wait("a"), rate.wait("a"), rate.wait("b")] == [0, 0, 0]
    now = 20.0
    assert rate.wait("a") == 40
    now = 61.0
    assert [rate.wait("a"), rate.wait("a")] == [0, 0]
    assert rate.wait("a") == 60


def test_upscalings_of_a_client_are_limited(browser, fake, tmp_path):
    fake.slow = fake.failing = False
    with served(fake, requests_per_minute=2) as (url, _), opened(browser, url) as page:
        upload(page, photo(tmp_path / "photo.png", 20, 20))
        wait_for_status(page, "20 x 20 pixels")
        upscale(page, "seed 0")
        page.fill("#seed input", "1")
        page.press("#seed input", "Tab")
        upscale(page, "seed 1")
        assert "too many requests" in upscale(page, "requests").lower()


def test_mistakes_of_the_command_are_one_line(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "gradio", None)
        assert main(["serve"]) == 2
        assert capsys.readouterr().err == "error: the page needs gradio: pip install 'upsr[app]'\n"
    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --host, --port: 127.0.0.1:{port} cannot be used")
    assert error.count("\n") == 1
    assert main(["serve", "--port", "70000"]) == 2
    assert main(["serve", "--max-output-megapixels", "0"]) == 2
    assert "--max-output-megapixels" in capsys.readouterr().err


def test_the_shipped_weights_in_the_browser_and_the_end(browser, tmp_path):
    """The command as a user gives it: a photo comes out, Ctrl-C ends it, nothing is left behind."""
    pytest.importorskip("gradio", reason="needs the extra: pip install 'upsr[app]'")
    pytest.importorskip("upsr.pipeline.pipeline")
    command = [sys.executable, "-m", "upsr", "serve", "--device", "cpu", "--port", str(free_port())]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in a shell's background jobs
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, process.communicate()[1]
        assert list(tmp_path.glob("upsr-serve-*"))
        picture = photo(tmp_path / "photo.png", 40, 32)
        with opened(browser, line.split()[3].rstrip("/")) as page:
            upload(page, picture)
            wait_for_status(page, "40 x 32 pixels")
            assert "40 x 32 to 160 x 128" in upscale(page)
            assert downloaded(page).size == (160, 128)
            page.get_by_role("tab", name="Steps").click()
            wait_for_image(page, "#gallery img")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, output, errors) == (130, "", "interrupted\n")
    assert not list(tmp_path.glob("upsr-serve-*"))


def test_several_photos_become_a_zip_and_what_is_refused_is_named(page, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no photo")
    photos = [photo(tmp_path / "a.png", 30, 20), photo(tmp_path / "other/a.jpg", 20, 20), tmp_path / "broken.png"]
    choose_several(page, "#photos", [*photos, photo(tmp_path / "large.png", 400, 300)], 4)
    page.click("#run_all")
    said = wait_for_status(page, "2 of 4 photos done")
    assert "broken.png: " in said
    assert "large.png: the result would have 1.9 megapixels" in said
    found = zipped(page)
    assert sorted(found) == ["a_x4_seed0.png", "a_x4_seed0_2.png", "not_upscaled.txt", "settings.json"]
    report = found.pop("not_upscaled.txt").decode()
    assert [line.split(":")[0] for line in report.splitlines()] == ["broken.png", "large.png"]
    for name, (width, height) in {"a_x4_seed0.png": (120, 80), "a_x4_seed0_2.png": (80, 80)}.items():
        with Image.open(io.BytesIO(found[name])) as image:
            assert image.size == (width, height)


def test_a_folder_is_taken_whole(page, tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("one.png", "two.png"):
        photo(tmp_path / "folder" / name, 16, 16)
    open_section(page, "#several")
    with page.expect_file_chooser() as choosing:
        page.click("#folder")
    choosing.value.set_files(tmp_path / "folder")
    page.wait_for_function("document.querySelectorAll('#photos tr.file').length === 2")
    page.click("#run_all")
    wait_for_status(page, "2 of 2 photos done")
    assert sorted(zipped(page)) == ["one_x4_seed0.png", "settings.json", "two_x4_seed0.png"]


def test_more_photos_than_are_allowed_are_refused(page, tmp_path):
    choose_several(page, "#photos", [photo(tmp_path / f"{i}.png", 16, 16) for i in range(5)], 5)
    page.click("#run_all")
    wait_for_status(page, "5 photos are more than the 4 allowed at once")
    assert page.locator("#zip").is_disabled()


def test_several_photos_are_cancelled_together(page, fake, tmp_path):
    choose_several(page, "#photos", [photo(tmp_path / f"{i}.png", 16, 16) for i in range(2)], 2)
    fake.slow = True
    page.click("#run_all")
    assert fake.started.wait(PATIENCE / 1000)
    page.click("#cancel")
    wait_for_status(page, "Cancelled. Nothing is running.")
    assert fake.ended.is_set()


def test_the_page_fits_a_phone(page, tmp_path):
    page.set_viewport_size({"width": 390, "height": 844})
    upload(page, photo(tmp_path / "photo.png", 60, 40))
    wait_for_status(page, "60 x 40 pixels")
    upscale(page)
    open_section(page, "#several")
    page.wait_for_selector("#run_all", state="visible")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for button in ("#run", "#cancel", "#download", "#run_all", "#zip"):
        box = page.locator(button).bounding_box()
        assert box["x"] >= 0, button
        assert box["x"] + box["width"] <= 390, button
