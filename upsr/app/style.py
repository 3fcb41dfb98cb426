"""Colours and fonts of the page, and the line of its status."""

from __future__ import annotations

import html

import gradio as gr

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
#photo .file-preview, #photos .file-preview { font-size: 14px; }
@media (max-width: 640px) { .upsr-legend { flex-wrap: wrap; } .upsr-bar { flex-basis: 120px; } }
"""


def theme() -> gr.themes.Base:
    """Colours, and fonts that the visitor has: Gradio's own choice asks Google for some."""
    sans = [gr.themes.Font("system-ui"), gr.themes.Font("sans-serif")]
    mono = [gr.themes.Font("ui-monospace"), gr.themes.Font("monospace")]
    base = gr.themes.Soft(primary_hue="indigo", neutral_hue="slate", font=sans, font_mono=mono)
    plain = {"block_title_background_fill": "none", "block_title_padding": "0", "block_title_text_weight": "600"}
    return base.set(**plain, block_title_text_color="*body_text_color")


def status_line(text: str, kind: str = "") -> str:
    """HTML of the status; ``kind`` is "", "done" or "error"."""
    return f'<div class="upsr-status {kind}" role="status" aria-live="polite">{html.escape(text)}</div>'
