/* dprintf and vdprintf pass every kind of argument on, in registers and on the stack. */
#include "test.h"
#include <stdarg.h>

static int through_vdprintf(int fd, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int ret = vdprintf(fd, format, args);
    va_end(args);
    return ret;
}

#define ARGS                                                                                                   \
    "%d %s %.3f %ld %c %.2e %Lf | %d %d %d %d %d %d | %g %g %g %g %g %g %g %g %g %g | %s\n", 1, "two", 3.25, 4L, '5', 6e6, \
        7.5L, 8, 9, 10, 11, 12, 13, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, "end"

int main(void) {
    char want[512], got[512];
    int fds[2], p[2];

    int len = snprintf(want, sizeof want, ARGS);
    tcp_pair(fds);
    CHECK(pipe(p) == 0);
    CHECK(dprintf(p[1], ARGS) == len && read(p[0], got, sizeof got) == len && memcmp(got, want, len) == 0);
    CHECK(dprintf(fds[0], ARGS) == len && recv(fds[1], got, len, MSG_WAITALL) == len && memcmp(got, want, len) == 0);
    CHECK(through_vdprintf(fds[0], ARGS) == len && recv(fds[1], got, len, MSG_WAITALL) == len);
    CHECK(memcmp(got, want, len) == 0);
    CHECK(dprintf(fds[0], "plain") == 5 && recv(fds[1], got, 5, MSG_WAITALL) == 5 && memcmp(got, "plain", 5) == 0);
    CHECK(dprintf(-1, "%f", 1.0) < 0 && errno == EBADF);
    fwrite(want, 1, len, stdout);
    return 0;
}
