# Two images: "web" (pages, migrations, short tasks, clock; no torch) and "worker" (training, sampler). docker-compose.yml
# builds both; nothing here needs BuildKit. Pin the base by its digest where builds must repeat to the byte.
FROM python:3.11-slim AS packages
ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    HOME=/tmp \
    STEERSMAN_DATA=/data
# The folders belong to the user, and so does an empty volume that is first mounted there.
RUN groupadd --gid 10001 steersman \
    && useradd --uid 10001 --gid steersman --home-dir /tmp --no-create-home --shell /usr/sbin/nologin steersman \
    && install -d -o steersman -g steersman -m 700 /data /secrets /broker
WORKDIR /app
COPY requirements/ requirements/
# pip's own variables, handed on to each build: another index, or one more.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN python -m pip install -r requirements/web.txt \
    && python -m pip install --no-deps -r requirements/demo.txt

FROM packages AS web
COPY . .
RUN python -m compileall -q .
USER 10001:10001
EXPOSE 8000
CMD ["python", "manage.py", "help"]

FROM packages AS worker
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# A requirement such as torch==2.13.0+cpu; empty: the pinned version, in the build that pip finds.
ARG TORCH
RUN if [ -n "$TORCH" ]; then python -m pip install -c requirements/constraints.txt "$TORCH"; \
    else python -m pip install -r requirements/torch.txt; fi
RUN python -m pip install -r requirements/base.txt
COPY . .
RUN python -m compileall -q .
USER 10001:10001
CMD ["python", "manage.py", "help"]
