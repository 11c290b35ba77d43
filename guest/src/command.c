/*
 * Commands: processes with their input, output and end. A command outlives the stream that it was started on: its output
 * goes into a ring of its own, and whoever is attached is sent what lies in it (PROTOCOL.md, "Commands").
 */
#include "agent.h"
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <termios.h>

#define RING (1u << 20)
#define KEPT 64
#define ORPHAN_MS 30000
#define LINGER_MS 250

struct command {
  pid_t pid;
  bool detached, terminal, running, told; /* told: EXIT was sent on the present stream */
  int code;
  int64_t started;
  struct out argv;          /* fields, for the list */
  struct stream *stream;    /* who reads, or NULL */
  struct io *in, *out, *err;
  struct outbuf input;
  bool input_ended;
  uint64_t taken;           /* bytes of input that arrived */
  /* Output: offsets count all bytes ever. What lies between `acked` and `end` waits for the reader. */
  uint8_t *ring, *which;    /* which: a bit for each byte, set for stderr */
  bool any_err;
  uint64_t end, sent, acked;
  int64_t linger_until;     /* after the end: how long for more output */
  int64_t orphan_until;     /* let go of by a lost connection: how long its output waits */
  bool orphan_dies;
  struct command *next;
};

static struct command *commands;
static size_t count;

static bool start(struct stream *s, struct bytes fields, struct command *c);
static void attach(struct command *c, struct stream *s);
static void free_command(struct command *c);
static void output_ready(struct io *io, uint32_t events);
static void input_ready(struct io *io, uint32_t events);
static bool pump(struct stream *s);
static void settle(struct command *c);
static void forget_old(void);
static void sink_ready(struct io *io, uint32_t events);
static void signal_command(struct command *c, int number);

/* ---- operations ---- */

void command_exec(struct stream *s, struct bytes fields) {
  forget_old();
  if (workload_is_frozen()) {
    stream_fail(s, E_CONFLICT, "nothing can be run while the guest stands still for a snapshot");
    return;
  }
  if (count >= MAX_COMMANDS + KEPT) {
    stream_fail(s, E_EXHAUSTED, "%d commands run in the guest already, which is as many as the guest agent keeps", MAX_COMMANDS);
    return;
  }
  struct command *c = calloc(1, sizeof *c);
  if (!c) {
    stream_fail(s, E_EXHAUSTED, "the guest agent is out of memory");
    return;
  }
  c->detached = field_number(fields, F_DETACHED, 0) != 0;
  if (!start(s, fields, c)) {
    free(c->argv.at);
    free(c);
    return;
  }
  c->running = true;
  c->started = wall_ms();
  c->next = commands;
  commands = c;
  count++;
  uint8_t room[32];
  struct out reply = {room, 0, sizeof room, true};
  out_number(&reply, F_PID, (uint64_t)c->pid);
  stream_reply(s, &reply);
  attach(c, s);
}

void command_attach(struct stream *s, struct bytes fields) {
  pid_t pid = (pid_t)field_number(fields, F_PID, 0);
  struct command *c = commands;
  while (c && c->pid != pid) c = c->next;
  if (!c) {
    stream_fail(s, E_NOT_FOUND, "no command with process id %d is known in the guest", (int)pid);
    return;
  }
  if (c->stream) {
    stream_fail(s, E_CONFLICT, "somebody is attached to the command with process id %d already", (int)pid);
    return;
  }
  uint64_t oldest = c->end > RING ? c->end - RING : 0;
  uint64_t from = field_number(fields, F_OFFSET, 0);
  if (from < oldest) from = oldest;
  if (from > c->end) from = c->end;
  c->sent = c->acked = from;
  c->told = false;
  c->orphan_until = 0;
  uint8_t room[128];
  struct out reply = {room, 0, sizeof room, true};
  out_number(&reply, F_PID, (uint64_t)c->pid);
  out_number(&reply, F_OFFSET, from);
  out_number(&reply, F_TAKEN, c->taken);
  s->allowed = c->input.length < WINDOW ? WINDOW - (uint32_t)c->input.length : 0;
  out_number(&reply, F_CREDIT, s->allowed);
  if (c->terminal) out_number(&reply, F_COLUMNS, 1);
  stream_reply(s, &reply);
  s->ended = c->input_ended;
  attach(c, s);
}

void command_list(struct stream *s) {
  struct out all = {0};
  for (struct command *c = commands; c; c = c->next) {
    struct out entry = {0};
    out_number(&entry, F_PID, (uint64_t)c->pid);
    out_bytes(&entry, c->argv.at, c->argv.length);
    out_number(&entry, F_TIME, (uint64_t)c->started);
    out_number(&entry, F_RUNNING, c->running);
    out_number(&entry, F_CODE, (uint64_t)c->code);
    out_field(&all, F_ENTRY, entry.at, entry.length);
    out_free(&entry);
  }
  stream_send_all(s, all);
}

/* ---- starting ---- */

struct started { char **argv, **env; char *path; int fds[6]; struct user user; };

static char **arguments(struct bytes fields, struct out *kept) {
  size_t n = 0;
  struct bytes rest = fields;
  struct field f;
  while (field_next(&rest, &f)) n += f.tag == F_ARG;
  if (n == 0 || n > 8192) return NULL;
  char **argv = calloc(n + 1, sizeof *argv);
  rest = fields;
  for (size_t i = 0; argv && field_next(&rest, &f);) {
    if (f.tag != F_ARG) continue;
    if (!(argv[i++] = text_of(f.value))) {
      environment_free(argv);
      return NULL;
    }
    /* For the list: enough to know it by. */
    if (kept->length < 4096) out_field(kept, F_ARG, f.value.at, f.value.length < 4096 ? f.value.length : 4096);
  }
  return argv;
}

/* The file to be run; NULL when there is none, with the reason. */
static char *find_program(const char *name, const char *search, const char *cwd, char *problem, size_t size) {
  char path[8192];
  struct stat st;
  if (!*name) {
    snprintf(problem, size, "the command is empty");
    return NULL;
  }
  if (strchr(name, '/')) {
    if (*name == '/') snprintf(path, sizeof path, "%s", name);
    else snprintf(path, sizeof path, "%s/%s", cwd, name);
    if (stat(path, &st) != 0) snprintf(problem, size, "there is no program \"%s\" in the guest", path);
    else if (S_ISDIR(st.st_mode)) snprintf(problem, size, "\"%s\" is a directory, not a program", path);
    else if (!(st.st_mode & 0111)) snprintf(problem, size, "\"%s\" is not executable", path);
    else return strdup(path);
    return NULL;
  }
  for (const char *at = search; *at;) {
    size_t length = strcspn(at, ":");
    snprintf(path, sizeof path, "%.*s/%s", (int)length, at, name);
    if (length > 0 && stat(path, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 0111)) return strdup(path);
    at += length;
    if (*at == ':') at++;
  }
  snprintf(problem, size, "there is no program \"%s\" in the guest's %s", name, search);
  return NULL;
}

static bool open_terminal(unsigned columns, unsigned rows, const struct user *user, int *master, int *slave) {
  int unlock = 0;
  *slave = -1;
  *master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (*master < 0) return false;
  struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
  if (ioctl(*master, TIOCSPTLCK, &unlock) != 0) return false;
#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif
  *slave = ioctl(*master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (*slave < 0) return false;
  ioctl(*slave, TIOCSWINSZ, &size);
  if (geteuid() == 0 && fchown(*slave, user->uid, (gid_t)-1) != 0) return false;
  return true;
}

static bool open_pipes(int fds[6], const struct user *user) {
  for (int i = 0; i < 6; i += 2) {
    if (pipe2(fds + i, O_CLOEXEC) != 0) return false;
    /* So that /dev/stdout can be opened again by the one it is for. */
    if (user->uid != 0 && geteuid() == 0 && (fchown(fds[i], user->uid, (gid_t)-1) || fchown(fds[i + 1], user->uid, (gid_t)-1)))
      return false;
  }
  fcntl(fds[1], F_SETFL, O_NONBLOCK | O_WRONLY);
  fcntl(fds[2], F_SETFL, O_NONBLOCK);
  fcntl(fds[4], F_SETFL, O_NONBLOCK);
  return true;
}

static void spawn_failed(struct stream *s, const struct spawn *spawn, const struct user *user) {
  const char *why = strerror(spawn->error);
  switch (spawn->failed_step) {
    case STEP_USER: stream_fail(s, E_INVALID, "cannot run \"%s\" as user \"%s\": %s", spawn->argv[0], user->name, why); break;
    case STEP_CWD:
      if (spawn->error == EACCES)
        stream_fail(s, E_INVALID, "user \"%s\" may not enter the directory \"%s\" in the guest", user->name, spawn->cwd);
      else if (spawn->error == ENOTDIR) stream_fail(s, E_INVALID, "\"%s\" is not a directory in the guest", spawn->cwd);
      else stream_fail(s, E_INVALID, "there is no directory \"%s\" in the guest to run \"%s\" in", spawn->cwd, spawn->argv[0]);
      break;
    case STEP_EXEC:
      if (spawn->error == EACCES)
        stream_fail(s, E_INVALID, "user \"%s\" may not run \"%s\"", user->name, spawn->path);
      else if (spawn->error == ENOENT)
        stream_fail(s, E_INVALID, "\"%s\" cannot be run: the interpreter or loader that it names is not in the guest", spawn->path);
      else if (spawn->error == ENOEXEC)
        stream_fail(s, E_INVALID, "\"%s\" cannot be run: it is no program for this machine", spawn->path);
      else if (spawn->error == E2BIG)
        stream_fail(s, E_INVALID, "the arguments and environment of \"%s\" are too long", spawn->argv[0]);
      else stream_fail(s, code_of(spawn->error), "cannot run \"%s\": %s", spawn->path, why);
      break;
    default: stream_fail(s, E_UNAVAILABLE, "cannot put \"%s\" into the workload's control group: %s", spawn->argv[0], why);
  }
}

static bool start(struct stream *s, struct bytes fields, struct command *c) {
  char problem[512] = "", name[128], cwd[4096];
  struct started t = {.fds = {-1, -1, -1, -1, -1, -1}};
  unsigned columns = (unsigned)field_number(fields, F_COLUMNS, 0), rows = (unsigned)field_number(fields, F_ROWS, 0);
  bool done = false;
  char *search = NULL;
  c->terminal = columns > 0 || rows > 0;
  if (!field_text(fields, F_USER, name, sizeof name) || !*name)
    snprintf(name, sizeof name, "%s", *defaults.user ? defaults.user : options.system || getuid() == 0 ? "root" : "");
  if (!*name) snprintf(name, sizeof name, "%u", (unsigned)getuid());
  if (!user_find(name, &t.user, problem, sizeof problem)) {
    stream_fail(s, E_INVALID, "%s", problem);
    return false;
  }
  if (!field_text(fields, F_CWD, cwd, sizeof cwd) || !*cwd) {
    struct stat st;
    if (*defaults.cwd) snprintf(cwd, sizeof cwd, "%s", defaults.cwd);
    else snprintf(cwd, sizeof cwd, "%s", stat(t.user.home, &st) == 0 && S_ISDIR(st.st_mode) ? t.user.home : "/");
  } else if (*cwd != '/') {
    stream_fail(s, E_INVALID, "the directory \"%s\" must be an absolute path", cwd);
    return false;
  }
  t.argv = arguments(fields, &c->argv);
  if (!t.argv) {
    stream_fail(s, E_INVALID, "the command is empty, or an argument has a NUL byte in it");
    goto out;
  }
  t.env = environment(&t.user, fields, c->terminal, &search);
  if (!t.env) {
    stream_fail(s, E_INVALID, "the environment has an entry without a name, or a NUL byte in it");
    goto out;
  }
  t.path = find_program(t.argv[0], search, cwd, problem, sizeof problem);
  if (!t.path) {
    stream_fail(s, E_INVALID, "%s", problem);
    goto out;
  }
  int master = -1, slave = -1;
  if (c->terminal ? !open_terminal(columns, rows, &t.user, &master, &slave) : !open_pipes(t.fds, &t.user)) {
    int error = errno;
    if (master >= 0) close(master);
    if (slave >= 0) close(slave);
    stream_fail_errno(s, error, "cannot open %s for \"%s\"", c->terminal ? "a terminal" : "pipes", t.argv[0]);
    goto out;
  }
  struct spawn run = {.path = t.path, .argv = t.argv, .envp = t.env, .cwd = cwd, .user = &t.user, .terminal = c->terminal,
                      .cgroup = workload_cgroup()};
  run.in = c->terminal ? slave : t.fds[0];
  run.out = c->terminal ? slave : t.fds[3];
  run.err = c->terminal ? slave : t.fds[5];
  c->pid = spawn(&run);
  if (slave >= 0) close(slave);
  if (c->pid < 0) {
    if (master >= 0) close(master);
    spawn_failed(s, &run, &t.user);
    goto out;
  }
  if (c->terminal) {
    c->out = io_open(master, EPOLLIN, output_ready, c);
  } else {
    c->in = io_open(t.fds[1], 0, input_ready, c);
    c->out = io_open(t.fds[2], EPOLLIN, output_ready, c);
    c->err = io_open(t.fds[4], EPOLLIN, output_ready, c);
    t.fds[1] = t.fds[2] = t.fds[4] = -1;
  }
  done = true;
out:
  for (int i = 0; i < 6; i++)
    if (t.fds[i] >= 0) close(t.fds[i]);
  environment_free(t.argv);
  environment_free(t.env);
  free(t.path);
  return done;
}

/* ---- a reader ---- */

static void on_data(struct stream *s, const uint8_t *bytes, size_t length) {
  struct command *c = s->self;
  c->taken += length;
  struct io *to = c->terminal ? c->out : c->in;
  if (!to || c->input_ended || !outbuf_add(&c->input, bytes, length)) {
    stream_took(s, (uint32_t)length);
    return;
  }
  input_ready(to, 0);
}

static void on_end(struct stream *s) {
  struct command *c = s->self;
  if (c->terminal) {
    static const uint8_t end_of_file = 4;
    if (c->out && outbuf_add(&c->input, &end_of_file, 1)) input_ready(c->out, 0);
    return;
  }
  c->input_ended = true;
  if (c->in) input_ready(c->in, 0);
}

static void on_credit(struct stream *s, uint32_t more) {
  struct command *c = s->self;
  c->acked = c->acked + more > c->sent ? c->sent : c->acked + more;
  settle(c);
}

static void on_signal(struct stream *s, int number) { signal_command(s->self, number); }

static void on_resize(struct stream *s, unsigned columns, unsigned rows) {
  struct command *c = s->self;
  struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
  if (c->terminal && c->out) ioctl(c->out->fd, TIOCSWINSZ, &size);
}

static void on_closed(struct stream *s, bool lost) {
  struct command *c = s->self;
  c->stream = NULL;
  if (lost) return; /* commands_lost says what becomes of it */
  if (!c->detached && c->running) signal_command(c, SIGKILL);
  if (!c->running && c->told && !c->detached) {
    free_command(c);
    return;
  }
  c->acked = c->sent = c->end;
  settle(c);
}

static void attach(struct command *c, struct stream *s) {
  c->stream = s;
  s->self = c;
  s->pump = pump;
  s->data = on_data;
  s->end = on_end;
  s->credited = on_credit;
  s->signal = on_signal;
  s->resize = on_resize;
  s->closed = on_closed;
  settle(c);
  stream_wake(s);
}

void commands_lost(bool quiesced) {
  for (struct command *c = commands; c; c = c->next) {
    if (c->stream || c->detached || !c->running) continue;
    if (c->orphan_until == 0) {
      c->orphan_until = now_ms() + ORPHAN_MS;
      c->orphan_dies = !quiesced;
    }
  }
}

/* ---- input and output ---- */

static void input_ready(struct io *io, uint32_t events) {
  struct command *c = io->self;
  size_t before = c->input.length;
  ssize_t written = outbuf_flush(&c->input, io->fd);
  bool gone = written < 0 || (events & EPOLLERR);
  uint32_t freed = (uint32_t)(gone ? before : (size_t)written);
  if (gone) outbuf_free(&c->input);
  if (c->terminal) {
    settle(c);
  } else if (gone || (c->input_ended && c->input.length == 0)) {
    io_close(c->in);
    c->in = NULL;
    c->input_ended = c->input_ended || gone;
  } else {
    io_want(io, c->input.length > 0 ? EPOLLOUT : 0);
  }
  if (freed > 0 && c->stream) stream_took(c->stream, freed);
}

static void mark(struct command *c, uint64_t from, size_t length, bool is_err) {
  if (is_err) c->any_err = true;
  if (!c->any_err) return;
  for (size_t i = 0; i < length;) {
    size_t at = (size_t)((from + i) % RING);
    if (at % 8 == 0 && length - i >= 8) {
      size_t bytes = (length - i) / 8, most = (RING - at) / 8;
      if (bytes > most) bytes = most;
      memset(c->which + at / 8, is_err ? 0xff : 0, bytes);
      i += bytes * 8;
      continue;
    }
    if (is_err) c->which[at / 8] |= (uint8_t)(1 << at % 8);
    else c->which[at / 8] &= (uint8_t)~(1 << at % 8);
    i++;
  }
}

/* From `at`, at most `length` bytes that do not go round the ring: how many are of the same kind as the first. */
static size_t run_of(struct command *c, uint64_t from, size_t length, bool *is_err) {
  *is_err = false;
  if (!c->any_err) return length;
  size_t at = (size_t)(from % RING), i = 1;
  *is_err = c->which[at / 8] >> at % 8 & 1;
  uint8_t whole = *is_err ? 0xff : 0;
  while (i < length) {
    size_t bit = at + i;
    if (bit % 8 == 0 && length - i >= 8 && c->which[bit / 8] == whole) {
      i += 8;
      continue;
    }
    if ((c->which[bit / 8] >> bit % 8 & 1) != *is_err) break;
    i++;
  }
  return i;
}

static bool held(const struct command *c) { return c->stream || c->orphan_until > 0; }

static size_t space(const struct command *c) { return held(c) ? RING - (size_t)(c->end - c->acked) : RING; }

static void output_ready(struct io *io, uint32_t events) {
  struct command *c = io->self;
  if (c->terminal && c->input.length > 0 && (events & EPOLLOUT)) input_ready(io, 0);
  if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
  if (!c->ring) {
    uint8_t *memory = mmap(NULL, RING + RING / 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return;
    c->ring = memory;
    c->which = memory + RING;
  }
  size_t at = (size_t)(c->end % RING), most = RING - at, room = space(c);
  if (most > room) most = room;
  if (most > 65536) most = 65536;
  if (most == 0) {
    settle(c);
    return;
  }
  ssize_t got = read(io->fd, c->ring + at, most);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) {
    /* A terminal that nobody has open any more says EIO. */
    if (io == c->err) c->err = NULL;
    else c->out = NULL;
    io_close(io);
  } else {
    mark(c, c->end, (size_t)got, io == c->err);
    c->end += (uint64_t)got;
    if (!held(c)) c->sent = c->acked = c->end;
  }
  settle(c);
}

/* What epoll should tell of, given what there is room for; and whether the reader has something to hear. */
static void settle(struct command *c) {
  bool room = space(c) > 0;
  if (c->out) io_want(c->out, (room ? EPOLLIN : 0) | (c->terminal && c->input.length > 0 ? EPOLLOUT : 0));
  if (c->err) io_want(c->err, room ? EPOLLIN : 0);
  if (c->stream) stream_wake(c->stream);
}

static bool over(const struct command *c) { return !c->running && !c->out && !c->err; }

static bool pump(struct stream *s) {
  struct command *c = s->self;
  size_t left = (size_t)(c->end - c->sent);
  if (left == 0) {
    if (!over(c) || c->told) return false;
    uint8_t room[16];
    struct out fields = {room, 0, sizeof room, true};
    out_number(&fields, F_CODE, (uint64_t)c->code);
    wire_send(s->id, T_EXIT, 0, fields.at, fields.length);
    c->told = true;
    return false;
  }
  size_t at = (size_t)(c->sent % RING);
  if (left > RING - at) left = RING - at;
  if (left > s->credit) left = s->credit;
  if (left > 32768) left = 32768;
  if (left == 0) return false;
  bool is_err;
  left = run_of(c, c->sent, left, &is_err);
  wire_send(s->id, T_DATA, is_err, c->ring + at, left);
  c->sent += left;
  s->credit -= (uint32_t)left;
  return c->sent < c->end ? s->credit > 0 : over(c);
}

/* ---- the end ---- */

bool command_ended(pid_t pid, int status) {
  for (struct command *c = commands; c; c = c->next) {
    if (c->pid != pid || !c->running) continue;
    c->running = false;
    c->code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    c->linger_until = now_ms() + LINGER_MS;
    if (c->in) {
      io_close(c->in);
      c->in = NULL;
    }
    if (c->input.length > 0 && c->stream) stream_took(c->stream, (uint32_t)c->input.length);
    outbuf_free(&c->input);
    wake_within(LINGER_MS);
    settle(c);
    return true;
  }
  return false;
}

/* Something the command left behind still holds its output: read on, so that it does not die of it, and drop. */
static void sink_ready(struct io *io, uint32_t events) {
  (void)events;
  static uint8_t nowhere[16384];
  ssize_t got = read(io->fd, nowhere, sizeof nowhere);
  if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
    io_close(io);
    (*(size_t *)io->self)--;
  }
}

static void leave_to_sink(struct io **io) {
  static size_t sinks;
  if (!*io) return;
  if (sinks < 256) {
    int fd = (*io)->fd;
    io_let_go(*io);
    io_open(fd, EPOLLIN, sink_ready, &sinks);
    sinks++;
  } else {
    io_close(*io);
  }
  *io = NULL;
}

void commands_turn(void) {
  int64_t now = now_ms();
  for (struct command *c = commands; c; c = c->next) {
    if (c->orphan_until > 0) {
      if (now >= c->orphan_until) {
        c->orphan_until = 0;
        if (c->orphan_dies) signal_command(c, SIGKILL);
        c->detached = true;
        c->acked = c->sent = c->end;
        settle(c);
      } else {
        wake_within(c->orphan_until - now);
      }
    }
    if (c->running || (!c->out && !c->err)) continue;
    /* Only time with room counts: output that waits for a slow reader is the command's own. */
    if (space(c) == 0) c->linger_until = now + LINGER_MS;
    if (now < c->linger_until) {
      wake_within(c->linger_until - now);
      continue;
    }
    leave_to_sink(&c->out);
    leave_to_sink(&c->err);
    settle(c);
  }
}

static void signal_command(struct command *c, int number) {
  if (!c->running || number < 1 || number > 64) return;
  if (kill(-c->pid, number) != 0) kill(c->pid, number);
}

void commands_kill_all(void) {
  for (struct command *c = commands; c; c = c->next) signal_command(c, SIGKILL);
}

pid_t command_pid_at(size_t index) {
  for (struct command *c = commands; c; c = c->next)
    if (c->running && index-- == 0) return c->pid;
  return 0;
}

/* The newest that have ended are kept; the list has the newest first. */
static void forget_old(void) {
  size_t ended = 0;
  for (struct command *c = commands, *next; c; c = next) {
    next = c->next;
    if (!c->running && !c->stream && ++ended > KEPT) free_command(c);
  }
}

static void free_command(struct command *c) {
  struct command **link = &commands;
  while (*link != c) link = &(*link)->next;
  *link = c->next;
  count--;
  leave_to_sink(&c->out);
  leave_to_sink(&c->err);
  if (c->in) io_close(c->in);
  outbuf_free(&c->input);
  if (c->ring) munmap(c->ring, RING + RING / 8);
  free(c->argv.at);
  free(c);
}
