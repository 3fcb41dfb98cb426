"""Upscale photos: files, folders with all below them, patterns, or standard input. Names and formats stay."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from upsr.atomic import writable_folder
from upsr.errors import UpsrError

EXAMPLES = """examples:
  upsr upscale photo.jpg -o large/                        large/photo.jpg, four times as wide and high
  upsr upscale holiday/ -o large/ --skip-existing         all photos of a folder and those below it
  upsr upscale 'scans/*.tif' -o large/ --outscale 2       twice as large, 16 bit stays 16 bit
  upsr upscale photo.jpg -o large.png --width 3840        so wide; the height follows
  upsr upscale a.png -o out/ --fidelity 0.8               smoother and closer to the photo; 0 for more detail and grain
  upsr upscale a.png -o out/ --save-uncertainty           also where the model was unsure, and how much noise that meant
  upsr upscale - -o - < small.png > large.png             in a pipe
  upsr upscale shots/ -o large/ --weights upsr.pth --g atd_real.pth --devices cuda:0,cuda:1
  torchrun --nproc_per_node=4 -m upsr upscale shots/ -o large/

The noise of a photo is a function of --seed and its pixels: names, order, batches and the number of processes do not matter.
Profile, EXIF, XMP, texts, dpi, alpha, 16 bit, frames and pages are kept where the format can; what is left out is said.
Photos larger than a tile are restored in tiles that are blended at every step, in memory that does not grow with the photo.

--fidelity: 0.5 is the model's own setting. Towards 0 there is more noise where g is sure (b_u goes a quarter of the way to 1).
Towards 1 it falls to none (b_u to 0, psi_max to 4 times) and steps are left out; at 1 the result is g's estimate itself.

Exit codes: 0 all done (or skipped); 1 some photos failed, the others are done; 2 a mistake in arguments, files or devices, 
nothing was done; 4 another process of the run was lost; 130 interrupted, and --resume goes on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr upscale``."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="file, folder, pattern, or - for standard input")
    parser.add_argument(
        "-o", "--out", required=True, metavar="OUT", help="folder; for one photo also a file, or - for standard output"
    )
    size = parser.add_argument_group("size")
    size.add_argument(
        "--outscale", type=float, metavar="FACTOR", help="size of the result, any factor (the model's: 4)"
    )
    size.add_argument("--width", type=int, metavar="PIXELS", help="width of the result; with --height both are met")
    size.add_argument("--height", type=int, metavar="PIXELS", help="height of the result")
    look = parser.add_argument_group("restoration")
    look.add_argument(
        "--weights", default="tiny", help="name, folder, run, option file, weight file or user/repository (tiny)"
    )
    look.add_argument("--g", metavar="FILE", help="weights of g, beside --weights FILE of a denoiser alone")
    look.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise (0)")
    look.add_argument("--steps", type=int, metavar="N", help="network calls (all that the model has); 0 for g alone")
    look.add_argument(
        "--fidelity", type=float, metavar="0..1", help="0 more detail and grain, 0.5 the model's own, 1 g's estimate"
    )
    look.add_argument("--colour-fix", choices=["none", "adain", "wavelet"], default="none", help="(none)")
    files = parser.add_argument_group("files")
    files.add_argument("--suffix", default="", metavar="TEXT", help="appended to names: _x4")
    files.add_argument(
        "--format", metavar="FORMAT", help="png, jpg, webp, tif, avif, ...: of all results (each photo's)"
    )
    files.add_argument("--quality", type=int, default=95, metavar="N", help="of JPEG, WebP and AVIF (95)")
    files.add_argument("--skip-existing", action="store_true", help="leave photos alone whose result is there")
    files.add_argument(
        "--resume",
        action="store_true",
        help="go on with an interrupted run: photos that it finished with these settings stay",
    )
    files.add_argument("--save-uncertainty", action="store_true", help="also NAME_uncertainty.png and NAME_weight.png")
    files.add_argument("--record", type=Path, metavar="FILE", help="write what was done, and with what, as JSON")
    files.add_argument("--max-megapixels", type=float, default=100, metavar="N", help="refuse larger photos (100)")
    work = parser.add_argument_group("computation")
    work.add_argument(
        "--devices",
        default="auto",
        metavar="LIST",
        help="auto, cpu, cuda:0, or several: cuda:0,cuda:1 share the photos",
    )
    work.add_argument(
        "--share",
        choices=["photos", "tiles"],
        default="photos",
        help="what several devices share: photos, or the tiles of each, for few large ones (photos)",
    )
    work.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "float16", "int8", "float8"],
        default="auto",
        help="of the denoiser; int8 and float8 of its weights alone; see docs/performance.md (auto)",
    )
    work.add_argument(
        "--compile",
        choices=["none", "default", "reduce-overhead", "max-autotune"],
        default="none",
        help="torch.compile for the denoiser: takes up to minutes for each of the first sizes, worth it for many (none)",
    )
    work.add_argument(
        "--tile", metavar="PIXELS", help="side of tiles in LR pixels; auto for what fits, none for no tiles (auto)"
    )
    work.add_argument(
        "--batch", type=int, default=1, metavar="N", help="tiles at once; a CPU takes them one by one (1)"
    )
    work.add_argument(
        "--adaptive",
        type=float,
        default=0.0,
        metavar="BOUND",
        help="leave out steps that change a tile by less (0.004 is a grey level); see docs/performance.md (0, off)",
    )
    work.add_argument("--quiet", action="store_true", help="no progress bar")


def main(given: argparse.Namespace) -> int:
    """Run it."""
    from upsr.engine.distributed import default_launcher, runtime  # here and below: --help should not wait for torch
    from upsr.inference.jobs import plan_jobs

    launcher = default_launcher()
    devices = given.devices.split(",")
    if len(devices) > 1 and launcher == "none":
        return _launch(devices)
    settings, handling = _settings(given), _handling(given)
    jobs = plan_jobs(given.inputs, given.out, given.suffix, _format(given.format))
    folder = _folder(given, jobs)
    with runtime(launcher, _num_gpu(devices)) as run:
        return _run(given, settings, handling, jobs, folder, run, devices)


def _run(
    given: argparse.Namespace,
    settings: Any,
    handling: Any,
    jobs: Any,
    folder: Path | None,
    run: Any,
    devices: list[str],
) -> int:
    from upsr.inference.pipeline import UPSRPipeline
    from upsr.inference.upscaling import Journal, Outcome, upscale_all, write_record
    from upsr.provenance import digest_of, machine, versions

    device = run.device if len(devices) > 1 or devices == ["auto"] or run.world_size > 1 else devices[0]
    pipe = UPSRPipeline.from_pretrained(
        given.weights, g=given.g, device=device, dtype=given.dtype, compile=given.compile
    )
    if handling.save_uncertainty and not pipe.is_diffusion:
        raise UpsrError("--save-uncertainty: this model is a network without diffusion and has no uncertainty")
    settings = run.from_main(pipe.settled(settings, run.world_size))
    facts = {
        "weights": given.weights, "weights_sha256": pipe.digest(), "config": pipe.config, "settings": asdict(settings),
        "quality": handling.quality, "dtype": str(pipe.dtype), "compile": pipe.compile,
        "versions": versions(), "machine": machine(pipe.device),
    }  # fmt: skip
    journal = None
    if folder is not None:
        key = {name: facts[name] for name in ("weights_sha256", "config", "settings", "quality", "dtype", "compile")}
        journal = Journal(folder, run.rank, {**key, "maps": handling.save_uncertainty})
    team = run if given.share == "tiles" and run.world_size > 1 else None
    mine = jobs if team else (jobs[n] for n in itertools.takewhile(lambda n: n < len(jobs), run.numbers("photos")))
    with _Bar(jobs, shown=run.is_main and not given.quiet) as bar:
        outcome = upscale_all(
            pipe, mine, settings, handling, journal, team=team, on_photo=bar.photo, on_failure=bar.line
        )
    outcomes: list[Outcome] = run.gather_to_main(outcome)
    outcomes = outcomes[:1] if team else outcomes
    failed = run.any(bool(outcome.failed))
    if run.is_main:
        total = _together(outcomes)
        if given.record is not None:
            write_record(given.record, total, facts)
        _summarise(total, settings, digest_of(facts["weights_sha256"])[:12])
    return 1 if failed else 0


class _Bar:
    """A progress bar over the photos of all processes, and lines above it, on standard error."""

    def __init__(self, jobs: Any, *, shown: bool) -> None:
        from tqdm import tqdm

        self._jobs = jobs
        self._bar = tqdm(
            total=len(jobs), disable=not shown, unit="photo", file=sys.stderr, dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {n:.1f}/{total_fmt} photos [{elapsed}<{remaining}]",
        )  # fmt: skip
        self._begun = 0

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:
            self._bar.update(len(self._jobs) - self._bar.n)
        self._bar.close()

    def photo(self, job: Any) -> Any:
        """A photo begins; what is told how far it is."""
        before = self._jobs.index(job)
        self._begun = before + 1
        self._bar.set_postfix_str(job.source.name, refresh=False)

        def progress(done: int, total: int) -> None:
            self._bar.update(before + done / total - self._bar.n)

        return progress

    def line(self, text: str) -> None:
        """A photo failed: print why above the bar."""
        self._bar.update(self._begun - self._bar.n)
        self._bar.write(f"failed: {text}", file=sys.stderr)


def _summarise(outcome: Any, settings: Any, weights: str) -> None:
    print(
        f"{len(outcome.done)} upscaled, {len(outcome.skipped)} skipped, {len(outcome.failed)} failed in "
        f"{outcome.seconds:.1f} s (seed {settings.seed}, tile {str(settings.tile).lower()}, weights {weights})",
        file=sys.stderr,
    )
    for note, sources in sorted(outcome.notes.items()):
        which = sources[0] if len(sources) == 1 else f"{len(sources)} photos, such as {sources[0]}"
        print(f"  note: {note} ({which})", file=sys.stderr)
    for line in outcome.failed:
        print(f"  {line}", file=sys.stderr)


def _together(outcomes: list[Any]) -> Any:
    from upsr.inference.upscaling import Outcome

    notes: dict[str, list[str]] = {}
    for outcome in outcomes:
        for note, sources in outcome.notes.items():
            notes[note] = sorted(notes.get(note, []) + sources)
    return Outcome(
        done=sorted(name for outcome in outcomes for name in outcome.done),
        skipped=sorted(name for outcome in outcomes for name in outcome.skipped),
        failed=sorted(line for outcome in outcomes for line in outcome.failed),
        notes=notes,
        seconds=max(outcome.seconds for outcome in outcomes),
    )


def _settings(given: argparse.Namespace) -> Any:
    from upsr.inference.pipeline import Settings

    if given.outscale is not None and (given.width or given.height):
        raise UpsrError("--outscale: not together with --width or --height")
    return Settings(
        seed=given.seed,
        steps=given.steps,
        fidelity=given.fidelity,
        outscale=given.outscale,
        size=(given.width, given.height) if given.width is not None or given.height is not None else None,
        tile=_tile(given.tile),
        tiles_at_once=given.batch,
        colour_fix=given.colour_fix,
        adaptive=given.adaptive,
    )


def _handling(given: argparse.Namespace) -> Any:
    from upsr.inference.upscaling import Handling

    if not 1 <= given.quality <= 100:
        raise UpsrError(f"--quality: 1 to 100, not {given.quality}")
    if not given.max_megapixels > 0:
        raise UpsrError("--max-megapixels: a number above 0 is needed")
    return Handling(
        quality=given.quality,
        max_pixels=int(given.max_megapixels * 1e6),
        skip_existing=given.skip_existing,
        resume=given.resume,
        save_uncertainty=given.save_uncertainty,
    )


def _tile(text: str | None) -> Any:
    if text is None or text == "auto":
        return "auto"
    if text == "none":
        return None
    if not text.isdigit():
        raise UpsrError(f"--tile: a number of LR pixels, auto or none, not '{text}'")
    return int(text)


def _format(name: str | None) -> str | None:
    from upsr.inference.photo_io import WRITABLE_SUFFIXES

    suffix = None if name is None else f".{name.lower().lstrip('.')}"
    if suffix is not None and suffix not in WRITABLE_SUFFIXES:
        raise UpsrError(f"--format: {', '.join(s.lstrip('.') for s in WRITABLE_SUFFIXES)}, not '{name}'")
    return suffix


def _folder(given: argparse.Namespace, jobs: Any) -> Path | None:
    """The folder of the results, which can be written to; ``None`` for standard output."""
    from upsr.inference.jobs import STREAM

    if jobs[0].target == STREAM:
        return None
    out = Path(given.out)
    return writable_folder(out.parent if jobs[0].target == out else out)


def _num_gpu(devices: list[str]) -> Any:
    return 0 if devices[0] == "cpu" else "auto"


def _launch(devices: list[str]) -> int:
    """Start this command once more for each device; the processes share the photos."""
    import socket
    import subprocess

    from upsr.provenance import cores

    kinds = {device.partition(":")[0] for device in devices}
    if kinds not in ({"cpu"}, {"cuda"}):
        raise UpsrError(f"--devices: {','.join(devices)}: name CPUs or CUDA devices: cuda:0,cuda:1 or cpu,cpu")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(len(devices)), "TORCHELASTIC_RUN_ID": "upsr",
        "GROUP_WORLD_SIZE": "1", "OMP_NUM_THREADS": str(max(cores() // len(devices), 1)) if kinds == {"cpu"} else "1",
    }  # fmt: skip
    if kinds == {"cuda"}:
        common["CUDA_VISIBLE_DEVICES"] = ",".join(device.partition(":")[2] or "0" for device in devices)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "upsr", *sys.argv[1:]],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(len(devices))
    ]
    try:
        codes = [process.wait() for process in processes]
    except KeyboardInterrupt:
        for process in processes:
            process.wait()
        raise
    return next((code if code > 0 else 4 for code in codes if code), 0)
