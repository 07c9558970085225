/* Runs every test, or the one that is named. */
#include "check.h"

int main(int count, char **arguments) {
    static const struct {
        const char *name;
        void (*run)(void);
    } tests[] = {
        {"publish", test_publish},   {"publish_with", test_publish_with},
        {"batch", test_batch},       {"errors", test_errors},
        {"lookup", test_lookup},     {"guard", test_guard},
        {"redirect", test_redirect}, {"patch", test_patch},
        {"memory", test_memory},     {"threads", test_threads},
    };
    size_t run = 0;
    for (size_t test = 0; test < sizeof tests / sizeof *tests; test++) {
        if (count < 2 || strcmp(arguments[1], tests[test].name) == 0) {
            tests[test].run();
            printf("%s\n", tests[test].name);
            run++;
        }
    }
    CHECK(run > 0);
    return 0;
}
