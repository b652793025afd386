# The web UI and the command, from the wheels of this workspace. One image for amd64 and arm64; a card is used where the
# container toolkit offers one. TORCH_INDEX chooses another build of torch.
FROM python:3.11-slim AS wheels
RUN pip install --no-cache-dir uv
WORKDIR /src
COPY . .
RUN uv build --all-packages --wheel --out-dir /wheels

FROM python:3.11-slim
ARG TORCH_INDEX=""
# Volumes take their owner from the folders of the image.
RUN useradd --create-home --uid 1000 backprop \
 && install -d -o backprop -g backprop /home/backprop/outputs /home/backprop/cache /home/backprop/data
COPY --from=wheels /wheels /wheels
RUN pip install --no-cache-dir uv \
 && uv pip install --system --no-cache ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} /wheels/*.whl \
 && rm -rf /wheels
USER backprop
WORKDIR /home/backprop/data
# What is written beside the output lies in the cache, so that the rest can be read-only.
ENV HF_HOME=/home/backprop/cache/huggingface \
    BACKPROPAGATE_LEASE_DIR=/home/backprop/cache/leases \
    BACKPROPAGATE_MEMORY_DIR=/home/backprop/cache/memory \
    TRITON_CACHE_DIR=/home/backprop/cache/triton
VOLUME ["/home/backprop/outputs", "/home/backprop/cache", "/home/backprop/data"]
EXPOSE 7862
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen(u.Request('http://127.0.0.1:7862/login'), timeout=4)"]
ENTRYPOINT ["backprop"]
CMD ["ui", "--host", "0.0.0.0", "--output", "/home/backprop/outputs", "--auth-file", "/run/secrets/ui_password"]
