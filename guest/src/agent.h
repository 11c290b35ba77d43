/* What the parts of the agent know of each other. One thread, one epoll loop; everything that may wait is a stream. */
#ifndef AGENT_H
#define AGENT_H
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
#include "fields.h"

#define VERSION "1.0.0"
#define WINDOW 262144u
#define MAX_PAYLOAD 65536u
#define MAX_STREAMS 1024
#define MAX_COMMANDS 256

/* ---- main.c ---- */
struct options {
  bool system;        /* may touch the machine: identity, network, file systems */
  bool init;          /* process 1 */
  const char *port;   /* device, or NULL to look for it */
  const char *port_name;
  const char *listen; /* path of a Unix socket */
  const char *run_init;
};
extern struct options options;

/* Something epoll tells of. `ready` is called with its events; `io_close` makes it silent at once. */
struct io {
  int fd;
  uint32_t events;
  void (*ready)(struct io *io, uint32_t events);
  void *self;
};
struct io *io_open(int fd, uint32_t events, void (*ready)(struct io *, uint32_t), void *self);
void io_want(struct io *io, uint32_t events);
void io_close(struct io *io); /* closes the file too */
void io_let_go(struct io *io); /* does not */
int64_t now_ms(void); /* monotonic */
int64_t wall_ms(void);
void wake_within(int64_t ms); /* the loop's next turn is at most this far away */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- fields.c ---- */
struct bytes { const uint8_t *at; size_t length; };
struct field { uint8_t tag; struct bytes value; };
bool field_next(struct bytes *rest, struct field *field); /* false at the end */
bool fields_whole(struct bytes all); /* whether it is made of whole fields */
bool field_find(struct bytes all, uint8_t tag, struct bytes *value);
uint64_t field_number(struct bytes all, uint8_t tag, uint64_t otherwise);
uint64_t number_of(struct bytes value);
/* Text in `out` (always ended); false when absent, too long or with a NUL inside. */
bool field_text(struct bytes all, uint8_t tag, char *out, size_t size);
char *text_of(struct bytes value); /* malloc'ed; NULL when it has a NUL inside */

struct out { uint8_t *at; size_t length, room; bool fixed; };
void out_bytes(struct out *out, const void *bytes, size_t length);
void out_field(struct out *out, uint8_t tag, const void *value, size_t length);
void out_text(struct out *out, uint8_t tag, const char *text);
void out_number(struct out *out, uint8_t tag, uint64_t number);
void out_free(struct out *out);

/* ---- wire.c: the port, frames, beginnings ---- */
void wire_open(int fd);
void wire_listen(int fd); /* whoever connects last is the host */
size_t wire_room(void); /* bytes of DATA that may be sent now */
void wire_send(uint32_t stream, uint8_t type, uint8_t flags, const void *payload, size_t length);
void wire_send2(uint32_t stream, uint8_t type, uint8_t flags, const void *a, size_t an, const void *b, size_t bn);
void wire_turn(void); /* once per turn of the loop: what streams have to say, then out with it */
void wire_quiet(void);
extern bool wire_lost; /* end of file of an inherited socket */

/* ---- stream.c ---- */
struct stream {
  uint32_t id;
  uint8_t op;
  bool open;
  bool waiting;      /* in the queue of those with something to say */
  bool ended;        /* host said END */
  uint32_t credit;   /* what we may send */
  uint32_t allowed;  /* what the host may send */
  uint32_t owed;     /* taken out of our hands and not yet given credit for */
  void *self;
  /* All optional. `pump` sends at most one frame and says whether it could send another. */
  bool (*pump)(struct stream *);
  void (*data)(struct stream *, const uint8_t *, size_t);
  void (*end)(struct stream *);
  void (*credited)(struct stream *, uint32_t);
  void (*signal)(struct stream *, int);
  void (*resize)(struct stream *, unsigned, unsigned);
  void (*closed)(struct stream *, bool lost); /* frees self; lost: with its connection */
  struct stream *chain, *next;
};
void stream_frame(uint32_t id, uint8_t type, uint8_t flags, const uint8_t *payload, size_t length);
void streams_lost(void);
bool streams_pump(void); /* one frame of the next that has one; false when nobody has */
uint32_t stream_first_free(void);
struct stream *stream_find(uint32_t id);
void stream_wake(struct stream *s);
void stream_took(struct stream *s, uint32_t count); /* gives credit when it is worth a frame */
void stream_reply(struct stream *s, const struct out *fields);      /* more follows */
void stream_done(struct stream *s, const struct out *fields);       /* and closes */
void stream_fail(struct stream *s, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
void stream_fail_errno(struct stream *s, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));
void stream_close(struct stream *s, bool lost);
int code_of(int error);
/* Sends DATA of bytes kept in memory, then END; takes the bytes over. */
void stream_send_all(struct stream *s, struct out bytes);

/* ---- outbuf.c: bytes on their way into a file that may not take them ---- */
struct outbuf { uint8_t *at; size_t from, length, room; };
bool outbuf_add(struct outbuf *b, const uint8_t *bytes, size_t length);
ssize_t outbuf_flush(struct outbuf *b, int fd); /* bytes written, -1 when it will never take more */
void outbuf_free(struct outbuf *b);

/* ---- worker.c: what takes time, in a process of its own ---- */
/* `work` runs in the child; what it returns as code (0: done) and sentence in `text` is the answer. */
struct work {
  int (*run)(void *argument, char *text, size_t size);
  void (*done)(void *argument, int code, const char *text); /* in the agent; frees argument */
  void *argument;
};
bool worker_start(struct work work);

/* ---- users.c ---- */
struct user { uid_t uid; gid_t gid; char name[64], home[1024], shell[256]; gid_t groups[64]; int group_count; };
/* `name`, `name:group`, or numbers. False: `problem` says why. */
bool user_find(const char *name, struct user *user, char *problem, size_t size);

/* ---- defaults that identify sets (identity.c) ---- */
struct defaults { char user[128], cwd[4096]; char **env; size_t env_count; };
extern struct defaults defaults;
void identify(struct stream *s, struct bytes fields);

/* ---- spawn.c ---- */
struct spawn {
  const char *path; char *const *argv; char *const *envp; const char *cwd;
  const struct user *user;
  int in, out, err;    /* become 0, 1, 2 */
  bool terminal;       /* `in` is a terminal to be made the controlling one */
  int cgroup;          /* directory, or -1 */
  /* answers */
  int failed_step; int error;
};
enum { STEP_NONE, STEP_CGROUP, STEP_USER, STEP_CWD, STEP_EXEC };
pid_t spawn(struct spawn *spawn); /* -1: failed_step and error say why */

/* ---- command.c ---- */
void command_exec(struct stream *s, struct bytes fields);
void command_attach(struct stream *s, struct bytes fields);
void command_list(struct stream *s);
bool command_ended(pid_t pid, int status); /* whether it was one of ours */
void commands_lost(bool quiesced);
void commands_turn(void);
void commands_kill_all(void);
pid_t command_pid_at(size_t index); /* 0 past the end */
char **environment(const struct user *user, struct bytes fields, bool terminal, char **path);
void environment_free(char **env);

/* ---- files.c, watch.c, forward.c ---- */
void file_read(struct stream *s, struct bytes fields);
void file_write(struct stream *s, struct bytes fields);
void file_stat(struct stream *s, struct bytes fields);
void file_list(struct stream *s, struct bytes fields);
void file_mkdir(struct stream *s, struct bytes fields);
void file_move(struct stream *s, struct bytes fields);
void file_remove(struct stream *s, struct bytes fields);
bool path_of(struct stream *s, struct bytes fields, uint8_t tag, char *out);
int write_whole(const char *path, const void *bytes, size_t length, mode_t mode); /* by a temporary name; 0 or errno */
void watch_open(struct stream *s, struct bytes fields);
void forward_open(struct stream *s, struct bytes fields);

/* ---- freeze.c ---- */
void freeze_begin(struct stream *s, struct bytes fields);
void freeze_end(struct stream *s);
void freeze_release_disk(void);
bool disk_is_frozen(void);
bool workload_is_frozen(void); /* nothing may be started then: it would stand still half-made, and the agent with it */
void workload_prepare(void);  /* makes the control group of the workload */
int workload_cgroup(void);    /* its directory, or -1 */

/* ---- system.c, network.c, init.c ---- */
void system_shrink(struct stream *s);
void system_metrics(struct stream *s);
/* 0, or a sentence in `problem`. */
int network_set(const char *mac, const char *address, int prefix, const char *gateway, char *problem, size_t size);
int network_loopback(void);
void init_machine(void);
void init_start_child(void);
void init_ended(pid_t pid);
void machine_end(int how);
int port_find(const char *name, bool *listens); /* listens: it is a virtual socket to be listened on */

#endif
