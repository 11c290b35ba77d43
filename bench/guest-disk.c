/*
 * Reads or writes a disk past the page cache, one request at a time, and prints the microseconds that all of it took.
 * Usage: disk-probe read|write|flush DEVICE BYTES COUNT scattered|ordered
 * `flush` writes and then asks for what was written to be safe, each time.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void give_up(const char *what) {
    perror(what);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    int writes = strcmp(argv[1], "read") != 0, flushes = strcmp(argv[1], "flush") == 0;
    size_t bytes = strtoul(argv[3], NULL, 10);
    long count = atol(argv[4]);
    int scattered = strcmp(argv[5], "scattered") == 0;
    int fd = open(argv[2], (writes ? O_RDWR : O_RDONLY) | O_DIRECT);
    if (fd < 0) give_up("open");
    off_t size = lseek(fd, 0, SEEK_END);
    if (size < 0) give_up("size");
    uint64_t blocks = (uint64_t)size / bytes, at = 0;
    void *buffer;
    if (posix_memalign(&buffer, 4096, bytes) != 0) return 1;
    memset(buffer, 0x5a, bytes);
    struct timespec begun, ended;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (long i = 0; i < count; i++) {
        off_t offset = (off_t)(at % blocks * bytes);
        /* A linear congruence of full period: nothing is asked for twice before everything was asked for. */
        at = scattered ? (at * 1103515245 + 12345) & 0x7fffffff : at + 1;
        ssize_t done = writes ? pwrite(fd, buffer, bytes, offset) : pread(fd, buffer, bytes, offset);
        if (done != (ssize_t)bytes) give_up(argv[1]);
        if (flushes && fsync(fd) < 0) give_up("fsync");
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    printf("%lld\n", (ended.tv_sec - begun.tv_sec) * 1000000LL + (ended.tv_nsec - begun.tv_nsec) / 1000);
    return 0;
}
