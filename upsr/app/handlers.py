"""Events of the page. Every error becomes a line of text without the server's paths."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from gradio.blocks import Block

from upsr.app import pictures
from upsr.app.jobs import CancelledError, Jobs, Token
from upsr.app.knobs import Values
from upsr.app.layout import COMFORTABLE, SQUARE, WHOLE, Controls, greeting, heat_title, legend_of
from upsr.app.limits import Limits, RateLimit
from upsr.app.masks import photo_to_paint
from upsr.app.models import Model, Saving
from upsr.app.pictures import SMALLEST_SIDE, Region, Upload
from upsr.app.style import status_line
from upsr.app.work import Order, Result, Work
from upsr.errors import UpsrError
from upsr.images.writing import WRITABLE_SUFFIXES
from upsr.pipeline.settings import Settings

_CANCELLING, _CANCELLED = "Cancelling ...", "Cancelled. Nothing is running."

_log = logging.getLogger("upsr.app")

Updates = dict[Block, Any]
"""New values of an event's outputs; those that are absent stay."""


def build_app(models: Sequence[Model], limits: Limits, folder: Path, jobs: Jobs) -> gr.Blocks:
    """The page around models, of which the first is chosen.

    Args:
        folder: where Gradio keeps uploads, and results go; the environment's GRADIO_TEMP_DIR should name it.
        jobs: runs the upscalings; whoever holds it can stop them all.
    """
    with gr.Blocks(title="UPSR", fill_width=True, analytics_enabled=False, delete_cache=(300, 3600)) as app:
        Handlers(models, limits, Work(limits, folder), jobs, Controls(models, limits)).connect(app)
    app.queue(max_size=limits.queue, default_concurrency_limit=1)
    return app


class Handlers:
    """Handlers of the page's events; their inputs and outputs are keyed by control."""

    def __init__(self, models: Sequence[Model], limits: Limits, work: Work, jobs: Jobs, controls: Controls) -> None:
        self._models = {model.name: model for model in models}
        self._limits, self._work, self._jobs, self._controls = limits, work, jobs, controls
        # Separate limits: the guard counts uploads, these count events of the page.
        self._loads, self._runs = RateLimit(limits.requests_per_minute), RateLimit(limits.requests_per_minute)

    def connect(self, app: gr.Blocks) -> None:
        """Register the handlers; to be called within ``app``."""
        its = self._controls
        loaded = [*its.region, its.preview, its.crop_box, its.painting, its.mask, its.status]
        # Gradio 6.31 reads a component, waits and writes it back when progress on it changes: a text that arrives in between
        # is lost, as "Cancelled." was once in about a hundred times. So nothing shows its progress on the status.
        quick: dict[str, Any] = {
            "queue": False, "api_visibility": "private", "show_progress": "hidden", "show_progress_on": its.cancel,
        }  # fmt: skip
        # Raw, so that the message about a wrong file is ours and not Gradio's.
        its.file.upload(self.load, {its.file, its.model}, loaded, preprocess=False, **quick)
        its.file.clear(self.clear, None, loaded, **quick)
        for control in (its.choice, its.side, its.x, its.y):
            control.change(self.redraw, its.region, [its.preview, its.crop_box], trigger_mode="always_last", **quick)
        its.preview.select(self.move, its.upload, [its.choice, its.x, its.y], **quick)
        its.model.change(self.choose, its.model, [its.mask_box, *(own.box for own in its.settings.values())], **quick)
        # Gradio's page drops a click on Upscale until the upscaling before it has ended, which a cancelled one does at its next
        # report. So the button waits: it is disabled in the browser, before the event, and enabled after it, however it ended.
        its.run.click(None, None, its.run, js=_enabled(False), **quick)
        running = its.run.click(
            self.upscale, {*its.region, *its.chosen, its.painting, its.mask}, [*its.results, its.status],
            api_visibility="private", show_progress_on=its.progress, concurrency_limit=1,
        )  # fmt: skip
        its.run_all.click(None, None, its.run_all, js=_enabled(False), **quick)
        running_all = its.run_all.click(
            self.upscale_all, {its.photos, *its.chosen}, [its.zip, its.status],
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
        said = self._work.public(str(error))
        return self._says(f"{said[:1].upper()}{said[1:]}.", "error")

    def load(self, values: Values, request: gr.Request) -> Updates:
        """A file was uploaded."""
        its = self._controls
        try:
            self._count(self._loads, request)
            upload = self._work.read(Path((values[its.file] or {}).get("path") or ""))
        except Exception as error:
            return self._nothing() | self._failed(error, "This file cannot be read.")
        side, pixels = min(upload.width, upload.height), upload.width * upload.height
        scale = self._models[values[its.model]].pipe.scale
        whole = pixels <= 4 * COMFORTABLE**2 and pixels * scale**2 <= self._limits.output_pixels
        choice, chosen = (WHOLE if whole else SQUARE), min(COMFORTABLE, side)
        said = "".join(f"; {note}" for note in upload.notes)
        return {
            its.upload: upload,
            its.preview: gr.Image(pictures.with_region(upload, _region(upload, choice, chosen, 50, 50)), visible=True),
            its.choice: choice,
            its.crop_box: gr.Column(visible=not whole),
            its.side: gr.Slider(maximum=max(side, SMALLEST_SIDE + 1), value=chosen),
            its.x: 50,
            its.y: 50,
            its.painting: photo_to_paint(upload),
            its.mask: None,
            **self._says(f"{upload.width} x {upload.height} pixels{said}. Choose a region, then press Upscale."),
        }

    def _nothing(self) -> Updates:
        its = self._controls
        return {
            its.upload: None,
            its.preview: gr.Image(None, visible=False),
            its.choice: WHOLE,
            its.crop_box: gr.Column(visible=False),
            its.painting: photo_to_paint(None),
            its.mask: None,
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

    def choose(self, name: str) -> Updates:
        """Another model was chosen: its settings are shown, and the mask if it takes one."""
        its = self._controls
        boxes = {own.box: gr.Group(visible=name == other) for other, own in its.settings.items()}
        return {**boxes, its.mask_box: gr.Accordion(visible=self._models[name].pipe.takes_masks)}

    def _chosen(self, values: Values) -> tuple[Model, Settings, Saving]:
        model = self._models[values[self._controls.model]]
        own = self._controls.settings[model.name]
        return model, own.of(values), own.saving(values)

    async def _answer(self, request: gr.Request, prepared: Callable[[], Callable[[Token], Updates]]) -> Updates:
        """Prepare a computation and run it in a thread of its own; it ends early when the visitor cancels or leaves.

        Errors of both become the status.
        """
        try:
            computation = prepared()
            self._count(self._runs, request)
            return await self._jobs.run(request.session_hash or "", computation)
        except CancelledError:
            return self._says(_CANCELLED)
        except Exception as error:
            return self._failed(error, "The upscaling failed; the server's log says why.")

    async def upscale(
        self, values: Values,
        request: gr.Request, progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio finds it in the signature
    ) -> Updates:  # fmt: skip
        """Upscale the region."""
        its = self._controls

        def prepared() -> Callable[[Token], Updates]:
            upload = values[its.upload]
            if upload is None:
                raise UpsrError("drop a photo first")
            region, (model, settings, saving) = self._region(values), self._chosen(values)
            self._work.check(region, model, settings)
            order = Order(upload, region)
            if model.pipe.takes_masks:  # else its controls are hidden, and what they hold does not count
                file = values[its.mask]
                order = Order(upload, region, values[its.painting], file and self._work.uploaded(Path(file)))
            return lambda token: self._shown(self._work.one(order, model, settings, saving, token, progress), model)

        return await self._answer(request, prepared)

    def _shown(self, result: Result, model: Model) -> Updates:
        its, maps = self._controls, dict(result.maps)
        over = next((maps.pop(name) for name in model.pipe.maps[:1] if name in maps), None)
        base = pictures.fitted(pictures.shown(result.before.frames[0]))
        gallery = [(pictures.fitted(picture), title) for title, picture in {**result.images, **maps}.items()]
        return {
            its.pair: (result.before_path, result.path),
            its.heat_tab: _tab(shown=bool(model.pipe.maps), label=heat_title(model)),
            its.heat: None if over is None else pictures.heat_over(base, over),
            its.legend: legend_of(model),
            its.gallery: gallery,
            its.steps: _tab(shown=bool(gallery)),
            its.download: gr.DownloadButton(_download(result.path), value=result.path, interactive=True),
            its.beside: gr.File(result.beside, visible=True),
            **self._says(result.text, "done"),
        }

    async def upscale_all(
        self, values: Values,
        request: gr.Request, progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio finds it in the signature
    ) -> Updates:  # fmt: skip
        """Upscale several photos whole, into a ZIP file."""
        its = self._controls

        def prepared() -> Callable[[Token], Updates]:
            paths = [Path(path) for path in values[its.photos] or ()]
            if not paths:
                raise UpsrError("drop some photos first, or choose a folder")
            if len(paths) > self._limits.batch_photos:
                raise UpsrError(f"{len(paths)} photos are more than the {self._limits.batch_photos} allowed at once")
            model, settings, saving = self._chosen(values)

            def computation(token: Token) -> Updates:
                batch, text = self._work.several(paths, model, settings, saving, token, progress)
                button = gr.DownloadButton(value=batch.path, interactive=batch.path is not None)
                return {its.zip: button, **self._says(text, "error" if batch.refused else "done")}

            return computation

        return await self._answer(request, prepared)

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


def _download(path: str) -> str:
    """The button's text for a file of a result."""
    return f"Download {WRITABLE_SUFFIXES[Path(path).suffix]}"


def _tab(*, shown: bool, **changes: Any) -> gr.Tab:
    # A tab that is made invisible with False keeps its title.
    return gr.Tab(visible=True if shown else "hidden", **changes)


def _region(upload: Upload, choice: str, side: int, x: float, y: float) -> Region:
    if choice == WHOLE:
        return pictures.whole(upload)
    return pictures.square(upload.width, upload.height, max(int(side), SMALLEST_SIDE), float(x), float(y))
