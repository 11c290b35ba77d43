/* Giving back what is not needed before a template is saved, and figures for people. */
#include "agent.h"
#include <linux/fs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>

#ifndef FITRIM
struct fstrim_range { uint64_t start, len, minlen; };
#define FITRIM _IOWR('X', 121, struct fstrim_range)
#endif

struct shrinking { uint32_t stream; };

static void write_to(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  if (write(fd, text, strlen(text)) < 0) say("cannot write to %s: %s", path, strerror(errno));
  close(fd);
}

/* Each step helps by itself: what a kernel or disk cannot do is left out. */
static int shrink(void *argument, char *text, size_t size) {
  (void)argument, (void)text, (void)size;
  if (!options.system) return 0;
  sync();
  int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  struct fstrim_range all = {.len = UINT64_MAX};
  if (fd >= 0) {
    ioctl(fd, FITRIM, &all);
    close(fd);
  }
  write_to("/proc/sys/vm/drop_caches", "3");
  write_to("/proc/sys/vm/compact_memory", "1");
  return 0;
}

static void shrunk(void *argument, int code, const char *text) {
  struct shrinking *shrinking = argument;
  struct stream *s = stream_find(shrinking->stream);
  if (s && code == 0) stream_done(s, NULL);
  else if (s) stream_fail(s, code, "%s", text);
  free(shrinking);
}

void system_shrink(struct stream *s) {
  struct shrinking *shrinking = malloc(sizeof *shrinking);
  if (shrinking) {
    shrinking->stream = s->id;
    if (worker_start((struct work){shrink, shrunk, shrinking})) return;
  }
  free(shrinking);
  stream_fail(s, E_EXHAUSTED, "the guest agent cannot start a process");
}

static uint64_t cpu_ms(void) {
  unsigned long long user = 0, nice = 0, system = 0, irq = 0, softirq = 0;
  FILE *f = fopen("/proc/stat", "re");
  if (!f) return 0;
  if (fscanf(f, "cpu %llu %llu %llu %*u %*u %llu %llu", &user, &nice, &system, &irq, &softirq) < 3) user = nice = system = 0;
  fclose(f);
  return (user + nice + system + irq + softirq) * 1000 / (unsigned long long)sysconf(_SC_CLK_TCK);
}

static void memory(uint64_t *total, uint64_t *available) {
  char line[128];
  unsigned long long kib;
  FILE *f = fopen("/proc/meminfo", "re");
  while (f && fgets(line, sizeof line, f)) {
    if (sscanf(line, "MemTotal: %llu", &kib) == 1) *total = kib * 1024;
    if (sscanf(line, "MemAvailable: %llu", &kib) == 1) *available = kib * 1024;
  }
  if (f) fclose(f);
}

void system_metrics(struct stream *s) {
  uint8_t room[256];
  struct out reply = {room, 0, sizeof room, true};
  uint64_t total = 0, available = 0;
  struct statvfs disk = {0};
  struct sysinfo info = {0};
  memory(&total, &available);
  statvfs("/", &disk);
  sysinfo(&info);
  out_number(&reply, F_MEMORY_TOTAL, total);
  out_number(&reply, F_MEMORY_USED, total - available);
  out_number(&reply, F_DISK_TOTAL, (uint64_t)disk.f_blocks * disk.f_frsize);
  out_number(&reply, F_DISK_USED, (uint64_t)(disk.f_blocks - disk.f_bfree) * disk.f_frsize);
  out_number(&reply, F_CPUS, (uint64_t)sysconf(_SC_NPROCESSORS_ONLN));
  out_number(&reply, F_CPU_MS, cpu_ms());
  out_number(&reply, F_TIME, (uint64_t)wall_ms());
  out_number(&reply, F_PROCESSES, info.procs);
  stream_done(s, &reply);
}
