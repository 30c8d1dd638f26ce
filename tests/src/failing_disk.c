/* A disk of which one write fails. Preloaded into the gateway by crash.rs.
 *
 * While the file named by FAILING_DISK exists, the next write to a segment of the journal fails
 * with EIO, once, and takes that file away: the disk works again, and whoever tries again would
 * succeed. What the file holds says what became of the bytes: `none`, `half` or `all` of them are
 * on the disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_segment(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 4) return 0;
    path[n] = 0;
    return strcmp(path + n - 4, ".seg") == 0;
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    const char *fails = getenv("FAILING_DISK");
    int order = fails && is_segment(fd) ? open(fails, O_RDONLY | O_CLOEXEC) : -1;
    if (order < 0) return real(fd, bytes, n, at);
    char word = 'n';
    if (read(order, &word, 1) != 1) word = 'n';
    close(order);
    unlink(fails);
    size_t some = word == 'a' ? n : word == 'h' ? n / 2 / 4096 * 4096 : 0;
    if (some) real(fd, bytes, some, at);
    errno = EIO;
    return -1;
}
