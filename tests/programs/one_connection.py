"""Makes one connection to itself and sends a byte: the smallest program that the library takes note of."""

import socket

with socket.create_server(("127.0.0.1", 0)) as listener:
    with socket.create_connection(listener.getsockname()) as one, listener.accept()[0] as other:
        one.sendall(b"1")
        assert other.recv(1) == b"1"
