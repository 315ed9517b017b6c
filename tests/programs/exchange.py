"""Both ends of one connection in one process: small messages there and back, all of them right.

    exchange.py [ROUNDS [--async]]   --async: connects without blocking
"""

import selectors
import socket
import sys
import threading

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 200


def serve(listener):
    connection, _ = listener.accept()
    with connection:
        while data := connection.recv(4096):
            connection.sendall(data)


def connect(address):
    if "--async" not in sys.argv:
        return socket.create_connection(address)
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(address)
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_WRITE)
        selector.select()
    client.setblocking(True)
    return client


with socket.create_server(("127.0.0.1", 0)) as listener:
    server = threading.Thread(target=serve, args=(listener,))
    server.start()
    with connect(listener.getsockname()) as client:
        for number in range(ROUNDS):
            message = b"%100d" % number
            client.sendall(message)
            received = b""
            while len(received) < len(message):
                received += client.recv(len(message) - len(received))
            assert received == message, (received, message)
    server.join()
print("all right")
