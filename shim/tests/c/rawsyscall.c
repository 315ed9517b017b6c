/* libc's syscall(), as Node and libuv use it on sockets, has libc's conventions for errors and the kernel's for
 * arguments. */
#include "test.h"
#include <linux/futex.h>
#include <sys/mman.h>
#include <time.h>

int main(void) {
    int fds[2];
    char buf[16] = {0};
    struct iovec iov = {buf, 4};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    tcp_pair(fds);
    CHECK(syscall(SYS_write, fds[0], "abcd", 4) == 4);
    CHECK(syscall(SYS_read, fds[1], buf, sizeof buf) == 4 && memcmp(buf, "abcd", 4) == 0);
    CHECK(syscall(SYS_sendto, fds[1], "efgh", 4, 0, NULL, 0) == 4);
    CHECK(syscall(SYS_recvfrom, fds[0], buf, sizeof buf, 0, NULL, NULL) == 4 && buf[0] == 'e');
    CHECK(syscall(SYS_sendmsg, fds[0], &msg, 0) == 4);
    CHECK(syscall(SYS_recvmsg, fds[1], &msg, 0) == 4);
    CHECK(syscall(SYS_writev, fds[0], &iov, 1) == 4);

    struct pollfd p = {fds[1], POLLIN, 0};
    struct timespec ts = {5, 0};
    sigset_t none;
    sigemptyset(&none);
    CHECK(syscall(SYS_ppoll, &p, 1, &ts, &none, _NSIG / 8) == 1 && p.revents == POLLIN);
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fds[1], &set);
    struct {
        const sigset_t *mask;
        size_t size;
    } mask = {&none, _NSIG / 8};
    CHECK(syscall(SYS_pselect6, fds[1] + 1, &set, NULL, NULL, &ts, &mask) == 1 && FD_ISSET(fds[1], &set));
    int epfd = syscall(SYS_epoll_create1, 0);
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 77};
    CHECK(syscall(SYS_epoll_ctl, epfd, EPOLL_CTL_ADD, fds[1], &ev) == 0);
    CHECK(syscall(SYS_epoll_pwait, epfd, &ev, 1, -1, NULL, 0) == 1 && ev.data.u64 == 77);
    CHECK(syscall(SYS_readv, fds[1], &iov, 1) == 4);

    /* Six arguments, the last on the stack of the call. */
    void *map = (void *)syscall(SYS_mmap, NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(map != MAP_FAILED && syscall(SYS_munmap, map, 4096) == 0);
    int word = 1;
    CHECK(syscall(SYS_futex, &word, FUTEX_WAIT, 2, NULL, NULL, 0) == -1 && errno == EAGAIN);

    int copy = syscall(SYS_dup, fds[0]);
    CHECK(copy >= 0 && syscall(SYS_fcntl, copy, F_GETFD) == 0);
    CHECK(syscall(SYS_dup3, fds[0], 90, O_CLOEXEC) == 90 && syscall(SYS_fcntl, 90, F_GETFD) == FD_CLOEXEC);
    CHECK(syscall(SYS_close, fds[0]) == 0 && syscall(SYS_close, copy) == 0);
    CHECK(syscall(SYS_close, fds[0]) == -1 && errno == EBADF);
    fds[0] = 90;
    check_alive(fds);
    CHECK(syscall(SYS_shutdown, 90, SHUT_WR) == 0 && syscall(SYS_read, fds[1], buf, 1) == 0);
    CHECK(syscall(SYS_close, 90) == 0 && syscall(SYS_close, fds[1]) == 0);

    int lfd = syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof addr;
    CHECK(syscall(SYS_bind, lfd, &addr, len) == 0 && syscall(SYS_listen, lfd, 5) == 0);
    CHECK(syscall(SYS_getsockname, lfd, &addr, &len) == 0);
    fds[0] = syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
    CHECK(syscall(SYS_connect, fds[0], &addr, len) == 0);
    fds[1] = syscall(SYS_accept4, lfd, NULL, NULL, SOCK_CLOEXEC);
    CHECK(fcntl(fds[1], F_GETFD) == FD_CLOEXEC);
    check_alive(fds);
    CHECK(syscall(SYS_close_range, 3, ~0U, 0) == 0 && !is_open(fds[0]));
    CHECK(syscall(-1) == -1 && errno == ENOSYS);
    puts("syscall");
    syscall(SYS_exit_group, fflush(stdout) ? 1 : 0);
}
