"""Settings of a model on the page: a control for each, and :class:`Settings` of their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import gradio as gr
from gradio.blocks import Block

from upsr.app.models import Pipeline, Saving
from upsr.choices import COLOUR_FIXES, QUALITY, ColourFix
from upsr.errors import UpsrError
from upsr.methods.base import Knob, TextKnob
from upsr.pipeline.pipeline import SCALE
from upsr.pipeline.restoration import COLOUR
from upsr.pipeline.settings import Settings

Values = Mapping[Block, Any]
"""Values of an event's inputs."""

LARGEST_SCALE = 8
FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WebP": ".webp", "AVIF": ".avif"}
"""Suffixes of the formats that browsers show, by name; the first is the page's own."""
_LARGEST_SEED = 2**31 - 1
_LARGEST_SIDE = 10**6
_OWN = "(own)"
"""Of a choice: the method's own value."""


class ModelSettings:
    """Draws the settings of one model.

    Attributes:
        box: around all of them; visible while the model is chosen.
        controls: all of them.
    """

    def __init__(self, pipe: Pipeline, *, visible: bool) -> None:
        # A method that restores at any scale does so at the page's.
        self._pipe, knobs = pipe, {name: knob for name, knob in pipe.knobs().items() if name != SCALE}
        self._shared: dict[str, Any] = {"min_width": 150, "render": False}
        self._scale = gr.Slider(
            1, LARGEST_SCALE, min(pipe.scale, LARGEST_SCALE), step=0.5, label="Scale", elem_id="scale",
            info=f"Native: x{pipe.scale:g}.", **self._shared,
        )  # fmt: skip
        self._seed = gr.Number(
            0, label="Seed", precision=0, minimum=0, maximum=_LARGEST_SEED, elem_id="seed",
            info="Same seed, same image.", **self._shared,
        ) if pipe.draws else None  # fmt: skip
        self._knobs = {name: self._knob(name, knob) for name, knob in knobs.items()}
        self._colour = None if COLOUR in knobs else gr.Dropdown(
            list(COLOUR_FIXES), value="none", label="Colour fix", elem_id="colour_fix",
            info="Correction towards the photo.", **self._shared,
        )  # fmt: skip
        self._consistent = gr.Checkbox(
            False, label="Consistent", elem_id="consistent",
            info="The result, reduced, is the photo; its noise comes back.", **self._shared,
        )  # fmt: skip
        advanced = [self._knobs[name] for name, knob in knobs.items() if knob.advanced]
        plain = [self._knobs[name] for name, knob in knobs.items() if not knob.advanced]
        self._width, self._height = (self._side(name) for name in ("width", "height"))
        self._tile = gr.Textbox(
            "", max_lines=1, label="Tile", elem_id="tile", info="About its side, in pixels of the photo; empty: what fits.",
            **self._shared,
        )  # fmt: skip
        self._format = gr.Dropdown(
            list(FORMATS), value=next(iter(FORMATS)), label="Format", elem_id="format",
            info="Of the file; PNG is without loss.", **self._shared,
        )  # fmt: skip
        self._quality = gr.Slider(
            1, 100, QUALITY, step=1, precision=0, label="Quality", elem_id="quality", info="Of JPEG, WebP and AVIF.",
            **self._shared,
        )  # fmt: skip
        files = [self._width, self._height, self._format, self._quality, self._tile]
        with gr.Group(visible=visible) as self.box:
            _in_pairs([self._scale, *plain, *([self._seed] if self._seed else [])])
            with gr.Accordion("More settings", open=False, elem_id="more"):
                _in_pairs([*advanced, *([self._colour] if self._colour else []), self._consistent, *files])
        given = (self._scale, self._seed, *self._knobs.values(), self._colour, self._consistent, *files)
        self.controls: list[Block] = [control for control in given if control is not None]

    def of(self, values: Values) -> Settings:
        """The settings that the controls' values are.

        Raises:
            UpsrError: a value is out of its range.
        """
        scale = float(values[self._scale])
        if not 1 <= scale <= LARGEST_SCALE:
            raise UpsrError(f"the scale is between 1 and {LARGEST_SCALE}")
        sides = _pixels("width", values[self._width]), _pixels("height", values[self._height])
        own = self._pipe.knobs()
        knobs = {name: _value(name, own[name], values[control]) for name, control in self._knobs.items()}
        fix: ColourFix = values[self._colour] if self._colour else "none"
        return self._pipe.settled(
            Settings(
                seed=int(values[self._seed] or 0) if self._seed else 0,
                outscale=None if any(sides) else scale,
                size=sides if any(sides) else None,
                tile=self._fitting(_pixels("tile", values[self._tile])),
                colour_fix=None if fix == "none" else fix,
                consistent=bool(values[self._consistent]),
                knobs=knobs,
            )
        )

    def saving(self, values: Values) -> Saving:
        """The file that the controls' values ask for.

        Raises:
            UpsrError: a value is out of its range.
        """
        if values[self._format] not in FORMATS or not 1 <= values[self._quality] <= 100:
            raise UpsrError(f"the format is one of {', '.join(FORMATS)}, and its quality 1 to 100")
        return Saving(FORMATS[values[self._format]], int(values[self._quality]))

    def _fitting(self, tile: int | None) -> int | Literal["auto"]:
        """A tile, which may not take the server's memory."""
        if tile is None:
            return "auto"
        most = self._pipe.settled(Settings()).tile
        if isinstance(most, int) and tile > most:
            raise UpsrError(f"tile: at most {most} pixels fit into the memory here, not {tile}")
        return tile

    def _side(self, name: str) -> Block:
        about = f"Of the result, in pixels; empty: by {'scale or height' if name == 'width' else 'scale or width'}."
        return gr.Textbox("", max_lines=1, label=name.capitalize(), elem_id=name, info=about, **self._shared)

    def _knob(self, name: str, knob: Knob | TextKnob) -> Block:
        """A control, empty for a knob that stays with the method unless it is set."""
        own: dict[str, Any] = {"label": name.replace("_", " ").capitalize(), "elem_id": name, **self._shared}
        about = knob.hint or knob.about
        if isinstance(knob, TextKnob):
            if not knob.choices:
                return gr.Textbox(knob.default, max_lines=1, info=about, **own)
            first = [(f"own ({knob.default})", _OWN)] if knob.advanced else []
            value = _OWN if knob.advanced else knob.default
            return gr.Dropdown([*first, *((name, name) for name in knob.choices)], value=value, info=about, **own)
        if knob.advanced or knob.default is None:
            default = "" if knob.default is None else f" ({knob.default:g})"
            info = (
                f"{about[:1].upper()}{about[1:].rstrip('.')}. {knob.low:g} to {knob.high:g}; empty: its own{default}."
            )
            return gr.Textbox("", max_lines=1, info=info, **own)  # Gradio's page makes 0 of an empty number
        step, precision = (1, 0) if knob.whole else ((knob.high - knob.low) / 20, None)
        return gr.Slider(knob.low, knob.high, knob.default, step=step, precision=precision, info=about, **own)


def _value(name: str, knob: Knob | TextKnob, given: Any) -> float | str | None:
    """The value of a knob's control; ``None`` for the method's own."""
    if isinstance(knob, TextKnob):
        return None if given == _OWN else str(given)
    if given == "":
        return None
    try:
        value = knob.parsed(str(given))
    except ValueError:
        raise UpsrError(f"{name}: {given} is no number") from None
    return int(value) if knob.whole and value.is_integer() else value


def _pixels(name: str, given: str) -> int | None:
    """A number of pixels; ``None`` for an empty field."""
    if not given.strip():
        return None
    if not given.strip().isdecimal() or not 1 <= int(given) <= _LARGEST_SIDE:
        raise UpsrError(f"{name}: {given} is no number of pixels, 1 to {_LARGEST_SIDE}")
    return int(given)


def _in_pairs(controls: list[Block]) -> None:
    for first in range(0, len(controls), 2):
        with gr.Row():
            for control in controls[first : first + 2]:
                control.render()
