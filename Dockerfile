# thinktune with PyTorch for NVIDIA cards; the driver comes from the host (docker run --gpus all).
# For a CPU: --build-arg TORCH_INDEX=the index of CPU builds that pytorch.org's "Get started" page names.
FROM python:3.12-slim-bookworm

# PyTorch's compiler builds small programs at run time, and git names the commit of a clone.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ git && rm -rf /var/lib/apt/lists/*

ARG TORCH_INDEX=""
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.11"

COPY pyproject.toml README.md LICENSE /opt/thinktune/
COPY src /opt/thinktune/src
RUN pip install --no-cache-dir "/opt/thinktune[parquet,excel,tensorboard,gguf,structured]"

# Models and tokenized rows; rows, recipes and runs are in the folder that is mounted at /data.
ENV THINKTUNE_CACHE=/cache/thinktune MODELSCOPE_CACHE=/cache/modelscope HF_HOME=/cache/huggingface
RUN mkdir -p /cache /data && chmod 1777 /cache /data
VOLUME /cache
WORKDIR /data
EXPOSE 8420
ENTRYPOINT ["thinktune"]
CMD ["--help"]
