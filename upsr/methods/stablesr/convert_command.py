"""A checkpoint of StableSR's released code, as the folder of a saved pipeline with all weights in safetensors files.

Nothing in a checkpoint is run: tensors, plain values and the records of Lightning's callbacks are read, anything else is refused.
Tensors stay in the checkpoint until their file is written. The folder appears when it is whole. Released files are known by their
sha256.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from upsr.archs.weights import check_finite
from upsr.arguments import path
from upsr.atomic import atomic_folder
from upsr.config.load import parse_options, read_options
from upsr.errors import UpsrError
from upsr.methods import stable_diffusion
from upsr.methods.prompts import FILE, PAPER, Prompts, stored_embeddings
from upsr.methods.saved import config_of, file_of, write_config, write_weights
from upsr.methods.stablesr import convert, networks
from upsr.methods.stablesr.options import StableSROptions
from upsr.methods.stablesr.released import VARIANTS, Checkpoint, Variant, variant_of
from upsr.weights.hub import folder_of

EXAMPLES = """examples:
  upsr convert stablesr stablesr_000117.ckpt vqgan_cfw_00011.ckpt -o experiments/pretrained_models/stablesr/
  upsr convert stablesr stablesr_turbo.ckpt vqgan_cfw_00011.ckpt -o experiments/pretrained_models/stablesr_turbo/
  upsr convert stablesr mine.ckpt --variant 768v --dtype float16 -o experiments/pretrained_models/mine/
  upsr upscale photo.jpg -o large/ --weights experiments/pretrained_models/stablesr/

Writes OUT/config.json, OUT/conditioning.safetensors (time-aware encoder and SFT layers), OUT/cfw.safetensors and OUT/backbone/,
a folder of diffusers with U-Net, autoencoder, text tower and the embedding of the empty prompt. Other prompts, and with them
guidance, need a tokenizer there: --tokenizer.
Needs diffusers and transformers: pip install 'upsr[sd]'."""

_DIFFUSERS, _TRANSFORMERS = "diffusion_pytorch_model.safetensors", "model.safetensors"
_OTHERS = "the file is damaged or of networks of other sizes, which --opt describes"


class Part(NamedTuple):
    """A file to write.

    Attributes:
        file: in the folder.
        source: checkpoint that the weights are in.
        weights: reads them.
    """

    file: str
    source: Checkpoint
    weights: Callable[[], dict[str, Tensor]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr convert stablesr``."""
    parser.add_argument(
        "checkpoint", type=path, metavar="STAGE_ONE", help="stablesr_000117.ckpt, or one of this layout"
    )
    parser.add_argument(
        "cfw",
        type=path,
        nargs="?",
        metavar="STAGE_TWO",
        help="vqgan_cfw_00011.ckpt, or one of this layout (without CFW)",
    )
    parser.add_argument("-o", "--out", type=path, required=True, help="new folder")
    own = parser.add_mutually_exclusive_group()
    own.add_argument(
        "--variant", choices=VARIANTS, help="files of your own training, of any sha256: which they are like"
    )
    own.add_argument(
        "--opt", type=path, metavar="FILE.yml", help="the same, with the networks of an option file and its backbone"
    )
    parser.add_argument(
        "--dtype",
        choices=["same", "float32", "float16", "bfloat16"],
        default="same",
        help="of the weights (the file's)",
    )
    parser.add_argument(
        "--text", type=path, metavar="PATH", help=f"for a file without text tower: a folder text_encoder, or {FILE}"
    )
    parser.add_argument("--tokenizer", metavar="FOLDER", help="folder or hub repository with CLIP's tokenizer")


def main(given: argparse.Namespace) -> int:
    """Run it."""
    variant = _variant(given)
    stage_one = _read(given.checkpoint, convert.UNET, "one")
    stage_two = None if given.cfw is None else _read(given.cfw, convert.FUSION, "two")
    _check_text(given, stage_one)
    opt = _options(given, variant)
    backbone = stable_diffusion.described(opt.backbone)
    if opt.backbone is None:
        backbone.unet.register_to_config(sample_size=variant.sample_size)
        backbone.scheduler.register_to_config(prediction_type=variant.prediction)
    tower = stable_diffusion.text_tower(opt.backbone) if stage_one.has(convert.TEXT) else None
    parts = _parts(opt, backbone, tower, stage_one, stage_two)
    sources = [stage_one] if stage_two is None else [stage_one, stage_two]
    _refuse_misfits(parts, sources)
    for source in sources:
        if left_out := source.left_out():
            print(f"{source.path}: left out: {left_out}")
    with atomic_folder(given.out, SafetensorError) as folder:
        for part in parts:
            _write(part, folder, None if given.dtype == "same" else getattr(torch, given.dtype))
        below = folder / stable_diffusion.KEY
        for name in ("unet", "vae", "scheduler"):
            getattr(backbone, name).save_config(str(below / name))
        if tower is not None:
            tower.config.save_pretrained(str(below / "text_encoder"))
        width = backbone.unet.config.cross_attention_dim
        _add_text(given, below, width)
        _write_prompts(below, width)
        stable_diffusion.write_index(below)
        write_config(folder, config_of(opt) | {stable_diffusion.KEY: stable_diffusion.KEY})
    print(f"written to {given.out}")
    return 0


def _variant(given: argparse.Namespace) -> Variant:
    """The variant of stage one's checkpoint; the sha256 of files that are not one's own is checked."""
    if given.variant or given.opt:
        return VARIANTS[given.variant or "512"]
    if given.cfw is not None and variant_of(given.cfw) is None:
        print(f"{given.cfw}: not a released file")
    variant = variant_of(given.checkpoint)
    if variant is None:
        print(
            f"{given.checkpoint}: not a released file; it is read as stablesr_000117.ckpt is, without --variant or --opt"
        )
    return VARIANTS.get(variant or "512", Variant())


def _read(file: Path, prefix: str, stage: str) -> Checkpoint:
    checkpoint = Checkpoint(file)
    if not checkpoint.has(prefix):
        raise UpsrError(
            f"{file}: not a checkpoint of stage {stage}: none of its {len(checkpoint)} tensors is {prefix}*"
        )
    return checkpoint


def _check_text(given: argparse.Namespace, checkpoint: Checkpoint) -> None:
    if given.text is None and not checkpoint.has(convert.TEXT):
        raise UpsrError(
            f"{checkpoint.path}: holds no text tower ({convert.TEXT}*), which embeds the prompt; give --text with the folder "
            f"text_encoder of Stable Diffusion 2.1, or with a file {FILE}"
        )
    if given.text is not None and checkpoint.has(convert.TEXT):
        raise UpsrError(f"--text {given.text}: {checkpoint.path} holds a text tower of its own; leave --text out")
    if given.text is not None and not given.text.exists():
        raise UpsrError(f"--text {given.text}: no such file or folder")


def _options(given: argparse.Namespace, variant: Variant) -> StableSROptions:
    """The options of the model; their ``backbone`` describes the checkpoint's networks."""
    if given.opt is None:
        data: dict[str, Any] = {"method": "stablesr", "sampler": {"steps": variant.steps}}
    else:
        data = {k: v for k, v in read_options(given.opt).items() if k in StableSROptions.of_method()}
    if given.cfw is None:
        data["cfw"] = None
    opt = parse_options({**data, "name": "pipeline", "datasets": {}, "path": {}}, str(given.opt or given.checkpoint))
    if not isinstance(opt, StableSROptions):
        raise UpsrError(f"--opt {given.opt}: not an option file of stablesr")
    if given.cfw is not None and opt.cfw is None:
        raise UpsrError(f"--opt {given.opt}: cfw is null, and {given.cfw} is of CFW; leave one of them out")
    return opt


def _parts(
    opt: StableSROptions,
    backbone: stable_diffusion.Backbone,
    tower: Any,
    stage_one: Checkpoint,
    stage_two: Checkpoint | None,
) -> list[Part]:
    """The files of weights, in the order of writing."""
    with torch.device("meta"):
        conditioning, cfw = networks.trained(opt, backbone)
    unet, vae, trained = (network.state_dict() for network in (backbone.unet, backbone.vae, conditioning))
    heads, below = opt.encoder.num_heads, stable_diffusion.KEY
    parts = [
        Part(f"{below}/unet/{_DIFFUSERS}", stage_one, lambda: convert.unet_weights(stage_one, unet)),
        Part(f"{below}/vae/{_DIFFUSERS}", stage_one, lambda: convert.vae_weights(stage_one, vae)),
        Part(file_of("conditioning"), stage_one, lambda: convert.conditioning_weights(stage_one, trained, heads)),
    ]
    if tower is not None:
        text = tower.state_dict()
        file = f"{below}/text_encoder/{_TRANSFORMERS}"
        parts.append(Part(file, stage_one, lambda: _prefixed(convert.text_weights(stage_one, text))))
    if stage_two is not None and cfw is not None:
        source, fusion = stage_two, cfw.state_dict()
        parts.append(Part(file_of("cfw"), source, lambda: convert.cfw_weights(source, fusion)))
    return parts


def _prefixed(text: dict[str, Tensor]) -> dict[str, Tensor]:
    """A text tower's weights under the names that all versions of transformers read; those of its own models are shorter."""
    return {f"text_model.{name.removeprefix('text_model.')}": value for name, value in text.items()}


def _refuse_misfits(parts: Sequence[Part], sources: Sequence[Checkpoint]) -> None:
    """Refuse checkpoints that lack tensors of the networks or have more of them, before any value is read."""
    faults = []
    for part in parts:
        try:
            part.weights()
        except convert.MisfitError as error:
            faults.append(f"{part.source.path}: {error}")
    for source in sources:
        unknown = [name for name in source if name.startswith(convert.NETWORKS) and name not in source.taken]
        if unknown and not faults:  # of a network with a fault nothing was taken
            faults.append(f"{source.path}: {convert.MisfitError('unknown tensors', unknown)}")
    if faults:
        raise UpsrError(f"{'; '.join(faults)}; {_OTHERS}")


def _write(part: Part, folder: Path, dtype: torch.dtype | None) -> None:
    weights = {name: value if dtype is None else value.to(dtype) for name, value in part.weights().items()}
    check_finite(weights, part.source.path)
    write_weights(folder / part.file, weights)
    count = sum(value.numel() for value in weights.values())
    print(f"{part.file}: {count / 1e6:.2f} M parameters", flush=True)


def _add_text(given: argparse.Namespace, below: Path, width: int) -> None:
    """Copy what embeds prompts from elsewhere."""
    if given.text is not None and given.text.is_dir():
        shutil.copytree(given.text, below / "text_encoder")
    elif given.text is not None:
        stored_embeddings(given.text, width)  # refused under its own name
        shutil.copyfile(given.text, below / FILE)
    if given.tokenizer is not None:
        folder = folder_of(given.tokenizer)
        shutil.copytree(folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder, below / "tokenizer")


def _write_prompts(below: Path, width: int) -> None:
    """Embed the empty prompt, and with a tokenizer and a text tower those of the paper."""
    prompts = Prompts(below, width)
    can_embed = (below / "tokenizer").is_dir() and (below / "text_encoder").is_dir()
    for text in PAPER if can_embed else PAPER[:1]:
        prompts[text]
    prompts.save(below)
