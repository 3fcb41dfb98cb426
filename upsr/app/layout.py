"""Controls of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.blocks import Block

from upsr.app.knobs import ModelSettings
from upsr.app.limits import Limits
from upsr.app.masks import painting
from upsr.app.models import Model
from upsr.app.pictures import SMALLEST_SIDE, heat_legend
from upsr.app.style import status_line

WHOLE, SQUARE = "Whole photo", "Square crop"
COMFORTABLE = 256
"""Side of the crop that is proposed for large photos: a result within seconds, on a CPU too."""

_HEIGHT = 560


class Controls:
    """Draws the page within the surrounding :class:`gradio.Blocks`; an attribute for each control.

    ``settings`` holds those of each model; the chosen model's are visible.
    """

    def __init__(self, models: Sequence[Model], limits: Limits) -> None:
        gr.Markdown("# UPSR\nSuper-resolution of real photos.", elem_id="title")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=340):
                self._draw_photo()
                self._draw_mask(models[0])
                self._draw_settings(models)
                self._draw_batch(limits)
            with gr.Column(scale=3, min_width=420):
                self._draw_buttons(limits)
                self._draw_results(models[0])

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

    def _draw_mask(self, first: Model) -> None:
        title = "Only here may it invent"
        with gr.Accordion(title, open=False, visible=first.pipe.takes_masks, elem_id="mask") as self.mask_box:
            gr.Markdown(
                "Paint where details may be invented: elsewhere the result is the model's faithful estimate. Nothing painted: "
                "everywhere. For the one photo above, not for several. A mask file is white where it may invent, black where not."
            )
            self.painting = painting()
            self.mask = gr.File(label="Or a mask file", height=130, elem_id="mask_file")

    def _draw_settings(self, models: Sequence[Model]) -> None:
        names = [model.name for model in models]
        self.model = gr.Radio(names, value=names[0], label="Model", elem_id="model", visible=len(names) > 1)
        self.settings = {
            model.name: ModelSettings(model.pipe, visible=number == 0) for number, model in enumerate(models)
        }
        self.chosen: set[Block] = {self.model, *(c for own in self.settings.values() for c in own.controls)}

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

    def _draw_results(self, first: Model) -> None:
        shared: dict[str, Any] = {
            "show_label": False, "interactive": False, "buttons": ["fullscreen"], "height": _HEIGHT
        }  # fmt: skip
        with gr.Tabs():
            with gr.Tab("Before / after"):
                self.pair = gr.ImageSlider(elem_id="pair", max_height=_HEIGHT, **shared)
                gr.HTML('<div class="upsr-sides"><span>&larr; bicubic</span><span>result &rarr;</span></div>')
            # A method does not state its pictures, and another model may be chosen: each result shows or hides the tabs.
            with gr.Tab(heat_title(first), visible=bool(first.pipe.maps)) as self.heat_tab:
                self.heat = gr.Image(elem_id="heat", format="png", **shared)
                self.legend = gr.HTML(legend_of(first))
            with gr.Tab("Steps", visible=first.pipe.draws) as self.steps:
                self.gallery = gr.Gallery(elem_id="gallery", format="png", columns=4, object_fit="contain", **shared)
                gr.HTML('<div class="upsr-legend">In the order of the computation; maps come last.</div>')
        self.beside = gr.File(
            label="To repeat it: upsr upscale PHOTO -o FOLDER --settings the .json", file_count="multiple",
            interactive=False, visible=False, elem_id="beside",
        )  # fmt: skip
        self.results = [
            self.pair, self.heat_tab, self.heat, self.legend, self.steps, self.gallery, self.download, self.beside
        ]  # fmt: skip


def heat_title(model: Model) -> str:
    """The tab of the model's first map."""
    return (model.pipe.maps[0] if model.pipe.maps else "map").capitalize()


def legend_of(model: Model) -> str:
    """The colours of the model's first map."""
    name = heat_title(model).lower()
    return heat_legend(f"little {name}", f"much {name}")


def greeting(limits: Limits) -> str:
    """The status before a photo is there."""
    megabytes, megapixels = limits.upload_bytes / 1e6, limits.upload_pixels / 1e6
    return status_line(f"Drop a photo to begin: up to {megabytes:g} MB and {megapixels:g} megapixels.")
