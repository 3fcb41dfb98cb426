"""Controls of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import gradio as gr
from gradio.blocks import Block

from upsr.app.limits import Limits
from upsr.app.pictures import SMALLEST_SIDE, heat_legend
from upsr.app.style import status_line
from upsr.images.photo import Photo
from upsr.methods.base import Knob, TextKnob, Watch
from upsr.pipeline.settings import Settings
from upsr.tiling.tiles import Progress

WHOLE, SQUARE = "Whole photo", "Square crop"
LARGEST_SCALE = 8
COMFORTABLE = 256
"""Side of the crop that is proposed for large photos: a result within seconds, on a CPU too."""

_LARGEST_SEED = 2**31 - 1
_HEIGHT = 560


class Pipeline(Protocol):
    """The part of :class:`upsr.pipeline.pipeline.UPSRPipeline` that the page uses."""

    @property
    def scale(self) -> float:
        """The method's upscaling factor."""

    @property
    def draws(self) -> bool:
        """Results depend on the seed."""

    @property
    def maps(self) -> Sequence[str]:
        """Names of the maps that ``watch`` sees; the page lays the first one over the photo."""

    def knobs(self) -> Mapping[str, Knob | TextKnob]:
        """The method's settings, by name."""

    def upscale(
        self, photo: Photo, settings: Settings, *, progress: Progress | None = None, watch: Watch | None = None
    ) -> Photo:
        """Upscale a photo; ``watch`` sees intermediate results, and what ``progress`` raises ends the work."""


class Controls:
    """Draws the page within the surrounding :class:`gradio.Blocks`; an attribute for each control.

    The settings, ``seed`` and ``heat`` follow from the method: ``seed`` is ``None`` without noise, ``heat`` without maps.
    """

    def __init__(self, pipe: Pipeline, limits: Limits) -> None:
        gr.Markdown("# UPSR\nSuper-resolution of real photos.", elem_id="title")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=340):
                self._draw_photo()
                self._draw_settings(pipe)
                self._draw_batch(limits)
            with gr.Column(scale=3, min_width=420):
                self._draw_buttons(limits)
                self._draw_results(pipe)

    def _draw_photo(self) -> None:
        self.upload = gr.State(None)
        # Of any type: Gradio's message about a wrong one covers the buttons and leaves the status as it was.
        self.file = gr.File(label="Photo", height=140, elem_id="photo")
        self.preview = gr.Image(
            show_label=False, interactive=False, visible=False, height=250, buttons=[], elem_id="preview"
        )
        with gr.Group():
            info = "Click into the photo to move the crop."
            self.choice = gr.Radio([WHOLE, SQUARE], value=WHOLE, label="Region", elem_id="region", info=info)
            with gr.Column(visible=False) as self.crop_box:
                self.side = gr.Slider(SMALLEST_SIDE, 1024, COMFORTABLE, step=1, label="Side (pixels)")
                with gr.Row():
                    self.x = gr.Slider(0, 100, 50, step=0.1, label="Across (%)", min_width=120)
                    self.y = gr.Slider(0, 100, 50, step=0.1, label="Down (%)", min_width=120)
        self.region: set[Block] = {self.upload, self.choice, self.side, self.x, self.y}

    def _draw_settings(self, pipe: Pipeline) -> None:
        shared: dict[str, Any] = {"min_width": 150, "render": False}
        self.scale = gr.Slider(
            1, LARGEST_SCALE, min(pipe.scale, LARGEST_SCALE), step=0.5, label="Scale", elem_id="scale",
            info=f"Native: x{pipe.scale:g}.", **shared,
        )  # fmt: skip
        # A slider cannot be left empty: a knob without a value of its own stays with the method.
        shown = {name: knob for name, knob in pipe.knobs().items() if not knob.advanced and knob.default is not None}
        self.knobs = {name: _knob(name, knob, shared) for name, knob in shown.items()}
        self.seed = gr.Number(
            0, label="Seed", precision=0, minimum=0, maximum=_LARGEST_SEED, elem_id="seed",
            info="Same seed, same image.", **shared,
        ) if pipe.draws else None  # fmt: skip
        self.settings = [self.scale, *self.knobs.values(), *([self.seed] if self.seed else [])]
        with gr.Group():
            for first in range(0, len(self.settings), 2):
                with gr.Row():
                    for control in self.settings[first : first + 2]:
                        control.render()

    def _draw_batch(self, limits: Limits) -> None:
        with gr.Accordion("Several photos", open=False, elem_id="several"):
            about = f"Up to {limits.batch_photos} photos, {limits.batch_bytes / 1e6:g} MB"
            self.photos = gr.File(label=about, file_count="multiple", height=140, elem_id="photos")
            self.folder = gr.UploadButton("Choose a folder", file_count="directory", elem_id="folder", size="sm")
            with gr.Row():
                self.run_all = gr.Button("Upscale all", variant="primary", elem_id="run_all", min_width=120)
                self.zip = gr.DownloadButton("Download ZIP", interactive=False, elem_id="zip", min_width=120)

    def _draw_buttons(self, limits: Limits) -> None:
        with gr.Row():
            self.run = gr.Button("Upscale", variant="primary", elem_id="run", scale=3)
            self.cancel = gr.Button("Cancel", elem_id="cancel", min_width=100)
            self.download = gr.DownloadButton("Download PNG", interactive=False, elem_id="download", min_width=190)
        self.status = gr.HTML(greeting(limits), elem_id="status")
        self.progress = gr.HTML("", elem_id="progress")

    def _draw_results(self, pipe: Pipeline) -> None:
        shared: dict[str, Any] = {
            "show_label": False, "interactive": False, "buttons": ["fullscreen"], "height": _HEIGHT
        }  # fmt: skip
        self.heat = None
        with gr.Tabs():
            with gr.Tab("Before / after"):
                self.pair = gr.ImageSlider(elem_id="pair", max_height=_HEIGHT, **shared)
                gr.HTML('<div class="upsr-sides"><span>&larr; bicubic</span><span>result &rarr;</span></div>')
            for name in pipe.maps[:1]:
                with gr.Tab(name.capitalize()):
                    self.heat = gr.Image(elem_id="heat", format="png", **shared)
                    gr.HTML(heat_legend(f"little {name}", f"much {name}"))
            # A method does not state its pictures; each result shows or hides the tab.
            with gr.Tab("Steps", visible=pipe.draws) as self.steps:
                self.gallery = gr.Gallery(elem_id="gallery", format="png", columns=4, object_fit="contain", **shared)
                gr.HTML('<div class="upsr-legend">In the order of the computation; maps come last.</div>')


def greeting(limits: Limits) -> str:
    """The status before a photo is there."""
    megabytes, megapixels = limits.upload_bytes / 1e6, limits.upload_pixels / 1e6
    return status_line(f"Drop a photo to begin: up to {megabytes:g} MB and {megapixels:g} megapixels.")


def _knob(name: str, knob: Knob | TextKnob, shared: Mapping[str, Any]) -> Block:
    own = {"label": name.replace("_", " ").capitalize(), "info": knob.hint or knob.about, "elem_id": name, **shared}
    if isinstance(knob, Knob):
        step, precision = (1, 0) if knob.whole else ((knob.high - knob.low) / 20, None)
        return gr.Slider(knob.low, knob.high, knob.default, step=step, precision=precision, **own)
    if knob.choices:
        return gr.Dropdown(list(knob.choices), value=knob.default, **own)
    return gr.Textbox(knob.default, max_lines=1, **own)
