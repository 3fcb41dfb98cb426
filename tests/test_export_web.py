"""The page of ``upsr export --web`` restores in the visitor's browser what the command restores, without a network."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests import tiny
from tests.philox_vectors import VECTORS
from upsr import cli
from upsr.archs import CompactSR
from upsr.config.schema import TileOptions
from upsr.errors import UpsrError
from upsr.export import check
from upsr.export.export import ExportedFile
from upsr.export.formats import FORMATS
from upsr.export.trace import Sizes, trace
from upsr.export.web import folder, runtime
from upsr.export.web.compact import store_weights
from upsr.export.web.folder import MANIFEST, SERVICE_WORKER, TILE
from upsr.export.web.licences import write_licences
from upsr.restoring.noise import CounterNoise
from upsr.restoring.restore import restore
from upsr.tiling.padding import pad_to_multiple
from upsr.tiling.scratch import Scratch
from upsr.tiling.tiles import TilePlan, Tiles
from upsr.tiling.windows import grid_windows
from upsr.weights.fetch import Network

PAGE = Path(__file__).parents[1] / "upsr/export/web/page"
ONCE = Network(timeout=20, attempts=1, pause=0)
PATIENCE = 240_000  # milliseconds; both cores may be at work for others
LIMIT = 15_000_000


class Served:
    """A folder at an address, and the paths that were asked for."""

    def __init__(self, root: Path) -> None:
        asked = self.asked = list[str]()

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                asked.append(self.path)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=root))
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@contextlib.contextmanager
def served(root: Path) -> Iterator[Served]:
    server = Served(root)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """The npm package: UPSR_ONNXRUNTIME_WEB names its file, else it is fetched."""
    if named := os.environ.get("UPSR_ONNXRUNTIME_WEB"):
        return Path(named)
    try:
        return runtime.fetched_package(tmp_path_factory.mktemp("npm"), ONCE)
    except UpsrError as error:
        pytest.skip(f"needs the npm package of ONNX Runtime Web: {error}; UPSR_ONNXRUNTIME_WEB names its file")


@pytest.fixture(scope="module")
def modules(browser):
    """Runs a function of the page's modules: ``modules("noise.js", "({noiseField}) => ...", argument)``."""
    with served(PAGE) as server:
        page = browser.new_page()
        page.goto(f"{server.url}style.css")  # a page without a policy that forbids the driver's own code

        def run(module: str, function: str, argument: Any = None) -> Any:
            return page.evaluate(f"async (given) => ({function})(await import('/{module}'), given)", argument)

        yield run
        page.close()


@pytest.mark.parametrize("length", [0, 1, 92, 128, 129, 300])
def test_digests_are_those_of_blake2b(modules, length):
    given = bytes(i % 251 for i in range(length))
    found = modules("hash.js", "({blake2b64}, bytes) => String(blake2b64(Uint8Array.from(bytes)))", list(given))
    assert int(found) == int.from_bytes(hashlib.blake2b(given, digest_size=8).digest(), "little")


@pytest.mark.parametrize("seed", [0, 7, 2**53 - 1])
def test_noise_is_that_of_the_command(modules, seed):
    function = "({noiseField}, seed) => Array.from(noiseField(BigInt(seed), 'a photo', 2, 48, 8, 22))"
    found = np.array(modules("noise.js", function, str(seed)), dtype=np.float32)
    expected = CounterNoise(seed, ["a photo"], (48, 8, 22), Scratch(torch.device("cpu")))(2)
    np.testing.assert_allclose(found, expected.flatten().numpy(), rtol=2e-7, atol=0)


def test_its_generator_gives_the_vectors_of_its_authors(modules):
    for counter, key, expected in VECTORS:
        function = "({philox}, [counter, key]) => philox(counter, key)"
        assert modules("noise.js", function, [counter, key]) == expected


def test_a_photo_has_the_identity_that_the_command_gives_it(modules):
    pixels = tiny.picture(5, 7)
    function = "({identityOf}, rgb) => identityOf(Uint8Array.from(rgb), 5, 7)"
    found = modules("noise.js", function, pixels.flatten().tolist())
    assert found == hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


@pytest.mark.parametrize("size", [(32, 32), (128, 160), (544, 1024), (96, 256), (700, 330), (1600, 1000)])
@pytest.mark.parametrize("multiple", [32, 64, 4])
def test_tiles_are_those_of_the_command(modules, size, multiple):
    height, width = (-(-side // multiple) * multiple for side in size)
    function = """({windowsOf}, given) => windowsOf(...given).map(
        ({top, left, down, across}) => [top, left, Array.from(down), Array.from(across)])"""
    found = modules("tiles.js", function, [height, width, TILE, multiple])
    rows, columns = grid_windows(height, width, TileOptions(**TILE), multiple, torch.device("cpu"))
    plan = TilePlan(TileOptions(**TILE), Scratch(torch.device("cpu")))
    expected = Tiles(plan, torch.zeros(1, 1, height, width), multiple, passes=1).windows
    assert [tuple(window[:2]) for window in found] == [(window.top, window.left) for window in expected]
    for top, left, down, across in found:
        np.testing.assert_allclose(down, rows[top].numpy(), atol=1e-7)
        np.testing.assert_allclose(across, columns[left].numpy(), atol=1e-7)


def test_a_photo_is_extended_and_enlarged_as_by_the_command(modules):
    pixels = tiny.picture(9, 5)
    rgba = np.dstack([pixels, np.full((9, 5), 255, np.uint8)])
    function = """({planesOf, upsampled}, bytes) => {
        const planes = planesOf({width: 5, height: 9, pixels: Uint8ClampedArray.from(bytes)}, 16, 16);
        return [Array.from(planes), Array.from(upsampled(planes, 16, 16, 4))];
    }"""
    planes, state = modules("images.js", function, rgba.flatten().tolist())
    lq = pad_to_multiple(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255, 16)
    np.testing.assert_allclose(planes, lq.flatten().numpy(), atol=1e-7)
    y = F.interpolate(2 * lq - 1, scale_factor=4, mode="bicubic", align_corners=False)
    np.testing.assert_allclose(state, F.pixel_unshuffle(y, 4).flatten().numpy(), atol=1e-5)


def test_the_photo_is_the_one_chosen_last_and_nothing_starts_before_it_is_read(browser, tmp_path):
    shutil.copytree(PAGE, tmp_path / "page")
    record = {
        "source": "mine",
        "restoring": {"scale": 4},
        "web": {"steps": {"1": [4]}, "default_steps": 1, "max_pixels": 10**6},
    }
    (tmp_path / "page/export.json").write_text(json.dumps(record))
    (tmp_path / "page" / MANIFEST).write_text('{"files": {}}')
    for name, side in (("slow.png", 20), ("quick.png", 30)):
        Image.new("RGB", (side, side)).save(tmp_path / name)
    (tmp_path / "text.png").write_text("no photo")
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    with served(tmp_path / "page") as server:
        page.goto(server.url)
        page.get_by_text("It works without a network from now on.").wait_for()
        page.evaluate("""() => {
            const read = createImageBitmap;
            window.createImageBitmap = async (file) => {
                if (file.name === "slow.png") await new Promise((done) => { window.goOn = done; });
                return read(file);
            };
        }""")
        run, chosen = page.locator("#run"), page.locator("#chosen")
        page.set_input_files("#file", tmp_path / "quick.png")
        page.locator("#run:enabled").wait_for()
        page.set_input_files("#file", tmp_path / "slow.png")
        page.locator("#run:disabled").wait_for()
        page.set_input_files("#file", tmp_path / "quick.png")
        page.locator("#run:enabled").wait_for()
        page.evaluate("() => { window.goOn(); return new Promise((done) => setTimeout(done, 100)); }")
        assert chosen.inner_text() == "quick.png, 30 x 30 pixels"
        page.set_input_files("#file", tmp_path / "text.png")
        wait_for(page, "no photo that this browser reads")
        assert chosen.inner_text() == "text.png"
        assert run.is_disabled()
    context.close()


RESTORE = """async ({restore}, given) => {
    const {plan, settings, rgba, width, height} = JSON.parse(given);
    const ask = (name) => async (inputs) => {
        const plain = Object.entries(inputs).map(([key, [values, sides]]) => [key, [Array.from(values, Number), sides]]);
        // As one text: the driver takes minutes for arrays of this length.
        return Float32Array.from(JSON.parse(await window.network(name, JSON.stringify(Object.fromEntries(plain)))));
    };
    const photo = {width, height, pixels: Uint8ClampedArray.from(rgba)};
    const networks = {g: ask("g"), denoiser: ask("denoiser")};
    const parts = [];
    settings.seed = BigInt(settings.seed);
    const bytes = await restore(photo, plan, settings, networks, (done, total) => parts.push([done, total]));
    return JSON.stringify([Array.from(bytes), parts]);
}"""


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 2), ("posterior", 2), ("ddim", 0)])
def test_tiles_are_restored_as_the_method_restores_them(browser, sampler, steps):
    """The networks are torch's here, so that what is compared is the arithmetic of ``restore.js``."""
    method = tiny.model(tiny.random_weights(CompactSR(num_feat=8, num_block=1)), unet=tiny.UNET).eval()
    method = method.adjusted(steps=steps)
    method.sampling = replace(method.sampling, sampler=sampler)
    plan, pixels = method.exported().restoring, tiny.picture(52, 60)  # tiles of four sizes
    tile = TileOptions(size=32, overlap=8, blend="step")

    def network(name: str, inputs: str) -> str:
        given = [
            torch.tensor(values, dtype=torch.int64 if key == "t" else torch.float32).view(*sides)
            for key, (values, sides) in json.loads(inputs).items()
        ]
        with torch.inference_mode():
            return json.dumps(method.parts()[name](*given).flatten().tolist())

    settings = {"seed": "4", "timesteps": plan["timesteps"], "tile": {"size": 32, "overlap": 8}}
    rgba = np.dstack([pixels, np.full((52, 60), 255, np.uint8)])
    given = {"plan": plan, "settings": settings, "rgba": rgba.flatten().tolist(), "width": 60, "height": 52}
    with served(PAGE) as server:
        page = browser.new_page()
        page.expose_function("network", network)
        page.goto(f"{server.url}style.css")
        code = f"async (given) => ({RESTORE})(await import('/restore.js'), given)"
        found, parts = json.loads(page.evaluate(code, json.dumps(given)))
        page.close()
    name = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    lq = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    expected = restore(method, lq, seed=4, names=[name], tile=tile)[0].permute(1, 2, 0).mul(255).round()
    apart = np.abs(np.array(found).reshape(208, 240, 4)[..., :3] - expected.numpy())
    assert apart.max() <= 1
    assert (apart == 0).mean() > 0.99
    assert parts[-1][0] == parts[-1][1] == len(parts)
    assert len(parts) == 6 * (1 + steps), "tiles"


@pytest.mark.parametrize(("storage", "most", "share"), [("float16", 2e-3, 0.75), ("int8", 3e-2, 0.6)])
def test_stored_weights_take_less_and_give_about_the_same(tmp_path, storage, most, share):
    pytest.importorskip("onnxscript", reason="exporting to ONNX needs pip install 'upsr[export]'")
    model, sizes = tiny.model(tiny.random_weights(CompactSR(num_feat=16, num_block=2))), Sizes(16)
    traced, path = trace(model.exported().graphs[0], sizes), tmp_path / "g.onnx"
    FORMATS["onnx"].write(traced.graph, traced.program, path)
    before = path.stat().st_size
    store_weights(path, storage)
    assert path.stat().st_size < share * before
    (found, *_) = check.differences(traced, FORMATS["onnx"].load(path), sizes, 1)
    assert 0 < found.max_abs_difference < most


def test_weights_that_are_too_far_apart_in_int8_are_stored_in_float16(monkeypatch, tmp_path):
    tried = []

    def write(*given: Any) -> str:
        tried.append(given[5].keywords["storage"])
        if tried[-1] == "int8":
            raise UpsrError("denoiser.onnx: differs")
        return "the file"

    monkeypatch.setattr(folder, "write", write)
    traced = SimpleNamespace(graph=SimpleNamespace(name="denoiser"))
    assert folder._write_network(traced, tmp_path, Sizes(16), check=True) == ("float16", "the file")
    assert tried == ["int8", "float16"]


def test_a_method_that_the_page_cannot_restore_as_is_refused(place, monkeypatch):
    model = tiny.model(tiny.random_weights(CompactSR(num_feat=8, num_block=1)))
    whole = model.exported()
    for changed, message in (
        (replace(whole, restoring={"scale": 4}), "restores as the method upsr does, and mine does not: no b_u"),
        (replace(whole, graphs=whole.graphs[:1]), "runs the networks g and denoiser; mine has others"),
    ):
        monkeypatch.setattr(model, "exported", lambda changed=changed: changed)
        with pytest.raises(UpsrError, match=message):
            folder.export_web(model, "page", source="mine")
    assert not Path("page").exists()


def test_where_the_weights_lie_is_not_published(place, monkeypatch):
    model = tiny.model(tiny.random_weights(CompactSR(num_feat=8, num_block=1)))
    monkeypatch.setattr(folder, "runtime_files", lambda *_: {})
    monkeypatch.setattr(folder, "trace", lambda *_: None)
    monkeypatch.setattr(folder, "_write_network", lambda *_: ("float16", ExportedFile("x.onnx", "onnx", "", 32)))
    folder.export_web(model, "page", source="/home/me/weights.pth")
    assert json.loads(Path("page/export.json").read_text())["source"] == "weights.pth"
    assert not [path for path in Path("page").rglob("*") if path.is_file() and b"/home/me" in path.read_bytes()]


MISTAKES = [
    (["--web", "--format", "onnx"], "--format: has no effect with --web"),
    (["--web", "--size", "32", "32"], "--size: has no effect with --web"),
    (["--web-runtime", "x.tgz"], "--web-runtime: goes with --web"),
    (["--web", "--web-runtime", "nothing.tgz"], "--web-runtime nothing.tgz: cannot be read"),
    (["--web", "--web-runtime", "other.tgz"], "--web-runtime other.tgz: not onnxruntime-web 1.30.0 (sha256"),
    (["--web", "--web-runtime", "older"], "--web-runtime older: onnxruntime-web 1.2.3, not onnxruntime-web 1.30.0"),
    (["--web", "--web-runtime", "empty"], "--web-runtime empty: not a folder of onnxruntime-web"),
]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The current folder, with packages that are not the right one."""
    pytest.importorskip("onnxscript", reason="exporting to ONNX needs pip install 'upsr[export]'")
    pytest.importorskip("onnxruntime", reason="exporting to ONNX needs pip install 'upsr[export]'")
    monkeypatch.chdir(tmp_path)
    for name in ("older", "empty"):
        Path(name).mkdir()
    Path("older/package.json").write_text('{"name": "onnxruntime-web", "version": "1.2.3"}')
    with tarfile.open("other.tgz", "w:gz") as archive:
        archive.add("older/package.json", "package/package.json")
    return tmp_path


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(place, arguments, message, capsys):
    before = sorted(path.name for path in place.iterdir())
    assert cli.main(["export", "tiny", "-o", "page", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert sorted(path.name for path in place.iterdir()) == before


def test_without_onnxruntime_nothing_is_begun(place, monkeypatch, capsys):
    """Its licence is part of the folder, so ``--no-check`` needs it as well."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert cli.main(["export", "no weights", "-o", "page", "--web", "--no-check"]) == 2
    assert "--web needs the package onnxruntime: pip install" in capsys.readouterr().err


def test_terms_of_published_weights_go_into_the_folder(tmp_path):
    pytest.importorskip("onnxruntime", reason="its licence is part of the folder: pip install 'upsr[export]'")
    write_licences(tmp_path / "known", "experiments/pretrained_models/resshift_realsrx4_s15_v1.pth")
    terms = (tmp_path / "known/weights.txt").read_text()
    assert "ResShift-v1: resshift_realsrx4_s15_v1.pth\n" in terms
    assert "ResShift-autoencoder: autoencoder_vq_f4.pth\n" in terms  # which the first needs
    assert terms.count("licence: S-Lab Licence 1.0; not for commercial use\n") == 2
    assert "weights.txt " in (tmp_path / "known/index.txt").read_text()
    write_licences(tmp_path / "unknown", "/home/somebody/mine.pth")
    assert not (tmp_path / "unknown/weights.txt").exists()
    assert "The terms of the weights, mine.pth, are not known" in (tmp_path / "unknown/index.txt").read_text()


def test_a_folder_that_cannot_be_made_is_refused(place, capsys):
    Path("empty/mine.txt").write_text("mine")
    for name, message in (("empty", "empty: exists already and is no empty folder"), ("other.tgz/page", "other.tgz")):
        assert cli.main(["export", "tiny", "-o", name, "--web", "--web-runtime", "older"]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    assert [path.name for path in Path("empty").iterdir()] == ["mine.txt"]


def test_without_a_network_the_remedy_is_named(place, monkeypatch):
    monkeypatch.setattr(runtime, "ADDRESS", "http://127.0.0.1:9/package.tgz")
    with pytest.raises(
        UpsrError, match=r"package\.tgz: not fetched \(no connection.*npm pack .*--web-runtime"
    ) as error:
        runtime.runtime_files(None, ONCE)
    assert "\n" not in str(error.value)


def test_a_package_that_is_another_one_is_not_taken(place, monkeypatch):
    with served(place) as server:
        monkeypatch.setattr(runtime, "ADDRESS", f"{server.url}other.tgz")
        with pytest.raises(UpsrError, match=r"other\.tgz: not fetched \(\d+ bytes in place of 33106585\)"):
            runtime.runtime_files(None, ONCE)


@pytest.fixture(scope="module")
def exported(package, tmp_path_factory) -> Path:
    """The folder that the command makes of UPSR-tiny, compared with torch at one size instead of three."""
    pytest.importorskip("onnxscript", reason="exporting to ONNX needs pip install 'upsr[export]'")
    made = tmp_path_factory.mktemp("web") / "page"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "compared", lambda sizes, least: [(1, 2 * sizes.multiple, sizes.multiple)])
        assert cli.main(["export", "tiny", "-o", str(made), "--web", "--web-runtime", str(package)]) == 0
    return made


@pytest.mark.slow
def test_the_folder_is_small_and_its_manifest_true(exported):
    files = {path.relative_to(exported).as_posix(): path for path in exported.rglob("*") if path.is_file()}
    assert sum(path.stat().st_size for path in files.values()) <= LIMIT
    manifest = json.loads((exported / MANIFEST).read_text())["files"]
    assert files.keys() - manifest.keys() == {MANIFEST, SERVICE_WORKER}
    for name, about in manifest.items():
        content = files[name].read_bytes()
        assert about == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert hashlib.sha256((exported / MANIFEST).read_bytes()).hexdigest() in (exported / SERVICE_WORKER).read_text()
    assert {"upsr.txt", "onnxruntime-LICENSE", "weights.txt"} <= {
        path.name for path in (exported / "licences").iterdir()
    }
    record = json.loads((exported / "export.json").read_text())
    assert record["web"]["default_steps"] == 5
    assert record["web"]["steps"]["1"] == [4]
    assert record["web"]["storage"] == {"g": "float16", "denoiser": "int8"}
    assert [path.name for path in exported.parent.iterdir()] == ["page"]


def wait_for(page, text: str) -> str:
    page.get_by_role("status").filter(has_text=text).wait_for(timeout=PATIENCE)
    return page.get_by_role("status").inner_text()


def upscaled(page, photo: Path, steps: int, seed: int) -> np.ndarray:
    """The PNG that the page gives of a photo."""
    page.set_input_files("#file", photo)
    wait = page.get_by_role("button", name="Upscale")
    page.get_by_label("Steps").select_option(str(steps))
    page.get_by_label("Seed").fill(str(seed))
    wait.click()
    wait_for(page, "Done in")
    with page.expect_download() as download:
        page.get_by_text("Download PNG").click()
    assert download.value.suggested_filename == f"{photo.stem}_x4_seed{seed}.png"
    return np.asarray(Image.open(download.value.path()))


def by_command(photo: Path, steps: int, seed: int) -> np.ndarray:
    result = photo.with_name("command.png")
    given = [
        "--weights",
        "tiny",
        "--steps",
        str(steps),
        "--seed",
        str(seed),
        "--tile",
        str(TILE["size"]),
        "--overwrite",
    ]
    assert cli.main(["upscale", str(photo), "-o", str(result), *given]) == 0
    return np.asarray(Image.open(result))


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    apart = np.abs(found.astype(int) - expected.astype(int))
    assert (apart <= 1).mean() >= 0.99, f"{(apart <= 1).mean():.2%} within a level, up to {apart.max()}"
    assert expected.std() > 20


@pytest.mark.slow
def test_it_upscales_without_a_network_as_the_command_does(browser, exported, tmp_path):
    """A 64 x 64 crop, then one of two unequal tiles; nothing goes to the server after the first load, nor ever elsewhere."""
    data = pytest.importorskip("skimage.data")
    photo, wide = tmp_path / "crop.png", tmp_path / "wide.png"
    Image.fromarray(data.astronaut()[64:128, 190:254]).save(photo)
    Image.fromarray(data.astronaut()[64:128, 100:430]).save(wide)
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page, trouble = context.new_page(), list[str]()
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    with served(exported) as server, served(tmp_path) as elsewhere:
        page.on("request", lambda request: trouble.append(request.url) if elsewhere.url in request.url else None)
        page.goto(server.url)
        page.get_by_text("It works without a network from now on.").wait_for()
        assert f"/{SERVICE_WORKER}" in server.asked
    context.set_offline(True)
    page.reload()
    page.get_by_text("It works without a network from now on.").wait_for()
    assert_same(upscaled(page, photo, steps=5, seed=3), by_command(photo, steps=5, seed=3))
    assert_same(upscaled(page, wide, steps=2, seed=0), by_command(wide, steps=2, seed=0))
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 23, 42)", "dark"
    page.get_by_role("slider").press("Home")
    assert (
        page.locator("#before").evaluate("(canvas) => getComputedStyle(canvas).clipPath").startswith("inset(0px 100%")
    )
    assert trouble == []
    context.close()


@pytest.mark.slow
def test_what_goes_wrong_is_said_and_can_be_ended(browser, exported, tmp_path):
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    (tmp_path / "notes.png").write_text("no photo")
    Image.new("RGB", (1001, 1000)).save(tmp_path / "large.png")
    Image.fromarray(tiny.picture(40, 40)).save(tmp_path / "photo.png")
    with served(exported) as server, served(tmp_path) as elsewhere:
        page.goto(server.url)
        page.get_by_text("It works without a network from now on.").wait_for()
        for name, message in (("notes.png", "no photo that this browser reads"), ("large.png", "up to 1 megapixels")):
            page.set_input_files("#file", tmp_path / name)
            wait_for(page, message)
            assert "Not done" in page.get_by_role("status").inner_text()
            assert page.get_by_role("button", name="Upscale").is_disabled()
        page.set_input_files("#file", tmp_path / "photo.png")
        page.get_by_role("button", name="Upscale").click()
        wait_for(page, "Loading the networks")
        (worker,) = page.workers
        attempt = "(url) => fetch(url, {mode: 'no-cors'}).then(() => 'sent', () => 'refused')"
        assert worker.evaluate(attempt, elsewhere.url) == "refused"
        assert page.evaluate(attempt, elsewhere.url) == "refused"
        assert elsewhere.asked == []
        page.get_by_role("button", name="Cancel").click()
        wait_for(page, "Cancelled.")
        assert page.get_by_role("button", name="Upscale").is_enabled()
        deadline = time.monotonic() + 60
        while page.workers and time.monotonic() < deadline:
            page.wait_for_timeout(100)  # a worker that is compiling ends when it has
        assert page.workers == []
        # This browser has no WebGPU.
        page.evaluate("document.querySelector('#device').add(new Option('graphics card', 'gpu', true, true))")
        page.get_by_label("Steps").select_option("0")
        page.get_by_role("button", name="Upscale").click()
        assert "Computed on the processor; the graphics card could not" in wait_for(page, "Done in")
    context.close()


@pytest.mark.slow
def test_a_file_that_is_not_of_the_manifest_is_not_kept(browser, exported, tmp_path):
    shutil.copytree(exported, tmp_path / "page")
    with (tmp_path / "page/denoiser.onnx.packed").open("ab") as file:
        file.write(b"more")
    context = browser.new_context()
    page = context.new_page()
    with served(tmp_path / "page") as server:
        page.goto(server.url)
        page.get_by_text("a file could not be loaded, or is not that of the manifest").wait_for(timeout=PATIENCE)
    context.close()
