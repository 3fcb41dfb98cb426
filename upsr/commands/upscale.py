"""Upscale photos: files, folders with all below them, patterns, or standard input. Names and formats stay."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upsr.arguments import default_launcher, model_of
from upsr.atomic import folder_for_results, writable_folder
from upsr.busy import busy_cores, fit_threads
from upsr.choices import QUALITY
from upsr.commands.processes import launch
from upsr.commands.upscale_arguments import EXAMPLES, add_arguments
from upsr.commands.upscale_progress import progress_for, summarise
from upsr.commands.upscale_settings import KNOBS, check_weights, is_record, repeat
from upsr.errors import UpsrError, one_line
from upsr.patience import said_if_slow

__all__ = ["EXAMPLES", "add_arguments", "main"]

if TYPE_CHECKING:
    from upsr.photos.jobs import Job
    from upsr.photos.sources import Remark


def main(given: argparse.Namespace) -> int:
    """Run it."""
    with said_if_slow("upsr upscale: loading"):
        from upsr.engine.distributed import runtime  # here and below: --help should not wait for torch
        from upsr.pipeline.pipeline import UPSRPipeline  # noqa: F401  (the slowest import, within the message)

    repeat(given)
    launcher = default_launcher()
    devices = given.devices.split(",")
    _check_options(given, shared=len(devices) > 1 or launcher != "none")
    settings, handling = _settings(given), _handling(given)
    if len(devices) > 1 and launcher == "none":
        if "-" not in given.inputs:
            jobs, remarks = _planned(given)  # mistakes are reported once, before any process is started
            if not jobs:
                return _nothing_left(given, remarks)
        return launch(devices)
    with runtime(launcher, _num_gpu(devices)) as run:
        # The main process lists the photos: others could meet results of the first among them.
        found = run.from_main(_attempt(given) if run.is_main else None)
        if isinstance(found, UpsrError):
            if run.is_main:
                raise found
            return found.exit_code
        jobs, remarks = found
        if not jobs:
            return _nothing_left(given, remarks) if run.is_main else 0
        with _folder(given, jobs) as folder:
            return _run(given, settings, handling, jobs, remarks, folder, run, devices)


def _attempt(given: argparse.Namespace) -> tuple[list[Job], list[Remark]] | UpsrError:
    """The plan or the reason why there is none, to be sent to all processes."""
    try:
        return _planned(given)
    except UpsrError as error:
        return error


def _planned(given: argparse.Namespace) -> tuple[list[Job], list[Remark]]:
    """Photos with the places of their results, and remarks on other files; no photos where a run has nothing left to do."""
    from upsr.photos.jobs import folder_of, plan_jobs
    from upsr.photos.journal import Journal
    from upsr.photos.sources import Remark
    from upsr.photos.upscaling import THERE

    remarks: list[Remark] = []
    jobs = plan_jobs(
        given.inputs, given.out, given.suffix, _format(given.format), maps=given.save_uncertainty, masks=given.mask,
        results_stay=given.skip_existing or given.resume, overwrite=given.overwrite, on_remark=remarks.append,
    )  # fmt: skip
    if (
        given.resume
        and not given.overwrite
        and all(path.is_file() for job in jobs for path in (job.target, *job.maps.values()))
        and not Journal.is_in(folder_of(given.out, jobs))
    ):
        return [], [*remarks, *(Remark(job.source, THERE, "skipped") for job in jobs)]
    _check_targets(given, jobs)
    return jobs, remarks


def _nothing_left(given: argparse.Namespace, remarks: list[Remark]) -> int:
    """The summary of a run that is to be resumed and has ended, whose results are all there."""
    _say_notes(remarks)
    recorded = "" if given.record is None else "; no record is written"
    summarise(
        _together([], remarks),
        f"no run was interrupted, and all results are there, made with whatever settings; --overwrite makes them again{recorded}",
    )
    return 1 if any(remark.kind == "failed" for remark in remarks) else 0


def _run(
    given: argparse.Namespace,
    settings: Any,
    handling: Any,
    jobs: list[Job],
    remarks: list[Remark],
    folder: Path | None,
    run: Any,
    devices: list[str],
) -> int:
    from upsr.photos.journal import Journal
    from upsr.photos.upscaling import Outcome, upscale_all, write_record
    from upsr.pipeline.options import KEY, WEIGHTS_SHA256, options_of
    from upsr.pipeline.pipeline import UPSRPipeline
    from upsr.provenance import digest_of, machine, versions

    if run.is_main:
        _say_notes(remarks)
    device = run.device if len(devices) > 1 or devices == ["auto"] or run.world_size > 1 else devices[0]
    with said_if_slow(f"upsr upscale: loading {given.weights}"):
        pipe = UPSRPipeline.from_pretrained(
            **model_of(given), device=device, dtype=given.dtype or "auto", compile=given.compile or "none"
        )
        _check_model(given, pipe)
        settings = run.from_main(pipe.settled(_parsed(settings, pipe), run.world_size))
        weights = pipe.digest()
        check_weights(given, weights)
    if pipe.device.type == "cpu" and (line := fit_threads(busy_cores())) is not None and not given.quiet:
        print(line, file=sys.stderr)
    options = options_of(
        pipe, model_of(given), settings,
        mask=given.mask, format=given.format, quality=given.quality, compile=given.compile,
    )  # fmt: skip
    facts = {
        "weights": given.weights, WEIGHTS_SHA256: weights, "config": pipe.config, "settings": asdict(settings),
        "quality": handling.quality, "dtype": str(pipe.dtype), "compile": pipe.compile,
        KEY: options, "versions": versions(), "machine": machine(pipe.device),
    }  # fmt: skip
    journal = None
    if folder is not None:
        key = {name: facts[name] for name in (WEIGHTS_SHA256, "config", "settings", "quality", "dtype", "compile")}
        journal = Journal(folder, run.rank, {**key, "maps": handling.save_uncertainty})
    peers = run if given.share == "tiles" and run.world_size > 1 else None
    mine = jobs if peers else (jobs[n] for n in itertools.takewhile(lambda n: n < len(jobs), run.numbers("photos")))
    with progress_for(pipe, settings, jobs, shown=run.is_main and not given.quiet) as shown:
        outcome = upscale_all(
            pipe, mine, settings, handling, journal,
            peers=peers, on_photo=shown.photo, on_read=shown.read, on_failure=shown.failure,
        )  # fmt: skip
    outcomes: list[Outcome] = run.gather_to_main(outcome)
    outcomes = outcomes[:1] if peers else outcomes
    failed = run.any(bool(outcome.failed) or any(remark.kind == "failed" for remark in remarks))
    if run.is_main:
        if journal is not None:
            journal.clear()
        total = _together(outcomes, remarks)
        if given.record is not None:
            write_record(given.record, total, facts)
        summarise(total, f"seed {settings.seed}, tile {str(settings.tile).lower()}, weights {digest_of(weights)[:12]}")
    return 1 if failed else 0


def _say_notes(remarks: list[Remark]) -> None:
    for remark in remarks:
        if remark.kind == "note":
            print(one_line(f"{remark.path}: {remark.text}"), file=sys.stderr)


def _together(outcomes: list[Any], remarks: list[Remark]) -> Any:
    """One outcome of all processes, with the files that were passed over in planning."""
    from upsr.photos.upscaling import Outcome

    notes: dict[str, list[str]] = {}
    for outcome in outcomes:
        for note, sources in outcome.notes.items():
            notes[note] = sorted(notes.get(note, []) + sources)
    skipped = {str(remark.path): remark.text for remark in remarks if remark.kind == "skipped"}
    unread = [one_line(f"{remark.path}: {remark.text}") for remark in remarks if remark.kind == "failed"]
    return Outcome(
        done=sorted(name for outcome in outcomes for name in outcome.done),
        skipped={**skipped, **{name: why for outcome in outcomes for name, why in outcome.skipped.items()}},
        failed=sorted(unread + [line for outcome in outcomes for line in outcome.failed]),
        notes=notes,
        seconds=max((outcome.seconds for outcome in outcomes), default=0.0),
    )


def _check_options(given: argparse.Namespace, *, shared: bool) -> None:
    """Refuse empty values, and options that have no effect beside others."""
    for name, value in vars(given).items():
        if value == "" and name != "suffix":
            raise UpsrError(f"{_option(name)}: it is empty, as a variable that is not set is")
    if shared and "-" in given.inputs and given.share != "tiles":
        raise UpsrError("-: standard input is read by one process; name one device, or give --share tiles")
    without_noise = given.steps == 0 or given.fidelity == 1
    to_stream = given.out == "-"
    idle = (
        (("skip_existing", "resume", "overwrite"), to_stream, "with -o -: nothing can be there yet"),
        (("resume",), given.skip_existing, "with --skip-existing, which leaves all alone that is there"),
        (("overwrite",), given.skip_existing, "with --skip-existing, which leaves all alone that is there"),
        (("resume",), given.inputs == ["-"], "of standard input, which cannot be read again"),
        (
            ("seed", "noise", "adaptive", "compile", "dtype", "mask"),
            without_noise,
            "where nothing is denoised: --steps 0, --fidelity 1",
        ),
        (("fidelity",), given.steps == 0, "with --steps 0, which is g's estimate"),
        (("steps",), given.fidelity == 1, "with --fidelity 1, which is g's estimate"),
        (("outscale",), given.width is not None or given.height is not None, "together with --width or --height"),
        (("share",), not shared, "on one device: name several with --devices"),
        (("batch",), given.tile == "none", "with --tile none: there are no tiles to batch"),
    )
    for names, applies, reason in idle:
        for name in names if applies else ():
            if name in given.repeated:
                setattr(given, name, None)  # options that are given go before it
            elif (value := getattr(given, name)) is not None and value is not False:
                raise UpsrError(f"{_option(name)}: has no effect {reason}")


def _check_model(given: argparse.Namespace, pipe: Any) -> None:
    """Refuse settings that the method does not have."""
    names = [name for name in ("steps", "fidelity", "adaptive") if name not in pipe.knobs()]
    names += [] if pipe.draws else ["seed", "noise"]
    names += [] if pipe.maps else ["save_uncertainty"]
    for name in names:
        if (value := getattr(given, name)) is not None and value is not False:
            raise UpsrError(f"{_option(name)}: has no effect on {given.weights}, a method without such a setting")
    if given.mask is not None and not pipe.takes_masks:
        raise UpsrError(
            f"--mask: {given.weights} is of a method without a faithful estimate, which the result would be outside of the mask"
        )


def _check_targets(given: argparse.Namespace, jobs: list[Job]) -> None:
    """Refuse options that these photos and results do not allow."""
    from upsr.images.writing import takes_quality
    from upsr.photos.existing import refuse_existing
    from upsr.photos.jobs import STREAM, ending_by_content, folder_of
    from upsr.photos.journal import Journal

    files = [job.target for job in jobs if job.target != STREAM]
    if given.quality is not None and "quality" not in given.repeated:
        results = files or [Path(f"-{_format(given.format) or ending_by_content(jobs[0].source)}")]
        if not any(takes_quality(path) for path in results):
            endings = ", ".join(sorted({path.suffix.lower() for path in results}))
            raise UpsrError(f"--quality: has no effect on {endings}; JPEG, WebP and AVIF have one")
    if given.record is not None:
        taken = {path for job in jobs for path in (job.source, job.target, *job.maps.values(), job.mask or job.source)}
        if os.path.realpath(given.record) in map(os.path.realpath, taken) or given.record.is_dir():
            raise UpsrError(f"--record: {given.record} is a photo, a result or a folder; name another file")
        if given.record.exists() and not given.overwrite and not is_record(given.record):
            raise UpsrError(
                f"--record: {one_line(str(given.record))} is there and no record of an earlier run; --overwrite replaces it, "
                "or name another file"
            )
        writable_folder(given.record.parent)
    if given.resume and not given.overwrite:
        folder = folder_of(given.out, jobs)
        if any(path.is_file() for path in files) and not Journal.is_in(folder):
            raise UpsrError(
                f"--resume: no interrupted run is noted in {one_line(str(folder))}, and results are there; "
                "--skip-existing leaves them, --overwrite makes them again"
            )
        refuse_existing(jobs, folder)


def _option(name: str) -> str:
    return {"inputs": "INPUT", "out": "-o"}.get(name, f"--{name.replace('_', '-')}")


def _settings(given: argparse.Namespace) -> Any:
    from upsr.pipeline.settings import Settings

    texts = _texts(given.knob)
    for name, option in KNOBS.items():
        if name in texts and getattr(given, option) is not None:
            raise UpsrError(f"--knob: {name}={texts[name]}; {_option(option)} is given too, leave one of them out")

    for name in ("width", "height"):
        if (side := getattr(given, name)) is not None and side < 1:
            raise UpsrError(f"--{name}: at least 1 pixel, not {side}")
    return Settings(
        seed=given.seed or 0,
        noise=given.noise or Settings.noise,
        outscale=given.outscale,
        size=(given.width, given.height) if given.width is not None or given.height is not None else None,
        tile=_tile(given.tile),
        tiles_at_once=1 if given.batch is None else given.batch,
        colour_fix=given.colour_fix,
        consistent=given.consistent,
        knobs={"steps": given.steps, "fidelity": given.fidelity, "adaptive": given.adaptive} | texts,
    )


def _texts(knobs: list[str]) -> dict[str, str]:
    texts = dict(text.split("=", 1) for text in knobs if "=" in text)
    if bad := [text for text in knobs if "=" not in text]:
        raise UpsrError(f"--knob: {bad[0]}; give NAME=VALUE")
    return texts


def _parsed(settings: Any, pipe: Any) -> Any:
    """The settings with the values of knobs in place of their texts; a knob that the method has not stays."""
    own, values = pipe.knobs(), dict(settings.knobs)
    for name, text in values.items():
        if name in own and isinstance(text, str):
            try:
                values[name] = own[name].parsed(text)
            except ValueError:
                raise UpsrError(f"--knob: {name}={text}; give a number: {own[name].about}") from None
    return replace(settings, knobs=values)


def _handling(given: argparse.Namespace) -> Any:
    from upsr.photos.upscaling import Handling

    quality = QUALITY if given.quality is None else given.quality
    if not 1 <= quality <= 100:
        raise UpsrError(f"--quality: 1 to 100, not {quality}")
    if not 0 < given.max_megapixels < math.inf:
        raise UpsrError("--max-megapixels: a number above 0 is needed")
    return Handling(
        quality=quality,
        max_pixels=int(given.max_megapixels * 1e6),
        skip_existing=given.skip_existing,
        resume=given.resume,
        save_uncertainty=given.save_uncertainty,
        stream_suffix=_format(given.format),
    )


def _tile(text: str | None) -> Any:
    if text is None or text == "auto":
        return "auto"
    if text == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise UpsrError(f"--tile: a number of LR pixels, auto or none, not '{one_line(text)}'") from None


def _format(name: str | None) -> str | None:
    from upsr.images.writing import WRITABLE_SUFFIXES

    suffix = None if name is None else f".{name.lower().lstrip('.')}"
    if suffix is not None and suffix not in WRITABLE_SUFFIXES:
        raise UpsrError(f"--format: {', '.join(s.lstrip('.') for s in WRITABLE_SUFFIXES)}, not '{name}'")
    return suffix


def _folder(given: argparse.Namespace, jobs: list[Job]) -> contextlib.AbstractContextManager[Path | None]:
    """The folder of the results, which can be written to; ``None`` for standard output."""
    from upsr.photos.jobs import STREAM, folder_of

    stream = jobs[0].target == STREAM
    return contextlib.nullcontext() if stream else folder_for_results(folder_of(given.out, jobs))


def _num_gpu(devices: list[str]) -> Any:
    return 0 if devices[0] == "cpu" else "auto"
