/* Forked children of a program with busy threads work, however they were forked. */
#include "test.h"
#include <dlfcn.h>
#include <sys/resource.h>

static _Atomic int stop;

static void *busy(void *arg) {
    (void)arg;
    while (!stop) {
        int fds[2];
        tcp_pair(fds);
        check_alive(fds);
        int copy = dup(fds[0]);
        close(fds[0]), close(fds[1]), close(copy);
    }
    return NULL;
}

static void child_works(const int inherited[2]) {
    int fds[2], own = own_fd();
    alarm(200); /* a child that deadlocks is to fail, not to hang */
    check_alive(inherited);
    tcp_pair(fds);
    check_alive(fds);
    close(fds[0]);
    close_range(3, ~0U, 0);
    CHECK(own_fd() == own); /* the shim is at work in this child too */
    tcp_pair(fds);
    check_alive(fds);
    _exit(9);
}

int main(void) {
    pthread_t threads[3];
    int fds[2];
    pid_t (*bare_fork)(void) = (pid_t(*)(void))dlsym(RTLD_DEFAULT, "_Fork");

    tcp_pair(fds);
    for (int i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], NULL, busy, NULL) == 0);
    for (int i = 0; i < 60; i++) {
        pid_t pid = i % 3 == 0 ? fork() : i % 3 == 1 && bare_fork ? bare_fork() : (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
        CHECK(pid >= 0);
        if (pid == 0) child_works(fds);
        CHECK(exit_status(pid) == 9);
        check_alive(fds);
    }
    stop = 1;
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    puts("fork");
    return 0;
}
