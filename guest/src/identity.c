/*
 * Making the guest who it is, in one message, before the workload is let go: what two clones of one snapshot must not share.
 * Entropy first, as everything after it may draw on it. SSH keys and hooks, which run programs, come last, in a worker.
 */
#include "agent.h"
#include <dirent.h>
#include <limits.h>
#include <linux/random.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>

#ifndef RNDRESEEDCRNG
#define RNDRESEEDCRNG _IO('R', 0x07)
#endif
#define STATE "/run/tutti"
#define HOOKS "/etc/tutti/hooks.d"
#define HOOK_S 10

struct defaults defaults;

/* As they were set last. A machine that goes on keeps what its user made of them since. */
static struct { char hostname[256], machine_id[64]; } names;

struct identity {
  uint32_t stream;
  char generation[128], hostname[256], machine_id[64];
  bool fresh;
};

static bool set_defaults(struct bytes fields, char *problem, size_t size);
static bool seed(struct bytes entropy, char *problem, size_t size);
static void step_clock(uint64_t ms);
static void prepare_state(void);
static bool has_names(const struct identity *id);
static int set_names(const struct identity *id, char *problem, size_t size);
static bool set_generation(const struct identity *id, char *problem, size_t size);
static void new_boot_id(void);
static int set_network(struct bytes fields, char *problem, size_t size);
static bool has_programs(const struct identity *id);
static int run_programs(void *argument, char *text, size_t size);
static void programs_done(void *argument, int code, const char *text);

void identify(struct stream *s, struct bytes fields) {
  char problem[600] = "";
  struct bytes entropy = {0};
  struct identity *id = calloc(1, sizeof *id);
  if (!id) {
    stream_fail(s, E_EXHAUSTED, "the guest agent is out of memory");
    return;
  }
  id->stream = s->id;
  id->fresh = field_number(fields, F_FRESH, 0) != 0;
  bool known = field_text(fields, F_GENERATION, id->generation, sizeof id->generation) &&
               field_text(fields, F_HOSTNAME, id->hostname, sizeof id->hostname) && *id->hostname &&
               field_text(fields, F_MACHINE_ID, id->machine_id, sizeof id->machine_id) && strlen(id->machine_id) == 32 &&
               field_find(fields, F_ENTROPY, &entropy) && entropy.length >= 32;
  int code = E_INVALID;
  if (!known) {
    snprintf(problem, sizeof problem, "an identity needs a generation, a hostname, a machine id of 32 digits and 32 bytes of entropy");
    goto failed;
  }
  if (!set_defaults(fields, problem, sizeof problem)) goto failed;
  if (options.system) {
    /* Identity is written to the disk. */
    freeze_release_disk();
    code = E_UNAVAILABLE;
    if (!seed(entropy, problem, sizeof problem)) goto failed;
    step_clock(field_number(fields, F_TIME, 0));
    prepare_state();
    if ((id->fresh || !has_names(id)) && set_names(id, problem, sizeof problem) != 0) goto failed;
    if (!set_generation(id, problem, sizeof problem)) goto failed;
    if (id->fresh) new_boot_id();
    if (set_network(fields, problem, sizeof problem) != 0) goto failed;
    if (has_programs(id)) {
      if (worker_start((struct work){run_programs, programs_done, id})) return;
      snprintf(problem, sizeof problem, "the guest agent cannot start a process");
      goto failed;
    }
  }
  free(id);
  stream_done(s, NULL);
  return;
failed:
  free(id);
  stream_fail(s, code, "%s", problem);
}

static bool set_defaults(struct bytes fields, char *problem, size_t size) {
  struct bytes rest = fields;
  struct field f;
  size_t count = 0;
  while (field_next(&rest, &f)) count += f.tag == F_ENV;
  char **env = calloc(count + 1, sizeof *env);
  rest = fields;
  for (size_t i = 0; env && field_next(&rest, &f);) {
    if (f.tag != F_ENV) continue;
    char *entry = text_of(f.value);
    if (!entry || !strchr(entry, '=') || *entry == '=') {
      free(entry);
      environment_free(env);
      snprintf(problem, size, "the environment of the identity has an entry without a name, or a NUL byte in it");
      return false;
    }
    env[i++] = entry;
  }
  if (!env) return false;
  environment_free(defaults.env);
  defaults.env = env;
  defaults.env_count = count;
  field_text(fields, F_USER, defaults.user, sizeof defaults.user);
  field_text(fields, F_CWD, defaults.cwd, sizeof defaults.cwd);
  return true;
}

static bool seed(struct bytes entropy, char *problem, size_t size) {
  struct { int bits, length; uint8_t bytes[1024]; } pool = {0};
  pool.length = entropy.length < sizeof pool.bytes ? (int)entropy.length : (int)sizeof pool.bytes;
  pool.bits = pool.length * 8;
  memcpy(pool.bytes, entropy.at, (size_t)pool.length);
  int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
  bool good = fd >= 0 && ioctl(fd, RNDADDENTROPY, &pool) == 0 && ioctl(fd, RNDRESEEDCRNG) == 0;
  if (!good) snprintf(problem, size, "cannot give the guest's kernel new randomness: %s", strerror(errno));
  if (fd >= 0) close(fd);
  memset(&pool, 0, sizeof pool);
  return good;
}

static void step_clock(uint64_t ms) {
  if (ms == 0) return;
  struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
  clock_settime(CLOCK_REALTIME, &t);
}

/* True when a file has these bytes already, or has them now, written over the old ones: replacing it by a new file would
 * have the file system write to the disk at once, which costs more than all else here. Nobody reads it meanwhile. */
static bool overwrite(const char *path, const void *bytes, size_t length) {
  char old[8192];
  struct stat st;
  int fd = length < sizeof old ? open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW) : -1;
  if (fd < 0) return false;
  bool good = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 1 && st.st_size > 0 && st.st_size < (off_t)sizeof old;
  bool same = good && pread(fd, old, sizeof old, 0) == (ssize_t)length && memcmp(old, bytes, length) == 0;
  if (good && !same) good = pwrite(fd, bytes, length, 0) == (ssize_t)length && ftruncate(fd, (off_t)length) == 0;
  close(fd);
  return good;
}

static bool any_laid_over;

/* A disk that is full or read-only must not keep a guest from waking up: the file is then laid over the old one. */
static int put_file(const char *path, const void *bytes, size_t length, mode_t mode) {
  char over[PATH_MAX];
  if (any_laid_over) umount2(path, MNT_DETACH);
  if (overwrite(path, bytes, length)) return 0;
  int error = write_whole(path, bytes, length, mode);
  if (!error) return 0;
  snprintf(over, sizeof over, STATE "/%s", strrchr(path, '/') + 1);
  if (write_whole(over, bytes, length, mode) != 0 || mount(over, path, NULL, MS_BIND, NULL) != 0) return error;
  any_laid_over = true;
  return 0;
}

static size_t read_hosts(char *text, size_t size) {
  size_t length = 0;
  int fd = open("/etc/hosts", O_RDONLY | O_CLOEXEC);
  for (ssize_t got; fd >= 0 && length < size && (got = read(fd, text + length, size - length)) > 0;) length += (size_t)got;
  if (fd >= 0) close(fd);
  return length;
}

/* /etc/hosts keeps what the image has; our line is told by its comment. One too long to be read is left as it is. */
static void name_in_hosts(const char *hostname) {
  static const char mark[] = "# by tutti";
  static char old[256 * 1024];
  struct out text = {0};
  char line[400];
  size_t length = read_hosts(old, sizeof old);
  if (length == sizeof old) return;
  for (size_t at = 0; at < length;) {
    char *end = memchr(old + at, '\n', length - at);
    size_t count = end ? (size_t)(end - (old + at)) + 1 : length - at;
    if (!memmem(old + at, count, mark, sizeof mark - 1)) {
      out_bytes(&text, old + at, count);
      if (!end) out_bytes(&text, "\n", 1);
    }
    at += count;
  }
  if (text.length == 0) out_bytes(&text, "127.0.0.1\tlocalhost\n::1\tlocalhost\n", 34);
  int count = snprintf(line, sizeof line, "127.0.1.1\t%.255s\t%s\n", hostname, mark);
  out_bytes(&text, line, (size_t)count);
  put_file("/etc/hosts", text.at, text.length, 0644);
  out_free(&text);
}

static void prepare_state(void) {
  static bool done;
  if (done) return;
  mkdir("/etc", 0755);
  mkdir("/run", 0755);
  mkdir(STATE, 0755);
  done = true;
}

static bool has_names(const struct identity *id) {
  return strcmp(names.hostname, id->hostname) == 0 && strcmp(names.machine_id, id->machine_id) == 0;
}

static int set_names(const struct identity *id, char *problem, size_t size) {
  char line[300];
  if (sethostname(id->hostname, strlen(id->hostname)) != 0) {
    snprintf(problem, size, "cannot set the guest's hostname to \"%s\": %s", id->hostname, strerror(errno));
    return -1;
  }
  int length = snprintf(line, sizeof line, "%s\n", id->hostname);
  put_file("/etc/hostname", line, (size_t)length, 0644);
  name_in_hosts(id->hostname);
  length = snprintf(line, sizeof line, "%s\n", id->machine_id);
  int error = put_file("/etc/machine-id", line, (size_t)length, 0444);
  if (error) {
    snprintf(problem, size, "cannot write the guest's machine id: %s", strerror(error));
    return error;
  }
  snprintf(names.hostname, sizeof names.hostname, "%s", id->hostname);
  snprintf(names.machine_id, sizeof names.machine_id, "%s", id->machine_id);
  return 0;
}

static bool set_generation(const struct identity *id, char *problem, size_t size) {
  static const char path[] = STATE "/generation";
  char line[160];
  int length = snprintf(line, sizeof line, "%s\n", id->generation);
  if (overwrite(path, line, (size_t)length)) return true;
  int error = write_whole(path, line, (size_t)length, 0644);
  if (error) snprintf(problem, size, "cannot write the guest's generation: %s", strerror(error));
  return !error;
}

static void new_boot_id(void) {
  static const char target[] = "/proc/sys/kernel/random/boot_id", source[] = STATE "/boot_id";
  uint8_t b[16];
  char text[40];
  if (getrandom(b, 16, GRND_NONBLOCK) != 16) return;
  b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
  b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
  snprintf(text, sizeof text, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x\n", b[0], b[1], b[2], b[3], b[4],
           b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
  static bool laid_over;
  if (laid_over && overwrite(source, text, strlen(text))) return;
  umount2(target, MNT_DETACH);
  laid_over = write_whole(source, text, strlen(text), 0444) == 0 && mount(source, target, NULL, MS_BIND, NULL) == 0;
}

/* As it was set last. A template is saved with the network that its clones will be given, who then need not set it. */
static char network[400];

static int set_network(struct bytes fields, char *problem, size_t size) {
  char mac[32], address[64], gateway[64], wanted[sizeof network];
  if (!field_text(fields, F_MAC, mac, sizeof mac)) {
    *network = 0;
    return network_set(NULL, NULL, 0, NULL, problem, size);
  }
  size_t used = 0;
  struct bytes rest = fields;
  struct field part;
  while (field_next(&rest, &part)) {
    if (part.tag != F_MAC && part.tag != F_ADDRESS && part.tag != F_PREFIX && part.tag != F_GATEWAY && part.tag != F_NAMESERVER) continue;
    for (size_t i = 0; i < part.value.length && used + 3 < sizeof wanted; i++, used += 2) snprintf(wanted + used, 3, "%02x", part.value.at[i]);
    if (used + 1 < sizeof wanted) wanted[used++] = ' ';
  }
  wanted[used] = 0;
  /* Too long to be compared is never the same. */
  if (used + 3 < sizeof wanted && strcmp(wanted, network) == 0) return 0;
  *network = 0;
  field_text(fields, F_ADDRESS, address, sizeof address);
  field_text(fields, F_GATEWAY, gateway, sizeof gateway);
  int result = network_set(mac, address, (int)field_number(fields, F_PREFIX, 24), gateway, problem, size);
  struct out servers = {0};
  struct field f;
  while (result == 0 && field_next(&fields, &f)) {
    char line[80];
    if (f.tag != F_NAMESERVER || f.value.length > 64) continue;
    int length = snprintf(line, sizeof line, "nameserver %.*s\n", (int)f.value.length, (const char *)f.value.at);
    out_bytes(&servers, line, (size_t)length);
  }
  /* An image may have it as a link to a place that is not there. */
  if (servers.length > 0 && result == 0) result = put_file("/etc/resolv.conf", servers.at, servers.length, 0644);
  if (result > 0) snprintf(problem, size, "cannot write /etc/resolv.conf: %s", strerror(result));
  if (result == 0) snprintf(network, sizeof network, "%s", wanted);
  out_free(&servers);
  return result;
}

/* ---- programs ---- */

static const char *keygen(void) {
  static const char *const places[] = {"/usr/bin/ssh-keygen", "/bin/ssh-keygen", "/usr/local/bin/ssh-keygen"};
  for (size_t i = 0; i < 3; i++)
    if (access(places[i], X_OK) == 0) return places[i];
  return NULL;
}

/* Removed in any case when fresh; made anew where there were some and the program for it is there. */
static bool remove_host_keys(void) {
  bool any = false;
  DIR *directory = opendir("/etc/ssh");
  for (struct dirent *d; directory && (d = readdir(directory));) {
    if (strncmp(d->d_name, "ssh_host_", 9) != 0 || !strstr(d->d_name, "_key")) continue;
    unlinkat(dirfd(directory), d->d_name, 0);
    any = true;
  }
  if (directory) closedir(directory);
  return any && keygen() != NULL;
}

static bool has_programs(const struct identity *id) {
  DIR *hooks = opendir(HOOKS);
  if (hooks) closedir(hooks);
  return hooks != NULL || (id->fresh && access("/etc/ssh", F_OK) == 0);
}

/* Runs a program to its end, or for HOOK_S seconds. */
static int run_program(char *const argv[], char *const envp[]) {
  pid_t pid = fork();
  if (pid == 0) {
    setsid();
    int null = open("/dev/null", O_RDWR);
    dup2(null, 0);
    execve(argv[0], argv, envp);
    _exit(127);
  }
  int status = 0;
  for (int waited = 0; pid > 0; waited++) {
    struct timespec t = {0, 10000000};
    pid_t got = waitpid(pid, &status, WNOHANG);
    if (got == pid) return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
    if (waited > HOOK_S * 100) {
      kill(-pid, SIGKILL);
      waitpid(pid, &status, 0);
      return 124;
    }
    nanosleep(&t, NULL);
  }
  return 127;
}

static int run_programs(void *argument, char *text, size_t size) {
  struct identity *id = argument;
  char generation[160], fresh[32];
  snprintf(generation, sizeof generation, "TUTTI_GENERATION=%s", id->generation);
  snprintf(fresh, sizeof fresh, "TUTTI_FRESH=%d", id->fresh);
  char *envp[] = {generation, fresh, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", NULL};
  if (id->fresh && remove_host_keys()) {
    char *make[] = {(char *)keygen(), "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/ssh_host_ed25519_key", NULL};
    if (run_program(make, envp) != 0) say("ssh-keygen could not make a host key");
  }
  struct dirent **names;
  int count = scandir(HOOKS, &names, NULL, alphasort), failed = 0;
  for (int i = 0; i < count; i++) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, HOOKS "/%s", names[i]->d_name);
    struct stat st;
    if (names[i]->d_name[0] != '.' && !failed && stat(path, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 0111)) {
      char *run[] = {path, NULL};
      int code = run_program(run, envp);
      if (code != 0) {
        snprintf(text, size, code == 124 ? "the hook \"%.500s\" did not end within %d s" : "the hook \"%.500s\" ended with code %d", path,
                 code == 124 ? HOOK_S : code);
        failed = E_UNAVAILABLE;
      }
    }
    free(names[i]);
  }
  if (count >= 0) free(names);
  return failed;
}

static void programs_done(void *argument, int code, const char *text) {
  struct identity *id = argument;
  struct stream *s = stream_find(id->stream);
  if (s && code == 0) stream_done(s, NULL);
  else if (s) stream_fail(s, code, "%s", text);
  free(id);
}
