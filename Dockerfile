# The hub's image, where a container engine is at hand; `scripts/image` makes the same without one.
#
#   docker build -t docker.io/foghorn/foghorn:0.1.0 .
FROM docker.io/library/rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    --mount=type=cache,target=/src/target-agent \
    cargo build --release --locked --bin foghorn \
    && ./scripts/agent \
    && mkdir -p /image/usr/local/bin /state \
    && strip -o /image/usr/local/bin/foghorn target/release/foghorn \
    && strip -o /image/usr/local/bin/foghorn-agent target-agent/foghorn-agent

# The C library that it was built with, certificates of public authorities, a user without rights; no shell.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /image/ /
COPY --from=build --chown=65532:65532 /state /var/lib/foghorn
ENV FOGHORN_HOME=/var/lib/foghorn
EXPOSE 7300
USER 65532:65532
WORKDIR /
ENTRYPOINT ["/usr/local/bin/foghorn"]
LABEL org.opencontainers.image.title=foghorn \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT" \
      org.opencontainers.image.source=https://github.com/foghorn-hub/foghorn
