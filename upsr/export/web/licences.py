"""Terms of what a folder for browsers holds."""

from __future__ import annotations

import shutil
from pathlib import Path

from upsr.errors import UpsrError
from upsr.export.formats import package
from upsr.export.web.runtime import PACKAGE, VERSION
from upsr.homes import INSTALLED
from upsr.provenance import without_folders
from upsr.weights import shipped_folder, shipped_names
from upsr.weights.catalogue import entries_of, published_name

_UPSR = Path(__file__).resolve().parents[2]
_NOTICES = ("LICENSE", "ThirdPartyNotices.txt")
_INDEX = f"""upsr.txt                   the page and the networks' code: upsr, Apache-2.0
onnxruntime-LICENSE        runtime.js and runtime.wasm.packed: {PACKAGE} {VERSION}, MIT
onnxruntime-ThirdPartyNotices.txt   what ONNX Runtime contains, as its Python package states it
"""


def write_licences(folder: Path, source: str) -> None:
    """Make a folder of them.

    The npm package states its licence by name alone; texts and notices are those of the Python package of the same project.

    Args:
        source: the weights; what is known about shipped ones, and the catalogue's terms of published ones, go into the folder.

    Raises:
        UpsrError: a text is not where its package has it.
    """
    folder.mkdir()
    index = _INDEX
    try:
        own = next(path for path in (_UPSR / INSTALLED / "LICENSE", _UPSR.parent / "LICENSE") if path.is_file())
        shutil.copyfile(own, folder / "upsr.txt")
        onnxruntime = Path(package("onnxruntime", "--web").__file__).parent
        for name in _NOTICES:
            shutil.copyfile(onnxruntime / name, folder / f"onnxruntime-{name}")
    except (OSError, StopIteration) as error:
        raise UpsrError(
            f"--web: a licence cannot be read ({str(error) or 'LICENSE of upsr'}); reinstall its package"
        ) from None
    if source in shipped_names():
        shutil.copyfile(shipped_folder(source) / "README.md", folder / "weights.txt")
        index += "weights.txt                what the weights were trained on, and their terms\n"
    elif terms := _published_terms(source):
        (folder / "weights.txt").write_text(terms, encoding="utf-8")
        index += "weights.txt                terms of the weights, as their source states them\n"
    else:
        index += f"The terms of the weights, {without_folders(source)}, are not known to upsr.\n"
    (folder / "index.txt").write_text(index, encoding="utf-8")


def _published_terms(source: str) -> str:
    """What the catalogue knows about weights and those that they need: nothing about weights that it does not have."""
    name = published_name(source)
    entries = {} if name is None else entries_of(name)
    texts = []
    for name, entry in entries.items():
        files, places = ", ".join(entry.files), ", ".join(map(str, entry.sources))
        terms = f"{entry.licence or 'not stated: ask its authors'}{'; not for commercial use' * entry.noncommercial}"
        texts.append(f"{name}: {files or entry.repository}\n  from {places or entry.repository}\n  licence: {terms}\n")
    return "\n".join(texts)
