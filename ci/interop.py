"""A goumem client in Python: gRPC for control, then the memory itself by its file descriptors.

Written from goumem.proto and docs/layout.md alone.
"""

import mmap
import os
import socket
import struct
import sys
import time

import grpc
from goumem.v1 import goumem_pb2 as pb
from goumem.v1 import goumem_pb2_grpc as rpc

SOCKET = sys.argv[1]
PAGE = 65536
checks = 0


def check(what, got, expected=True):
    global checks
    if got != expected:
        sys.exit(f"interop: FAILED: {what}: got {brief(got)}, expected {brief(expected)}")
    checks += 1
    print(f"ok  {what}")


def brief(value):
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:150]}... ({len(value)} long)"


def connect(deadline=20.0):
    # grpcio sends the socket's path as :authority, which HTTP/2 servers refuse: override it.
    options = [("grpc.default_authority", "localhost")]
    channel = grpc.insecure_channel(f"unix:{SOCKET}", options=options)
    grpc.channel_ready_future(channel).result(timeout=deadline)
    return channel


def refused(call, reason):
    try:
        call()
    except grpc.RpcError as error:
        trailers = {key: value for key, value in error.trailing_metadata()}
        return reason.encode() in trailers.get("grpc-status-details-bin", b"")
    return False


def handle_parts(handle):
    bits = handle.high << 64 | handle.low
    return {
        "pool": bits >> 96,
        "generation": bits >> 52 & (1 << 44) - 1,
        "offset": (bits >> 4 & (1 << 48) - 1) * 16,
        "kind": bits & 15,
    }


def map_pool(fd_socket, token, pool_id, writable):
    """Asks the fd socket for a pool's memory: CONTROL (read-only) and DATA."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        sock.connect(fd_socket)
        access = 2 if writable else 1
        sock.sendall(struct.pack("<4sHBB16sII", b"GMFD", 1, access, 0, token, pool_id, 0))
        reply, fds, _flags, _addr = socket.recv_fds(sock, 16, 2)
    magic, version, status, n_fds, _access = struct.unpack("<4sHHII", reply)
    check(f"the fd socket hands out pool {pool_id}", (magic, version, status, n_fds), (b"GMFD", 1, 0, 2))
    return fds


def main():
    for _ in range(200):
        if os.path.exists(SOCKET):
            break
        time.sleep(0.05)
    channel = connect()
    daemon, sessions = rpc.DaemonServiceStub(channel), rpc.SessionServiceStub(channel)
    pools, arenas = rpc.PoolServiceStub(channel), rpc.ArenaPoolServiceStub(channel)
    data_plane = rpc.ByteServiceStub(channel)

    info = daemon.Info(pb.InfoRequest())
    check("info names this machine's page", info.page_bytes, PAGE)
    session = sessions.Open(pb.OpenSessionRequest(label="interop.py"))
    check("a local session may map", session.may_map)
    me = [("goumem-session-bin", session.token)]

    pool = pools.Create(
        pb.CreatePoolRequest(name="interop", capacity_bytes=1 << 20), metadata=me
    ).pool
    check("capacity is rounded to pages", pool.capacity_bytes, 1 << 20)
    block = pools.Alloc(
        pb.AllocRequest(pool_id=pool.pool_id, spec=pb.BlockSpec(size_bytes=80_000)), metadata=me
    ).block
    parts = handle_parts(block.handle)
    check("the handle names the pool", (parts["pool"], parts["kind"]), (pool.pool_id, 1))

    text = (bytes(range(256)) * 313)[:80_000]
    pieces = [text[i : i + 10_000] for i in range(0, len(text), 10_000)]
    written = data_plane.Write(
        iter(
            pb.WriteRequest(handle=block.handle, data=piece) if i == 0 else pb.WriteRequest(data=piece)
            for i, piece in enumerate(pieces)
        ),
        metadata=me,
    )
    check("bytes are written by RPC", written.written_bytes, len(text))
    read = b"".join(
        reply.data for reply in data_plane.Read(pb.ReadRequest(handle=block.handle), metadata=me)
    )
    check("and read back by RPC", read, text)

    control_fd, data_fd = map_pool(session.fd_socket, session.token, pool.pool_id, True)
    data = mmap.mmap(data_fd, os.fstat(data_fd).st_size)
    control = mmap.mmap(control_fd, os.fstat(control_fd).st_size, prot=mmap.PROT_READ)
    check("the mapping shows what the RPC wrote", data[parts["offset"] : parts["offset"] + 80_000], text)
    data[parts["offset"] : parts["offset"] + 5] = b"HELLO"
    head = next(
        iter(data_plane.Read(pb.ReadRequest(handle=block.handle, length_bytes=5), metadata=me))
    )
    check("the RPC shows what the mapping wrote", head.data, b"HELLO")
    try:
        mmap.mmap(control_fd, os.fstat(control_fd).st_size)
        check("CONTROL cannot be mapped writable", False)
    except PermissionError:
        check("CONTROL cannot be mapped writable", True)
    check("CONTROL begins with its magic", control[:8], b"goumemCT")
    check("DATA begins with its magic", data[:8], b"goumemDT")

    # The page map, from docs/layout.md: the payload starts at a multiple of 2 MiB.
    n_pages = struct.unpack_from("<Q", control, 5 * 8)[0]
    payload = os.fstat(data_fd).st_size - n_pages * PAGE
    payload -= payload % (2 << 20)
    page = (parts["offset"] - payload) // PAGE
    entry = struct.unpack_from("<Q", control, 4096 + 8 * page)[0]
    check("the block's page is in a span", entry >> 62 in (1, 2))

    _c, read_only = map_pool(session.fd_socket, session.token, pool.pool_id, False)
    try:
        mmap.mmap(read_only, os.fstat(read_only).st_size)
        check("a read-only fd cannot be mapped writable", False)
    except PermissionError:
        check("a read-only fd cannot be mapped writable", True)

    handles = pools.AllocBatch(
        pb.AllocBatchRequest(
            pool_id=pool.pool_id, specs=[pb.BlockSpec(size_bytes=64, count=1000)]
        ),
        metadata=me,
    ).handles
    check("a batch allocates a thousand blocks", len(set((h.high, h.low) for h in handles)), 1000)
    freed = pools.FreeBatch(pb.FreeBatchRequest(handles=handles), metadata=me)
    check("and frees them", (freed.freed, len(freed.failures)), (1000, 0))

    pools.Publish(pb.PublishRequest(handle=block.handle, name="greeting"), metadata=me)
    found = pools.Lookup(pb.LookupRequest(pool_id=pool.pool_id, name="greeting"), metadata=me)
    check("a named block is found", found.handle, block.handle)
    check(
        "a retried call happens once",
        pools.Alloc(
            pb.AllocRequest(pool_id=pool.pool_id, spec=pb.BlockSpec(size_bytes=8), request_id=1),
            metadata=me,
        ).block.handle,
        pools.Alloc(
            pb.AllocRequest(pool_id=pool.pool_id, spec=pb.BlockSpec(size_bytes=8), request_id=1),
            metadata=me,
        ).block.handle,
    )
    pools.Free(pb.FreeRequest(handle=found.handle), metadata=me)
    check(
        "a stale handle is refused by name",
        refused(
            lambda: pools.Resolve(pb.HandleRequest(handle=block.handle), metadata=me),
            "STALE_HANDLE",
        ),
    )
    check(
        "so is a bad name",
        refused(
            lambda: pools.Create(
                pb.CreatePoolRequest(name="../etc", capacity_bytes=1), metadata=me
            ),
            "INVALID_FIELD",
        ),
    )

    arena_pool = arenas.Create(
        pb.CreateArenaPoolRequest(name="arenas", arenas=2, arena_bytes=1000), metadata=me
    ).pool
    arena = arenas.Get(pb.GetArenaRequest(pool_id=arena_pool.pool_id), metadata=me)
    piece = arenas.Alloc(pb.ArenaAllocRequest(arena=arena.arena, size_bytes=10), metadata=me)
    arenas.Share(pb.ShareArenaRequest(arena=arena.arena, name="batch/17"), metadata=me)
    _c, arena_fd = map_pool(session.fd_socket, session.token, arena_pool.pool_id, True)
    arena_data = mmap.mmap(arena_fd, os.fstat(arena_fd).st_size)
    at = handle_parts(piece.handle)["offset"]
    arena_data[at : at + 10] = b"from a map"
    other = sessions.Open(pb.OpenSessionRequest(label="second"))
    them = [("goumem-session-bin", other.token)]
    attached = arenas.Attach(
        pb.AttachArenaRequest(pool_id=arena_pool.pool_id, name="batch/17", access=1), metadata=them
    )
    check("an arena is attached by name", attached.arena, arena.arena)
    read = b"".join(
        reply.data
        for reply in data_plane.Read(
            pb.ReadRequest(handle=piece.handle, length_bytes=10), metadata=them
        )
    )
    check("and read by another session", read, b"from a map")
    arenas.Detach(pb.DetachArenaRequest(arena=arena.arena), metadata=me)
    last = arenas.Detach(pb.DetachArenaRequest(arena=arena.arena), metadata=them)
    check("the last holder's detach returns it", last.returned)
    sessions.Close(pb.CloseSessionRequest(force=True), metadata=me)
    check(
        "a closed session is refused",
        refused(lambda: pools.List(pb.ListPoolsRequest(), metadata=me), "SESSION_EXPIRED"),
    )


try:
    main()
finally:
    print(f"interop: {checks} checks passed", flush=True)
