/* A library that makes calls before any other constructor has run: from its constructor, from malloc's first call,
 * from the resolver of an indirect function. */
#include "test.h"

int early_calls, early_malloc_opened, early_resolver_ran;

/* As jemalloc does it. An arena that never frees is enough for a test. */
static char arena[64 << 20] __attribute__((aligned(16)));
static _Atomic size_t used;

void *malloc(size_t size) {
    static _Atomic int started;
    if (!started) {
        char c;
        started = 1;
        long fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/stat", O_RDONLY | O_CLOEXEC, 0);
        if (fd >= 0 && syscall(SYS_read, fd, &c, 1) == 1 && syscall(SYS_close, fd) == 0) early_malloc_opened = 1;
    }
    size = (size + 31) & ~(size_t)15;
    size_t at = used += size;
    if (at > sizeof arena) return NULL;
    char *block = arena + at - size;
    *(size_t *)block = size - 16;
    return block + 16;
}
void free(void *p) { (void)p; }
void *calloc(size_t n, size_t size) { return malloc(n * size); } /* the arena is zero */
void *realloc(void *p, size_t size) {
    void *new = malloc(size);
    if (new && p) {
        size_t old = *(size_t *)((char *)p - 16);
        memcpy(new, p, old < size ? old : size);
    }
    return new;
}

static int resolved(void) { return 17; }
static int (*resolver(void))(void) {
    if (syscall(SYS_getppid) > 0) early_resolver_ran = 1;
    return resolved;
}
int early_indirect(void) __attribute__((ifunc("resolver")));

__attribute__((constructor(101))) static void first(void) {
    int fds[2], p[2];
    char buf[4];
    struct epoll_event ev = {.events = EPOLLIN};

    tcp_pair(fds);
    check_alive(fds);
    CHECK(pipe(p) == 0 && write(p[1], "x", 1) == 1);

    struct pollfd pfd = {p[0], POLLIN, 0};
    CHECK(poll(&pfd, 1, 1000) == 1 && poll(&pfd, 1, -1) == 1);
    struct timespec ts = {1, 0};
    CHECK(ppoll(&pfd, 1, &ts, NULL) == 1 && ts.tv_sec == 1);
    fd_set set;
    FD_ZERO(&set);
    FD_SET(p[0], &set);
    struct timeval tv = {5, 0};
    CHECK(select(p[0] + 1, &set, NULL, NULL, &tv) == 1 && tv.tv_sec >= 4);
    CHECK(pselect(p[0] + 1, &set, NULL, NULL, &ts, NULL) == 1);
    int epfd = epoll_create1(0);
    CHECK(epoll_ctl(epfd, EPOLL_CTL_ADD, p[0], &ev) == 0 && epoll_wait(epfd, &ev, 1, -1) == 1);

    CHECK(dup2(p[0], 50) == 50 && dup2(50, 50) == 50 && dup2(51, 51) == -1 && errno == EBADF);
    CHECK(fcntl(50, F_DUPFD, 60) == 60 && read(60, buf, 4) == 1);
    CHECK(close_range(50, 60, 0) == 0 && !is_open(50) && !is_open(60));

    FILE *f = fopen("/dev/null", "w");
    int fd = dup(1);
    FILE *g = fdopen(fd, "w");
    CHECK(f && g && fclose(f) == 0 && fprintf(g, "early\n") == 6 && fclose(g) == 0);
    CHECK(dprintf(1, "early %d %.2f %s\n", 1, 2.5, "three") == 19);
    CHECK(syscall(SYS_close, 12345) == -1 && errno == EBADF);

    struct sigaction sa = {.sa_handler = SIG_IGN};
    CHECK(sigaction(SIGUSR1, &sa, NULL) == 0 && signal(SIGUSR1, SIG_DFL) == SIG_IGN);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) _exit(7);
    CHECK(exit_status(pid) == 7);
    pid = vfork();
    CHECK(pid >= 0);
    if (pid == 0) _exit(8);
    CHECK(exit_status(pid) == 8);
    close(p[0]), close(p[1]), close(epfd), close(fds[0]), close(fds[1]);
    early_calls = 1;
}
