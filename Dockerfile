# upsr in a container: docs/install.md, "Docker".
#   docker build -t upsr .                                                      torch for CPUs
#   docker build -t upsr --build-arg TORCH_INDEX=https://pypi.org/simple .      torch with CUDA
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_EXTRA_INDEX_URL=$TORCH_INDEX
RUN python -m venv /opt/venv
WORKDIR /src
# For upsr/accelerate/native; the image itself holds no compiler.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
# The tested versions, in the order of the Makefile; without what only development needs, and without pyiqa, whose terms
# forbid commercial use. The layers stay while requirements.txt does.
COPY requirements.txt ./
RUN pip install "setuptools<82" wheel cython $(grep -E '^(torch|torchvision|numpy)==' requirements.txt)
RUN sed '/^# development/,$d' requirements.txt | grep -vE '^(#|$|basicsr==|pyiqa==)' > runtime.txt \
    && pip install --no-build-isolation -r runtime.txt \
    && pip install --no-deps --no-build-isolation $(grep '^basicsr==' requirements.txt) \
    && pip install --no-deps --force-reinstall $(grep '^opencv-python-headless==' requirements.txt)
COPY setup.py pyproject.toml MANIFEST.in README.md LICENSE ./
COPY upsr upsr
COPY options options
COPY datasets datasets
RUN pip install --no-deps --no-build-isolation .

FROM python:${PYTHON}-slim
COPY --from=build /opt/venv /opt/venv
# Any user may run it (docker run --user), so that results belong to who asked for them.
RUN useradd --create-home --uid 1000 upsr && mkdir /work && chown upsr:upsr /work && chmod 1777 /home/upsr
ENV PATH=/opt/venv/bin:$PATH HOME=/home/upsr USER=upsr
USER upsr
WORKDIR /work
EXPOSE 7860
ENTRYPOINT ["upsr"]
CMD ["--help"]
