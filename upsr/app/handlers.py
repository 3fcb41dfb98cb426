"""Events of the page. Every error becomes a line of text without the server's paths."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from gradio.blocks import Block
from PIL import Image

from upsr.app import pictures
from upsr.app.batch import upscale_all
from upsr.app.jobs import CancelledError, Jobs, Token
from upsr.app.layout import COMFORTABLE, LARGEST_SCALE, SQUARE, WHOLE, Controls, Pipeline, greeting
from upsr.app.limits import Limits, RateLimit
from upsr.app.pictures import SMALLEST_SIDE, Region, Upload
from upsr.app.style import status_line
from upsr.errors import UpsrError
from upsr.images.photo import Photo
from upsr.methods.base import Seen
from upsr.pipeline.images import shown_frame
from upsr.pipeline.settings import Settings

_CANCELLING, _CANCELLED = "Cancelling ...", "Cancelled. Nothing is running."

_log = logging.getLogger("upsr.app")

Values = Mapping[Block, Any]
"""Values of an event's inputs."""

Pictures = dict[str, Image.Image]
Updates = dict[Block, Any]
"""New values of an event's outputs; those that are absent stay."""


def build_app(pipe: Pipeline, limits: Limits, folder: Path, jobs: Jobs) -> gr.Blocks:
    """The page around a pipeline.

    Args:
        folder: where Gradio keeps uploads, and results go; the environment's GRADIO_TEMP_DIR should name it.
        jobs: runs the upscalings; whoever holds it can stop them all.
    """
    with gr.Blocks(title="UPSR", fill_width=True, analytics_enabled=False, delete_cache=(300, 3600)) as app:
        Handlers(pipe, limits, folder, jobs, Controls(pipe, limits)).connect(app)
    app.queue(max_size=limits.queue, default_concurrency_limit=1)
    return app


class Handlers:
    """Handlers of the page's events; their inputs and outputs are keyed by control."""

    def __init__(self, pipe: Pipeline, limits: Limits, folder: Path, jobs: Jobs, controls: Controls) -> None:
        self._pipe, self._limits, self._jobs, self._controls = pipe, limits, jobs, controls
        self._folder = folder.resolve()
        # Separate limits: the guard counts uploads, these count events of the page.
        self._loads, self._runs = RateLimit(limits.requests_per_minute), RateLimit(limits.requests_per_minute)

    def connect(self, app: gr.Blocks) -> None:
        """Register the handlers; to be called within ``app``."""
        its = self._controls
        loaded = [*its.region, its.preview, its.crop_box, its.status]
        # Gradio 6.31 reads a component, waits and writes it back when progress on it changes: a text that arrives in between
        # is lost, as "Cancelled." was once in about a hundred times. So nothing shows its progress on the status.
        quick: dict[str, Any] = {
            "queue": False, "api_visibility": "private", "show_progress": "hidden", "show_progress_on": its.cancel,
        }  # fmt: skip
        # Raw, so that the message about a wrong file is ours and not Gradio's.
        its.file.upload(self.load, its.file, loaded, preprocess=False, **quick)
        its.file.clear(self.clear, None, loaded, **quick)
        for control in (its.choice, its.side, its.x, its.y):
            control.change(self.redraw, its.region, [its.preview, its.crop_box], trigger_mode="always_last", **quick)
        its.preview.select(self.move, its.upload, [its.choice, its.x, its.y], **quick)
        # Gradio's page drops a click on Upscale until the upscaling before it has ended, which a cancelled one does at its next
        # report. So the button waits: it is disabled in the browser, before the event, and enabled after it, however it ended.
        its.run.click(None, None, its.run, js=_enabled(False), **quick)
        running = its.run.click(
            self.upscale, its.region.union(its.settings),
            [its.pair, its.gallery, its.steps, its.download, its.status, *([its.heat] if its.heat else [])],
            api_visibility="private", show_progress_on=its.progress, concurrency_limit=1,
        )  # fmt: skip
        its.run_all.click(None, None, its.run_all, js=_enabled(False), **quick)
        running_all = its.run_all.click(
            self.upscale_all, {its.photos, *its.settings}, [its.zip, its.status],
            api_visibility="private", show_progress_on=its.progress, concurrency_limit=1,
        )  # fmt: skip
        for event, button in ((running, its.run), (running_all, its.run_all)):
            for after in (event.then, event.failure):
                after(None, None, button, js=_enabled(True), **quick)
        its.folder.upload(lambda paths: paths, its.folder, its.photos, **quick)
        its.cancel.click(None, None, its.status, js=f"() => {json.dumps(status_line(_CANCELLING))}", **quick)
        its.cancel.click(self.cancel, None, its.status, cancels=[running, running_all], **quick)
        app.unload(self.leave)

    @staticmethod
    def _count(rate: RateLimit, request: gr.Request) -> None:
        if wait := rate.wait(request.client.host if request.client else ""):
            raise UpsrError(f"too many requests; the next one is possible in {wait:.0f} s")

    def _says(self, text: str, kind: Literal["", "done", "error"] = "") -> Updates:
        return {self._controls.status: status_line(text, kind)}

    def _failed(self, error: Exception, unexpected: str) -> Updates:
        if not isinstance(error, UpsrError):
            _log.exception(unexpected)
            return self._says(unexpected, "error")
        return self._says(f"{str(error)[:1].upper()}{str(error)[1:]}.", "error")

    def load(self, given: dict[str, Any] | None, request: gr.Request) -> Updates:
        """A file was uploaded."""
        try:
            self._count(self._loads, request)
            upload = self._read(Path((given or {}).get("path") or ""))
        except Exception as error:
            return self._nothing() | self._failed(error, "This file cannot be read.")
        side, pixels = min(upload.width, upload.height), upload.width * upload.height
        whole = pixels <= 4 * COMFORTABLE**2 and pixels * self._pipe.scale**2 <= self._limits.output_pixels
        choice, chosen = (WHOLE if whole else SQUARE), min(COMFORTABLE, side)
        said = "".join(f"; {note}" for note in upload.notes)
        its = self._controls
        return {
            its.upload: upload,
            its.preview: gr.Image(pictures.with_region(upload, _region(upload, choice, chosen, 50, 50)), visible=True),
            its.choice: choice,
            its.crop_box: gr.Column(visible=not whole),
            its.side: gr.Slider(maximum=max(side, SMALLEST_SIDE + 1), value=chosen),
            its.x: 50,
            its.y: 50,
            **self._says(f"{upload.width} x {upload.height} pixels{said}. Choose a region, then press Upscale."),
        }

    def _read(self, path: Path) -> Upload:
        path = path.resolve()
        if not path.is_file() or self._folder not in path.parents:
            raise UpsrError("the upload did not arrive; please try again")
        if path.stat().st_size > self._limits.upload_bytes:
            raise UpsrError(f"the file is larger than {self._limits.upload_bytes / 1e6:g} MB")
        upload = pictures.read_upload(path, self._limits.upload_pixels)
        if min(upload.width, upload.height) < SMALLEST_SIDE:
            raise UpsrError(f"the photo is smaller than {SMALLEST_SIDE} pixels")
        return upload

    def _nothing(self) -> Updates:
        return {
            self._controls.upload: None,
            self._controls.preview: gr.Image(None, visible=False),
            self._controls.choice: WHOLE,
            self._controls.crop_box: gr.Column(visible=False),
        }

    def clear(self) -> Updates:
        """The photo was taken away."""
        return {**self._nothing(), self._controls.status: greeting(self._limits)}

    def redraw(self, values: Values) -> Updates:
        """The region was changed."""
        its, upload = self._controls, values[self._controls.upload]
        box = {its.crop_box: gr.Column(visible=values[its.choice] == SQUARE and upload is not None)}
        return box if upload is None else {**box, its.preview: pictures.with_region(upload, self._region(values))}

    def _region(self, values: Values) -> Region:
        its = self._controls
        return _region(*(values[control] for control in (its.upload, its.choice, its.side, its.x, its.y)))

    def move(self, upload: Upload | None, event: gr.SelectData) -> Updates:
        """The preview was clicked: the crop goes there."""
        its = self._controls
        if upload is None:
            return {its.choice: gr.skip()}
        x, y = (round(100 * at / side, 1) for at, side in zip(event.index, upload.thumbnail.size, strict=True))
        return {its.choice: SQUARE, its.x: x, its.y: y}

    async def upscale(
        self, values: Values,
        request: gr.Request, progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio finds it in the signature
    ) -> Updates:  # fmt: skip
        """Upscale the region; ends early when the visitor cancels or leaves."""
        upload = values[self._controls.upload]
        if upload is None:
            return self._says("Drop a photo first.", "error")
        try:
            region, settings = self._region(values), self._settings(values)
            self._check(region, self._scale(settings))
            self._count(self._runs, request)
            return await self._jobs.run(
                request.session_hash or "", lambda token: self._compute(upload, region, settings, token, progress)
            )
        except CancelledError:
            return self._says(_CANCELLED)
        except Exception as error:
            return self._failed(error, "The upscaling failed; the server's log says why.")

    def _settings(self, values: Values) -> Settings:
        its = self._controls
        knobs = {name: values[control] for name, control in its.knobs.items()}
        return Settings(int(values[its.seed] or 0) if its.seed else 0, float(values[its.scale]), knobs=knobs)

    def _check(self, region: Region, scale: float) -> None:
        """Raise UpsrError if the request is beyond the limits."""
        pixels, most = region.width * region.height * scale**2, self._limits.output_pixels
        if pixels > most:
            raise UpsrError(
                f"the result would have {pixels / 1e6:.1f} megapixels, more than the {most / 1e6:g} allowed: "
                "choose a smaller crop or scale"
            )
        if not 1 <= scale <= LARGEST_SCALE:
            raise UpsrError(f"the scale is between 1 and {LARGEST_SCALE}")

    def _compute(
        self, upload: Upload, region: Region, settings: Settings, token: Token, progress: Callable[..., Any]
    ) -> Updates:
        """The work, in a thread of its own."""
        began = time.perf_counter()

        def report(done: int, total: int) -> None:
            token.check()
            progress((done, total), desc="Upscaling", unit="steps")

        if not upload.path.is_file():
            raise UpsrError("the photo is no longer on the server; please upload it again")
        photo = pictures.crop(pictures.open_photo(upload.path, self._limits.upload_pixels), region)
        seen: dict[str, Pictures] = {"image": {}, "map": {}}

        def watch(item: Seen) -> None:
            seen[item.kind][item.name] = pictures.shown(shown_frame(item))

        large = self._pipe.upscale(photo, settings, progress=report, watch=watch)
        token.check()
        height, width = large.frames[0].shape[:2]
        before = pictures.enlarged(photo, width, height)
        said = f", seed {settings.seed}" if self._pipe.draws else ""
        updates = self._shown(before, large, self._name_of(upload.path, settings), seen["image"], seen["map"])
        text = f"Done in {time.perf_counter() - began:.1f} s: {region.width} x {region.height} to {width} x {height} pixels"
        return updates | self._says(f"{text}{said}.", "done")

    def _shown(self, before: Photo, after: Photo, name: str, steps: Pictures, maps: Pictures) -> Updates:
        its, result = self._controls, pictures.save(after, self._folder, name)
        updates: Updates = {}
        if its.heat is not None:
            over = maps.pop(self._pipe.maps[0], None)
            base = pictures.fitted(pictures.shown(before.frames[0]))
            updates[its.heat] = None if over is None else pictures.heat_over(base, over)
        gallery = [(pictures.fitted(picture), title) for title, picture in {**steps, **maps}.items()]
        return updates | {
            its.pair: (pictures.save(before, self._folder, "bicubic.png"), result),
            its.gallery: gallery,
            its.steps: gr.Tab(visible=bool(gallery)),
            its.download: gr.DownloadButton(value=result, interactive=True),
        }

    def _name_of(self, path: Path, settings: Settings) -> str:
        return pictures.result_name(path, self._scale(settings), settings.seed if self._pipe.draws else None)

    def _scale(self, settings: Settings) -> float:
        return settings.outscale or self._pipe.scale

    async def upscale_all(
        self, values: Values,
        request: gr.Request, progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio finds it in the signature
    ) -> Updates:  # fmt: skip
        """Upscale several photos whole, into a ZIP file."""
        paths = [Path(path) for path in values[self._controls.photos] or ()]
        if not paths:
            return self._says("Drop some photos first, or choose a folder.", "error")
        try:
            if len(paths) > self._limits.batch_photos:
                raise UpsrError(f"{len(paths)} photos are more than the {self._limits.batch_photos} allowed at once")
            settings = self._settings(values)
            self._count(self._runs, request)
            return await self._jobs.run(
                request.session_hash or "", lambda token: self._compute_all(paths, settings, token, progress)
            )
        except CancelledError:
            return self._says(_CANCELLED)
        except Exception as error:
            return self._failed(error, "The upscaling failed; the server's log says why.")

    def _compute_all(
        self, paths: list[Path], settings: Settings, token: Token, progress: Callable[..., Any]
    ) -> Updates:
        """The work, in a thread of its own."""
        began = time.perf_counter()

        def upscaled(number: int, path: Path) -> Photo:
            def report(done: int, total: int) -> None:
                token.check()
                progress((number * total + done, len(paths) * total), desc=f"Photo {number + 1} of {len(paths)}")

            token.check()
            upload = self._read(path)
            self._check(Region(0, 0, upload.width, upload.height), self._scale(settings))
            photo = pictures.open_photo(upload.path, self._limits.upload_pixels)
            return self._pipe.upscale(photo, settings, progress=report)

        batch = upscale_all(paths, upscaled, lambda path: self._name_of(path, settings), self._folder)
        text = f"{batch.done} of {len(paths)} photos done in {time.perf_counter() - began:.1f} s."
        if batch.refused:
            text += f" Not done: {'; '.join(batch.refused[:3])}{'; ...' if len(batch.refused) > 3 else ''}."
        button = gr.DownloadButton(value=batch.path, interactive=batch.path is not None)
        return {self._controls.zip: button, **self._says(text, "error" if batch.refused else "done")}

    async def cancel(self, request: gr.Request) -> str:
        """Cancel was pressed: stop the upscaling. One that waits in Gradio's queue is taken out of it by Gradio afterwards."""
        await self._jobs.stop(request.session_hash or "")
        return status_line(_CANCELLED)

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        self._jobs.cancel(request.session_hash or "")


def _enabled(enabled: bool) -> str:
    """JavaScript that enables or disables a button."""
    return f'() => ({{__type__: "update", interactive: {json.dumps(enabled)}}})'


def _region(upload: Upload, choice: str, side: int, x: float, y: float) -> Region:
    if choice == WHOLE:
        return Region(0, 0, upload.width, upload.height)
    return pictures.square(upload.width, upload.height, max(int(side), SMALLEST_SIDE), float(x), float(y))
