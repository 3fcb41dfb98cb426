"""Embeddings of prompts by Stable Diffusion's text tower, which is loaded for new prompts only and not kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from upsr.atomic import atomic_write
from upsr.errors import MissingPackageError, UpsrError

PAPER = (
    "",
    "(masterpiece:2), (best quality:2), (realistic:2), (very clear:2)",
    "Good photo.",
    "3d, cartoon, anime, sketches, (worst quality:2), (low quality:2)",
    "Bad photo.",
)
"""The prompts of StableSR's paper (Table 6); the first is the one of training."""

_RECENT = 31
"""Embeddings that are kept beside the last one."""

FILE = "prompts.safetensors"
"""Embeddings by the text of their prompts, beside the networks of a folder."""


def transformers() -> Any:
    """The library, imported at the first use.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise MissingPackageError("prompts need transformers: pip install 'upsr[sd]'") from None
    return transformers


def stored_embeddings(file: Path, width: int) -> dict[str, Tensor]:
    """Embeddings of a file by the text of their prompts; none where there is no file.

    Raises:
        UpsrError: the file is damaged, or of a text tower that is not ``width`` wide.
    """
    if not file.is_file():
        return {}
    try:
        known = load_file(file)
    except Exception as error:  # damaged files fail in many ways
        raise UpsrError(f"{file}: not readable ({' '.join(str(error).split())[:160]}); delete or replace it") from None
    for value in known.values():
        if value.shape[-1] != width:
            raise UpsrError(f"{file}: its embeddings are {value.shape[-1]} wide, but the U-Net takes {width}")
    return known


class Prompts:
    """Embeddings by text, (1, tokens, width) float32 on the CPU.

    Args:
        folder: of diffusers, with :data:`FILE`, or ``text_encoder`` and ``tokenizer``; ``None`` for random networks, whose
            embeddings are zero.
        width: of the embeddings.
    """

    def __init__(self, folder: Path | None, width: int) -> None:
        self.folder, self.width = folder, width
        self._known = {} if folder is None else stored_embeddings(folder / FILE, width)
        self._recent: dict[str, Tensor] = {}

    def __getitem__(self, text: str) -> Tensor:
        """The embedding of a prompt.

        Raises:
            UpsrError: the prompt is new, and there is no text tower.
        """
        if text in self._known:
            return self._known[text]
        if text not in self._recent:
            embedding = self._embedded(text)
            # A page has any number of prompts.
            self._recent = dict(list(self._recent.items())[-_RECENT:]) | {text: embedding}
        return self._recent[text]

    def save(self, folder: Path, texts: Sequence[str] = PAPER) -> None:
        """Write the embeddings of the file that was read, and those of ``texts`` that were asked for before."""
        kept = self._known | {text: self._recent[text] for text in texts if text in self._recent}
        if kept:
            with atomic_write(folder / FILE) as path:
                save_file({text: value.contiguous() for text, value in kept.items()}, path)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _embedded(self, text: str) -> Tensor:
        if self.folder is None:
            return torch.zeros(1, 77, self.width)
        # The empty prompt is known without a tokenizer.
        tokenizer = self._read("CLIPTokenizer", "tokenizer") if text or (self.folder / "tokenizer").is_dir() else None
        tower = self._read("CLIPTextModel", "text_encoder")
        if tokenizer is None:
            tokens = _empty(tower.config)
        else:
            how = {"padding": "max_length", "max_length": tokenizer.model_max_length, "truncation": True}
            tokens = tokenizer(text, return_tensors="pt", **how).input_ids
        embedding: Tensor = tower.float().eval()(tokens)[0].clone()
        if embedding.shape[-1] != self.width:
            raise UpsrError(
                f"{self.folder}: its text tower is {embedding.shape[-1]} wide, but its U-Net takes {self.width}"
            )
        return embedding

    def _read(self, kind: str, part: str) -> Any:
        assert self.folder is not None
        if not (self.folder / part).is_dir():
            known = ", ".join(repr(text) for text in self._known) or "none"
            raise UpsrError(
                f"{self.folder}: no folder {part}, which a new prompt needs (embeddings in {FILE}: {known}); add the one of "
                "Stable Diffusion 2.1, or use a prompt that is known"
            )
        library = transformers()
        try:
            return getattr(library, kind).from_pretrained(str(self.folder / part), local_files_only=True)
        except Exception as error:  # damaged folders fail in many ways
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise UpsrError(f"{self.folder / part}: transformers cannot load it ({reason})") from None


def _empty(config: Any) -> Tensor:
    """The tokens of the empty prompt, (1, length): start, end, padding.

    Args:
        config: of a text tower, in whose vocabulary start and end are the last, and the padding is the first.
    """
    tokens = torch.zeros(1, config.max_position_embeddings, dtype=torch.long)
    tokens[0, :2] = torch.tensor([config.vocab_size - 2, config.vocab_size - 1])
    return tokens
