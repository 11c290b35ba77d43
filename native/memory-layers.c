/*
 * Preloaded into QEMU: gives a machine's memory what QEMU itself has no words for. TUTTI_MEMORY is the path of files that
 * say what is wanted; whoever starts QEMU may write them until QEMU makes its memory.
 *
 *   PATH.over, PATH.over.runs   Pages that lie over the memory image: what a paused machine had changed. The second file is
 *                               pairs of 32 bits, first page and number of pages; the first holds these pages one run after
 *                               the other. They are mapped, so that waking a machine copies nothing, machines made of one
 *                               share them, and what a machine changes from then on can be told from what it had changed.
 *   PATH.lazy                   The image is fetched as it is touched, so it is read page by page. QEMU asks for huge pages,
 *                               and the kernel then reads a MiB or two around each page.
 *
 * Stands on nothing but `syscall` and `getenv` of whatever C library QEMU has.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096ul
/* A process has 65,530 mappings at most, and a run in the middle of another mapping makes two; runs beyond are copied. */
#define MOST_MAPPED 20000u

struct run {
    uint32_t first, count;
};

static int open_part(const char *suffix)
{
    char path[4200];
    size_t at = 0;
    const char *memory = getenv("TUTTI_MEMORY");
    if (!memory)
        return -1;
    for (; *memory && at < 4096; memory++)
        path[at++] = *memory;
    for (; *suffix; suffix++)
        path[at++] = *suffix;
    path[at] = 0;
    return syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
}

static void *map(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}

static int copy_run(char *to, size_t length, int fd, off_t from)
{
    while (length > 0) {
        long count = syscall(SYS_pread64, fd, to, length, from);
        if (count <= 0)
            return -1;
        to += count;
        from += count;
        length -= count;
    }
    return 0;
}

/* Runs of at least so many pages are mapped, so that there are not too many of them. */
static uint32_t shortest_mapped(const struct run *runs, size_t count)
{
    for (uint32_t least = 1;; least++) {
        size_t mapped = 0;
        for (size_t i = 0; i < count; i++)
            mapped += runs[i].count >= least;
        if (mapped <= MOST_MAPPED)
            return least;
    }
}

static int lay_runs(char *memory, size_t length, int protection, int over, const struct run *runs, size_t count)
{
    uint32_t least = shortest_mapped(runs, count);
    size_t pages = length / PAGE, covered = 0;
    off_t from = 0;
    for (size_t i = 0; i < count; i++) {
        size_t first = runs[i].first, wanted = runs[i].count;
        if (first > pages || wanted > pages - first)
            return -1;
        char *to = memory + first * PAGE;
        covered += wanted;
        /* Somewhere the image itself stays mapped: by it the memory is found again. */
        if (wanted >= least && covered < pages) {
            if (map(to, wanted * PAGE, protection, MAP_PRIVATE | MAP_FIXED, over, from) == MAP_FAILED)
                return -1;
        } else if (copy_run(to, wanted * PAGE, over, from) < 0) {
            return -1;
        }
        from += wanted * PAGE;
    }
    return 0;
}

/* Nothing to do is success. */
static int lay_over(char *memory, size_t length, int protection)
{
    int list = open_part(".over.runs");
    if (list < 0)
        return 0;
    int over = open_part(".over"), result = -1;
    struct stat about;
    if (over >= 0 && syscall(SYS_fstat, list, &about) == 0) {
        if (about.st_size < (off_t)sizeof(struct run)) {
            result = 0;
        } else {
            struct run *runs = map(NULL, about.st_size, PROT_READ, MAP_PRIVATE, list, 0);
            if (runs != MAP_FAILED) {
                result = lay_runs(memory, length, protection, over, runs, about.st_size / sizeof(struct run));
                syscall(SYS_munmap, runs, about.st_size);
            }
        }
    }
    if (over >= 0)
        syscall(SYS_close, over);
    syscall(SYS_close, list);
    return result;
}

/* A whole file, mapped to be written to by this process alone: so QEMU maps the memory of a machine, and nothing else. */
static int is_memory(size_t length, int protection, int flags, int fd)
{
    struct stat about;
    return fd >= 0 && (flags & MAP_PRIVATE) && (protection & PROT_WRITE) && syscall(SYS_fstat, fd, &about) == 0 &&
           (size_t)about.st_size == length;
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    void *mapped = map(address, length, protection, flags, fd, offset);
    if (mapped == MAP_FAILED || !is_memory(length, protection, flags, fd) || lay_over(mapped, length, protection) == 0)
        return mapped;
    syscall(SYS_munmap, mapped, length);
    errno = EIO;
    return MAP_FAILED;
}

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    return mmap(address, length, protection, flags, fd, offset);
}

int madvise(void *address, size_t length, int advice)
{
    if (advice == MADV_HUGEPAGE) {
        int lazy = open_part(".lazy");
        if (lazy >= 0) {
            syscall(SYS_close, lazy);
            advice = MADV_RANDOM;
        }
    }
    return syscall(SYS_madvise, address, length, advice);
}
