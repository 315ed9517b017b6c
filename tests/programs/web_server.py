"""web_server.py PORT DIRECTORY: http.server with threads, HTTP/1.1, ranges, uploads, and answers that are cut off."""

import hashlib
import http.server
import os
import re
import socket
import sys
import threading


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"x" * 600_000)
            self.close_connection = True
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            super().do_GET()
            return
        with open(self.translate_path(path), "rb") as file:
            content = file.read()
        first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.answer(content[first:last + 1])

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_PUT(self):
        body = self.body()
        self.send_response(200)
        self.answer(body if self.path == "/echo" else hashlib.sha256(body).hexdigest().encode() + b"\n")

    do_POST = do_PUT

    def answer(self, content):
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Server6(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


os.chdir(sys.argv[2])
port = int(sys.argv[1])
threading.Thread(target=Server6(("::1", port), Handler).serve_forever, daemon=True).start()
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
