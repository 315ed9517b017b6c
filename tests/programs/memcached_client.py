"""memcached_client.py HOST PORT THREADS ROUNDS: sets and gets with the text and the meta protocol; prints checksums."""

import hashlib
import random
import socket
import sys
import threading


class Client:
    def __init__(self, address, number, rounds):
        self.number, self.rounds, self.random = number, rounds, random.Random(number)
        self.socket = socket.create_connection(address)
        self.file = self.socket.makefile("rb")
        self.checksum = hashlib.sha256()

    def expect(self, line):
        got = self.file.readline()
        assert got == line, (got, line)

    def value(self, head, size):
        assert self.file.readline().split()[0] == head
        data = self.file.read(size + 2)
        self.checksum.update(data)
        return data[:-2]

    def run(self):
        for turn in range(self.rounds):
            size = self.random.choice([1, 100, 4000, 70_000, 900_000])
            key, data = b"key%d.%d" % (self.number, turn % 10), self.random.randbytes(size)
            self.socket.sendall(b"set %s 0 0 %d\r\n%s\r\n" % (key, size, data))
            self.expect(b"STORED\r\n")
            self.socket.sendall(b"get %s\r\nmg %s v\r\n" % (key, key))
            assert self.value(b"VALUE", size) == data
            self.expect(b"END\r\n")
            assert self.value(b"VA", size) == data
            # Many small ones in one go.
            self.socket.sendall(b"".join(b"set small%d 0 0 3\r\n%03d\r\n" % (self.number, i) for i in range(100)))
            for _ in range(100):
                self.expect(b"STORED\r\n")
        self.socket.sendall(b"set count%d 0 0 1\r\n0\r\n" % self.number)
        self.expect(b"STORED\r\n")
        for i in range(300):
            self.socket.sendall(b"incr count%d 7\r\n" % self.number)
            self.expect(b"%d\r\n" % (7 * (i + 1)))


def main():
    clients = [Client((sys.argv[1], int(sys.argv[2])), i, int(sys.argv[4])) for i in range(int(sys.argv[3]))]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        print(client.checksum.hexdigest())


main()
