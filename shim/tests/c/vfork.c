/* What a vfork child does to descriptors is its own affair: the parent's stay as they were. */
#include "test.h"

static void check_parent(const int fds[2], int own) {
    check_alive(fds);
    /* Not the child's to forget: still not the program's to close. */
    if (own >= 0) {
        CHECK(close(own) == -1 && errno == EBADF);
        CHECK(own_fd() == own);
    }
}

int main(int argc, char **argv) {
    int fds[2], own = own_fd();
    char *args[] = {argv[0], "child", NULL};

    if (argc > 1) {
        /* The new image: it has 0 to 2, and 0 is a connection. */
        char c;
        CHECK(read(0, &c, 1) == 1 && c == 'v');
        CHECK(write(0, "w", 1) == 1);
        return 5;
    }
    for (int round = 0; round < 20; round++) {
        tcp_pair(fds);
        pid_t pid = vfork();
        CHECK(pid >= 0);
        if (pid == 0) {
            dup2(fds[1], 0);
            dup3(fds[1], 60, 0);
            close(60);
            if (round % 2)
                close_range(3, ~0U, 0);
            else
                for (int fd = 3; fd < 1024; fd++) close(fd);
            socket(AF_INET, SOCK_STREAM, 0);
            execv("/proc/self/exe", args);
            _exit(127);
        }
        char c;
        CHECK(send(fds[0], "v", 1, 0) == 1);
        CHECK(recv(fds[0], &c, 1, 0) == 1 && c == 'w');
        CHECK(exit_status(pid) == 5);
        check_parent(fds, own);

        /* A child that ends without exec, from another one's child. */
        pid = vfork();
        if (pid == 0) {
            pid_t inner = vfork();
            if (inner == 0) {
                if (own >= 0) dup2(fds[1], own);
                closefrom(3);
                _exit(0);
            }
            close(fds[0]);
            _exit(inner > 0 && waitpid(inner, NULL, 0) == inner ? 6 : 7);
        }
        CHECK(exit_status(pid) == 6);
        check_parent(fds, own);
        CHECK(close(fds[0]) == 0 && close(fds[1]) == 0);
        CHECK(!is_open(fds[0]) && !is_open(fds[1]));
    }
    puts("vfork");
    return 0;
}
