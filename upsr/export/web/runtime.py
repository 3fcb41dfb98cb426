"""ONNX Runtime Web, from its npm package: fetched and checked, or as a person has it."""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from upsr.errors import UpsrError
from upsr.provenance import file_digest
from upsr.weights.catalogue import File, Source
from upsr.weights.fetch import Network, fetch_file

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
TARBALL = File(size=33106585, sha256="d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71")
ADDRESS = f"https://registry.npmjs.org/{PACKAGE}/-/{PACKAGE}-{VERSION}.tgz"

FILES = {
    "dist/ort.webgpu.bundle.min.mjs": "runtime.js",
    "dist/ort-wasm-simd-threaded.asyncify.wasm": "runtime.wasm",
}
"""Files of the package, and their names here: some servers know no type for ``.mjs``.

Of the package's three builds with WebGPU it is the one that runs in every browser, without WebGPU as well. One without it is 3 MB
smaller when compressed, so both together would be larger.
"""

_REMEDY = f"download it elsewhere with `npm pack {PACKAGE}@{VERSION}`, then: --web-runtime {PACKAGE}-{VERSION}.tgz"


def runtime_files(given: Path | None, network: Network | None = None) -> dict[str, bytes]:
    """The contents of :data:`FILES`, by their names here.

    Args:
        given: the package as a ``.tgz`` file, or its folder; ``None`` fetches it from the npm registry.

    Raises:
        UpsrError: it cannot be had, or is another one.
    """
    if given is not None and given.is_dir():
        return _of_folder(given)
    if given is not None:
        return _of_tarball(given)
    with tempfile.TemporaryDirectory() as folder:
        return _of_tarball(fetched_package(Path(folder), network or Network()))


def fetched_package(folder: Path, network: Network) -> Path:
    """The package's file, from the npm registry, in a folder.

    Raises:
        UpsrError: it cannot be had, or is another one.
    """
    name, failures = f"{PACKAGE}-{VERSION}.tgz", list[str]()
    try:
        fetch_file(name, TARBALL, [Source(address=ADDRESS)], folder, network, failures.append)
    except UpsrError:
        reason = failures[-1].rpartition(f"{ADDRESS}: ")[2] if failures else "no answer"
        raise UpsrError(f"{ADDRESS}: not fetched ({reason}); {_REMEDY}") from None
    return folder / name


def _of_tarball(path: Path) -> dict[str, bytes]:
    try:
        digest = file_digest(path)
        if digest != TARBALL.sha256:
            raise UpsrError(
                f"--web-runtime {path}: not {PACKAGE} {VERSION} (sha256 {digest[:12]}... in place of "
                f"{str(TARBALL.sha256)[:12]}...); {_REMEDY}"
            )
        with tarfile.open(path) as archive:
            members: Mapping[str, tarfile.TarInfo] = {member.name: member for member in archive.getmembers()}
            found = {}
            for name, own in FILES.items():
                file = archive.extractfile(members[f"package/{name}"])
                assert file is not None  # of the package with this digest it is a file
                found[own] = file.read()
            return found
    except OSError as error:
        raise UpsrError(f"--web-runtime {path}: cannot be read ({error.strerror or error})") from None


def _of_folder(path: Path) -> dict[str, bytes]:
    folder = path / "package" if (path / "package").is_dir() else path
    try:
        about = json.loads((folder / "package.json").read_text(encoding="utf-8"))
        if (about.get("name"), about.get("version")) != (PACKAGE, VERSION):
            raise UpsrError(
                f"--web-runtime {path}: {about.get('name')} {about.get('version')}, not {PACKAGE} {VERSION}; {_REMEDY}"
            )
        return {own: (folder / name).read_bytes() for name, own in FILES.items()}
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UpsrError(f"--web-runtime {path}: not a folder of {PACKAGE} ({reason}); {_REMEDY}") from None
