"""Option files of ResShift and SinSR (``configs/*.yaml``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from upsr.config.imports.data_sets import DEGRADATION, kernels, rotation, support_holds_all
from upsr.config.imports.rules import (
    Format,
    Left,
    Outcome,
    Place,
    Put,
    Rule,
    count,
    flag,
    joined,
    no_effect,
    not_here,
    number,
    numbers,
    only,
    to,
    under,
    whole,
)

_LPIPS = {"type": "LPIPSLoss", "net": "vgg", "input_range": "correct"}
_KINDS = ["L2", "LPIPS"]


def _trainer(value: Any, place: Place) -> Iterator[Outcome]:
    """SinSR's trainer distils; one of ResShift's adds LPIPS."""
    if "Distill" in str(value):
        yield Put("phase", "distillation")
    elif "LPIPS" in str(value) and place.get("train.loss_coef", place.get("lpips")) is None:
        yield Put("train.perceptual_opt", {**_LPIPS, "loss_weight": 1.0})
    else:
        yield Left("phase: supervised, the first")


def _argument(value: Any, place: Place) -> Iterator[Outcome]:
    """An argument of the denoiser, under its name."""
    yield Put(f"network_g.{place.path[-1]}", value) if value is not None else Left("nothing is set")


def respacing(value: Any, place: Place) -> Iterator[Outcome]:
    """Fewer steps than the schedule has."""
    if value is None:
        yield Left("all steps, as here")
    else:
        yield Put("diffusion.sampler.steps", whole(value))
        yield Put("diffusion.sampler.spacing", "released")


def _channels(value: Any, place: Place) -> Iterator[Outcome]:
    """Channels of the latent; some files count those of the LR image, too."""
    latent = place.get("model.params.out_channels", value)
    both = value != latent
    yield Put("network_g.in_channels", latent, f"{value} there, with the LR image's" if both else "")


def _teacher(value: Any, place: Place) -> Iterator[Outcome]:
    """The teacher, which the student begins as."""
    yield Put("path.pretrain_network_g", str(value))
    yield Put("phase", "distillation")


DIFFUSION: dict[str, Rule] = {
    "target": no_effect("the residual-shifting process"),
    "sf": to("scale", whole),
    "schedule_name": only("exponential", "the schedule is exponential"),
    "schedule_kwargs.power": to("diffusion.power", number),
    "etas_end": to("diffusion.sqrt_eta_end", number),
    "steps": to("diffusion.steps", whole),
    "min_noise_level": to("diffusion.min_noise_level", number),
    "kappa": to("diffusion.kappa", number),
    "weighted_mse": only(False, "timesteps have equal weights"),
    "predict_type": only("xstart", "the network estimates the image"),
    "timestep_respacing": respacing,
    "scale_factor": only(1.0, "latents have a factor of 1"),
    "normalize_input": only(True, "the network's input is scaled"),
    "latent_flag": only(True, "the diffusion is in the latent"),
}


def _folders(value: Any, place: Place) -> Iterator[Outcome]:
    """Folders of photos, of which one can be read."""
    folders = [str(folder) for folder in (value if isinstance(value, list) else [value]) if folder]
    if folders:
        yield Put("datasets.train.dataroot_gt", folders[0])
    if len(folders) != 1:
        one = "a set has one folder, of any depth, or shards (upsr data shards): the first is taken"
        yield Left(one if folders else "no folder is named", matters=bool(folders))


def _validated(value: Any, place: Place) -> Iterator[Outcome]:
    """The folder of LR images, which may have one of HR images beside it."""
    paired = place.get("data.val.params.extra_dir_path") is not None
    yield Put("datasets.val.type", "PairedFolderDataset" if paired else "FolderDataset")
    yield Put("datasets.val.dataroot_lq", str(value))


def _batch(value: Any, place: Place) -> Iterator[Outcome]:
    """Samples of all GPUs in an iteration, and in validation."""
    sizes = [whole(size) for size in numbers(value)]
    micro = whole(place.get("train.microbatch", sizes[0]))
    yield Put("datasets.train.batch_size_per_gpu", micro)
    note = f"batches of {sizes[0]} on one GPU; divide it by the number of GPUs"
    yield Put("train.accumulate", max(1, sizes[0] // micro), note)
    if len(sizes) > 1 and place.get("data.val") is not None:
        yield Put("datasets.val.batch_size_per_gpu", sizes[1])


def _schedule(value: Any, place: Place) -> Iterator[Outcome]:
    """Constant, or half a cosine."""
    if str(value).lower().startswith("cos"):
        yield Put("train.scheduler.type", "CosineLR")
        least = number(place.get("train.lr_min", 0)) / number(place.get("train.lr", 5e-5))
        yield Put("train.scheduler.min_factor", round(least, 6), "train.lr_min of train.lr")
    else:
        yield Left("constant after the warm-up, as here")


def _losses(value: Any, place: Place) -> Iterator[Outcome]:
    """Weights of the latent's error and of LPIPS."""
    weights, kinds = numbers(value), place.get("train.loss_type", _KINDS)
    yield Put("train.latent_opt", {"type": "MSELoss", "loss_weight": weights[0]})
    if len(weights) > 1 and weights[1] and list(kinds)[1:] == _KINDS[1:]:
        yield Put("train.perceptual_opt", {**_LPIPS, "loss_weight": weights[1]})


def _kinds(value: Any, place: Place) -> Iterator[Outcome]:
    """The kinds of the losses that ``loss_coef`` weighs."""
    here = "squared error of the latent, and LPIPS"
    usual = value is None or (isinstance(value, list) and value == _KINDS[: len(value)])
    yield Left(here if usual else f"otherwise here: {here}", matters=not usual)


def _lpips(value: Any, place: Place) -> Iterator[Outcome]:
    """LPIPS of the decoded image."""
    if place.get("train.loss_coef") is None:
        yield Put("train.perceptual_opt", {**_LPIPS, "loss_weight": 1.0})
    else:
        yield Left("part of train.loss_coef")


def _luma(value: Any, place: Place) -> Iterator[Outcome]:
    """Validation measures PSNR and LPIPS."""
    yield Put("val.metrics.psnr", {"type": "PSNR", "y_channel": flag(value)})
    yield Put("val.metrics.lpips", {"type": "PyIQA", "metric": "lpips"})


def _compiled(value: Any, place: Place) -> Iterator[Outcome]:
    """The mode of torch.compile, if it is on."""
    yield Put("train.compile", str(place.get("train.compile.mode", "default")) if flag(value) else "none")


def _used(key: str) -> Rule:
    return no_effect(f"part of {key}")


_TRAIN: dict[str, Rule] = {
    "lr": to("train.optim_g.lr", number),
    "lr_min": _used("train.lr_schedule, if it is a cosine"),
    "lr_schedule": _schedule,
    "warmup_iterations": to("train.warmup_iter", count),
    "iterations": to("train.total_iter", whole),
    "weight_decay": to("train.optim_g.weight_decay", number),
    "batch": _batch,
    "microbatch": _used("train.batch"),
    "num_workers": to("datasets.train.num_worker_per_gpu", count),
    "prefetch_factor": no_effect("batches are always read ahead"),
    "ema_rate": to("train.ema_decay", number),
    "use_ema_val": only(True, "averaged weights are validated"),
    "save_freq": to("logger.save_checkpoint_freq", whole),
    "log_freq": to("logger.print_freq", lambda value: whole(numbers(value)[0])),
    "local_logging": no_effect("pictures of validations are kept by val.save_img"),
    "tf_logging": to("logger.use_tb_logger", flag),
    "val_freq": to("val.val_freq", whole),
    "val_y_channel": _luma,
    "val_resolution": no_effect("images of any size are validated"),
    "val_padding_mode": only("reflect", "images are padded by reflection"),
    "use_amp": to("train.amp", lambda value: "fp16" if flag(value) else "fp32"),
    "seed": to("manual_seed", count),
    "global_seeding": no_effect("draws are keyed by sample"),
    "compile.flag": _compiled,
    "compile.mode": _used("train.compile.flag"),
    "loss_coef": _losses,
    "loss_type": _kinds,
    "xT_cov_loss": to("train.consistency.inverse", number),
    "finetune_use_gt": to("train.consistency.ground_truth", number),
    "loss_in_image_space": only(False, "the error is the latent's"),
    "reformulated_reflow": no_effect("part of train.consistency"),
    "learn_xT": no_effect("part of train.consistency.inverse"),
    "use_fsdp": not_here("training is data-parallel"),
}

_NETWORKS: dict[str, Rule] = {
    "trainer.target": _trainer,
    "model.target": no_effect("ResShiftUNet"),
    "model.ckpt_path": to("path.pretrain_network_g", str),
    "model.compile": no_effect("train.compile says so"),
    "model.teacher_ckpt_path": _teacher,
    "model.params.in_channels": _channels,
    "model.params.cond_mask": not_here("there is no inpainting"),
    "model.params.*": _argument,
    **under("diffusion", DIFFUSION),
    **under("diffusion.params", DIFFUSION),
    "autoencoder.target": no_effect("VQAutoencoder"),
    "autoencoder.ckpt_path": to("path.pretrain_autoencoder", str),
    "autoencoder.tune_decoder": only(False, "the autoencoder is frozen"),
    "autoencoder.use_fp16": no_effect("train.amp says so"),
    "autoencoder.compile": no_effect("train.compile says so"),
    **under(
        "autoencoder.params",
        {
            "n_embed": to("autoencoder.n_embed", whole),
            "embed_dim": no_effect("as ddconfig.z_channels"),
            "lora_*": not_here("no weights are adapted"),
            "rank": not_here("no weights are adapted"),
            "padding_mode": only("zeros", "convolutions are padded by zeros"),
            **under(
                "ddconfig",
                {
                    "z_channels": to("autoencoder.z_channels", whole),
                    "ch": to("autoencoder.ch", whole),
                    "ch_mult": to("autoencoder.ch_mult", lambda value: [whole(mult) for mult in value]),
                    "num_res_blocks": to("autoencoder.num_res_blocks", whole),
                    "double_z": only(False, "a VQ autoencoder has no variances"),
                    "in_channels": only(3, "images are in colour"),
                    "out_ch": only(3, "images are in colour"),
                    "attn_resolutions": only([], "attention is in the middle alone"),
                    "dropout": only(0, "there is no dropout"),
                    "padding_mode": only("zeros", "convolutions are padded by zeros"),
                    "resolution": no_effect("images of any size are coded"),
                },
            ),
        },
    ),
}

_DATA: dict[str, Rule] = {
    **under(
        "degradation",
        {
            **DEGRADATION,
            "sf": no_effect("as diffusion.params.sf"),
            "second_order_prob": to("degradation.second_order_prob", number),
            "gt_size": no_effect("as data.train.params.gt_size"),
            "resize_back": only(False, "LR images keep their size"),
            "use_sharp": to("degradation.usm_gt", flag),
            "queue_size": not_here("give pair_pool.pairs_per_slot: that number by the batch of a process"),
        },
    ),
    "data.train.type": to(
        "datasets.train.type", lambda value: {"realesrgan": "RealESRGANDataset"}.get(value, str(value))
    ),
    **under(
        "data.train.params",
        {
            **dict.fromkeys(("dir_paths", "dir_path"), _folders),
            "txt_file_path": not_here("lists of paths are not read: datasets.train.dataroot_gt names a folder"),
            "im_exts": no_effect("images of every format are read"),
            "io_backend": no_effect("folders, lmdb and shards are recognised by their path"),
            "recursive": no_effect("images at any depth are read"),
            "length": not_here("all images are used: datasets.train.meta_info lists others"),
            "need_path": no_effect("names are always known"),
            **kernels(support_holds_all),
            "gt_size": to("datasets.train.gt_size", whole),
            "crop_pad_size": no_effect("crops are of gt_size from the start"),
            "use_hflip": to("datasets.train.use_hflip", flag),
            "use_rot": rotation,
            "rescale_gt": not_here("crops have the photo's own resolution"),
        },
    ),
    "data.val.type": no_effect("follows from its folders"),
    **under(
        "data.val.params",
        {
            "dir_path": _validated,
            "extra_dir_path": to("datasets.val.dataroot_gt", str),
            "transform_type": no_effect("images are brought to [-1, 1]"),
            "transform_kwargs": no_effect("images are brought to [-1, 1]"),
            "im_exts": no_effect("images of every format are read"),
            "length": to("val.max_images", whole),
            "need_path": no_effect("names are always known"),
            "recursive": no_effect("images at any depth are read"),
        },
    ),
    "lpips": _lpips,
    **under("train", _TRAIN),
}


def _known(data: Mapping[str, Any]) -> bool:
    """Networks are named by ``target`` and ``params``."""
    model, diffusion = data.get("model"), data.get("diffusion")
    return isinstance(model, Mapping) and "params" in model and isinstance(diffusion, Mapping) and "params" in diffusion


RESSHIFT = Format(
    "ResShift",
    _known,
    joined(_NETWORKS, _DATA),
    {"method": "resshift", "network_g.type": "ResShiftUNet", "autoencoder.type": "VQAutoencoder"},
)
