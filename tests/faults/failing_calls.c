/* Fails chosen system calls on files below a folder, as a broken or full disk does.
   Preload it (LD_PRELOAD); `fail_calls` arms it. A call is meant by its name; `open` means opening to write. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[PATH_MAX], wanted[16];
static int error_number;
static long first, last;
static atomic_long met;

/* Fail the calls `name` below `below` from the `from`th to the `to`th with an errno; an empty name fails none. */
void fail_calls(const char *below, const char *name, int number, long from, long to) {
  snprintf(folder, sizeof folder, "%s", below);
  snprintf(wanted, sizeof wanted, "%s", name);
  error_number = number, first = from, last = to, met = 0;
}

long calls_met(void) { return met; }

static int fails(const char *name, const char *path) {
  if (!path || strcmp(name, wanted) || strncmp(path, folder, strlen(folder))) return 0;
  long number = ++met;
  if (number < first || number > last) return 0;
  errno = error_number;
  return 1;
}

static int fails_on(const char *name, int file) {
  char link[64], path[PATH_MAX];
  if (strcmp(name, wanted)) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return fails(name, path);
}

#define NEXT(result, name, ...) static result (*next)(__VA_ARGS__); if (!next) next = dlsym(RTLD_NEXT, #name)

ssize_t write(int file, const void *bytes, size_t count) {
  NEXT(ssize_t, write, int, const void *, size_t);
  return fails_on("write", file) ? -1 : next(file, bytes, count);
}

int fsync(int file) {
  NEXT(int, fsync, int);
  return fails_on("fsync", file) ? -1 : next(file);
}

int rename(const char *from, const char *to) {
  NEXT(int, rename, const char *, const char *);
  return fails("rename", to) ? -1 : next(from, to);
}

int mkdir(const char *path, mode_t mode) {
  NEXT(int, mkdir, const char *, mode_t);
  return fails("mkdir", path) ? -1 : next(path, mode);
}

void *mmap(void *address, size_t length, int protection, int flags, int file, off_t offset) {
  NEXT(void *, mmap, void *, size_t, int, int, int, off_t);
  return file >= 0 && fails_on("mmap", file) ? MAP_FAILED : next(address, length, protection, flags, file, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int file, off64_t offset) {
  NEXT(void *, mmap64, void *, size_t, int, int, int, off64_t);
  return file >= 0 && fails_on("mmap", file) ? MAP_FAILED : next(address, length, protection, flags, file, offset);
}

#define OPENS(name) \
  int name(const char *path, int flags, ...) { \
    NEXT(int, name, const char *, int, ...); \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = va_arg(rest, mode_t); \
    va_end(rest); \
    return (flags & O_ACCMODE) != O_RDONLY && fails("open", path) ? -1 : next(path, flags, mode); \
  }
OPENS(open)
OPENS(open64)
