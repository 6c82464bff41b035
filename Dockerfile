# docker build -t ms2hs . && docker run --rm -v "$PWD:/data" --user "$(id -u):$(id -g)" ms2hs convert scene.tif
# For the small CPU build of torch, give the address of PyTorch's index of CPU wheels: --build-arg PIP_EXTRA_INDEX_URL=…
# The second stage has no cache and no build tool, and does not run as root.
FROM python:3.12-slim AS build
WORKDIR /src
ARG PIP_EXTRA_INDEX_URL
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY ms2hs ms2hs
COPY weights weights
RUN python -m venv /opt/ms2hs \
    && /opt/ms2hs/bin/pip install --no-cache-dir -c constraints.txt '.[dask,remote,vector]'

FROM python:3.12-slim
# rasterio's wheel links to the system's libexpat.
RUN apt-get update && apt-get install -y --no-install-recommends libexpat1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home ms2hs
COPY --from=build /opt/ms2hs /opt/ms2hs
USER ms2hs
ENV PATH=/opt/ms2hs/bin:$PATH MS2HS_CACHE=/tmp/ms2hs
WORKDIR /data
ENTRYPOINT ["ms2hs"]
CMD ["--help"]
