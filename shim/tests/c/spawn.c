/* Programs started in every way, with sockets open; exec that fails leaves them working. */
#include "test.h"
#include <spawn.h>

extern char **environ;

int main(int argc, char **argv) {
    int fds[2];
    pid_t pid;
    char *args[] = {argv[0], "child", NULL};
    char line[16];

    if (argc > 1 && strcmp(args[1], argv[1]) == 0) return 3;
    if (argc > 1) {
        /* Standard input and output are a connection. */
        char c;
        return read(0, &c, 1) == 1 && c == 'a' && write(1, "b", 1) == 1 ? 2 : 1;
    }
    tcp_pair(fds);
    fcntl(fds[0], F_SETFD, FD_CLOEXEC), fcntl(fds[1], F_SETFD, FD_CLOEXEC);
    check_alive(fds);
    CHECK(posix_spawn(&pid, "/proc/self/exe", NULL, NULL, args, environ) == 0 && exit_status(pid) == 3);

    posix_spawn_file_actions_t actions;
    char *reader[] = {argv[0], "reader", NULL};
    CHECK(posix_spawn_file_actions_init(&actions) == 0);
    CHECK(posix_spawn_file_actions_adddup2(&actions, fds[1], 0) == 0);
    CHECK(posix_spawn_file_actions_adddup2(&actions, fds[1], 1) == 0);
    CHECK(posix_spawn(&pid, "/proc/self/exe", &actions, NULL, reader, environ) == 0);
    CHECK(write(fds[0], "a", 1) == 1 && read(fds[0], line, sizeof line) == 1 && line[0] == 'b');
    CHECK(exit_status(pid) == 2);
    check_alive(fds);

    CHECK(posix_spawnp(&pid, "nonexistent-program", NULL, NULL, args, environ) == ENOENT);
    CHECK(WEXITSTATUS(system("exit 4")) == 4);
    FILE *f = popen("echo out", "r");
    CHECK(f && fgets(line, sizeof line, f) && strcmp(line, "out\n") == 0 && pclose(f) == 0);
    for (int how = 0; how < 6; how++) {
        pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            int exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
            CHECK(execv("/nonexistent", args) == -1 && errno == ENOENT);
            check_alive(fds);
            switch (how) {
            case 0: execv("/proc/self/exe", args); break;
            case 1: execve("/proc/self/exe", args, environ); break;
            case 2: execvp("/proc/self/exe", args); break;
            case 3: execvpe("/proc/self/exe", args, environ); break;
            case 4: fexecve(exe, args, environ); break;
            case 5: execl("/proc/self/exe", argv[0], "child", (char *)NULL); break;
            }
            _exit(99);
        }
        CHECK(exit_status(pid) == 3);
        check_alive(fds);
    }
    puts("spawn");
    fflush(stdout);
    _Exit(0);
}
