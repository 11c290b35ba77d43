/* Files: read and write as streams, the rest as one question and one answer. Paths are absolute. */
#include "agent.h"
#include <dirent.h>
#include <limits.h>
#include <sys/syscall.h>

#define LIST_MOST (16u << 20)

bool path_of(struct stream *s, struct bytes fields, uint8_t tag, char *out) {
  if (!field_text(fields, tag, out, PATH_MAX)) {
    stream_fail(s, E_INVALID, "a path is missing, longer than %d bytes, or has a NUL byte in it", PATH_MAX - 1);
    return false;
  }
  if (*out == '/') return true;
  stream_fail(s, E_INVALID, "the path \"%s\" must be absolute", out);
  return false;
}

static bool may_change(struct stream *s) {
  if (!disk_is_frozen()) return true;
  stream_fail(s, E_CONFLICT, "the guest's file systems stand still for a snapshot");
  return false;
}

/* Missing directories above `path`, or with it; owned by the user when there is one. 0 or errno. */
static int make_directories(const char *path, bool itself, const struct user *user) {
  char part[PATH_MAX];
  snprintf(part, sizeof part, "%s", path);
  for (char *at = part + 1;; at++) {
    bool last = *at == 0;
    if (!last && *at != '/') continue;
    if (last && !itself) return 0;
    *at = 0;
    if (mkdir(part, 0755) == 0) {
      if (user && geteuid() == 0 && chown(part, user->uid, user->gid) != 0) return errno;
    } else if (errno != EEXIST) {
      struct stat st;
      int error = errno;
      if (stat(part, &st) != 0 || !S_ISDIR(st.st_mode)) return error;
    } else if (last) {
      struct stat st;
      if (stat(part, &st) != 0 || !S_ISDIR(st.st_mode)) return ENOTDIR;
    }
    if (last) return 0;
    *at = '/';
    while (at[1] == '/') at++;
  }
}

static bool user_of(struct stream *s, struct bytes fields, struct user *user, bool *given) {
  char name[128], problem[256];
  *given = field_text(fields, F_USER, name, sizeof name) && *name;
  if (!*given || user_find(name, user, problem, sizeof problem)) return true;
  stream_fail(s, E_INVALID, "%s", problem);
  return false;
}

static void entry_of(struct out *out, const char *name, const char *path, const struct stat *st) {
  const char *type = S_ISREG(st->st_mode) ? "file" : S_ISDIR(st->st_mode) ? "directory" : S_ISLNK(st->st_mode) ? "link" : "other";
  out_text(out, F_NAME, name);
  out_text(out, F_TYPE, type);
  out_number(out, F_SIZE, (uint64_t)st->st_size);
  out_number(out, F_MODE, st->st_mode & 07777);
  out_number(out, F_UID, st->st_uid);
  out_number(out, F_GID, st->st_gid);
  out_number(out, F_TIME, (uint64_t)(st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000));
  if (S_ISLNK(st->st_mode)) {
    char target[PATH_MAX];
    ssize_t length = readlink(path, target, sizeof target);
    if (length > 0) out_field(out, F_TARGET, target, (size_t)length);
  }
}

/* ---- reading ---- */

struct reading { int fd; uint64_t left; };

static bool pump_file(struct stream *s) {
  struct reading *r = s->self;
  static uint8_t bytes[32768];
  size_t some = sizeof bytes;
  if (some > s->credit) some = s->credit;
  if (some > r->left) some = (size_t)r->left;
  ssize_t got = 0;
  if (r->left > 0) {
    if (some == 0) return false;
    got = read(r->fd, bytes, some);
    if (got < 0) {
      stream_fail_errno(s, errno, "cannot read the file further");
      return false;
    }
  }
  if (got == 0) {
    wire_send(s->id, T_END, 0, NULL, 0);
    stream_close(s, false);
    return false;
  }
  wire_send(s->id, T_DATA, 0, bytes, (size_t)got);
  s->credit -= (uint32_t)got;
  r->left -= (uint64_t)got;
  return true;
}

static void reading_closed(struct stream *s, bool lost) {
  (void)lost;
  struct reading *r = s->self;
  close(r->fd);
  free(r);
}

void file_read(struct stream *s, struct bytes fields) {
  char path[PATH_MAX];
  struct stat st;
  if (!path_of(s, fields, F_PATH, path)) return;
  /* Not blocking: a named pipe must not hold the agent up. */
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  struct reading *r = NULL;
  if (fd < 0 || fstat(fd, &st) != 0) {
    stream_fail_errno(s, errno, "cannot read \"%s\"", path);
  } else if (!S_ISREG(st.st_mode)) {
    stream_fail(s, E_CONFLICT, "cannot read \"%s\": it is %s", path, S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
  } else if (!(r = malloc(sizeof *r))) {
    stream_fail(s, E_EXHAUSTED, "the guest agent is out of memory");
  }
  if (!r) {
    if (fd >= 0) close(fd);
    return;
  }
  uint64_t offset = field_number(fields, F_OFFSET, 0);
  *r = (struct reading){fd, field_number(fields, F_LENGTH, UINT64_MAX)};
  if (offset > 0) lseek(fd, offset > INT64_MAX ? INT64_MAX : (off_t)offset, SEEK_SET);
  s->self = r;
  s->pump = pump_file;
  s->closed = reading_closed;
  uint8_t room[32];
  struct out reply = {room, 0, sizeof room, true};
  out_number(&reply, F_SIZE, (uint64_t)st.st_size);
  stream_reply(s, &reply);
  stream_wake(s);
}

/* ---- writing: under a temporary name until it is whole ---- */

struct writing { int fd; mode_t mode; bool has_mode, has_user; struct user user; char path[PATH_MAX], temporary[PATH_MAX]; };

static bool temporary_name(const char *path, char *out) {
  static unsigned number;
  const char *name = strrchr(path, '/') + 1;
  if (!*name) return false;
  return snprintf(out, PATH_MAX, "%.*s.tutti-%d-%u", (int)(name - path), path, (int)getpid(), number++) < PATH_MAX;
}

static void writing_closed(struct stream *s, bool lost) {
  (void)lost;
  struct writing *w = s->self;
  if (w->fd >= 0) {
    close(w->fd);
    unlink(w->temporary);
  }
  free(w);
}

static void writing_data(struct stream *s, const uint8_t *bytes, size_t length) {
  struct writing *w = s->self;
  for (size_t at = 0; at < length;) {
    ssize_t written = write(w->fd, bytes + at, length - at);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      stream_fail_errno(s, errno, "cannot write \"%s\"", w->path);
      return;
    }
    at += (size_t)written;
  }
  stream_took(s, (uint32_t)length);
}

static void writing_end(struct stream *s) {
  struct writing *w = s->self;
  if (!may_change(s)) return;
  int error = 0;
  if (w->has_user && geteuid() == 0 && fchown(w->fd, w->user.uid, w->user.gid) != 0) error = errno;
  if (!error && w->has_mode && fchmod(w->fd, w->mode) != 0) error = errno;
  if (!error && rename(w->temporary, w->path) != 0) error = errno;
  if (error) {
    stream_fail_errno(s, error, "cannot write \"%s\"", w->path);
    return;
  }
  close(w->fd);
  w->fd = -1;
  stream_done(s, NULL);
}

void file_write(struct stream *s, struct bytes fields) {
  struct writing *w = calloc(1, sizeof *w);
  struct stat st;
  if (!w) {
    stream_fail(s, E_EXHAUSTED, "the guest agent is out of memory");
    return;
  }
  if (!may_change(s) || !path_of(s, fields, F_PATH, w->path) || !user_of(s, fields, &w->user, &w->has_user)) {
    free(w);
    return;
  }
  uint64_t mode = field_number(fields, F_MODE, UINT64_MAX);
  w->has_mode = mode != UINT64_MAX;
  w->mode = w->has_mode ? (mode_t)mode & 07777 : 0644;
  bool is_there = stat(w->path, &st) == 0;
  if ((is_there && S_ISDIR(st.st_mode)) || !temporary_name(w->path, w->temporary)) {
    stream_fail(s, E_CONFLICT, "cannot write \"%s\": it is a directory", w->path);
    free(w);
    return;
  }
  if (is_there && !S_ISREG(st.st_mode)) {
    stream_fail(s, E_CONFLICT, "cannot write \"%s\": it is not a regular file", w->path);
    free(w);
    return;
  }
  /* What is replaced keeps its mode and owner, and a link to it stays a link. */
  if (is_there) {
    char real[PATH_MAX];
    if (realpath(w->path, real) && strlen(real) < PATH_MAX - 40) {
      snprintf(w->path, sizeof w->path, "%s", real);
      temporary_name(w->path, w->temporary);
    }
    if (!w->has_mode) w->mode = st.st_mode & 07777;
    w->has_mode = true;
    if (!w->has_user) {
      w->user.uid = st.st_uid;
      w->user.gid = st.st_gid;
      w->has_user = true;
    }
  }
  int error = make_directories(w->path, false, w->has_user && !is_there ? &w->user : NULL);
  if (!error) {
    w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, w->has_mode ? 0600 : 0644);
    if (w->fd < 0) error = errno;
  }
  if (error) {
    stream_fail_errno(s, error, "cannot write \"%s\"", w->path);
    free(w);
    return;
  }
  s->self = w;
  s->data = writing_data;
  s->end = writing_end;
  s->closed = writing_closed;
  stream_reply(s, NULL);
}

int write_whole(const char *path, const void *bytes, size_t length, mode_t mode) {
  char temporary[PATH_MAX];
  if (!temporary_name(path, temporary)) return EISDIR;
  int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode), error = 0;
  if (fd < 0) return errno;
  if (write(fd, bytes, length) != (ssize_t)length) error = errno ? errno : ENOSPC;
  if (!error && fchmod(fd, mode) != 0) error = errno;
  close(fd);
  if (!error && rename(temporary, path) != 0) error = errno;
  if (error) unlink(temporary);
  return error;
}

/* ---- questions ---- */

static const char *name_in(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash && slash[1] ? slash + 1 : path;
}

void file_stat(struct stream *s, struct bytes fields) {
  char path[PATH_MAX];
  struct stat st;
  if (!path_of(s, fields, F_PATH, path)) return;
  if (lstat(path, &st) != 0) {
    stream_fail_errno(s, errno, "cannot look at \"%s\"", path);
    return;
  }
  struct out entry = {0};
  entry_of(&entry, name_in(path), path, &st);
  stream_done(s, &entry);
  out_free(&entry);
}

void file_list(struct stream *s, struct bytes fields) {
  char path[PATH_MAX], name[PATH_MAX + 256];
  if (!path_of(s, fields, F_PATH, path)) return;
  DIR *directory = opendir(path);
  if (!directory) {
    stream_fail_errno(s, errno, "cannot list \"%s\"", path);
    return;
  }
  struct out all = {0}, entry = {0};
  for (struct dirent *d; (d = readdir(directory)) && all.length < LIST_MOST;) {
    struct stat st;
    if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0) continue;
    if (fstatat(dirfd(directory), d->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
    snprintf(name, sizeof name, "%s/%s", path, d->d_name);
    entry.length = 0;
    entry_of(&entry, d->d_name, name, &st);
    out_field(&all, F_ENTRY, entry.at, entry.length);
  }
  closedir(directory);
  out_free(&entry);
  if (all.length >= LIST_MOST) {
    out_free(&all);
    stream_fail(s, E_EXHAUSTED, "cannot list \"%s\": it has more entries than fit into 16 MiB", path);
    return;
  }
  stream_send_all(s, all);
}

void file_mkdir(struct stream *s, struct bytes fields) {
  char path[PATH_MAX];
  struct user user;
  bool given;
  if (!may_change(s) || !path_of(s, fields, F_PATH, path) || !user_of(s, fields, &user, &given)) return;
  int error = make_directories(path, true, given ? &user : NULL);
  if (error) stream_fail_errno(s, error, "cannot make the directory \"%s\"", path);
  else stream_done(s, NULL);
}

void file_move(struct stream *s, struct bytes fields) {
  char path[PATH_MAX], to[PATH_MAX];
  if (!may_change(s) || !path_of(s, fields, F_PATH, path) || !path_of(s, fields, F_TO, to)) return;
  if (rename(path, to) == 0) stream_done(s, NULL);
  else if (errno == EXDEV)
    stream_fail(s, E_INVALID, "cannot move \"%s\" to \"%s\": they lie on different file systems; copy it", path, to);
  else stream_fail_errno(s, errno, "cannot move \"%s\" to \"%s\"", path, to);
}

/* ---- removing, which may be a whole tree: in a worker ---- */

struct removal { uint32_t stream; char path[PATH_MAX]; };

static int remove_at(int parent, const char *name, int depth) {
  if (unlinkat(parent, name, 0) == 0) return 0;
  if (errno != EISDIR && errno != EPERM) return errno;
  int error = errno;
  int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return error;
  DIR *directory = depth > 1000 ? NULL : fdopendir(fd);
  if (!directory) {
    close(fd);
    return depth > 1000 ? ELOOP : ENOMEM;
  }
  error = 0;
  for (struct dirent *d; !error && (d = readdir(directory));)
    if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0) error = remove_at(fd, d->d_name, depth + 1);
  closedir(directory);
  if (!error && unlinkat(parent, name, AT_REMOVEDIR) != 0) error = errno;
  return error;
}

static int removal_run(void *argument, char *text, size_t size) {
  struct removal *r = argument;
  int error = remove_at(AT_FDCWD, r->path, 0);
  if (!error) return 0;
  snprintf(text, size, "cannot remove \"%.800s\": %s", r->path, strerror(error));
  return code_of(error);
}

static void removal_done(void *argument, int code, const char *text) {
  struct removal *r = argument;
  struct stream *s = stream_find(r->stream);
  if (s && code == 0) stream_done(s, NULL);
  else if (s) stream_fail(s, code, "%s", text);
  free(r);
}

void file_remove(struct stream *s, struct bytes fields) {
  char path[PATH_MAX];
  struct stat st;
  if (!may_change(s) || !path_of(s, fields, F_PATH, path)) return;
  size_t length = strlen(path);
  while (length > 1 && path[length - 1] == '/') path[--length] = 0;
  if (length == 1) {
    stream_fail(s, E_INVALID, "the root directory cannot be removed");
    return;
  }
  if (lstat(path, &st) != 0) {
    stream_fail_errno(s, errno, "cannot remove \"%s\"", path);
    return;
  }
  if (!S_ISDIR(st.st_mode)) {
    if (unlink(path) == 0) stream_done(s, NULL);
    else stream_fail_errno(s, errno, "cannot remove \"%s\"", path);
    return;
  }
  struct removal *r = malloc(sizeof *r);
  if (r) {
    r->stream = s->id;
    memcpy(r->path, path, length + 1);
    if (worker_start((struct work){removal_run, removal_done, r})) return;
  }
  free(r);
  stream_fail(s, E_EXHAUSTED, "the guest agent cannot start a process to remove \"%s\"", path);
}
