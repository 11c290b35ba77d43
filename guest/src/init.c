/*
 * Process 1 of a microVM: the kernel's file systems, modules, the root disk, and then the agent itself stays process 1.
 * Nothing is executed; see README.md for what an initramfs must hold.
 */
#include "agent.h"
#include <dirent.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <time.h>

#define WAIT_MS 10000
#define VSOCK_PORT 1024

static char root_device[128] = "/dev/vda", root_type[32] = "ext4", root_options[256] = "noatime,discard";
static char port_name[64], run_init[256];
static pid_t init_child;

static void pause_ms(long ms) {
  struct timespec t = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&t, NULL);
}

static void give_up(const char *what) {
  say("%s: %s", what, strerror(errno));
  machine_end(SIGUSR2);
}

static void mount_at(const char *type, const char *at, unsigned long flags, const char *options_text) {
  mkdir(at, 0755);
  if (mount(type, at, type, flags, options_text) != 0 && errno != EBUSY) say("cannot mount %s on %s: %s", type, at, strerror(errno));
}

static void read_cmdline(void) {
  static char line[4096];
  int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
  ssize_t got = fd < 0 ? 0 : read(fd, line, sizeof line - 1);
  if (fd >= 0) close(fd);
  line[got > 0 ? got : 0] = 0;
  for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
    if (strncmp(word, "tutti.root=", 11) == 0) {
      char *type = strchr(word + 11, ':'), *more = type ? strchr(type + 1, ':') : NULL;
      if (type) *type++ = 0;
      if (more) *more++ = 0;
      snprintf(root_device, sizeof root_device, "%s", word + 11);
      if (type && *type) snprintf(root_type, sizeof root_type, "%s", type);
      if (more) snprintf(root_options, sizeof root_options, "%s", more);
    } else if (strncmp(word, "tutti.init=", 11) == 0) {
      snprintf(run_init, sizeof run_init, "%s", word + 11);
      options.run_init = run_init;
    } else if (strncmp(word, "tutti.port=", 11) == 0) {
      snprintf(port_name, sizeof port_name, "%s", word + 11);
      options.port_name = port_name;
    }
  }
}

static void load_modules(void) {
  struct dirent **names;
  int count = scandir("/modules", &names, NULL, alphasort);
  for (int i = 0; i < count; i++) {
    char path[512];
    size_t length = strlen(names[i]->d_name);
    snprintf(path, sizeof path, "/modules/%s", names[i]->d_name);
    if (length > 3 && strcmp(names[i]->d_name + length - 3, ".ko") == 0) {
      int fd = open(path, O_RDONLY | O_CLOEXEC);
      if (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST && errno != ENODEV)
        say("cannot load %s: %s", path, strerror(errno));
      if (fd >= 0) close(fd);
      /* An initramfs lies in memory. */
      unlink(path);
    }
    free(names[i]);
  }
  if (count >= 0) free(names);
  rmdir("/modules");
}

static void mount_root(void) {
  struct stat st;
  for (int waited = 0; stat(root_device, &st) != 0; waited += 2) {
    if (waited >= WAIT_MS) give_up("the root disk did not appear");
    pause_ms(2);
  }
  mkdir("/root", 0755);
  if (mount(root_device, "/root", root_type, 0, root_options) == 0) return;
  /* Perhaps a file system that does not know the options. */
  if (errno != EINVAL || mount(root_device, "/root", root_type, MS_NOATIME, NULL) != 0) give_up("cannot mount the root disk");
}

static void move_to(const char *from, const char *to) {
  mkdir(to, 0755);
  if (mount(from, to, NULL, MS_MOVE, NULL) != 0) give_up("cannot move the kernel's file systems to the root disk");
}

void init_machine(void) {
  mount_at("devtmpfs", "/dev", MS_NOSUID, NULL);
  int console = open("/dev/console", O_RDWR | O_NOCTTY);
  for (int fd = 0; console >= 0 && fd < 3; fd++) dup2(console, fd);
  if (console > 2) close(console);
  mount_at("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
  mount_at("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
  read_cmdline();
  load_modules();
  mount_root();
  move_to("/dev", "/root/dev");
  move_to("/proc", "/root/proc");
  move_to("/sys", "/root/sys");
  if (unlink("/init") != 0) say("cannot free the initramfs: %s", strerror(errno));
  if (chdir("/root") != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 || chdir("/") != 0)
    give_up("cannot make the disk the root");
  mount_at("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666");
  mount_at("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
  mount_at("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755");
  mount_at("cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
  /* What /dev of a login is expected to have and devtmpfs lacks. */
  if (symlink("/proc/self/fd", "/dev/fd") == 0) {
    if (symlink("/proc/self/fd/0", "/dev/stdin") || symlink("/proc/self/fd/1", "/dev/stdout") || symlink("/proc/self/fd/2", "/dev/stderr"))
      say("cannot make the links in /dev: %s", strerror(errno));
  }
  if (mkdir("/tmp", 01777) == 0 && chmod("/tmp", 01777) != 0) say("cannot open /tmp to everybody: %s", strerror(errno));
  mkdir("/run/tutti", 0755);
  /* Ctrl-alt-del is a signal to us. */
  reboot(RB_DISABLE_CAD);
}

void init_start_child(void) {
  static struct user root = {.name = "root", .group_count = 1};
  static char *envp[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "container=tutti", NULL};
  char *argv[] = {run_init, NULL};
  struct spawn s = {.path = run_init, .argv = argv, .envp = envp, .cwd = "/", .user = &root, .in = 0, .out = 1, .err = 2,
                    .cgroup = workload_cgroup()};
  init_child = spawn(&s);
  if (init_child < 0) say("cannot start %s: %s", run_init, strerror(s.error));
}

void init_ended(pid_t pid) {
  if (pid == init_child && init_child > 0) say("%s has ended", run_init);
}

/* As poweroff (SIGUSR2), halt (SIGUSR1) and reboot (SIGTERM, SIGINT) ask process 1. */
void machine_end(int how) {
  if (!options.init) exit(1);
  kill(-1, SIGTERM);
  pause_ms(200);
  kill(-1, SIGKILL);
  sync();
  reboot(how == SIGUSR1 ? RB_HALT_SYSTEM : how == SIGUSR2 ? RB_POWER_OFF : RB_AUTOBOOT);
  for (;;) pause_ms(1000);
}

/* On VMMs without virtio ports; only where there is a device for it, and with it an address that is not our own loopback. */
static int vsock_listen(void) {
  unsigned cid = 0;
  int device = open("/dev/vsock", O_RDONLY | O_CLOEXEC);
  int known = device < 0 ? -1 : ioctl(device, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid);
  if (device >= 0) close(device);
  if (known != 0 || cid <= VMADDR_CID_HOST || cid == VMADDR_CID_ANY) return -1;
  struct sockaddr_vm at = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = VSOCK_PORT};
  int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(fd, 8) == 0) return fd;
  if (fd >= 0) close(fd);
  return -1;
}

int port_find(const char *name, bool *listens) {
  for (int waited = 0; waited < WAIT_MS; waited += 2) {
    DIR *directory = opendir("/sys/class/virtio-ports");
    for (struct dirent *d; directory && (d = readdir(directory));) {
      char path[512], found[128] = "";
      snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", d->d_name);
      FILE *f = d->d_name[0] == '.' ? NULL : fopen(path, "re");
      if (!f) continue;
      if (fgets(found, sizeof found, f)) found[strcspn(found, "\n")] = 0;
      fclose(f);
      if (strcmp(found, name) != 0) continue;
      snprintf(path, sizeof path, "/dev/%s", d->d_name);
      int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
      if (fd < 0) continue;
      closedir(directory);
      return fd;
    }
    if (directory) closedir(directory);
    int fd = vsock_listen();
    *listens = fd >= 0;
    if (fd >= 0) return fd;
    pause_ms(2);
  }
  errno = ENXIO;
  return -1;
}
