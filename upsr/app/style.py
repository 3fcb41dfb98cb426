"""Colours and fonts of the page, and the line of its status."""

from __future__ import annotations

import html
from pathlib import Path

import gradio as gr

CSS = """
.gradio-container { max-width: 1280px !important; margin: 0 auto !important; }
#title h1 { margin-bottom: 0; }
#title p { margin-top: 2px; color: var(--body-text-color-subdued); }
#status { min-height: 46px; }
.upsr-status { padding: 10px 14px; border-radius: 8px; border-left: 4px solid var(--neutral-400);
  background: var(--background-fill-secondary); font-size: 15px; }
.upsr-status.done { border-color: #16a34a; } .upsr-status.error { border-color: #dc2626; color: #dc2626; }
.dark .upsr-status.error { color: #f87171; }
.dark .gradio-container, .dark { --color-accent: var(--primary-400); }
#progress:has([data-testid="status-tracker"]:not(.hide)) { min-height: 46px; }
.upsr-legend { display: flex; gap: 10px; align-items: center; font-size: 14px; color: var(--body-text-color-subdued); }
.upsr-bar { flex: 0 0 220px; height: 12px; border-radius: 6px; }
.upsr-sides { display: flex; justify-content: space-between; font-size: 14px; color: var(--body-text-color-subdued); }
#photo .file-preview, #photos .file-preview, #beside .file-preview { font-size: 14px; }
#beside td button { display: none; }
.upsr-canvas { position: relative; width: fit-content; max-width: 100%; overflow: hidden; margin: 0 auto; }
.upsr-canvas[hidden] { display: none; }
.upsr-canvas img { display: block; max-width: 100%; max-height: 420px; margin: 0; }
.upsr-canvas canvas { position: absolute; inset: 0; width: 100%; height: 100%; opacity: 0.6;
  cursor: crosshair; touch-action: none; }
.upsr-canvas canvas:focus-visible { outline: 3px solid var(--primary-600); outline-offset: -3px; }
.upsr-brush { position: absolute; transform: translate(-50%, -50%); border-radius: 50%; pointer-events: none;
  border: 2px solid #ffffff; box-shadow: 0 0 0 2px #000000; }
.upsr-tools { display: flex; flex-wrap: wrap; gap: 8px 18px; align-items: center; margin-top: 8px; }
.upsr-tools label { display: flex; gap: 6px; align-items: center; }
.upsr-tools button { padding: 4px 12px; border: 1px solid var(--border-color-primary); border-radius: 6px;
  background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color); }
@media (max-width: 640px) { .upsr-legend { flex-wrap: wrap; } .upsr-bar { flex-basis: 120px; } }
"""


def theme() -> gr.themes.Base:
    """Colours, and fonts that the visitor has: Gradio's own choice asks Google for some."""
    sans = [gr.themes.Font("system-ui"), gr.themes.Font("sans-serif")]
    mono = [gr.themes.Font("ui-monospace"), gr.themes.Font("monospace")]
    base = gr.themes.Soft(primary_hue="indigo", neutral_hue="slate", font=sans, font_mono=mono)
    plain = {"block_title_background_fill": "none", "block_title_padding": "0", "block_title_text_weight": "600"}
    # Soft's own are as light as 2.6 : 1 on their backgrounds; WCAG AA asks for 4.5 : 1.
    contrast = {
        "body_text_color_subdued": "*neutral_600",
        "block_info_text_color": "*neutral_600",
        "block_label_text_color": "*primary_700",
        "button_primary_background_fill": "*primary_600",
        "button_primary_background_fill_hover": "*primary_700",
        "button_primary_background_fill_dark": "*primary_600",
        "button_primary_background_fill_hover_dark": "*primary_700",
        "checkbox_label_background_fill_selected": "*primary_600",
        "checkbox_label_background_fill_selected_dark": "*primary_600",
        "color_accent": "*primary_600",
        "link_text_color_dark": "*primary_300",
    }
    return base.set(**plain, **contrast, block_title_text_color="*body_text_color")


def accessible_script() -> str:
    """JavaScript for the head of the page: names and roles that Gradio's components lack."""
    return f"<script>{(Path(__file__).parent / 'accessible.js').read_text(encoding='utf-8')}</script>"


def status_line(text: str, kind: str = "") -> str:
    """HTML of the status; ``kind`` is "", "done" or "error"."""
    return f'<div class="upsr-status {kind}" role="status" aria-live="polite">{html.escape(text)}</div>'
