"""Both sides of the CPython runs: python_program.py ROLE PORT [CERTIFICATE KEY]"""

import asyncio
import hashlib
import http.server
import multiprocessing
import multiprocessing.connection
import signal
import socket
import ssl
import sys
import threading

ROLE, PORT = sys.argv[1], int(sys.argv[2])
CONTENT = bytes(range(256)) * 20_000
ADDRESS = ("127.0.0.1", PORT)


def checksum(data):
    return hashlib.sha256(data).hexdigest()[:16]


# asyncio: streams, many connections

async def asyncio_server():
    async def serve(reader, writer):
        try:
            while size := await reader.readline():
                data = await reader.readexactly(int(size))
                writer.write(b"%d\n" % len(data) + data)
                await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, *ADDRESS, limit=2**20)
    async with server:
        await server.serve_forever()


async def asyncio_client():
    async def one(number):
        reader, writer = await asyncio.open_connection(*ADDRESS, limit=2**20)
        result = hashlib.sha256()
        for turn in range(40):
            data = CONTENT[:(number * 7919 + turn * 104_729) % 300_000 + 1]
            writer.write(b"%d\n" % len(data) + data)
            size = int(await reader.readline())
            result.update(await asyncio.wait_for(reader.readexactly(size), 50))
        writer.close()
        await writer.wait_closed()
        return result.hexdigest()[:16]

    print(await asyncio.gather(*(one(number) for number in range(20))))


# multiprocessing: a listener, connections passed to a pool of processes

def work(connection):
    """In a child: serves a connection that the parent has accepted."""
    with connection:
        while True:
            data = connection.recv(65536)
            if not data:
                return
            connection.sendall(data)


def multiprocessing_server():
    # By exit, so that the children end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    def listener():
        with multiprocessing.connection.Listener(("127.0.0.1", PORT + 1), authkey=b"key") as accepting:
            while True:
                with accepting.accept() as connection:
                    while (message := connection.recv()) is not None:
                        connection.send({"size": len(message), "sum": checksum(message), "back": message})

    # What a child gets by fork, and by SCM_RIGHTS (a queue of a process that is there already).
    queue = multiprocessing.Queue()

    def passed(queue):
        while connection := queue.get():
            threading.Thread(target=work, args=(connection,)).start()

    children = [multiprocessing.Process(target=passed, args=(queue,), daemon=True) for _ in range(2)]
    for child in children:
        child.start()
    threading.Thread(target=listener, daemon=True).start()
    with socket.create_server(ADDRESS) as accepting:
        turn = 0
        while True:
            connection, _ = accepting.accept()
            turn += 1
            # A word from the parent first, and one to it.
            connection.sendall(b"welcome\n")
            connection.recv(6, socket.MSG_WAITALL)
            if turn % 2:
                queue.put(connection)
                keep.append(connection)
            else:
                child = multiprocessing.Process(target=work, args=(connection,), daemon=True)
                child.start()
                connection.close()
            while len(keep) > 10:
                keep.pop(0).close()


# The queue's thread must have passed them on before they are closed here.
keep = []


def multiprocessing_client():
    with multiprocessing.connection.Client(("127.0.0.1", PORT + 1), authkey=b"key") as connection:
        for size in (1, 1000, 100_000, 5_000_000):
            connection.send(CONTENT[:size])
            answer = connection.recv()
            assert answer["back"] == CONTENT[:size]
            print(answer["size"], answer["sum"])
        connection.send(None)
    for _ in range(8):
        with socket.create_connection(ADDRESS) as connection:
            assert connection.recv(8, socket.MSG_WAITALL) == b"welcome\n"
            connection.sendall(b"thanks")
            received = bytearray()
            for start in range(0, 1_000_000, 50_000):
                connection.sendall(CONTENT[start:start + 50_000])
                while len(received) < start + 50_000:
                    part = connection.recv(65536)
                    assert part, "ended early"
                    received += part
            print(checksum(received))


# http.server and requests, over TLS

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, content):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.answer(CONTENT[:int(self.path[1:])])

    def do_POST(self):
        self.answer(checksum(self.rfile.read(int(self.headers["Content-Length"]))).encode())


def requests_server():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3], sys.argv[4])
    server = http.server.ThreadingHTTPServer(ADDRESS, Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


def requests_client():
    import requests  # only here: a package that Debian brings

    def session():
        made = requests.Session()
        made.verify = sys.argv[3]
        # REQUESTS_CA_BUNDLE would take the place of that.
        made.trust_env = False
        return made

    url = f"https://localhost:{PORT}"
    with session() as kept:
        for size in (1, 1000, 70_000, 5_000_000, *([2000] * 100)):
            answer = kept.get(f"{url}/{size}", timeout=50)
            assert answer.content == CONTENT[:size]
        print(kept.post(url, data=CONTENT, timeout=50).text)
    for size in range(1000, 100_000, 9000):
        with session() as short:
            print(checksum(short.get(f"{url}/{size}", timeout=50).content))


roles = {name.replace("_", "-"): value for name, value in globals().items() if name.endswith(("_server", "_client"))}
role = roles[ROLE]
if asyncio.iscoroutinefunction(role):
    asyncio.run(role())
else:
    role()
