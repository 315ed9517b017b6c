/* errno after each call, to be compared with what it is without the shim. */
#include "test.h"
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <spawn.h>

#define SHOW(call)                                             \
    do {                                                       \
        errno = 4242;                                          \
        long ret_ = (long)(call);                              \
        int err_ = errno;                                      \
        printf("%s: %ld, %d\n", #call, ret_ < 0 ? -1L : 0L, err_); \
    } while (0)

/* The kernel may deliver it later than the sending call returns. */
static void await_input(int fd) { CHECK(poll(&(struct pollfd){fd, POLLIN, 0}, 1, -1) == 1); }

extern char **environ;

int main(void) {
    struct sockaddr_in addr;
    char buf[64] = "abc";
    int value = 0, p[2];
    volatile int negative = -1;
    socklen_t len = sizeof value;
    struct iovec iov = {buf, 3};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    struct epoll_event ev = {.events = EPOLLIN};
    struct sigaction sa = {.sa_handler = SIG_IGN};
    pid_t pid;

    int s, c, a, d, e, lfd;
    SHOW(s = socket(AF_INET, SOCK_STREAM, 0));
    SHOW(close(s));
    SHOW(close(s));
    SHOW(socket(-1, 0, 0));
    lfd = listener(&addr);
    SHOW(listen(lfd, 5));
    SHOW(c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP));
    SHOW(recv(c, buf, 3, 0));
    SHOW(connect(c, (struct sockaddr *)&addr, sizeof addr));
    SHOW(connect(c, (struct sockaddr *)&addr, sizeof addr));
    SHOW(a = accept4(lfd, NULL, NULL, SOCK_NONBLOCK));
    SHOW(accept4(c, NULL, NULL, 0));
    SHOW(recv(a, buf, 3, 0));
    SHOW(send(c, buf, 3, 0));
    await_input(a);
    SHOW(recv(a, buf, 3, 0));
    SHOW(write(c, buf, 3));
    await_input(a);
    SHOW(read(a, buf, 3));
    SHOW(sendmsg(c, &msg, 0));
    await_input(a);
    SHOW(recvmsg(a, &msg, 0));
    SHOW(writev(c, &iov, 1));
    await_input(a);
    SHOW(readv(a, &iov, 1));
    SHOW(writev(c, &iov, negative));
    SHOW(preadv2(c, &iov, 1, 0, 0));
    SHOW(setsockopt(c, SOL_SOCKET, SO_KEEPALIVE, &value, len));
    SHOW(getsockopt(c, SOL_SOCKET, SO_ERROR, &value, &len));
    SHOW(getsockopt(c, SOL_SOCKET, 9999, &value, &len));
    SHOW(fcntl(c, F_GETFL));
    SHOW(fcntl(c, 9999));
    SHOW(ioctl(c, FIONREAD, &value));
    SHOW(ioctl(c, 9999, &value));
    SHOW(d = dup(c));
    SHOW(dup2(c, 70));
    SHOW(dup2(c, -1));
    SHOW(dup2(c, c));
    SHOW(dup3(c, c, 0));
    SHOW(dup3(c, 71, O_CLOEXEC));
    SHOW(fcntl(c, F_DUPFD, 80));
    SHOW(fcntl(c, F_DUPFD, -1));
    SHOW(close_range(70, 71, 0));
    SHOW(poll(&(struct pollfd){c, POLLIN, 0}, 1, 0));
    SHOW(select(0, NULL, NULL, NULL, &(struct timeval){0, 0}));
    SHOW(select(-1, NULL, NULL, NULL, NULL));
    SHOW(e = epoll_create1(0));
    SHOW(epoll_ctl(e, EPOLL_CTL_ADD, c, &ev));
    SHOW(epoll_ctl(e, EPOLL_CTL_ADD, c, &ev));
    SHOW(epoll_wait(e, &ev, 1, 0));
    SHOW(epoll_wait(e, &ev, 0, 0));
    SHOW(pipe(p));
    SHOW(splice(a, NULL, p[1], NULL, 10, SPLICE_F_NONBLOCK));
    SHOW(sendfile(c, p[0], NULL, 0));
    SHOW(eventfd(0, EFD_CLOEXEC));
    SHOW(open("/dev/null", O_RDONLY));
    SHOW(open("/nonexistent/file", O_RDONLY));
    SHOW(syscall(SYS_read, a, buf, 3));
    SHOW(syscall(SYS_getpid));
    SHOW(syscall(SYS_close, 9999));
    SHOW(syscall(99999));
    SHOW(sigaction(SIGPIPE, &sa, NULL));
    SHOW(sigaction(9999, &sa, NULL));
    SHOW(posix_spawnp(&pid, "true", NULL, NULL, (char *[]){"true", NULL}, environ));
    SHOW(waitpid(pid, &value, 0));
    SHOW(pid = fork());
    if (pid == 0) _exit(0);
    SHOW(waitpid(pid, &value, 0));
    SHOW(pid = vfork());
    if (pid == 0) _exit(0);
    SHOW(waitpid(pid, &value, 0));
    SHOW(execve("/nonexistent", (char *[]){"x", NULL}, environ));
    SHOW(shutdown(c, SHUT_WR));
    SHOW(send(c, buf, 3, MSG_NOSIGNAL));
    await_input(a);
    SHOW(read(a, buf, 3));
    SHOW(shutdown(lfd, 99));
    SHOW(close(c));
    SHOW(close(d));
    SHOW(fclose(fdopen(a, "r")));
    return 0;
}
