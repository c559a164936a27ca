# The command line with the small CPU build of PyTorch. Two lines of use:
#   docker build -t jacobound .
#   docker run --rm -v "$PWD:/data" jacobound lipschitz policy.onnx --global
FROM python:3.12-slim

COPY pyproject.toml README.md LICENSE MANIFEST.in /build/
COPY src /build/src
RUN pip install --no-cache-dir uv \
 && uv pip install --system --no-cache --torch-backend=cpu '/build[onnx,report]' \
 && rm -rf /build

RUN useradd --create-home reader
USER reader
WORKDIR /data
ENTRYPOINT ["jacobound"]
CMD ["--help"]
