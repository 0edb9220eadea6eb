# UNTESTED: written for those who work in containers; no release has been built from it yet.
#   docker build -t bifusion .
#   docker run --rm -v "$PWD:/work" bifusion scan room.ply --run runs/first --out labelled
# With a GPU: docker run --gpus all ...
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml CMakeLists.txt README.md LICENSE ./
COPY src src
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir /wheels/*.whl && rm -r /wheels
RUN useradd --create-home user
USER user
WORKDIR /work
ENTRYPOINT ["bifusion"]
CMD ["--help"]
