/* Connections passed to another process over a Unix socket, and numbers that are used again. */
#include "test.h"

static void send_fds(int via, const int *fds, int count, int many) {
    char control[CMSG_SPACE(sizeof(int) * 4)] = {0}, byte = 'x';
    struct iovec iov = {&byte, 1};
    struct mmsghdr m = {.msg_hdr = {.msg_iov = &iov,
                                    .msg_iovlen = 1,
                                    .msg_control = control,
                                    .msg_controllen = CMSG_SPACE(sizeof(int) * count)}};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m.msg_hdr);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
    CHECK((many ? sendmmsg(via, &m, 1, 0) : sendmsg(via, &m.msg_hdr, 0)) == 1);
}

static void recv_fds(int via, int *fds, int count, int many) {
    char control[CMSG_SPACE(sizeof(int) * 4)], byte;
    struct iovec iov = {&byte, 1};
    struct mmsghdr m = {.msg_hdr = {
                            .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control}};
    CHECK((many ? recvmmsg(via, &m, 1, 0, NULL) : recvmsg(via, &m.msg_hdr, 0)) == 1);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m.msg_hdr);
    CHECK(c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int) * count));
    memcpy(fds, CMSG_DATA(c), sizeof(int) * count);
}

int main(void) {
    int fds[2], via[2];

    for (int many = 0; many < 2; many++) {
        tcp_pair(fds);
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, via) == 0);
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            int got[2];
            close(fds[0]), close(fds[1]);
            recv_fds(via[1], got, 2, many);
            check_alive(got);
            CHECK(write(got[0], "bye", 3) == 3);
            _exit(4);
        }
        send_fds(via[0], fds, 2, many);
        CHECK(exit_status(pid) == 4);
        char buf[4];
        CHECK(read(fds[1], buf, 4) == 3 && memcmp(buf, "bye", 3) == 0);
        check_alive(fds);
        close(fds[0]), close(fds[1]), close(via[0]), close(via[1]);
    }

    /* Closed inside libc, and the number used again for a file: what the program reads is the file. */
    tcp_pair(fds);
    FILE *f = fdopen(fds[1], "r+");
    CHECK(f && send(fds[0], "line\n", 5, 0) == 5);
    char line[16];
    CHECK(fgets(line, sizeof line, f) && strcmp(line, "line\n") == 0);
    fprintf(f, "reply %d\n", 1), fflush(f);
    CHECK(recv(fds[0], line, sizeof line, 0) == 8 && memcmp(line, "reply 1\n", 8) == 0);
    CHECK(fclose(f) == 0);
    int p[2];
    CHECK(pipe(p) == 0 && (p[0] == fds[1] || p[1] == fds[1]));
    CHECK(write(p[1], "pipe", 4) == 4 && read(p[0], line, 16) == 4 && memcmp(line, "pipe", 4) == 0);
    CHECK(recv(p[0], line, 16, 0) == -1 && errno == ENOTSOCK);
    close(p[0]), close(p[1]), close(fds[0]);

    /* dup2 over a connection, by a file and by another connection. */
    int other[2];
    tcp_pair(fds), tcp_pair(other);
    CHECK(dup2(other[0], fds[0]) == fds[0]);
    CHECK(read(fds[1], line, 1) == 0); /* the last descriptor of that end is gone */
    CHECK(close(other[0]) == 0);
    other[0] = fds[0];
    check_alive(other);
    int null = open("/dev/null", O_RDONLY);
    CHECK(dup2(null, other[0]) == other[0] && read(other[0], line, 1) == 0 && read(other[1], line, 1) == 0);
    CHECK(dup2(12345, other[1]) == -1 && errno == EBADF);
    CHECK(write(other[1], "", 0) == 0);
    f = freopen("/dev/null", "w", fdopen(other[1], "w"));
    CHECK(f && fileno(f) >= 0 && write(fileno(f), "x", 1) == 1);
    puts("pass");
    return 0;
}
