/* A thread cancelled in a blocking call ends, runs its cleanup handlers, and leaves the sockets usable. */
#include "test.h"
#include <sys/ioctl.h>

static int fds[2], lfd, epfd;
static _Atomic pid_t tid;
static _Atomic int cleaned;
static char buf[1 << 16];

static void clean(void *arg) {
    (void)arg;
    cleaned++;
}

static struct iovec iov = {buf, sizeof buf};
static struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

static void do_recv(void) { recv(fds[0], buf, sizeof buf, 0); }
static void do_read(void) { CHECK(read(fds[0], buf, sizeof buf) < 0); }
static void do_readv(void) { CHECK(readv(fds[0], &iov, 1) < 0); }
static void do_recvfrom(void) { recvfrom(fds[0], buf, sizeof buf, 0, NULL, NULL); }
static void do_recvmsg(void) { recvmsg(fds[0], &msg, 0); }
static void do_recvmmsg(void) {
    struct mmsghdr many = {.msg_hdr = msg};
    recvmmsg(fds[0], &many, 1, 0, NULL);
}
/* The buffers are full: these block. */
static void do_send(void) {
    for (;;) send(fds[0], buf, sizeof buf, 0);
}
static void do_write(void) {
    for (;;)
        if (write(fds[0], buf, sizeof buf) < 0) break;
}
static void do_writev(void) {
    for (;;)
        if (writev(fds[0], &iov, 1) < 0) break;
}
static void do_sendmsg(void) {
    for (;;) sendmsg(fds[0], &msg, 0);
}
static void do_poll(void) {
    struct pollfd p = {fds[0], POLLIN, 0};
    poll(&p, 1, -1);
}
static void do_ppoll(void) {
    struct pollfd p = {fds[0], POLLIN, 0};
    ppoll(&p, 1, NULL, NULL);
}
static void do_select(void) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fds[0], &set);
    select(fds[0] + 1, &set, NULL, NULL, NULL);
}
static void do_pselect(void) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fds[0], &set);
    pselect(fds[0] + 1, &set, NULL, NULL, NULL, NULL);
}
static void do_epoll_wait(void) {
    struct epoll_event ev;
    epoll_wait(epfd, &ev, 1, -1);
}
static void do_epoll_pwait(void) {
    struct epoll_event ev;
    epoll_pwait(epfd, &ev, 1, -1, NULL);
}
static void do_accept(void) { accept(lfd, NULL, NULL); }
static void do_accept4(void) { accept4(lfd, NULL, NULL, SOCK_CLOEXEC); }

static void *run(void *arg) {
    pthread_cleanup_push(clean, NULL);
    tid = gettid();
    ((void (*)(void))arg)();
    pthread_cleanup_pop(0);
    return NULL;
}

/* Until the thread sleeps: it makes no call that can, but the one to be cancelled. */
static void await_sleep(void) {
    char path[64], stat[256];
    while (tid == 0) sched_yield();
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)tid);
    for (;;) {
        FILE *f = fopen(path, "r");
        CHECK(f != NULL && fgets(stat, sizeof stat, f) != NULL);
        fclose(f);
        if (strrchr(stat, ')')[2] == 'S') return;
        sched_yield();
    }
}

static void cancelled_in(const char *name, void (*call)(void)) {
    pthread_t thread;
    void *result;
    struct epoll_event ev = {.events = EPOLLIN};
    struct sockaddr_in addr;

    tcp_pair(fds);
    lfd = listener(&addr);
    epfd = epoll_create1(EPOLL_CLOEXEC);
    CHECK(epfd >= 0 && epoll_ctl(epfd, EPOLL_CTL_ADD, fds[0], &ev) == 0);
    cleaned = 0;
    tid = 0;
    CHECK(pthread_create(&thread, NULL, run, (void *)call) == 0);
    await_sleep();
    CHECK(pthread_cancel(thread) == 0);
    CHECK(pthread_join(thread, &result) == 0);
    CHECK(result == PTHREAD_CANCELED);
    CHECK(cleaned == 1);

    /* What a cancelled sender had sent is there, and the connection goes on. */
    int queued;
    do {
        CHECK(ioctl(fds[0], TIOCOUTQ, &queued) == 0);
        while (recv(fds[1], buf, sizeof buf, MSG_DONTWAIT) > 0) {
        }
        CHECK(errno == EAGAIN);
    } while (queued > 0); /* and on its way */
    check_alive(fds);
    int c = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(c, (struct sockaddr *)&addr, sizeof addr) == 0);
    int a = accept(lfd, NULL, NULL);
    CHECK(a >= 0);
    close(a), close(c), close(lfd), close(epfd), close(fds[0]), close(fds[1]);
    printf("%s\n", name);
}

#define CANCELLED_IN(call) cancelled_in(#call, do_##call)

int main(void) {
    for (int i = 0; i < 3; i++) {
        CANCELLED_IN(recv), CANCELLED_IN(read), CANCELLED_IN(readv), CANCELLED_IN(recvfrom);
        CANCELLED_IN(recvmsg), CANCELLED_IN(recvmmsg);
        CANCELLED_IN(send), CANCELLED_IN(write), CANCELLED_IN(writev), CANCELLED_IN(sendmsg);
        CANCELLED_IN(poll), CANCELLED_IN(ppoll), CANCELLED_IN(select), CANCELLED_IN(pselect);
        CANCELLED_IN(epoll_wait), CANCELLED_IN(epoll_pwait), CANCELLED_IN(accept), CANCELLED_IN(accept4);
    }
    return 0;
}
