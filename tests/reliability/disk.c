/* A disk that fills up or cannot be written, for the processes that are started with this library (LD_PRELOAD) and told so:

   PARALLAX_DISK_UNDER      the folder whose disk it is; what is written elsewhere, and screen-*.txt, is left alone
   PARALLAX_DISK_LOG        a file that gets "W path" for every write below it, "R from to" for every rename, "F path" for a failure
   PARALLAX_DISK_FULL_FROM  the number of the write from which on all fail with ENOSPC
   PARALLAX_DISK_READ_ONLY  a folder in which nothing can be made or opened for writing: EROFS

   Whoever writes, in whatever language, comes through here: Python, pyarrow, safetensors, torch. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static long writes = 0;

static int below(const char *path, const char *folder) {
    size_t length = folder ? strlen(folder) : 0;
    return length && !strncmp(path, folder, length) && (path[length] == '/' || path[length] == 0);
}

static void note(const char *kind, const char *path, const char *more) {
    const char *file = getenv("PARALLAX_DISK_LOG");
    char line[9000];
    int length, handle;
    if (!file) return;
    length = snprintf(line, sizeof line, "%s %s%s%s\n", kind, path, more ? "\t" : "", more ? more : "");
    handle = (int)syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (handle < 0) return;
    syscall(SYS_write, handle, line, (size_t)length);
    syscall(SYS_close, handle);
}

static int full(int handle) {
    const char *under = getenv("PARALLAX_DISK_UNDER"), *from;
    char link[64], path[4096];
    ssize_t length;
    long number;
    if (!under) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (!below(path, under) || strstr(path, "/screen-")) return 0;
    number = __sync_add_and_fetch(&writes, 1);
    from = getenv("PARALLAX_DISK_FULL_FROM");
    if (from && number >= atol(from)) {
        note("F", path, NULL);
        errno = ENOSPC;
        return 1;
    }
    note("W", path, NULL);
    return 0;
}

ssize_t write(int handle, const void *data, size_t size) {
    REAL(write);
    return full(handle) ? -1 : real(handle, data, size);
}

ssize_t pwrite(int handle, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    return full(handle) ? -1 : real(handle, data, size, at);
}

ssize_t pwrite64(int handle, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    return full(handle) ? -1 : real(handle, data, size, at);
}

ssize_t writev(int handle, const struct iovec *parts, int count) {
    REAL(writev);
    return full(handle) ? -1 : real(handle, parts, count);
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *stream) {
    REAL(fwrite);
    return full(fileno(stream)) ? 0 : real(data, size, count, stream);
}

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    REAL(copy_file_range);
    return full(out) ? -1 : real(in, from, out, to, size, flags);
}

ssize_t sendfile(int out, int in, off_t *from, size_t size);
ssize_t sendfile(int out, int in, off_t *from, size_t size) {
    REAL(sendfile);
    return full(out) ? -1 : real(out, in, from, size);
}

ssize_t sendfile64(int out, int in, off64_t *from, size_t size);
ssize_t sendfile64(int out, int in, off64_t *from, size_t size) {
    REAL(sendfile64);
    return full(out) ? -1 : real(out, in, from, size);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    int result = real(from, to);
    const char *under = getenv("PARALLAX_DISK_UNDER");
    if (!result && under && below(to, under)) note("R", from, to);
    return result;
}

static int refused(const char *path, int flags) {
    const char *folder = getenv("PARALLAX_DISK_READ_ONLY");
    if (!folder || !below(path, folder) || !(flags & (O_WRONLY | O_RDWR | O_CREAT))) return 0;
    errno = EROFS;
    return 1;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) {
    REAL(open);
    MODE(flags)
    return refused(path, flags) ? -1 : real(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    REAL(open64);
    MODE(flags)
    return refused(path, flags) ? -1 : real(path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
    REAL(openat);
    MODE(flags)
    return refused(path, flags) ? -1 : real(folder, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...) {
    REAL(openat64);
    MODE(flags)
    return refused(path, flags) ? -1 : real(folder, path, flags, mode);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return refused(path, O_CREAT) ? -1 : real(path, mode);
}
