/* Records what processes do to the files of one folder, as a disk sees it. Loaded with LD_PRELOAD.
 *
 * POWERCUT_FOLDER is the folder (absolute, no slash at its end), POWERCUT_LOG the file that records are appended to. A record is written
 * in one call, after the act itself; a sync has two, since only what was written before it began is safe once it ended.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, WRITE, TRUNCATE, SYNC_BEGIN, SYNC_END, UNLINK, RENAME };

struct header {
    uint32_t kind, name_size;
    uint64_t file, thread; /* inode, thread id */
    int64_t offset;
    uint64_t size;
};

#define FILES 65536
static uint64_t file_of[FILES]; /* inode behind a descriptor; 0: not ours */
static const char *folder;
static int log_fd = -1;

#define REAL(name) ({ static __typeof__(&name) found; if (!found) found = (__typeof__(&name))dlsym(RTLD_NEXT, #name); found; })

__attribute__((constructor)) static void start(void) {
    folder = getenv("POWERCUT_FOLDER");
    const char *log = getenv("POWERCUT_LOG");
    if (folder && log) log_fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CLOEXEC, 0);
}

static void record(uint32_t kind, const char *name, uint64_t file, int64_t offset, const void *data, size_t size) {
    struct header header = {kind, name ? strlen(name) : 0, file, syscall(SYS_gettid), offset, size};
    struct iovec parts[3] = {{&header, sizeof header}, {(void *)name, header.name_size}, {(void *)data, size}};
    if (syscall(SYS_writev, log_fd, parts, 3) != (ssize_t)(sizeof header + header.name_size + size)) abort();
}

/* The name inside the folder, "" for the folder itself, NULL for anything else. The -shm file is memory, not disk. */
static const char *ours(const char *path) {
    size_t n = folder ? strlen(folder) : 0, length = strlen(path);
    if (log_fd < 0 || strncmp(path, folder, n) || (path[n] != '/' && path[n] != 0)) return NULL;
    if (length > 4 && !strcmp(path + length - 4, "-shm")) return NULL;
    return path[n] ? path + n + 1 : path + n;
}

static uint64_t file(int fd) { return fd >= 0 && fd < FILES ? file_of[fd] : 0; }

static int opened(int fd, const char *path, int flags) {
    if (fd < 0 || fd >= FILES) return fd;
    const char *name = ours(path);
    struct stat status;
    if (!name || fstat(fd, &status)) return file_of[fd] = 0, fd;
    file_of[fd] = status.st_ino;
    record(OPEN, name, status.st_ino, 0, NULL, 0);
    if (flags & O_TRUNC) record(TRUNCATE, NULL, status.st_ino, 0, NULL, 0);
    return fd;
}

#define MODE(flags) va_list list; va_start(list, flags); mode_t mode = flags & O_CREAT ? va_arg(list, int) : 0; va_end(list)

int open(const char *path, int flags, ...) { MODE(flags); return opened(REAL(open)(path, flags, mode), path, flags); }
int open64(const char *path, int flags, ...) { MODE(flags); return opened(REAL(open64)(path, flags, mode), path, flags); }
int openat(int at, const char *path, int flags, ...) { MODE(flags); return opened(REAL(openat)(at, path, flags, mode), path, flags); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags); return opened(REAL(openat64)(at, path, flags, mode), path, flags); }

int close(int fd) {
    if (file(fd)) file_of[fd] = 0;
    return REAL(close)(fd);
}

ssize_t write(int fd, const void *data, size_t size) {
    ssize_t done = REAL(write)(fd, data, size);
    if (done > 0 && file(fd)) record(WRITE, NULL, file(fd), lseek(fd, 0, SEEK_CUR) - done, data, done);
    return done;
}

static ssize_t wrote(int fd, ssize_t done, const void *data, off_t offset) {
    if (done > 0 && file(fd)) record(WRITE, NULL, file(fd), offset, data, done);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return wrote(fd, REAL(pwrite)(fd, data, size, offset), data, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return wrote(fd, REAL(pwrite64)(fd, data, size, offset), data, offset); }

static int truncated(int fd, int status, off_t size) {
    if (!status && file(fd)) record(TRUNCATE, NULL, file(fd), size, NULL, 0);
    return status;
}

int ftruncate(int fd, off_t size) { return truncated(fd, REAL(ftruncate)(fd, size), size); }
int ftruncate64(int fd, off_t size) { return truncated(fd, REAL(ftruncate64)(fd, size), size); }

static int synced(int fd, int (*sync)(int)) {
    if (!file(fd)) return sync(fd);
    record(SYNC_BEGIN, NULL, file(fd), 0, NULL, 0);
    int status = sync(fd);
    if (!status) record(SYNC_END, NULL, file(fd), 0, NULL, 0);
    return status;
}

int fsync(int fd) { return synced(fd, REAL(fsync)); }
int fdatasync(int fd) { return synced(fd, REAL(fdatasync)); }

int unlink(const char *path) {
    int status = REAL(unlink)(path);
    if (!status && ours(path)) record(UNLINK, ours(path), 0, 0, NULL, 0);
    return status;
}

int rename(const char *from, const char *to) {
    int status = REAL(rename)(from, to);
    if (!status && ours(from) && ours(to)) record(RENAME, ours(from), 0, 0, ours(to), strlen(ours(to)));
    return status;
}
