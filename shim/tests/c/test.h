/* What the test programs share: checks, and a pair of connected TCP sockets. */
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* If the condition does not hold, says so on stderr and ends the program. */
#define CHECK(cond)                                                                                      \
    do {                                                                                                 \
        if (!(cond)) {                                                                                   \
            fprintf(stderr, "%s:%d: %s (errno %d)\n", __FILE__, __LINE__, #cond, errno);                 \
            _exit(1);                                                                                    \
        }                                                                                                \
    } while (0)

/* A listener on a port of the kernel's choice; its address in *addr. */
static inline int listener(struct sockaddr_in *addr) {
    socklen_t len = sizeof *addr;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    *addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    CHECK(bind(fd, (struct sockaddr *)addr, sizeof *addr) == 0);
    CHECK(listen(fd, 16) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)addr, &len) == 0);
    return fd;
}

/* Both directions of the connection work. */
static inline void check_alive(const int fds[2]) {
    char buf[8];
    CHECK(send(fds[0], "ping", 4, MSG_NOSIGNAL) == 4);
    CHECK(recv(fds[1], buf, sizeof buf, 0) == 4 && memcmp(buf, "ping", 4) == 0);
    CHECK(write(fds[1], "pong!", 5) == 5);
    CHECK(read(fds[0], buf, sizeof buf) == 5 && memcmp(buf, "pong!", 5) == 0);
}

/* Two ends of a TCP connection: fds[0] connected, fds[1] was accepted. $TEST_EXCHANGES messages have gone to and fro, so
 * that under the shim the connection may have been moved. */
static inline void tcp_pair(int fds[2]) {
    struct sockaddr_in addr;
    int lfd = listener(&addr);
    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fds[0] >= 0);
    CHECK(connect(fds[0], (struct sockaddr *)&addr, sizeof addr) == 0);
    fds[1] = accept(lfd, NULL, NULL);
    CHECK(fds[1] >= 0);
    CHECK(close(lfd) == 0);
    const char *exchanges = getenv("TEST_EXCHANGES");
    for (int i = exchanges ? atoi(exchanges) : 0; i > 0; i--) check_alive(fds);
}

static inline int is_open(int fd) { return fcntl(fd, F_GETFD) != -1; }

/* The descriptor of the file that $TEST_LOG names, or -1: under the shim, one of the shim's own. Goes by what the
 * kernel says, not by what the shim lets through. */
static inline int own_fd(void) {
    const char *want = getenv("TEST_LOG");
    char path[64], target[PATH_MAX];
    if (want == NULL) return -1;
    for (int fd = 3; fd < 2048; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t len = readlink(path, target, sizeof target - 1);
        if (len > 0) {
            target[len] = 0;
            if (strcmp(target, want) == 0) return fd;
        }
    }
    return -1;
}

/* Waits for a child and returns its exit status; anything else ends the program. */
static inline int exit_status(pid_t pid) {
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status);
}
