/*
 * Everything but the agent stands still: the workload's control group is frozen, or where there is none, every process that
 * descends from the agent is stopped. Frozen file systems are given a watchdog: a process that thaws them if nobody does.
 */
#include "agent.h"
#include <dirent.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>

#ifndef FIFREEZE
#define FIFREEZE _IOWR('X', 119, int)
#define FITHAW _IOWR('X', 120, int)
#endif
#define GROUP "/sys/fs/cgroup/tutti"
#define WATCHDOG_S 30
#define FROZEN_WITHIN_MS 2000

static int group = -1;
static bool by_signal, stopped, disk_frozen;
static pid_t watchdog;

void workload_prepare(void) {
  char type[64] = "";
  FILE *mounts = fopen("/proc/self/mounts", "re");
  char line[512];
  bool unified = false;
  while (mounts && fgets(line, sizeof line, mounts))
    if (sscanf(line, "%*s /sys/fs/cgroup %63s", type) == 1) unified = strcmp(type, "cgroup2") == 0;
  if (mounts) fclose(mounts);
  if (!unified || (mkdir(GROUP, 0755) != 0 && errno != EEXIST)) return;
  group = open(GROUP, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

int workload_cgroup(void) { return group; }
bool disk_is_frozen(void) { return disk_frozen; }
bool workload_is_frozen(void) { return stopped; }

/* ---- by control group ---- */

static bool write_group(const char *file, const char *text) {
  int fd = openat(group, file, O_WRONLY | O_CLOEXEC);
  bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
  if (fd >= 0) close(fd);
  return good;
}

static bool group_is_frozen(void) {
  char text[256] = "";
  int fd = openat(group, "cgroup.events", O_RDONLY | O_CLOEXEC);
  if (fd < 0 || read(fd, text, sizeof text - 1) < 0) text[0] = 0;
  if (fd >= 0) close(fd);
  return strstr(text, "frozen 1") != NULL;
}

/* ---- by signal ---- */

static pid_t parent_of(pid_t pid, char *state) {
  char path[64], text[512];
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC), parent = 0;
  ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  if (got <= 0) return 0;
  text[got] = 0;
  char *after = strrchr(text, ')');
  if (!after || sscanf(after + 1, " %c %d", state, &parent) != 2) return 0;
  return parent;
}

static bool descends_from_us(pid_t pid, char *state) {
  pid_t us = getpid();
  char ignored;
  pid_t parent = parent_of(pid, state);
  for (int depth = 0; parent > 1 || parent == us; depth++) {
    if (parent == us) return true;
    if (depth > 200) return false;
    parent = parent_of(parent, &ignored);
  }
  return false;
}

/*
 * How many may still be running. One that waits in the kernel (D), such as for a child that it shares memory with, cannot
 * be seen to stop, but takes the signal before it does anything of its own again.
 */
static int signal_all(int number) {
  int sent = 0;
  DIR *proc = opendir("/proc");
  for (struct dirent *d; proc && (d = readdir(proc));) {
    pid_t pid = (pid_t)atoi(d->d_name);
    char state = 0;
    if (pid <= 1 || pid == watchdog || !descends_from_us(pid, &state) || state == 'Z') continue;
    if (state == 'T' && number == SIGSTOP) continue;
    kill(pid, number);
    sent += state != 'D';
  }
  if (proc) closedir(proc);
  return sent;
}

static void pause_ms(long ms) {
  struct timespec t = {0, ms * 1000000};
  nanosleep(&t, NULL);
}

/* Waits, as what comes next must not begin before; bounded. */
static bool stop_processes(void) {
  int64_t until = now_ms() + FROZEN_WITHIN_MS;
  stopped = true;
  by_signal = group < 0 || !write_group("cgroup.freeze", "1");
  do {
    if (by_signal ? signal_all(SIGSTOP) == 0 : group_is_frozen()) return true;
    pause_ms(1);
  } while (now_ms() < until);
  return false;
}

static void let_processes_go(void) {
  if (group >= 0) write_group("cgroup.freeze", "0");
  if (by_signal) signal_all(SIGCONT);
  by_signal = stopped = false;
}

/* ---- file systems ---- */

static int on_root(unsigned long request) {
  int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int result = fd < 0 ? -1 : ioctl(fd, request, 0);
  if (fd >= 0) close(fd);
  return result;
}

static void start_watchdog(void) {
  watchdog = fork();
  if (watchdog != 0) return;
  struct timespec t = {WATCHDOG_S, 0};
  while (nanosleep(&t, &t) != 0) continue;
  on_root(FITHAW);
  _exit(0);
}

struct freezing { uint32_t stream; };

/* In a worker: bringing a disk up to date takes as long as it takes. */
static int rest(void *argument, char *text, size_t size) {
  (void)argument;
  if (!options.system) return 0;
  sync();
  if (on_root(FIFREEZE) == 0 || errno == EBUSY || errno == EOPNOTSUPP || errno == ENOTTY) return 0;
  snprintf(text, size, "cannot bring the guest's file system to rest: %s", strerror(errno));
  return E_UNAVAILABLE;
}

static void rested(void *argument, int code, const char *text) {
  struct freezing *f = argument;
  struct stream *s = stream_find(f->stream);
  if (code != 0 || !s) freeze_release_disk();
  if (code != 0) let_processes_go();
  if (s && code == 0) stream_done(s, NULL);
  else if (s) stream_fail(s, code, "%s", text);
  free(f);
}

void freeze_begin(struct stream *s, struct bytes fields) {
  if (!stop_processes()) {
    let_processes_go();
    stream_fail(s, E_UNAVAILABLE, "something in the guest did not stand still within %d ms", FROZEN_WITHIN_MS);
    return;
  }
  if (field_number(fields, F_SYNC, 0) == 0) {
    stream_done(s, NULL);
    return;
  }
  struct freezing *f = malloc(sizeof *f);
  if (f) {
    f->stream = s->id;
    disk_frozen = true;
    if (options.system) start_watchdog();
    if (worker_start((struct work){rest, rested, f})) return;
  }
  free(f);
  freeze_release_disk();
  let_processes_go();
  stream_fail(s, E_EXHAUSTED, "the guest agent cannot start a process");
}

void freeze_release_disk(void) {
  if (!disk_frozen) return;
  if (options.system) on_root(FITHAW);
  if (watchdog > 0) kill(watchdog, SIGKILL);
  watchdog = 0;
  disk_frozen = false;
}

void freeze_end(struct stream *s) {
  freeze_release_disk();
  let_processes_go();
  stream_done(s, NULL);
}
