"""The page itself: its layout, and what its controls do."""

from __future__ import annotations

import html
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gradio as gr
from PIL import Image

from upsr.app.jobs import CancelledError, Jobs, Token
from upsr.app.limits import Limits, RateLimit
from upsr.app.pictures import (
    SMALLEST_SIDE,
    Region,
    Upload,
    crop,
    enlarged,
    fitted,
    heat_legend,
    heat_over,
    open_photo,
    read_upload,
    save,
    shown,
    square,
    with_region,
)
from upsr.errors import UpsrError
from upsr.images.photo import Photo
from upsr.methods.base import Knob, Seen
from upsr.pipeline.images import shown_frame
from upsr.pipeline.settings import Settings

WHOLE, SQUARE = "Whole photo", "Square crop"
LARGEST_SCALE = 8
_LARGEST_SEED = 2**31 - 1
_COMFORTABLE = 256
"""Side of the crop that is proposed for large photos: a result within seconds, on a CPU too."""

_HEIGHT = 560
_CANCELLED = "Cancelled. Nothing is running."

_log = logging.getLogger("upsr.app")

_TITLE = """# UPSR
Super-resolution of real photos by diffusion, with noise where the photo is uncertain."""

CSS = """
.gradio-container { max-width: 1280px !important; margin: 0 auto !important; }
#title h1 { margin-bottom: 0; }
#title p { margin-top: 2px; color: var(--body-text-color-subdued); }
#status { min-height: 46px; }
.upsr-status { padding: 10px 14px; border-radius: 8px; border-left: 4px solid var(--neutral-400);
  background: var(--background-fill-secondary); font-size: 15px; }
.upsr-status.done { border-color: #16a34a; } .upsr-status.error { border-color: #dc2626; color: #dc2626; }
#progress:has([data-testid="status-tracker"]:not(.hide)) { min-height: 46px; }
.upsr-legend { display: flex; gap: 10px; align-items: center; font-size: 14px; color: var(--body-text-color-subdued); }
.upsr-bar { flex: 0 0 220px; height: 12px; border-radius: 6px; }
.upsr-sides { display: flex; justify-content: space-between; font-size: 14px; color: var(--body-text-color-subdued); }
#photo .file-preview { font-size: 14px; }
"""


class Pipeline(Protocol):
    """What the page needs of :class:`upsr.pipeline.pipeline.UPSRPipeline`."""

    @property
    def scale(self) -> int:
        """The factor of the network."""

    def knobs(self) -> Mapping[str, Knob]:
        """The method's settings."""

    def upscale(self, photo: Photo, settings: Settings, *, progress: Any, watch: Any) -> Photo:
        """Upscale a photo; ``watch`` sees maps and steps."""


@dataclass(frozen=True)
class Result:
    """What the page shows of a finished upscaling."""

    pair: tuple[str, str]
    heat: Image.Image | None
    steps: list[tuple[Image.Image, str]]
    size: tuple[int, int]


def theme() -> gr.themes.Base:
    """Colours, and fonts that the visitor has: Gradio's own choice asks Google for some."""
    sans = [gr.themes.Font("system-ui"), gr.themes.Font("sans-serif")]
    mono = [gr.themes.Font("ui-monospace"), gr.themes.Font("monospace")]
    base = gr.themes.Soft(primary_hue="indigo", neutral_hue="slate", font=sans, font_mono=mono)
    plain = {"block_title_background_fill": "none", "block_title_padding": "0", "block_title_text_weight": "600"}
    return base.set(**plain, block_title_text_color="*body_text_color")


def status_line(text: str, kind: str = "") -> str:
    """A line that says how things stand; ``kind`` is "", "done" or "error"."""
    return f'<div class="upsr-status {kind}" role="status" aria-live="polite">{html.escape(text)}</div>'


def _greeting(limits: Limits) -> str:
    megabytes, megapixels = limits.upload_bytes / 1e6, limits.upload_pixels / 1e6
    return f"Drop a photo to begin: up to {megabytes:g} MB and {megapixels:g} megapixels."


def build_app(
    pipe: Pipeline, limits: Limits | None = None, folder: Path | None = None, jobs: Jobs | None = None
) -> gr.Blocks:
    """The page around a pipeline.

    Args:
        folder: where Gradio keeps uploads, and results go; the environment's GRADIO_TEMP_DIR should name it.
        jobs: runs the upscalings; whoever holds it can stop them all.
    """
    limits = limits or Limits()
    handlers = Handlers(pipe, limits, folder or Path(tempfile.mkdtemp(prefix="upsr-")), jobs or Jobs())
    with gr.Blocks(title="UPSR", fill_width=True, analytics_enabled=False, delete_cache=(300, 3600)) as app:
        gr.Markdown(_TITLE, elem_id="title")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=340):
                parts = _controls(pipe)
            with gr.Column(scale=3, min_width=420):
                parts |= _results(limits)
        _connect(app, parts, handlers)
    app.queue(max_size=limits.queue, default_concurrency_limit=1)
    return app


def _controls(pipe: Pipeline) -> dict[str, Any]:
    parts: dict[str, Any] = {"upload": gr.State(None)}
    # Of any type: what Gradio says of a wrong one covers the buttons and leaves the status as it was.
    parts["photo"] = gr.File(label="Photo", height=140, elem_id="photo")
    parts["preview"] = gr.Image(
        show_label=False, interactive=False, visible=False, height=250, buttons=[], elem_id="preview"
    )
    with gr.Group():
        parts["choice"] = gr.Radio(
            [WHOLE, SQUARE],
            value=WHOLE,
            label="Region",
            elem_id="region",
            info="Click into the photo to move the crop.",
        )
        with gr.Column(visible=False) as crop_box:
            parts["side"] = gr.Slider(SMALLEST_SIDE, 1024, _COMFORTABLE, step=1, label="Side (pixels)")
            with gr.Row():
                parts["x"] = gr.Slider(0, 100, 50, step=0.1, label="Across (%)", min_width=120)
                parts["y"] = gr.Slider(0, 100, 50, step=0.1, label="Down (%)", min_width=120)
    parts["crop_box"] = crop_box
    return parts | _settings(pipe)


def _settings(pipe: Pipeline) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Group():
        with gr.Row():
            parts["scale"] = gr.Slider(
                1, LARGEST_SCALE, min(pipe.scale, LARGEST_SCALE), step=0.5, label="Scale", min_width=150, elem_id="scale",
                info=f"Native: x{pipe.scale}.",
            )  # fmt: skip
            parts["steps"] = gr.Slider(
                1, pipe.knobs()["steps"].high, pipe.knobs()["steps"].high, step=1, label="Steps", min_width=150, elem_id="steps",
                info="Fewer: faster.",
            )  # fmt: skip
        with gr.Row():
            parts["fidelity"] = gr.Slider(
                0, 1, 0.5, step=0.05, label="Fidelity", min_width=150, elem_id="fidelity",
                info="1: smooth, closest to the photo. 0: more detail, and grain.",
            )  # fmt: skip
            parts["seed"] = gr.Number(
                0, label="Seed", precision=0, minimum=0, maximum=_LARGEST_SEED, min_width=150, elem_id="seed",
                info="Same seed, same image.",
            )  # fmt: skip
    return parts


def _results(limits: Limits) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Row():
        parts["run"] = gr.Button("Upscale", variant="primary", elem_id="run", scale=3)
        parts["cancel"] = gr.Button("Cancel", elem_id="cancel", min_width=100)
        parts["download"] = gr.DownloadButton("Download PNG", interactive=False, elem_id="download", min_width=190)
    parts["status"] = gr.HTML(status_line(_greeting(limits)), elem_id="status")
    parts["progress"] = gr.HTML("", elem_id="progress")
    with gr.Tabs():
        with gr.Tab("Before / after"):
            parts["pair"] = gr.ImageSlider(
                show_label=False, interactive=False, buttons=["fullscreen"], elem_id="pair",
                height=_HEIGHT, max_height=_HEIGHT,
            )  # fmt: skip
            gr.HTML('<div class="upsr-sides"><span>&larr; bicubic</span><span>UPSR &rarr;</span></div>')
        with gr.Tab("Uncertainty"):
            parts["heat"] = gr.Image(
                show_label=False,
                interactive=False,
                buttons=["fullscreen"],
                format="png",
                elem_id="heat",
                height=_HEIGHT,
            )
            gr.HTML(heat_legend("trusted: little noise", "uncertain: full noise"))
        with gr.Tab("Steps"):
            parts["gallery"] = gr.Gallery(
                show_label=False, interactive=False, columns=4, format="png", buttons=["fullscreen"],
                elem_id="gallery", height=_HEIGHT, object_fit="contain",
            )  # fmt: skip
            gr.HTML('<div class="upsr-legend">From the first estimate g(y) over the noise to the image.</div>')
    return parts


def _connect(app: gr.Blocks, parts: dict[str, Any], handlers: Handlers) -> None:
    region = [parts[name] for name in ("upload", "choice", "side", "x", "y")]
    shown = [parts[name] for name in ("upload", "preview", "choice", "crop_box", "side", "x", "y", "status")]
    # Gradio 6.31 reads a component, waits and writes it back when progress on it changes: a text that arrives in between
    # is lost, as "Cancelled." was once in about a hundred times. So nothing shows its progress on the status.
    quick: dict[str, Any] = {
        "queue": False, "api_visibility": "private", "show_progress": "hidden", "show_progress_on": parts["cancel"],
    }  # fmt: skip
    # Raw: what is said of the file should be ours, not Gradio's.
    parts["photo"].upload(handlers.load, parts["photo"], shown, preprocess=False, **quick)
    parts["photo"].clear(handlers.clear, None, shown, **quick)
    for name in ("choice", "side", "x", "y"):
        parts[name].change(
            handlers.redraw, region, [parts["preview"], parts["crop_box"]], trigger_mode="always_last", **quick
        )
    parts["preview"].select(handlers.move, parts["upload"], [parts[name] for name in ("choice", "x", "y")], **quick)
    running = parts["run"].click(
        handlers.upscale,
        [*region, *(parts[name] for name in ("scale", "steps", "seed", "fidelity"))],
        [parts[name] for name in ("pair", "heat", "gallery", "download", "status")],
        api_visibility="private", show_progress_on=parts["progress"], concurrency_limit=1,
    )  # fmt: skip
    parts["cancel"].click(handlers.cancel, None, parts["status"], cancels=[running], **quick)
    app.unload(handlers.leave)


class Handlers:
    """What the controls of the page do. Whatever goes wrong becomes a line of text, without the server's paths."""

    def __init__(self, pipe: Pipeline, limits: Limits, folder: Path, jobs: Jobs) -> None:
        self._pipe, self._limits, self._jobs = pipe, limits, jobs
        self._folder = folder.resolve()
        # Of their own, as the guard counts what is sent, not how often it is read.
        self._loads, self._runs = RateLimit(limits.requests_per_minute), RateLimit(limits.requests_per_minute)

    @staticmethod
    def _count(rate: RateLimit, request: gr.Request) -> None:
        if wait := rate.wait(request.client.host if request.client else ""):
            raise UpsrError(f"too many requests; the next one is possible in {wait:.0f} s")

    def load(self, given: dict[str, Any] | None, request: gr.Request) -> list[Any]:
        """A file was uploaded."""
        try:
            self._count(self._loads, request)
            upload = self._read(Path((given or {}).get("path") or ""))
        except UpsrError as error:
            return [*self._nothing(), status_line(_sentence(error), "error")]
        except Exception:
            _log.exception("an upload cannot be read")
            return [*self._nothing(), status_line("This file cannot be read.", "error")]
        side = min(upload.width, upload.height)
        whole = upload.width * upload.height <= 4 * _COMFORTABLE**2 and self._fits(upload, self._pipe.scale)
        choice, chosen = (WHOLE if whole else SQUARE), min(_COMFORTABLE, side)
        said = "".join(f"; {note}" for note in upload.notes)
        return [
            upload,
            gr.Image(self._picture(upload, choice, chosen, 50, 50), visible=True),
            choice,
            gr.Column(visible=not whole),
            gr.Slider(maximum=max(side, SMALLEST_SIDE + 1), value=chosen),
            50,
            50,
            status_line(f"{upload.width} x {upload.height} pixels{said}. Choose a region, then press Upscale."),
        ]

    def _read(self, path: Path) -> Upload:
        path = path.resolve()
        if not path.is_file() or self._folder not in path.parents:
            raise UpsrError("the upload did not arrive; please try again")
        if path.stat().st_size > self._limits.upload_bytes:
            raise UpsrError(f"the file is larger than {self._limits.upload_bytes / 1e6:g} MB")
        upload = read_upload(path, self._limits.upload_pixels)
        if min(upload.width, upload.height) < SMALLEST_SIDE:
            raise UpsrError(f"the photo is smaller than {SMALLEST_SIDE} pixels")
        return upload

    def _fits(self, upload: Upload, scale: float) -> bool:
        return upload.width * upload.height * scale**2 <= self._limits.output_pixels

    @staticmethod
    def _nothing() -> list[Any]:
        return [None, gr.Image(None, visible=False), WHOLE, gr.Column(visible=False), gr.skip(), gr.skip(), gr.skip()]

    def clear(self) -> list[Any]:
        """The photo was taken away."""
        return [*self._nothing(), status_line(_greeting(self._limits))]

    def redraw(self, upload: Upload | None, choice: str, side: int, x: float, y: float) -> list[Any]:
        """The region was changed."""
        picture = gr.skip() if upload is None else self._picture(upload, choice, side, x, y)
        return [picture, gr.Column(visible=choice == SQUARE and upload is not None)]

    @staticmethod
    def _picture(upload: Upload, choice: str, side: int, x: float, y: float) -> Image.Image:
        return with_region(upload, _region(upload, choice, side, x, y))

    @staticmethod
    def move(upload: Upload | None, event: gr.SelectData) -> list[Any]:
        """The preview was clicked: the crop goes there."""
        if upload is None:
            return [gr.skip()] * 3
        x, y = event.index
        return [SQUARE, round(100 * x / upload.thumbnail.width, 1), round(100 * y / upload.thumbnail.height, 1)]

    async def upscale(
        self, upload: Upload | None, choice: str, side: int, x: float, y: float,
        scale: float, steps: int, seed: int | None, fidelity: float,
        request: gr.Request, progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio finds it in the signature
    ) -> list[Any]:  # fmt: skip
        """Upscale the region; ends early when the visitor cancels or leaves."""
        nothing = [gr.skip()] * 4
        if upload is None:
            return [*nothing, status_line("Drop a photo first.", "error")]
        try:
            region = self._asked(upload, (choice, side, x, y), scale, request)
            options = {"outscale": float(scale), "steps": int(steps), "seed": int(seed or 0), "fidelity": fidelity}
            began = time.perf_counter()
            result = await self._jobs.run(
                request.session_hash or "", lambda token: self._compute(upload, region, options, token, progress)
            )
        except CancelledError:
            return [*nothing, status_line(_CANCELLED)]
        except UpsrError as error:
            return [*nothing, status_line(_sentence(error), "error")]
        except Exception:
            _log.exception("an upscaling failed")
            return [*nothing, status_line("The upscaling failed; the server's log says why.", "error")]
        width, height = result.size
        text = f"Done in {time.perf_counter() - began:.1f} s: {region.width} x {region.height} to {width} x {height} pixels"
        return [
            result.pair,
            result.heat,
            result.steps,
            gr.DownloadButton(value=result.pair[1], interactive=True),
            status_line(f"{text}, seed {options['seed']}.", "done"),
        ]

    def _asked(
        self, upload: Upload, chosen: tuple[str, int, float, float], scale: float, request: gr.Request
    ) -> Region:
        """The region, when all is within the limits.

        Raises:
            UpsrError: it is not.
        """
        region = _region(upload, *chosen)
        pixels, most = region.width * region.height * scale**2, self._limits.output_pixels
        if pixels > most:
            raise UpsrError(
                f"the result would have {pixels / 1e6:.1f} megapixels, more than the {most / 1e6:g} allowed: "
                "choose a smaller crop or scale"
            )
        if not 1 <= scale <= LARGEST_SCALE:
            raise UpsrError(f"the scale is between 1 and {LARGEST_SCALE}")
        self._count(self._runs, request)
        return region

    def _compute(
        self, upload: Upload, region: Region, options: dict[str, Any], token: Token, progress: Callable[..., Any]
    ) -> Result:
        """The work, in a thread of its own."""

        def report(done: int, total: int) -> None:
            token.check()
            progress((done, total), desc="Upscaling", unit="steps")

        if not upload.path.is_file():
            raise UpsrError("the photo is no longer on the server; please upload it again")
        photo = crop(open_photo(upload.path, self._limits.upload_pixels), region)
        seen: dict[str, Image.Image] = {}

        maps: set[str] = set()

        def watch(item: Seen) -> None:
            seen[item.name] = shown(shown_frame(item))
            if item.kind == "map":
                maps.add(item.name)

        large = self._pipe.upscale(photo, Settings.of(**options), progress=report, watch=watch)
        token.check()
        return self._shown(photo, large, seen, maps, options)

    def _shown(
        self, photo: Photo, large: Photo, seen: dict[str, Image.Image], maps: set[str], options: dict[str, Any]
    ) -> Result:
        height, width = large.frames[0].shape[:2]
        before = enlarged(photo, width, height)
        name = f"upsr_x{options['outscale']:g}_seed{options['seed']}.png"
        pair = (save(before, self._folder, "bicubic.png"), save(large, self._folder, name))
        steps = [(fitted(step), title) for title, step in seen.items() if title not in maps]
        heat = heat_over(fitted(shown(before.frames[0])), seen["uncertainty"]) if "uncertainty" in seen else None
        if "weight" in seen:
            steps.append((fitted(seen["weight"]), "noise weight"))
        return Result(pair, heat, steps, (width, height))

    def cancel(self, request: gr.Request) -> str:
        """Cancel was pressed. Gradio has cancelled the waiting by now; this is for what it does not know of."""
        self._jobs.cancel(request.session_hash or "")
        return status_line(_CANCELLED)

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        self._jobs.cancel(request.session_hash or "")


def _region(upload: Upload, choice: str, side: int, x: float, y: float) -> Region:
    if choice == WHOLE:
        return Region(0, 0, upload.width, upload.height)
    return square(upload.width, upload.height, max(int(side), SMALLEST_SIDE), float(x), float(y))


def _sentence(error: UpsrError) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
