# This package in a container, for CPUs as it stands, for NVIDIA's GPUs by two arguments:
#
#   docker build -t stylegan-ray .
#   docker build -t stylegan-ray --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 \
#       --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#
#   docker run --rm --shm-size=8g -v runs:/runs stylegan-ray doctor
#   docker run --rm --shm-size=8g -v runs:/runs -v "$PWD/images:/data:ro" --gpus all stylegan-ray train config-f /data
#
# Ray's object store is in /dev/shm, of which a container has 64 MiB without --shm-size. Runs are in /runs. The same
# command continues a run. Leave out --gpus on a machine without GPUs.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=video,serve,tune

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# NVIDIA's images have no Python; Ubuntu 24.04 brings 3.12.
RUN command -v python3 > /dev/null || { \
        apt-get update && \
        apt-get install --yes --no-install-recommends python3 python3-venv && \
        rm -rf /var/lib/apt/lists/*; \
    }

ENV VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1
RUN python3 -m venv "$VIRTUAL_ENV"

# torch in a layer of its own: the code changes more often.
WORKDIR /opt/stylegan_ray
COPY constraints.txt ./
RUN pip install --constraint constraints.txt --extra-index-url "$TORCH_INDEX" torch

COPY pyproject.toml README.md LICENSE ./
COPY stylegan_ray ./stylegan_ray
RUN pip install --constraint constraints.txt ".[$EXTRAS]"

# A login shell, as KubeRay starts one, forgets PATH.
RUN ln --symbolic /opt/venv/bin/ray /opt/venv/bin/stylegan-ray /usr/local/bin/ && \
    useradd --create-home trainer && \
    install --directory --owner=trainer --group=trainer /runs
USER trainer
WORKDIR /home/trainer
# RAY_LD_PRELOAD_ON_WORKERS: workers that keep their size (docs/clusters.md, "Where Ray runs").
ENV STYLEGAN_RAY_STORAGE=/runs RAY_LD_PRELOAD_ON_WORKERS=1
VOLUME /runs

ENTRYPOINT ["stylegan-ray"]
CMD ["--help"]
