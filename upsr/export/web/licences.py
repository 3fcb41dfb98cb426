"""Terms of what a folder for browsers holds."""

from __future__ import annotations

import shutil
from pathlib import Path

from upsr.errors import UpsrError
from upsr.export.formats import package
from upsr.export.web.runtime import PACKAGE, VERSION
from upsr.homes import INSTALLED
from upsr.weights import shipped_folder, shipped_names

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
        source: the weights; what is known about shipped ones goes into the folder.

    Raises:
        UpsrError: a text is not where its package has it.
    """
    folder.mkdir()
    index = _INDEX
    try:
        own = next(path for path in (_UPSR / INSTALLED / "LICENSE", _UPSR.parent / "LICENSE") if path.is_file())
        shutil.copyfile(own, folder / "upsr.txt")
        onnxruntime = Path(package("onnxruntime").__file__).parent
        for name in _NOTICES:
            shutil.copyfile(onnxruntime / name, folder / f"onnxruntime-{name}")
    except (OSError, StopIteration) as error:
        raise UpsrError(
            f"--web: a licence cannot be read ({str(error) or 'LICENSE of upsr'}); reinstall its package"
        ) from None
    if source in shipped_names():
        shutil.copyfile(shipped_folder(source) / "README.md", folder / "weights.txt")
        index += "weights.txt                what the weights were trained on, and their terms\n"
    (folder / "index.txt").write_text(index, encoding="utf-8")
