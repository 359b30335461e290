# goumemd and goumemctl in a small image: docker build -t goumem .
# How containers share memory through the socket directory: docs/operations.md, "Containers".

FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
# aws-lc and the like are not in the tree, so a C compiler is all there is to add, and the image has
# one.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p goumemd -p goumemctl \
    && install -D -t /out target/release/goumemd target/release/goumemctl

FROM debian:bookworm-slim
# A number, so that Kubernetes can tell that it is not root (runAsNonRoot).
RUN groupadd --gid 64800 goumem \
    && useradd --uid 64800 --gid goumem --no-create-home --home-dir /var/lib/goumem \
        --shell /usr/sbin/nologin goumem \
    && install -d -o goumem -g goumem -m 0755 /run/goumem \
    && install -d -o goumem -g goumem -m 0750 /var/lib/goumem
COPY --from=build /out/goumemd /out/goumemctl /usr/bin/
COPY LICENSE /usr/share/doc/goumem/copyright

USER 64800:64800
VOLUME ["/run/goumem", "/var/lib/goumem"]
# The keeper would die with its container, so there is none. Files (--backing file) survive.
ENV GOUMEM_SOCKET=/run/goumem/goumemd.sock \
    GOUMEM_DATA_DIR=/var/lib/goumem \
    GOUMEM_KEEPER=none
# Pools are memfds: no --shm-size, no --ipc.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 \
    CMD ["goumemctl", "--timeout", "3s", "ping"]
ENTRYPOINT ["goumemd"]
