# One image recipe for every Crossdock process: `docker build --build-arg SERVICE=order-orchestrator .`
# SERVICE is a folder of services/, or `simulators`, or `tools` (the crossdock command).
ARG PYTHON_IMAGE=python:3.11-slim

# Our own distributions become wheels here: the build back end is a development dependency and stays behind.
FROM ${PYTHON_IMAGE} AS build
ARG SERVICE
WORKDIR /source
COPY requirements requirements
RUN pip install --no-cache-dir --require-hashes -r requirements/dev.txt
COPY . .
RUN set -eu; \
    case "${SERVICE:?give --build-arg SERVICE=<service>}" in \
      simulators) own="./simulators" ;; \
      tools) own="./tools ./deploy/local" ;; \
      *) own="./services/${SERVICE}" ;; \
    esac; \
    pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels ./libs/canonical ./libs/eventing $own

FROM ${PYTHON_IMAGE}
ARG SERVICE
ENV SERVICE=${SERVICE} \
    CROSSDOCK_STATE_DIR=/var/lib/crossdock \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
COPY requirements/runtime.txt /tmp/runtime.txt
RUN pip install --no-cache-dir --require-hashes -r /tmp/runtime.txt && rm /tmp/runtime.txt
COPY --from=build /wheels /tmp/wheels
RUN pip install --no-cache-dir --no-deps --no-index /tmp/wheels/*.whl && rm -r /tmp/wheels
# The state directory exists in the image, so that a fresh volume mounted there belongs to the user.
RUN useradd --system --uid 10001 --home-dir /var/lib/crossdock --create-home crossdock
WORKDIR /app
COPY schemas schemas
USER crossdock
EXPOSE 8080
# exec: the service itself is process 1 and gets the SIGTERM on which it commits and closes.
CMD ["sh", "-c", "exec python -m \"crossdock_$(echo \"$SERVICE\" | tr - _)\""]
