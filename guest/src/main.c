/* The loop, and how the agent is started: as process 1, by an image's init, or on an inherited socket in tests. */
#include "agent.h"
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

struct options options = {.system = true, .port_name = "tutti.agent"};

static int epoll = -1;
static int64_t deadline; /* of the next turn; INT64_MAX: none */
static struct io *dead;  /* closed in this turn: epoll may still name them */

static int arguments(int argc, char **argv);
static int listen_at(const char *path);
static void loop(void);
static void signalled(struct io *io, uint32_t events);
static void reap(void);

int main(int argc, char **argv) {
  options.init = getpid() == 1;
  int fd = options.init ? -1 : arguments(argc, argv);
  umask(022);
  if (options.init) init_machine();
  else if (options.system) prctl(PR_SET_CHILD_SUBREAPER, 1);
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max = options.init ? 65536 : files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGUSR2);
  sigprocmask(SIG_BLOCK, &set, NULL);
  epoll = epoll_create1(EPOLL_CLOEXEC);
  io_open(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), EPOLLIN, signalled, NULL);
  if (options.system) workload_prepare();
  if (options.system) network_loopback();
  if (options.run_init) init_start_child();
  bool listens = options.listen != NULL;
  if (listens) fd = listen_at(options.listen);
  else if (fd < 0) fd = options.port ? open(options.port, O_RDWR | O_CLOEXEC | O_NONBLOCK) : port_find(options.port_name, &listens);
  if (fd < 0) {
    say("cannot open the channel: there is no port named \"%s\": %s", options.port ? options.port : options.port_name, strerror(errno));
    if (options.init) machine_end(SIGUSR2);
    return 1;
  }
  if (listens) wire_listen(fd);
  else wire_open(fd);
  loop();
  commands_kill_all();
  return 0;
}

static int arguments(int argc, char **argv) {
  int fd = -1;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--fd") == 0 && i + 1 < argc) fd = atoi(argv[++i]);
    else if (strcmp(argv[i], "--port") == 0 && i + 1 < argc) options.port = argv[++i];
    else if (strcmp(argv[i], "--port-name") == 0 && i + 1 < argc) options.port_name = argv[++i];
    else if (strcmp(argv[i], "--listen") == 0 && i + 1 < argc) options.listen = argv[++i];
    else if (strcmp(argv[i], "--no-system") == 0) options.system = false;
    else if (strcmp(argv[i], "--version") == 0) {
      puts(VERSION);
      exit(0);
    } else {
      fprintf(stderr, "usage: tutti-guest [--fd N | --listen SOCKET | --port DEVICE | --port-name NAME] [--no-system]\n");
      exit(2);
    }
  }
  return fd;
}

static int listen_at(const char *path) {
  struct sockaddr_un at = {.sun_family = AF_UNIX};
  snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  return fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(fd, 8) == 0 ? fd : -1;
}

static void loop(void) {
  struct epoll_event events[64];
  while (!wire_lost) {
    deadline = INT64_MAX;
    commands_turn();
    wire_turn();
    while (dead) {
      struct io *io = dead;
      dead = io->self;
      free(io);
    }
    if (wire_lost) break;
    int64_t left = deadline == INT64_MAX ? -1 : deadline - now_ms();
    if (deadline != INT64_MAX && left < 0) left = 0;
    int count = epoll_wait(epoll, events, 64, (int)left);
    for (int i = 0; i < count; i++) {
      struct io *io = events[i].data.ptr;
      if (io->ready) io->ready(io, events[i].events);
    }
  }
}

static void signalled(struct io *io, uint32_t events) {
  (void)events;
  struct signalfd_siginfo info;
  while (read(io->fd, &info, sizeof info) == (ssize_t)sizeof info) {
    if (info.ssi_signo == SIGCHLD) {
      reap();
    } else if (options.init) {
      /* What poweroff, halt and reboot send to process 1. */
      machine_end((int)info.ssi_signo);
    } else {
      wire_lost = true;
    }
  }
}

/* Signals of children run together: ask until there is none. */
static void reap(void) {
  int status;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
    if (!command_ended(pid, status)) init_ended(pid);
}

struct io *io_open(int fd, uint32_t events, void (*ready)(struct io *, uint32_t), void *self) {
  struct io *io = malloc(sizeof *io);
  if (!io) {
    say("out of memory");
    abort();
  }
  *io = (struct io){fd, events, ready, self};
  struct epoll_event event = {.events = events, .data.ptr = io};
  epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
  return io;
}

void io_want(struct io *io, uint32_t events) {
  if (io->events == events || !io->ready) return;
  io->events = events;
  /* A file that nothing is wanted of leaves epoll: a hang-up would be told all the same, again and again. */
  struct epoll_event event = {.events = events, .data.ptr = io};
  if (events == 0) epoll_ctl(epoll, EPOLL_CTL_DEL, io->fd, NULL);
  else if (epoll_ctl(epoll, EPOLL_CTL_MOD, io->fd, &event) != 0) epoll_ctl(epoll, EPOLL_CTL_ADD, io->fd, &event);
}

void io_let_go(struct io *io) {
  epoll_ctl(epoll, EPOLL_CTL_DEL, io->fd, NULL);
  io->ready = NULL;
  io->self = dead;
  dead = io;
}

void io_close(struct io *io) {
  io_let_go(io);
  close(io->fd);
}

static int64_t clock_ms(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int64_t now_ms(void) { return clock_ms(CLOCK_MONOTONIC); }
int64_t wall_ms(void) { return clock_ms(CLOCK_REALTIME); }

void wake_within(int64_t ms) {
  int64_t at = now_ms() + ms;
  if (at < deadline) deadline = at;
}

void say(const char *format, ...) {
  char text[1024];
  va_list list;
  va_start(list, format);
  int length = vsnprintf(text, sizeof text - 1, format, list);
  va_end(list);
  if (length > (int)sizeof text - 2) length = sizeof text - 2;
  text[length] = '\n';
  if (write(2, "tutti-guest: ", 13) < 0 || write(2, text, (size_t)length + 1) < 0) return;
}
