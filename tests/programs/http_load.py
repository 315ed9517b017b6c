"""http_load.py URL CONNECTIONS REQUESTS SHA256|- [STOP_FILE]: GET requests on connections that are kept.

Each thread has one connection and makes another one when the server has closed the kept one, as browsers do: a
request on a kept connection that ends before the first byte of an answer is made again. Anything else is wrong.
With STOP_FILE it goes on until the file is gone. Prints how many requests it has made, now and then, and in the end
"N right, M wrong".
"""

import hashlib
import http.client
import os
import sys
import threading
import urllib.parse


class Load:
    def __init__(self, url, requests, checksum, stop_file):
        self.url, self.requests, self.checksum, self.stop_file = urllib.parse.urlsplit(url), requests, checksum, stop_file
        self.lock = threading.Lock()
        self.right = self.wrong = 0

    def wants_more(self, done):
        return os.path.exists(self.stop_file) if self.stop_file else done < self.requests

    def thread(self):
        connection, kept, done = None, False, 0
        while self.wants_more(done):
            try:
                if connection is None:
                    connection, kept = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=50), False
                connection.request("GET", self.url.path)
                answer = connection.getresponse()
                body = answer.read()
                right = answer.status == 200 and (not self.checksum or hashlib.sha256(body).hexdigest() == self.checksum)
                what = f"status {answer.status}, {len(body)} bytes"
                closes = answer.will_close
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
                connection.close()
                connection = None
                if kept:
                    continue
                right, what, closes = False, repr(error), False
            except (OSError, http.client.HTTPException) as error:
                right, what, closes = False, repr(error), True
            if closes and connection is not None:
                connection.close()
                connection = None
            kept = True
            done += 1
            self.count(right, what)
        if connection is not None:
            connection.close()

    def count(self, right, what):
        with self.lock:
            if right:
                self.right += 1
            else:
                self.wrong += 1
                if self.wrong < 10:
                    print("wrong:", what, flush=True)
            if (self.right + self.wrong) % 50 == 0:
                print(self.right + self.wrong, flush=True)


def main():
    url, connections, requests, checksum = sys.argv[1:5]
    load = Load(url, int(requests), "" if checksum == "-" else checksum, sys.argv[5] if len(sys.argv) > 5 else None)
    threads = [threading.Thread(target=load.thread) for _ in range(int(connections))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{load.right} right, {load.wrong} wrong")
    sys.exit(load.wrong > 0)


main()
