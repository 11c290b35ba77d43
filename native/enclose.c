/*
 * Starts a virtual machine monitor in a file system that has nothing but what it needs.
 *
 *   enclose show PATH...                            Makes that file system: these paths of ours, read-only, at the same
 *                                                   places, and a /proc in which a process sees itself alone. Says so by
 *                                                   one line, and stays until its input ends, so that it can be taken hold
 *                                                   of by /proc/PID/ns/mnt. Paths that are not there are left out.
 *   enclose run ROOT DIRECTORY UID GID PROGRAM...   Enters it by that descriptor, puts the mount at the other descriptor to
 *                                                   /machine, becomes that user for good, and runs the program there. It
 *                                                   has the descriptors below these two and no others.
 *
 * What is mounted is seen by nobody outside, and is gone with the last process inside, whoever ends it how. Stands on no C
 * library, so that starting it takes a fraction of a millisecond.
 */
#define _GNU_SOURCE
#include <asm/unistd.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#define MNT_DETACH 2

static long call6(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
#endif
}
/* The system's answer: at least 0, or the negative number of the error. */
#define CALL(name, a, b, c, d, e) call6(__NR_##name, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

static size_t length_of(const char *text)
{
    size_t length = 0;
    while (text[length])
        length++;
    return length;
}

static void say(const char *text)
{
    CALL(write, 2, text, length_of(text), 0, 0);
}

static __attribute__((noreturn)) void quit(int code)
{
    for (;;)
        CALL(exit_group, code, 0, 0, 0, 0);
}

static long must(long result, const char *what, const char *with)
{
    char digits[8], *at = digits + sizeof digits - 1;
    if (result >= 0)
        return result;
    *at = 0;
    for (long error = -result; error > 0 && at > digits; error /= 10)
        *--at = '0' + error % 10;
    say("enclose: ");
    say(what);
    say(" ");
    say(with);
    say(": error ");
    say(at);
    say("\n");
    quit(127);
}

static long number(const char *text)
{
    long value = 0;
    if (!*text)
        must(-22, "no number", text);
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || value > INT32_MAX)
            must(-22, "no number", text);
        value = value * 10 + (*text - '0');
    }
    return value;
}

/* ---- show ---- */

/* The host's own /proc is covered while we build on top of it: nothing that is shown comes from there. */
static const char stage[] = "/proc";

/* Where PATH will be; directories above it are made. */
static const char *place_of(const char *path)
{
    static char place[4200];
    size_t at = 0;
    if (path[0] != '/' || length_of(path) > 4096)
        must(-22, "no absolute path:", path);
    for (const char *from = stage; *from; from++)
        place[at++] = *from;
    for (const char *from = path; *from; from++) {
        if (*from == '/' && from != path) {
            place[at] = 0;
            CALL(mkdirat, AT_FDCWD, place, 0755, 0, 0);
        }
        place[at++] = *from;
    }
    place[at] = 0;
    return place;
}

/* Not through a link; 0 when it is not there. */
static int kind_of(const char *path, struct stat *about)
{
    return CALL(newfstatat, AT_FDCWD, path, about, AT_SYMLINK_NOFOLLOW, 0) < 0 ? 0 : about->st_mode & S_IFMT;
}

static void show(const char *path)
{
    struct stat about, shown;
    int kind = kind_of(path, &about);
    if (kind == 0)
        return;
    const char *place = place_of(path);
    /* Seen already, as part of a directory that was shown. */
    if (kind_of(place, &shown) != 0)
        return;
    /* Whoever is in here may use a device that is, whatever the host has decided for its users. */
    if (kind == S_IFCHR && CALL(mknodat, AT_FDCWD, place, S_IFCHR | 0666, about.st_rdev, 0) >= 0)
        return;
    if (kind == S_IFLNK) {
        char target[4096];
        long length = must(CALL(readlinkat, AT_FDCWD, path, target, sizeof target - 1, 0), "cannot read", path);
        target[length] = 0;
        must(CALL(symlinkat, target, AT_FDCWD, place, 0, 0), "cannot link", path);
        return;
    }
    if (kind == S_IFDIR)
        must(CALL(mkdirat, AT_FDCWD, place, 0755, 0, 0), "cannot make", path);
    else
        must(CALL(mknodat, AT_FDCWD, place, S_IFREG | 0444, 0, 0), "cannot make", path);
    must(CALL(mount, path, place, 0, MS_BIND, 0), "cannot mount", path);
    /* A device of the host's, where none can be made, works; those that lie in a directory do not. */
    unsigned long devices = kind == S_IFCHR ? MS_NOEXEC : MS_NODEV;
    must(CALL(mount, 0, place, 0, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | devices, 0), "cannot protect", path);
}

static __attribute__((noreturn)) void make_root(char **paths)
{
    must(CALL(unshare, CLONE_NEWNS, 0, 0, 0, 0), "no mounts", "of its own");
    must(CALL(mount, 0, "/", 0, MS_REC | MS_PRIVATE, 0), "cannot keep", "mounts apart");
    CALL(umask, 0, 0, 0, 0, 0);
    must(CALL(mount, "tutti", stage, "tmpfs", MS_NOSUID, "mode=0755,size=1m"), "cannot mount", "a root");
    for (; *paths; paths++)
        show(*paths);
    must(CALL(mkdirat, AT_FDCWD, place_of("/machine"), 0755, 0, 0), "cannot make", "/machine");
    const char *proc = place_of("/proc");
    must(CALL(mkdirat, AT_FDCWD, proc, 0555, 0, 0), "cannot make", proc);
    /* Before Linux 5.8, which knows `subset`, these options would be those of every /proc there is. */
    must(CALL(mount, "proc", proc, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "subset=pid,hidepid=invisible"),
         "cannot mount", "/proc");
    must(CALL(chdir, stage, 0, 0, 0, 0), "cannot go to", stage);
    must(CALL(pivot_root, ".", ".", 0, 0, 0), "cannot take", "the new root");
    must(CALL(umount2, ".", MNT_DETACH, 0, 0, 0), "cannot leave", "the old root");
    must(CALL(mount, 0, "/", 0, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID, 0), "cannot protect", "/");
    char rest[64];
    must(CALL(write, 1, "ready\n", 6, 0, 0), "cannot", "answer");
    while (CALL(read, 0, rest, sizeof rest, 0, 0) > 0)
        ;
    quit(0);
}

/* ---- run ---- */

static __attribute__((noreturn)) void run(char **words, char **environment)
{
    long root = number(words[0]), directory = number(words[1]), uid = number(words[2]), gid = number(words[3]);
    char **program = words + 4;
    must(CALL(setns, root, CLONE_NEWNS, 0, 0, 0), "cannot enter", "the root");
    must(CALL(unshare, CLONE_NEWNS, 0, 0, 0, 0), "no mounts", "of its own");
    must(CALL(move_mount, directory, "", AT_FDCWD, "/machine", MOVE_MOUNT_F_EMPTY_PATH), "cannot mount", "/machine");
    unsigned long only_data = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    must(CALL(mount, 0, "/machine", 0, MS_REMOUNT | MS_BIND | only_data, 0), "cannot protect", "/machine");
    must(CALL(chdir, "/machine", 0, 0, 0, 0), "cannot go to", "/machine");
    /* These come after all that the program is to have; what lies beyond was left open by whoever started us. Linux 5.9. */
    long end = root < directory ? root : directory;
    must(CALL(close_range, end, ~0u, 0, 0, 0), "cannot close", "descriptors");
    must(CALL(setgroups, 0, 0, 0, 0, 0), "cannot leave", "groups");
    must(CALL(setresgid, gid, gid, gid, 0, 0), "cannot become group", words[3]);
    must(CALL(setresuid, uid, uid, uid, 0, 0), "cannot become user", words[2]);
    must(CALL(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "cannot give up", "privileges");
    must(CALL(execve, program[0], program, environment, 0, 0), "cannot run", program[0]);
    quit(127);
}

static int is(const char *word, const char *other)
{
    while (*word && *word == *other)
        word++, other++;
    return *word == *other;
}

__attribute__((noreturn, used)) void begin(long *stack)
{
    long count = stack[0];
    char **words = (char **)(stack + 1), **environment = words + count + 1;
    if (count >= 2 && is(words[1], "show"))
        make_root(words + 2);
    if (count >= 7 && is(words[1], "run"))
        run(words + 2, environment);
    say("usage: enclose show PATH... | enclose run ROOT DIRECTORY UID GID PROGRAM ARGUMENT...\n");
    quit(2);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n  mov %rsp, %rdi\n  and $-16, %rsp\n  call begin\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n  mov x0, sp\n  bl begin\n");
#endif
