"""Peers that a program on SMC-R may meet, and programs that take their time. For ci/lab/smc-r-programs.sh.

smc_r_peers.py slow-server ADDRESS PORT SECONDS READY    accepts one connection so late, and echoes
smc_r_peers.py fork-server ADDRESS PORT READY            two connections: one for a child to use, one to use on both sides of a fork
smc_r_peers.py client ADDRESS PORT                       connects without waiting, exchanges a few bytes, prints what happened
smc_r_peers.py peek ADDRESS PORT                         peeks at what an echo server sends back, and waits for all of it
smc_r_peers.py self ADDRESS PORT                         connects to itself, in one thread
smc_r_peers.py ends-server ADDRESS PORT READY            ends connections when it is told to
smc_r_peers.py ends ADDRESS PORT                         waits for that in all ways, with bytes unread
smc_r_peers.py rude-server ADDRESS PORT HOW READY        promises SMC, and then HOW: silent, garbage, or partial (each for one connection)
smc_r_peers.py rude-client ADDRESS PORT HOW              the same, of a client
"""

import errno
import os
import select
import socket
import struct
import sys
import threading
import time

LEVEL, WANTED, PEER = 0x534D4352, 1, 2
# A PROPOSAL begins so: eye catcher, type 1, length 200, version 2.
PARTIAL = b"\xe2\xd4\xc3\xd9\x01\x00\xc8\x20" + bytes(20)


def wants(sock):
    """Asks for the SMC option."""
    sock.setsockopt(LEVEL, WANTED, 1)


def listener(address, port, promise=False):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if promise:
        wants(sock)
    sock.bind((address, int(port)))
    sock.listen(16)
    return sock


def read_all(sock):
    data = b""
    while chunk := sock.recv(65536):
        data += chunk
    return data


def ready(path):
    open(path, "w").close()


def slow_server(address, port, seconds, path):
    sock = listener(address, port)
    ready(path)
    time.sleep(float(seconds))
    connection, _ = sock.accept()
    total = 0
    try:
        while chunk := connection.recv(65536):
            connection.sendall(chunk)
            total += len(chunk)
        print(f"{total} bytes echoed")
    except OSError as e:
        print(f"ended after {total} bytes: {errno.errorcode.get(e.errno, e)}")
    connection.close()


def echo(connection, data=b""):
    connection.sendall(data)
    while chunk := connection.recv(65536):
        connection.sendall(chunk)
    connection.close()


def fork_server(address, port, path):
    sock = listener(address, port)
    ready(path)
    connection, _ = sock.accept()
    child = os.fork()
    if child == 0:
        sock.close()
        echo(connection)
        os._exit(0)
    connection.close()
    assert os.waitpid(child, 0)[1] == 0, "the child failed"
    connection, _ = sock.accept()
    data = connection.recv(65536)
    child = os.fork()
    if child == 0:
        try:
            connection.recv(1)
        except OSError as e:
            os._exit(0 if e.errno == errno.ECONNABORTED else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0, "the child could use its parent's connection"
    echo(connection, data)
    print("both children did what they should")


IN, OUT, RDHUP, HUP, ET = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP, select.EPOLLHUP, select.EPOLLET
# A wait, what it waits for, whether the client has shut down its side before, what the server does then, what is to be told.
ENDS = [
    ("poll", RDHUP, False, "shut", RDHUP),
    ("epoll", RDHUP, False, "shut", RDHUP),
    ("epoll", RDHUP | ET, False, "shut", RDHUP),
    ("epoll", IN | RDHUP | ET, False, "shut", IN | RDHUP),
    ("epoll", IN | ET, False, "send", IN),
    ("poll", 0, True, "shut", HUP),
    ("epoll", 0, True, "shut", HUP),
    ("epoll", ET, True, "shut", HUP),
    ("poll", RDHUP | HUP, False, "shut", RDHUP),
]


def ends_server(address, port, path):
    sock = listener(address, port)
    ready(path)
    control, _ = sock.accept()
    for _, _, _, act, _ in ENDS:
        connection, _ = sock.accept()
        connection.sendall(b"x" * 1000)
        assert control.recv(1) == b"!"
        connection.shutdown(socket.SHUT_WR) if act == "shut" else connection.sendall(b"y")
        assert control.recv(1) == b"!"
        connection.close()
    print("all were ended")


def ends(address, port):
    control = socket.create_connection((address, int(port)))
    for how, events, shuts, act, told in ENDS:
        sock = socket.create_connection((address, int(port)))
        while len(sock.recv(1000, socket.MSG_PEEK)) < 1000:
            pass
        if shuts:
            sock.shutdown(socket.SHUT_WR)
        wait = select.poll() if how == "poll" else select.epoll()
        wait.register(sock, events)
        if events & ET and events & IN:
            # The bytes that are there.
            assert wait.poll(10) == [(sock.fileno(), IN)]
        thread, found = [], []

        def sleeps():
            thread.append(threading.get_native_id())
            # Seconds, milliseconds.
            found.extend(wait.poll(20 if how == "epoll" else 20000))

        waiter = threading.Thread(target=sleeps)
        waiter.start()
        # In the kernel, in poll or epoll_wait.
        while waiter.is_alive():
            if thread and "poll" in open(f"/proc/self/task/{thread[0]}/wchan").read():
                break
            time.sleep(0.01)
        control.sendall(b"!")
        waiter.join()
        assert found == [(sock.fileno(), told)], f"{how} for {events:#x}: {found}, not {told:#x}"
        control.sendall(b"!")
        sock.close()
    print(f"{len(ENDS)} waits woken")


def client(address, port):
    started = time.monotonic()
    sock = socket.socket()
    sock.setblocking(False)
    try:
        sock.connect((address, int(port)))
    except BlockingIOError:
        pass
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    events = poll.poll(30000)
    assert events, "not connected after 30 s"
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    print(f"connected after {time.monotonic() - started:.1f} s, error {errno.errorcode.get(error, error)}")
    if error:
        return
    sock.setblocking(True)
    sock.settimeout(30)
    try:
        sock.sendall(b"x" * 100000)
        sock.shutdown(socket.SHUT_WR)
        print(f"{len(read_all(sock))} bytes came back")
    except OSError as e:
        print(f"ended after {time.monotonic() - started:.1f} s: {errno.errorcode.get(e.errno, e)}")


def peek(address, port):
    """With blocking calls: a time limit would make them calls that do not wait."""
    flags = socket.MSG_PEEK | socket.MSG_WAITALL
    sock = socket.create_connection((address, int(port)))
    data = os.urandom(4000000)
    sock.sendall(data[:10])
    assert sock.recv(100, socket.MSG_PEEK)
    assert sock.recv(10, flags) == data[:10]
    # More than there is.
    sender = threading.Thread(target=sock.sendall, args=(data[10:10010],))
    sender.start()
    assert sock.recv(10010, flags) == data[:10010]
    sender.join()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 300000))
    assert sock.recv(20000, flags) == data[:10010], "a peek whose time is over"
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
    assert sock.recv(20000, flags | socket.MSG_DONTWAIT) == data[:10010]
    # More than the ring holds.
    sender = threading.Thread(target=sock.sendall, args=(data[10010:],))
    sender.start()
    seen = sock.recv(len(data), flags)
    assert len(data) > len(seen) >= 16384 and data.startswith(seen), f"{len(seen)} bytes in the ring"
    got = b""
    while len(got) < len(data):
        got += sock.recv(len(data) - len(got), socket.MSG_WAITALL)
    assert got == data
    sender.join()
    try:
        sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT | socket.MSG_TRUNC)
        raise AssertionError("there is nothing to peek at")
    except BlockingIOError:
        pass
    # The end of the stream ends it.
    sock.sendall(b"the end")
    sock.shutdown(socket.SHUT_WR)
    assert sock.recv(100, flags) == b"the end"
    assert read_all(sock) == b"the end"
    assert sock.recv(100, flags) == b""
    print(f"peeked at {len(seen)} bytes")


def connect_to_itself(address, port):
    sock = listener(address, port)
    a = socket.create_connection((address, int(port)), timeout=20)
    b, _ = sock.accept()
    b.settimeout(20)
    for one, other in ((a, b), (b, a)):
        one.sendall(b"y" * 1000)
        got = b""
        while len(got) < 1000:
            got += other.recv(1000)
        assert got == b"y" * 1000
    print("talked to itself")


def behave(sock, how):
    if how == "garbage":
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n" * 10)
    elif how == "partial":
        sock.sendall(PARTIAL)
    sock.settimeout(30)
    started = time.monotonic()
    try:
        data = read_all(sock)
        print(f"the other end said {data[:4].hex()}... and ended after {time.monotonic() - started:.1f} s")
    except OSError as e:
        print(f"ended after {time.monotonic() - started:.1f} s: {errno.errorcode.get(e.errno, e)}")


def rude_server(address, port, how, path):
    sock = listener(address, port, promise=True)
    ready(path)
    connection, _ = sock.accept()
    assert connection.getsockopt(LEVEL, PEER) == 2, "the client did not ask for SMC"
    behave(connection, how)


def rude_client(address, port, how):
    sock = socket.socket()
    wants(sock)
    sock.connect((address, int(port)))
    assert sock.getsockopt(LEVEL, PEER) == 2, "the server did not promise SMC"
    behave(sock, how)


COMMANDS = {
    "slow-server": slow_server,
    "fork-server": fork_server,
    "client": client,
    "peek": peek,
    "ends-server": ends_server,
    "ends": ends,
    "self": connect_to_itself,
    "rude-server": rude_server,
    "rude-client": rude_client,
}
COMMANDS[sys.argv[1]](*sys.argv[2:])
