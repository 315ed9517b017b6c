/* Calls made before constructors work; see early_lib.c. */
#include "test.h"

extern int early_calls, early_malloc_opened, early_resolver_ran;
extern int early_indirect(void);

int main(void) {
    int fds[2];
    CHECK(early_calls == 1 && early_malloc_opened == 1);
    CHECK(early_indirect() == 17 && early_resolver_ran == 1);
    tcp_pair(fds);
    check_alive(fds);
    puts("late");
    return 0;
}
