import java.io.*;
import java.net.*;
import java.nio.ByteBuffer;
import java.nio.channels.*;
import java.nio.file.*;
import java.security.MessageDigest;
import java.util.*;
import java.util.concurrent.*;

/** Both sides of the Java runs: java JavaProgram.java ROLE PORT [FILE]. */
public class JavaProgram {
    static final byte[] CONTENT = new byte[20_000_000];

    static {
        new Random(1).nextBytes(CONTENT);
    }

    static String checksum(byte[] data) throws Exception {
        return new Short(MessageDigest.getInstance("SHA-256").digest(data)).toString();
    }

    /** The first eight bytes in hex. */
    record Short(byte[] digest) {
        public String toString() {
            return HexFormat.of().formatHex(digest, 0, 8);
        }
    }

    static InetSocketAddress address(int port) {
        return new InetSocketAddress("127.0.0.1", port);
    }

    /** Echo with a selector: one thread, many connections, half-close kept. */
    static void nioServer(ServerSocketChannel server) throws IOException {
        Selector selector = Selector.open();
        server.configureBlocking(false);
        server.register(selector, SelectionKey.OP_ACCEPT);
        while (server.isOpen()) {
            selector.select();
            for (Iterator<SelectionKey> keys = selector.selectedKeys().iterator(); keys.hasNext();) {
                SelectionKey key = keys.next();
                keys.remove();
                if (key.isAcceptable()) {
                    SocketChannel channel = server.accept();
                    if (channel != null) {
                        channel.configureBlocking(false);
                        channel.register(selector, SelectionKey.OP_READ, ByteBuffer.allocateDirect(100_000));
                    }
                    continue;
                }
                SocketChannel channel = (SocketChannel) key.channel();
                ByteBuffer buffer = (ByteBuffer) key.attachment();
                if (key.isReadable() && channel.read(buffer) < 0 && buffer.position() == 0) {
                    channel.close();
                    continue;
                }
                buffer.flip();
                channel.write(buffer);
                buffer.compact();
                int want = buffer.position() > 0 ? SelectionKey.OP_WRITE : 0;
                key.interestOps(want | (buffer.hasRemaining() ? SelectionKey.OP_READ : 0));
            }
        }
    }

    /** Echo with a thread for each connection. */
    static void classicServer(ServerSocket server) throws IOException {
        while (true) {
            Socket socket = server.accept();
            new Thread(() -> {
                try (socket) {
                    socket.getInputStream().transferTo(socket.getOutputStream());
                } catch (IOException e) {
                    System.err.println(e);
                }
            }).start();
        }
    }

    /** Classic sockets: a writing and a reading thread, with timeouts on reads. */
    static String classicClient(int port, int length) throws Exception {
        try (Socket socket = new Socket()) {
            socket.connect(address(port), 20_000);
            socket.setSoTimeout(40_000);
            Thread writer = new Thread(() -> {
                try {
                    socket.getOutputStream().write(CONTENT, 0, length);
                    socket.shutdownOutput();
                } catch (IOException e) {
                    System.err.println(e);
                }
            });
            writer.start();
            byte[] back = socket.getInputStream().readAllBytes();
            writer.join();
            return back.length + " " + checksum(back);
        }
    }

    /** A blocking channel with gathering writes, a file sent and one received by transferTo and transferFrom. */
    static String channelClient(int port, Path file) throws Exception {
        long size = Files.size(file);
        Path copy = file.resolveSibling(file.getFileName() + ".copy" + Thread.currentThread().getId());
        try (SocketChannel channel = SocketChannel.open(address(port));
             FileChannel from = FileChannel.open(file);
             FileChannel to = FileChannel.open(copy, StandardOpenOption.CREATE, StandardOpenOption.WRITE,
                 StandardOpenOption.TRUNCATE_EXISTING)) {
            Thread sender = new Thread(() -> {
                try {
                    for (long at = 0; at < size;) {
                        at += from.transferTo(at, size - at, channel);
                    }
                    channel.shutdownOutput();
                } catch (IOException e) {
                    System.err.println(e);
                }
            });
            sender.start();
            for (long at = 0, n; at < size; at += n) {
                n = to.transferFrom(channel, at, size - at);
                if (n == 0 && channel.read(ByteBuffer.allocate(1)) < 0) {
                    break;
                }
            }
            sender.join();
        }
        return checksum(Files.readAllBytes(copy));
    }

    /** Small messages back and forth. */
    static String pingPong(int port) throws Exception {
        try (Socket socket = new Socket("127.0.0.1", port)) {
            socket.setTcpNoDelay(true);
            DataOutputStream out = new DataOutputStream(socket.getOutputStream());
            DataInputStream in = new DataInputStream(socket.getInputStream());
            long sum = 0;
            for (int i = 0; i < 3000; i++) {
                out.writeLong(i);
                sum += in.readLong();
            }
            return "sum " + sum;
        }
    }

    /** A read that times out, one that is ended by close in another thread, and one by an interrupt. */
    static String endings(int port) throws Exception {
        StringBuilder result = new StringBuilder();
        try (Socket socket = new Socket("127.0.0.1", port)) {
            for (int i = 0; i < 50; i++) {
                socket.getOutputStream().write(i);
                socket.getInputStream().read();
            }
            socket.setSoTimeout(50);
            try {
                socket.getInputStream().read();
            } catch (SocketTimeoutException e) {
                result.append("timeout ");
            }
            socket.setSoTimeout(0);
            CountDownLatch begins = new CountDownLatch(1);
            Future<String> reader = pool.submit(() -> {
                try {
                    begins.countDown();
                    return "read " + socket.getInputStream().read();
                } catch (SocketException e) {
                    return e.getMessage();
                }
            });
            begins.await();
            // Mostly it sleeps by now; otherwise it finds a closed socket, which says the same.
            Thread.sleep(20);
            socket.close();
            result.append(reader.get(20, TimeUnit.SECONDS)).append(' ');
        }
        SocketChannel channel = SocketChannel.open(address(port));
        for (int i = 0; i < 50; i++) {
            channel.write(ByteBuffer.wrap(new byte[] {1}));
            channel.read(ByteBuffer.allocate(1));
        }
        Thread[] blocked = new Thread[1];
        CountDownLatch begins = new CountDownLatch(1);
        Future<String> reader = pool.submit(() -> {
            blocked[0] = Thread.currentThread();
            begins.countDown();
            try {
                return "read " + channel.read(ByteBuffer.allocate(1));
            } catch (ClosedByInterruptException e) {
                return "closed by interrupt";
            }
        });
        begins.await();
        Thread.sleep(20);
        blocked[0].interrupt();
        return result.append(reader.get(20, TimeUnit.SECONDS)).toString();
    }

    static final ExecutorService pool = Executors.newCachedThreadPool();

    static void clients(int port, Path file) throws Exception {
        List<Future<String>> results = new ArrayList<>();
        for (int i = 0; i < 6; i++) {
            int length = CONTENT.length - i * 100_003;
            results.add(pool.submit(() -> classicClient(port, length)));
            results.add(pool.submit(() -> pingPong(port)));
            results.add(pool.submit(() -> channelClient(port, file)));
        }
        for (Future<String> result : results) {
            System.out.println(result.get(50, TimeUnit.SECONDS));
        }
        System.out.println(endings(port));
    }

    public static void main(String[] words) throws Exception {
        int port = Integer.parseInt(words[1]);
        switch (words[0]) {
            case "nio-server" -> nioServer(ServerSocketChannel.open().bind(address(port)));
            case "classic-server" -> classicServer(new ServerSocket(port, 50, InetAddress.getByName("127.0.0.1")));
            case "clients" -> clients(port, Path.of(words[2]));
            case "both-ends" -> {
                ServerSocketChannel nio = ServerSocketChannel.open().bind(address(0));
                ServerSocket classic = new ServerSocket(0, 50, InetAddress.getByName("127.0.0.1"));
                daemon(() -> nioServer(nio));
                daemon(() -> classicServer(classic));
                clients(nio.socket().getLocalPort(), Path.of(words[2]));
                clients(classic.getLocalPort(), Path.of(words[2]));
                // A program started beside open connections: a helper closes all that it inherits.
                Process process = new ProcessBuilder("echo", "started").inheritIO().start();
                System.out.println("exit " + process.waitFor());
            }
            default -> throw new IllegalArgumentException(words[0]);
        }
        System.exit(0);
    }

    interface Work {
        void run() throws Exception;
    }

    static void daemon(Work work) {
        Thread thread = new Thread(() -> {
            try {
                work.run();
            } catch (Exception e) {
                System.err.println(e);
            }
        });
        thread.setDaemon(true);
        thread.start();
    }
}
