"""The weights that come with the package: small, found by name, better than bicubic on photos that they have not seen."""

from __future__ import annotations

import json
import tarfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from scripts import demo, ship_weights, train_tiny, verify_weights
from tests import tiny
from tests.training import tiny_options
from upsr.config import load_options
from upsr.config.load import parse_options
from upsr.config.schema_teach import TeachOptions
from upsr.data import PairedFolderDataset
from upsr.data.backends import list_keys
from upsr.data.image_io import decode_image, png_bytes
from upsr.data.sampler import GlobalBatchSampler
from upsr.data.shards import add_file, index_shards
from upsr.data.taught import KINDS
from upsr.engine.distributed import Runtime
from upsr.engine.evaluate import ValidationSet, evaluate
from upsr.engine.setup import checked_model_options
from upsr.engine.train_loop import train
from upsr.errors import UpsrError
from upsr.evaluation.benchmarks import pixel_digest
from upsr.evaluation.teaching import TaughtImages, read_recipe
from upsr.restoring import ModelRestorer
from upsr.weights import find_weights, shipped_names, weight_files

OPTIONS = "options/tiny/test.yml"


def test_weights_are_small_and_whole():
    assert shipped_names() == ["tiny", "tiny-1"]
    for shipped in shipped_names():
        paths = [find_weights(shipped, "denoiser"), find_weights(shipped, "g")]
        assert sum(path.stat().st_size for path in paths) <= 12e6
        for path in paths:
            with safe_open(path, "pt") as content:
                kinds = {content.get_tensor(name).dtype for name in content.keys()}  # noqa: SIM118
            assert kinds <= {torch.float16, torch.int64, torch.uint8, torch.int8}  # whole numbers: of window attention
        card = files("upsr.weights").joinpath(f"{shipped}/README.md").read_text()
        assert all(word in card for word in ("BSDS500", "seed", "What it is not"))


def test_a_name_stands_for_weights_and_a_path_for_itself():
    assert find_weights("elsewhere/net.pth", "g") == Path("elsewhere/net.pth")
    named = weight_files(load_options(OPTIONS))
    assert {key: path.name for key, path in named.items()} == {
        "path.pretrain_network_g": "denoiser.safetensors", "path.pretrain_network_aux": "g.safetensors"
    }  # fmt: skip
    stage_one = weight_files(load_options("options/tiny/stage1.yml", ["path.pretrain_network_g=tiny"]))
    assert [path.name for path in stage_one.values()] == ["g.safetensors"]


def test_they_are_better_than_bicubic_on_photos_that_they_have_not_seen(tmp_path):
    opt = checked_model_options(OPTIONS)
    demo.degrade_photos(demo.UNSEEN_PHOTOS, tmp_path, opt)
    pairs = PairedFolderDataset(str(tmp_path / "gt"), str(tmp_path / "lq"))
    data, run, metrics = ValidationSet("photos", pairs, 1, 0), Runtime(torch.device("cpu")), demo.measures()
    models = demo.shipped_models(opt)
    bicubic, five, one = (
        evaluate(ModelRestorer(models[name].eval(), demo.SEED), data, metrics, run).means
        for name in ("bicubic", "UPSR-tiny (5 steps)", "UPSR-tiny 1 (1 step)")
    )
    assert five["PSNR-Y"] > bicubic["PSNR-Y"]
    assert five["SSIM-Y"] > bicubic["SSIM-Y"]
    assert one["PSNR-Y"] > bicubic["PSNR-Y"] - 1.5  # it trades fidelity for sharpness (docs/quality.md)
    if "NIQE" in metrics:
        assert max(five["NIQE"], one["NIQE"]) < bicubic["NIQE"] - 2


def digests(folder: Path) -> tuple[set[str], np.ndarray]:
    """A digest of the pixels of each image, and a coarse signature of it: signs of the differences of a 9 x 8 thumbnail."""
    exact, coarse = set(), []
    for key in list_keys(folder):
        pixels = decode_image((folder / key).read_bytes(), 3, key)
        exact.add(pixel_digest(pixels))
        thumbnail = np.asarray(Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX), dtype=int)
        coarse.append((thumbnail[:, 1:] > thumbnail[:, :-1]).ravel())
    return exact, np.array(coarse)


def test_no_benchmark_photo_was_trained_on(shared_dir):
    record = ship_weights.read_record(verify_weights.WEIGHTS / "tiny")
    photos = ship_weights.describe_photos(shared_dir / "data/train/BSDS500")
    assert {part["photos"]["pixels_sha256"] for part in record.values()} == {photos["pixels_sha256"]}
    recipe = read_recipe("options/teaching/tiny2.yml")
    sets = [digests(shared_dir / "data/train" / Path(source.folder).name) for source in recipe.photos]
    assert [len(coarse) for _, coarse in sets] == [399, 701]
    trained, signatures = set.union(*(exact for exact, _ in sets)), np.concatenate([coarse for _, coarse in sets])
    for name in ("Set5/HR", "Set14/HR", "BSD100/HR", "Urban100/HR", "Val_SR/gt", "RealSet65", "RealSet80"):
        exact, coarse = digests(shared_dir / "data/benchmarks" / name)
        assert not trained & exact
        distances = (coarse[:, None] != signatures[None]).sum(axis=-1)
        assert distances.min() > 3, name  # a resized or recompressed copy differs in no or a few of 64 signs


@pytest.mark.slow
@pytest.mark.parametrize("part", verify_weights.TRAININGS["tiny"])
def test_the_recorded_training_of_tiny_can_be_repeated(part, shared_dir, capsys):
    found = verify_weights.verify("tiny", part, [shared_dir / "data/train/BSDS500"], iterations=20)
    assert found.tolerable, capsys.readouterr().out


@pytest.mark.slow
def test_the_recorded_training_of_tiny_1_can_be_repeated(shared_dir, tmp_path, capsys):
    backbone = shared_dir / "weights/squeezenet1_1_imagenet_torchvision.safetensors"
    indices = caches_of_the_first_iterations(20, shared_dir, tmp_path)
    changes = [f"train.perceptual_opt.backbone_path={backbone}"]
    for part in ("g", "denoiser"):
        found = verify_weights.repeat("tiny-1", part, f"datasets.train.index={json.dumps(indices)}", 20, changes)
        assert found.tolerable, capsys.readouterr().out


def caches_of_the_first_iterations(count: int, shared: Path, folder: Path) -> list[str]:
    """The indices of the teacher caches, of whose crops only those that the first iterations read are there."""
    recipes = [read_recipe(path) for path in train_tiny.TEACHING]
    batch = load_options("options/tiny2/stage4.yml").datasets["train"].batch_size_per_gpu
    total = sum(recipe.crops for recipe in recipes)
    batches = GlobalBatchSampler(total, seed=0, batch_size=batch, stop=count)
    read = sorted(sample.image for samples in batches for sample in samples)
    indices, start = [], 0
    for number, recipe in enumerate(recipes):
        own = {image - start for image in read if start <= image < start + recipe.crops}
        place = folder / str(number)
        place.mkdir()
        indices.append(str(cache_of(recipe, sorted({0, *own}), shared, place)))  # 0: a dataset looks at its sizes
        start += recipe.crops
    return indices


def cache_of(recipe: TeachOptions, crops: list[int], shared: Path, folder: Path) -> Path:
    """The index of a teacher cache, of whose crops only some are there."""
    photos = [
        photo.model_copy(update={"folder": str(shared / "data/train" / Path(photo.folder).name)})
        for photo in recipe.photos
    ]
    if recipe.teacher == "RealESRGAN":
        teacher = folder / "teacher.yml"
        make = {"type": "Checkpoint", "path": [str(shared / "weights/RealESRGAN_x4plus.safetensors")]}
        teacher.write_text(json.dumps({"about": "the teacher", "licence": "BSD", "make": make}))
        recipe = recipe.model_copy(update={"teacher": str(teacher)})
    made = TaughtImages(recipe.model_copy(update={"photos": photos}))
    with tarfile.open(folder / "crops.tar", "w") as tar:
        for number in crops:
            for _, images in made.images(number, number + 1):
                for kind, image in images.items():
                    add_file(tar, f"{number:08d}.{kind}.png", png_bytes(image))
    index_shards(folder)
    index = json.loads((folder / "index.json").read_text())
    there = {name for name, *_ in index["shards"][0]["images"]}
    absent = {f"{number:08d}.{kind}.png" for number in range(recipe.crops) for kind in KINDS} - there
    index["shards"][0]["images"] += [[name, 0, 1] for name in sorted(absent)]
    (folder / "index.json").write_text(json.dumps(index))
    return folder / "index.json"


def test_other_photos_are_not_taken_for_the_recorded_ones(tmp_path):
    with pytest.raises(UpsrError, match="not the photos of the training"):
        verify_weights.verify("tiny", "g", [tiny.save_pictures(tmp_path, 2)])


def test_shipping_halves_the_averaged_weights_and_records_the_run(tmp_path):
    photos = tiny.save_pictures(tmp_path / "photos", 2)
    run = train(parse_options(tiny_options(tmp_path, photos), "test"), Runtime(torch.device("cpu")))
    ship_weights.ship({"g": run, "denoiser": run}, tmp_path / "shipped")
    with (
        safe_open(tmp_path / "shipped/g.safetensors", "pt") as halved,
        safe_open(run / "models/net_g_latest.safetensors", "pt") as full,
    ):
        assert set(halved.keys()) == set(full.keys())
        assert torch.equal(halved.get_tensor("conv_last.weight"), full.get_tensor("conv_last.weight").half())
    record = ship_weights.read_record(tmp_path / "shipped")["denoiser"]
    assert (record["seed"], record["iterations"], record["photos"]["images"]) == (3, 4, 2)
    assert list(record["losses"]) == ["1", "2", "3", "4"]


def test_weights_too_large_for_half_precision_are_refused(tmp_path):
    torch.save({"a": torch.full((2,), 1e6)}, tmp_path / "large.pth")
    with pytest.raises(UpsrError, match="too large for float16"):
        ship_weights.halve(tmp_path / "large.pth", tmp_path / "large.safetensors")
    assert not (tmp_path / "large.safetensors").exists()
