# The commands are those of docs/start.md; a test compares them. The image was not built yet, neither for a CPU nor for CUDA.
#   docker build -t flowdet .
#   docker run --rm -v "$PWD:/videos" flowdet detect clip.mp4
# With CUDA, also not run:
#   docker build --build-arg TORCH_INDEX=https://pypi.org/simple -t flowdet:cuda .
#   docker run --rm --gpus all -v "$PWD:/videos" flowdet:cuda detect clip.mp4 --device cuda
FROM python:3.12-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1
WORKDIR /flowdet
RUN pip install torch torchvision --index-url $TORCH_INDEX
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src src
RUN pip install .
WORKDIR /videos
ENTRYPOINT ["flowdet"]
CMD ["--help"]
