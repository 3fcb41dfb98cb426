"""Lists the wheels that gpu_day.py needs on a machine that has torch and torchvision, and the commands that bring them there.

examples:
  python benchmarks/gpu_wheels.py                                   # everything but what torch and torchvision bring
  python benchmarks/gpu_wheels.py --present pip_list.txt            # but what `pip list` printed on that machine
  python benchmarks/gpu_wheels.py --present pip_list.txt --python 3.12 --download wheels

Run it where the project is installed; the versions are those installed there. Sizes are those of the installed files, or of the
wheels themselves once they are downloaded, which are smaller.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

MODULES = {
    "annotated_types": "annotated-types",
    "basicsr": "basicsr",
    "cv2": "opencv-python-headless",
    "iniconfig": "iniconfig",
    "lazy_loader": "lazy-loader",
    "lpips": "lpips",
    "packaging": "packaging",
    "pluggy": "pluggy",
    "psutil": "psutil",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic_core",
    "pygments": "Pygments",
    "pytest": "pytest",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "skimage": "scikit-image",
    "tqdm": "tqdm",
    "typing_inspection": "typing-inspection",
    "yaml": "PyYAML",
}
"""What the stages import beside torch, torchvision and what these need: module and distribution. A test rehearses with everything
else hidden."""

SOURCE_ONLY = ("basicsr",)
"""Distributions without a wheel on the index: one is built here. They are pure Python."""

LIMIT = 64 << 20
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64",
             "manylinux_2_24_x86_64", "manylinux1_x86_64")  # fmt: skip


def missing_modules() -> list[str]:
    """Modules that cannot be imported here, torch among them."""
    return [name for name in ("torch", "torchvision", *MODULES) if importlib.util.find_spec(name) is None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--present", type=Path, metavar="FILE", help="what `pip list` or `pip freeze` prints there")
    parser.add_argument("--python", default="3.12", metavar="X.Y", help="version of Python there (3.12)")
    parser.add_argument("--download", type=Path, metavar="FOLDER", help="also run the commands, into this folder")
    given = parser.parse_args()
    try:
        present = _torchs() if given.present is None else _listed(given.present)
        wanted = {name: importlib.metadata.distribution(name) for name in MODULES.values()}
    except OSError as error:
        print(
            f"error: {given.present}: cannot be read ({error.strerror}); give the output of pip list", file=sys.stderr
        )
        return 2
    except importlib.metadata.PackageNotFoundError as error:
        print(f"error: {error.name} is not installed here; run this where the project is (make venv)", file=sys.stderr)
        return 2
    needed = {name: found for name, found in wanted.items() if canonical(name) not in present}
    folder = given.download or Path("wheels")
    commands = download_commands({name: found.version for name, found in needed.items()}, given.python, folder)
    for name, found in needed.items():
        print(f"{name} {found.version}: {_installed_size(found) / 2**20:.1f} MiB installed")
    print("\nhere:", *(shlex.join(command) for command in commands), sep="\n  ")
    print(
        f"\nthere:\n  python3 -m pip install --no-index --no-deps --target site {folder}/*.whl\n  export PYTHONPATH=site"
    )
    if given.download is None:
        total, what = sum(map(_installed_size, needed.values())), "installed"
    else:
        for command in commands:
            if code := subprocess.run([sys.executable, *command[1:]], check=False).returncode:
                return code
        total, what = sum(wheel.stat().st_size for wheel in folder.glob("*.whl")), "as wheels"
    print(f"\n{len(needed)} distributions, {total / 2**20:.1f} MiB {what}")
    if total > LIMIT:
        print(f"warning: more than {LIMIT >> 20} MiB; leave out what the machine has, with --present", file=sys.stderr)
    return 0


def download_commands(versions: dict[str, str], python: str, folder: Path) -> list[list[str]]:
    """What fetches or builds wheels for another Python on x86-64 Linux."""
    pip = ["python3", "-m", "pip"]
    wheels = [f"{name}=={version}" for name, version in versions.items() if name not in SOURCE_ONLY]
    sources = [f"{name}=={version}" for name, version in versions.items() if name in SOURCE_ONLY]
    commands = []
    if wheels:
        target = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
        target += [word for platform in PLATFORMS for word in ("--platform", platform)]
        commands.append([*pip, "download", "--no-deps", *target, "--dest", str(folder), *wheels])
    if sources:
        commands.append([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), *sources])
    return commands


def canonical(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _listed(path: Path) -> set[str]:
    """Names in the output of ``pip list`` or ``pip freeze``."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {canonical(re.split(r"[\s=@,]", line.strip())[0]) for line in lines if line.strip()}


def _torchs() -> set[str]:
    """torch, torchvision and what they need, by their own metadata."""
    found: set[str] = set()
    waiting = ["torch", "torchvision"]
    while waiting:
        name = canonical(waiting.pop())
        if name not in found:
            found.add(name)
            waiting += _requirements(name)
    return found


def _requirements(name: str) -> Iterable[str]:
    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [re.split(r"[\s;<>=!~(\[]", line)[0] for line in lines if "extra ==" not in line]


def _installed_size(found: importlib.metadata.Distribution) -> int:
    return sum(file.size or 0 for file in found.files or [])


if __name__ == "__main__":
    sys.exit(main())
