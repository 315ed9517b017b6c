/* Programs that close everything: their own descriptors are closed, and nothing else breaks. */
#include "test.h"

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4
#endif
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2
#endif

static int fds[2], high;

static void by_loop(void) {
    for (int fd = 3; fd < 1024; fd++) close(fd);
}
static void by_syscall_loop(void) {
    for (int fd = 3; fd < 1024; fd++) syscall(SYS_close, fd);
}
static void by_closefrom(void) { closefrom(3); }
static void by_range(void) { CHECK(close_range(3, ~0U, 0) == 0); }
static void by_raw_range(void) { CHECK(syscall(SYS_close_range, 3, ~0U, 0) == 0); }
static void by_two_ranges(void) {
    CHECK(close_range(high, ~0U, 0) == 0);
    CHECK(is_open(fds[0]) && !is_open(high));
    CHECK(close_range(3, high, 0) == 0);
}
static void by_unsharing_range(void) { CHECK(close_range(3, ~0U, CLOSE_RANGE_UNSHARE) == 0); }
static void by_proc(void) {
    int listed[2048], count = 0;
    DIR *dir = opendir("/proc/self/fd");
    CHECK(dir != NULL);
    for (struct dirent *e; (e = readdir(dir)) != NULL;)
        if (e->d_name[0] != '.' && atoi(e->d_name) > 2 && count < 2048) listed[count++] = atoi(e->d_name);
    closedir(dir);
    for (int i = 0; i < count; i++) close(listed[i]);
}

static void closed_by(const char *name, void (*method)(void)) {
    int own = own_fd();
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        tcp_pair(fds);
        high = fcntl(fds[0], F_DUPFD_CLOEXEC, 900);
        CHECK(high >= 900 && (own < 0 || high > own));
        method();
        CHECK(!is_open(fds[0]) && !is_open(fds[1]) && !is_open(high));
        CHECK(own_fd() == own);
        tcp_pair(fds);
        CHECK(fds[0] < 8 && fds[1] < 8);
        check_alive(fds);
        _exit(0);
    }
    CHECK(exit_status(pid) == 0);
    printf("%s\n", name);
}

int main(void) {
    closed_by("loop", by_loop);
    closed_by("syscall loop", by_syscall_loop);
    closed_by("closefrom", by_closefrom);
    closed_by("range", by_range);
    closed_by("raw range", by_raw_range);
    closed_by("two ranges", by_two_ranges);
    closed_by("unsharing range", by_unsharing_range);
    closed_by("proc", by_proc);

    /* Not a close: the connection lives on. */
    tcp_pair(fds);
    if (close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) == 0) {
        check_alive(fds);
        CHECK(fcntl(fds[0], F_GETFD) == FD_CLOEXEC);
    }
    CHECK(close_range(9, 8, 0) == -1 && errno == EINVAL);
    CHECK(close_range(3, ~0U, 1 << 20) == -1 && errno == EINVAL);
    check_alive(fds);

    /* Numbers of the shim's own are the program's for the taking: those that are open and that it may not have. */
    int own = own_fd(), taken = 0;
    for (int number = 3; number < 1024; number++) {
        char path[64];
        struct stat st;
        snprintf(path, sizeof path, "/proc/self/fd/%d", number);
        if (lstat(path, &st) != 0 || is_open(number)) continue;
        CHECK(dup(number) == -1 && errno == EBADF);
        CHECK(dup2(number, 40) == -1 && errno == EBADF && !is_open(40));
        CHECK(close(number) == -1 && errno == EBADF);
        if (dup2(fds[0], number) == -1) {
            /* In use for a moment, as dup2(2) has it. */
            CHECK(errno == EBUSY && number != own);
            continue;
        }
        CHECK(close(fds[0]) == 0);
        fds[0] = number;
        check_alive(fds);
        if (++taken == 8) break; /* they move out of the way, to numbers that come later */
    }
    if (own >= 0) CHECK(taken > 0 && own_fd() >= 0 && own_fd() != fds[0]);
    CHECK(close(fds[0]) == 0 && close(fds[1]) == 0);
    puts("dup2");
    return 0;
}
