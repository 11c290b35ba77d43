/* Watching a directory, with what is below it when asked: one inotify instance for each watch. */
#include "agent.h"
#include <dirent.h>
#include <limits.h>
#include <sys/inotify.h>

#define MOST 8192
#define MASK (IN_CREATE | IN_MODIFY | IN_ATTRIB | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR)

struct place { int wd; char *path; };

struct watching {
  struct io *io;
  bool recursive, full;
  struct place *places; /* by rising wd: inotify gives each new number greater than the last */
  size_t count, room;
  int root;
  uint32_t own_cookie;  /* of the rename that gives a file of the agent's its name */
  struct out waiting;   /* events not sent yet */
  struct stream *stream;
};

static bool add(struct watching *w, const char *path, int depth, bool announce);

static void event(struct watching *w, const char *kind, const char *path) {
  uint8_t room[PATH_MAX + 300];
  struct out entry = {room, 0, sizeof room, true};
  out_text(&entry, F_KIND, kind);
  out_text(&entry, F_PATH, path);
  out_field(&w->waiting, F_ENTRY, entry.at, entry.length);
}

static struct place *place_of(struct watching *w, int wd) {
  size_t low = 0, high = w->count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (w->places[middle].wd < wd) low = middle + 1;
    else high = middle;
  }
  return low < w->count && w->places[low].wd == wd ? &w->places[low] : NULL;
}

static void forget(struct watching *w, int wd) {
  struct place *p = place_of(w, wd);
  if (!p) return;
  free(p->path);
  size_t at = (size_t)(p - w->places);
  memmove(p, p + 1, (--w->count - at) * sizeof *p);
}

/* A directory that was moved away is still watched under its old name: let go of it and of all below. */
static void forget_below(struct watching *w, const char *path) {
  size_t length = strlen(path);
  for (size_t i = w->count; i-- > 0;) {
    struct place *p = &w->places[i];
    if (strncmp(p->path, path, length) != 0 || (p->path[length] != 0 && p->path[length] != '/')) continue;
    inotify_rm_watch(w->io->fd, p->wd);
    forget(w, p->wd);
  }
}

static void take_event(struct watching *w, const struct inotify_event *e) {
  char path[PATH_MAX];
  if (e->mask & IN_Q_OVERFLOW) {
    w->full = true;
    return;
  }
  struct place *p = place_of(w, e->wd);
  if (!p) return;
  if (e->mask & IN_IGNORED) {
    forget(w, e->wd);
    return;
  }
  if (e->len == 0) {
    if (e->wd == w->root && (e->mask & (IN_DELETE_SELF | IN_MOVE_SELF))) event(w, "removed", p->path);
    return;
  }
  if (snprintf(path, sizeof path, "%s/%s", strcmp(p->path, "/") == 0 ? "" : p->path, e->name) >= (int)sizeof path) return;
  /* The agent's own temporary names are nobody's business; the rename that ends a write is a file that came. */
  if (strncmp(e->name, ".tutti-", 7) == 0) {
    if (e->mask & IN_MOVED_FROM) w->own_cookie = e->cookie;
    return;
  }
  bool directory = e->mask & IN_ISDIR;
  if (e->mask & IN_CREATE) event(w, "created", path);
  else if (e->mask & IN_MOVED_TO) event(w, e->cookie == w->own_cookie ? "created" : "moved", path);
  else if (e->mask & (IN_DELETE | IN_MOVED_FROM)) event(w, "removed", path);
  else if (e->mask & (IN_MODIFY | IN_ATTRIB)) event(w, "changed", path);
  if (!directory || !w->recursive) return;
  if (e->mask & IN_MOVED_FROM) forget_below(w, path);
  if (e->mask & (IN_CREATE | IN_MOVED_TO)) add(w, path, 1, true);
}

/* `announce`: the directory is new, and what was put into it before we watched it is told of now. */
static bool add(struct watching *w, const char *path, int depth, bool announce) {
  int wd = inotify_add_watch(w->io->fd, path, MASK | (depth > 0 ? IN_DONT_FOLLOW : 0));
  if (wd < 0) return depth > 0;
  if (!place_of(w, wd)) {
    if (w->count >= MOST) {
      w->full = true;
      return false;
    }
    if (w->count == w->room) {
      size_t room = w->room ? w->room * 2 : 16;
      struct place *grown = realloc(w->places, room * sizeof *grown);
      if (!grown) return false;
      w->places = grown;
      w->room = room;
    }
    char *copy = strdup(path);
    if (!copy) return false;
    size_t at = w->count++;
    while (at > 0 && w->places[at - 1].wd > wd) {
      w->places[at] = w->places[at - 1];
      at--;
    }
    w->places[at] = (struct place){wd, copy};
  }
  if (depth == 0) w->root = wd;
  if (!w->recursive || depth > 200) return true;
  DIR *directory = opendir(path);
  if (!directory) return true;
  for (struct dirent *d; !w->full && (d = readdir(directory));) {
    char below[PATH_MAX];
    if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0) continue;
    if (snprintf(below, sizeof below, "%s/%s", strcmp(path, "/") == 0 ? "" : path, d->d_name) >= (int)sizeof below) continue;
    if (announce && w->waiting.length < WINDOW) event(w, "created", below);
    struct stat st;
    bool is_directory = d->d_type == DT_DIR || (d->d_type == DT_UNKNOWN && lstat(below, &st) == 0 && S_ISDIR(st.st_mode));
    if (is_directory) add(w, below, depth + 1, announce);
  }
  closedir(directory);
  return true;
}

static void ready(struct io *io, uint32_t events) {
  (void)events;
  struct watching *w = io->self;
  static union { struct inotify_event first; char bytes[16384]; } read_into;
  ssize_t got = read(io->fd, read_into.bytes, sizeof read_into.bytes);
  for (ssize_t at = 0; got > 0 && at < got;) {
    struct inotify_event *e = (struct inotify_event *)(read_into.bytes + at);
    take_event(w, e);
    at += (ssize_t)(sizeof *e + e->len);
  }
  if (w->full) {
    stream_fail(w->stream, E_EXHAUSTED, "too much changes to be watched; watch less, or look again and watch anew");
    return;
  }
  if (w->waiting.length > 65536) io_want(io, 0);
  stream_wake(w->stream);
}

/* Whole entries only need to be whole after joining: DATA is a stream of bytes. */
static bool pump(struct stream *s) {
  struct watching *w = s->self;
  size_t some = w->waiting.length < 32768 ? w->waiting.length : 32768;
  if (some > s->credit) some = s->credit;
  if (some == 0) return false;
  wire_send(s->id, T_DATA, 0, w->waiting.at, some);
  s->credit -= (uint32_t)some;
  w->waiting.length -= some;
  memmove(w->waiting.at, w->waiting.at + some, w->waiting.length);
  if (w->waiting.length <= 65536) io_want(w->io, EPOLLIN);
  return w->waiting.length > 0;
}

static void closed(struct stream *s, bool lost) {
  (void)lost;
  struct watching *w = s->self;
  io_close(w->io);
  for (size_t i = 0; i < w->count; i++) free(w->places[i].path);
  free(w->places);
  out_free(&w->waiting);
  free(w);
}

void watch_open(struct stream *s, struct bytes fields) {
  char path[PATH_MAX];
  struct stat st;
  if (!path_of(s, fields, F_PATH, path)) return;
  size_t length = strlen(path);
  while (length > 1 && path[length - 1] == '/') path[--length] = 0;
  if (stat(path, &st) != 0) {
    stream_fail_errno(s, errno, "cannot watch \"%s\"", path);
    return;
  }
  if (!S_ISDIR(st.st_mode)) {
    stream_fail(s, E_CONFLICT, "cannot watch \"%s\": it is not a directory", path);
    return;
  }
  struct watching *w = calloc(1, sizeof *w);
  int fd = w ? inotify_init1(IN_CLOEXEC | IN_NONBLOCK) : -1;
  if (fd < 0) {
    free(w);
    stream_fail(s, E_EXHAUSTED, "cannot watch \"%s\": the guest has no more room for watches", path);
    return;
  }
  w->recursive = field_number(fields, F_RECURSIVE, 0) != 0;
  w->stream = s;
  w->io = io_open(fd, EPOLLIN, ready, w);
  s->self = w;
  s->pump = pump;
  s->closed = closed;
  if (!add(w, path, 0, false) || w->full) {
    int error = errno;
    if (w->full) stream_fail(s, E_EXHAUSTED, "cannot watch \"%s\": it has more than %d directories", path, MOST);
    else stream_fail_errno(s, error, "cannot watch \"%s\"", path);
    return;
  }
  stream_reply(s, NULL);
}
