/* Compiled with _FORTIFY_SOURCE: sizes that the compiler does not know go through the _chk names. */
#include "test.h"

static volatile size_t size = 16;

static int dies_of_overflow(int fds[2], int which) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        char buf[16];
        struct pollfd p[1] = {{fds[0], POLLIN, 0}};
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 2);
        CHECK(send(fds[1], "0123456789abcdefXYZ", 19, 0) == 19);
        size = 19;
        ssize_t n = which == 0   ? read(fds[0], buf, size)
                    : which == 1 ? recv(fds[0], buf, size, 0)
                    : which == 2 ? recvfrom(fds[0], buf, size, 0, NULL, NULL)
                                 : poll(p, size, 0);
        _exit(n & 1);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

int main(void) {
    int fds[2];
    char buf[16];
    struct pollfd p[1];

    tcp_pair(fds);
    CHECK(send(fds[1], "abcd", 4, 0) == 4);
    p[0] = (struct pollfd){fds[0], POLLIN, 0};
    CHECK(poll(p, size / 16, -1) == 1 && p[0].revents == POLLIN);
    CHECK(ppoll(p, size / 16, NULL, NULL) == 1);
    CHECK(recv(fds[0], buf, size / 16, 0) == 1 && buf[0] == 'a');
    CHECK(read(fds[0], buf, size / 16) == 1 && buf[0] == 'b');
    CHECK(recvfrom(fds[0], buf, size, 0, NULL, NULL) == 2 && buf[1] == 'd');
    CHECK(dprintf(fds[0], "%d:%.1f", (int)size, 0.5) == 6);
    CHECK(recv(fds[1], buf, size, 0) == 6 && memcmp(buf, "16:0.5", 6) == 0);
    for (int which = 0; which < 4; which++) CHECK(dies_of_overflow(fds, which));
    puts("fortify");
    return 0;
}
