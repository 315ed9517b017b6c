"""Starts programs beside open connections, which go on before, meanwhile and after.

CPython starts them by vfork where it can: the child closes and duplicates descriptors in the parent's memory.
Exits with 0 when every byte came back.
"""

import socket
import subprocess
import sys
import threading

MESSAGE = bytes(range(256)) * 8


def receive(connection, size):
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError(f"{len(data)} of {size} bytes")
        data += part
    return bytes(data)


def echo(connection):
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)


def exchange(connection, times):
    for _ in range(times):
        connection.sendall(MESSAGE)
        if receive(connection, len(MESSAGE)) != MESSAGE:
            raise ValueError("other bytes came back")


def main():
    listener = socket.create_server(("127.0.0.1", 0))
    connections = []
    for _ in range(4):
        connections.append(socket.create_connection(listener.getsockname()))
        accepted, _ = listener.accept()
        threading.Thread(target=echo, args=(accepted,), daemon=True).start()
    for connection in connections:
        exchange(connection, 64)

    failures = []
    stop = threading.Event()

    def exchange_meanwhile(connection):
        try:
            while not stop.is_set():
                exchange(connection, 10)
        except Exception as error:  # whatever it is, the program fails by it
            failures.append(error)

    meanwhile = [threading.Thread(target=exchange_meanwhile, args=(c,)) for c in connections[:2]]
    for thread in meanwhile:
        thread.start()
    for turn in range(30):
        result = subprocess.run(["/bin/cat"], input=b"in and out", capture_output=True, close_fds=turn % 3 != 0)
        if (result.returncode, result.stdout) != (0, b"in and out"):
            failures.append(result)
        with subprocess.Popen(["/bin/sh", "-c", "read x; exit 7"], stdin=subprocess.PIPE) as child:
            exchange(connections[2], 3)
            child.communicate(b"x\n")
        if child.returncode != 7:
            failures.append(child.returncode)
        # An inherited connection, which nobody uses there.
        subprocess.run(["/bin/true"], pass_fds=[connections[3].fileno()], check=True)
        exchange(connections[3], 3)
    stop.set()
    for thread in meanwhile:
        thread.join()
    for connection in connections:
        exchange(connection, 10)
        connection.shutdown(socket.SHUT_WR)
        if connection.recv(10):
            failures.append("bytes after the end")
    for failure in failures:
        print("subprocesses.py:", repr(failure), file=sys.stderr)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
