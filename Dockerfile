# The base is used twice and must be the same: the virtual environment points at its Python.
# It needs glibc (the NVIDIA container toolkit mounts the host's libnvidia-ml.so.1) and python3
# with the venv module.
ARG BASE=python:3.13-slim

# hadolint ignore=DL3006
FROM ${BASE} AS build
ARG UV_VERSION=0.13.9
RUN python3 -m venv /uv && /uv/bin/pip install --no-cache-dir "uv==${UV_VERSION}"
ENV PATH=/uv/bin:$PATH \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never

# Dependencies change less often than the source: a layer of their own.
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=service/requirements.txt,target=/requirements.txt \
    uv venv --quiet --python python3 /opt/tagfit \
    && uv pip install --python /opt/tagfit/bin/python --require-hashes -r /requirements.txt

WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY service/tagfit service/tagfit
RUN --mount=type=cache,target=/root/.cache/uv \
    uv build --quiet --wheel --out-dir /dist \
    && uv pip install --python /opt/tagfit/bin/python --no-deps /dist/*.whl

# What is installed, for whoever audits the image; the base's own packages are in its dpkg database.
ARG CYCLONEDX_VERSION=7.5.0
RUN --mount=type=cache,target=/root/.cache/uv \
    uv tool run --quiet --from "cyclonedx-bom==${CYCLONEDX_VERSION}" cyclonedx-py environment \
    --pyproject pyproject.toml --output-reproducible --output-file /opt/tagfit/sbom.cdx.json \
    /opt/tagfit/bin/python

# The label below must not lie.
ARG VERSION=0.1.0
RUN test "$(/opt/tagfit/bin/tagfit --version)" = "tagfit ${VERSION}"


# hadolint ignore=DL3006
FROM ${BASE}
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tagfit" \
      org.opencontainers.image.description="Which Ollama tag fits this machine? Exact answers before the download." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY --from=build /opt/tagfit /opt/tagfit

# NVML needs no more than `utility`; without the NVIDIA runtime both variables do nothing.
ENV PATH=/opt/tagfit/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TAGFIT_HOST=0.0.0.0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=utility

WORKDIR /
USER 65532:65532
EXPOSE 11435
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s --retries=3 \
    CMD ["tagfit", "healthcheck"]
ENTRYPOINT ["tagfit"]
CMD ["serve"]
