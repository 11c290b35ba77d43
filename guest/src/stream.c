/* Streams of the present connection: a table by number, credit in both directions, turns for those with something to say. */
#include "agent.h"
#include <stdarg.h>

#define BUCKETS 256
#define MAX_REQUEST (1u << 20)

static struct stream *buckets[BUCKETS];
static struct stream *first, *last; /* turns */
static size_t count;
static uint32_t highest;
static struct out gathered; /* a request that comes in several frames */
static uint32_t gathered_for;

static void open_stream(uint32_t id, const uint8_t *payload, size_t length);
static void data(struct stream *s, const uint8_t *payload, size_t length);
static void request(uint32_t id, bool more, const uint8_t *payload, size_t length);
static void release(struct stream *s);

uint32_t stream_first_free(void) { return highest + 1; }

struct stream *stream_find(uint32_t id) {
  for (struct stream *s = buckets[id % BUCKETS]; s; s = s->chain)
    if (s->id == id) return s;
  return NULL;
}

void stream_frame(uint32_t id, uint8_t type, uint8_t flags, const uint8_t *payload, size_t length) {
  if (type == T_OPEN) {
    request(id, flags & 1, payload, length);
    return;
  }
  struct stream *s = stream_find(id);
  if (!s) return;
  if (type == T_DATA) {
    data(s, payload, length);
  } else if (type == T_END) {
    if (!s->ended) {
      s->ended = true;
      if (s->end) s->end(s);
    }
  } else if (type == T_CREDIT && length == 4) {
    uint32_t more = (uint32_t)number_of((struct bytes){payload, 4});
    if (more > WINDOW - s->credit) more = WINDOW - s->credit;
    s->credit += more;
    if (s->credited) s->credited(s, more); /* never closes */
    if (s->pump) stream_wake(s);
  } else if (type == T_SIGNAL && length == 1) {
    if (s->signal) s->signal(s, payload[0]);
  } else if (type == T_RESIZE && length == 4) {
    if (s->resize) s->resize(s, (unsigned)(payload[0] | payload[1] << 8), (unsigned)(payload[2] | payload[3] << 8));
  } else if (type == T_CLOSE) {
    stream_close(s, false);
  }
}

static void data(struct stream *s, const uint8_t *payload, size_t length) {
  if (length > s->allowed || s->ended) {
    stream_fail(s, E_INVALID, "more data came on the stream than there was credit for");
    return;
  }
  s->allowed -= (uint32_t)length;
  if (s->data) s->data(s, payload, length);
  else stream_took(s, (uint32_t)length);
}

/* A request in several frames is gathered here; another stream's OPEN in between ends it. */
static void request(uint32_t id, bool more, const uint8_t *payload, size_t length) {
  if (id <= highest) return;
  if (gathered_for != id) out_free(&gathered);
  gathered_for = id;
  if (!more && gathered.length == 0) {
    if (length > 0) open_stream(id, payload, length);
    return;
  }
  if (gathered.length + length <= MAX_REQUEST) out_bytes(&gathered, payload, length);
  if (more) return;
  struct out whole = gathered;
  gathered = (struct out){0};
  open_stream(id, whole.at, whole.length);
  out_free(&whole);
}

static void open_stream(uint32_t id, const uint8_t *payload, size_t length) {
  highest = id;
  struct stream *s = count < MAX_STREAMS ? calloc(1, sizeof *s) : NULL;
  if (!s) {
    static const char full[] = "\5the guest agent has no room for another stream";
    wire_send(id, T_ERROR, 0, full, sizeof full - 1);
    return;
  }
  *s = (struct stream){.id = id, .op = payload[0], .open = true, .credit = WINDOW, .allowed = WINDOW};
  s->chain = buckets[id % BUCKETS];
  buckets[id % BUCKETS] = s;
  count++;
  struct bytes fields = {payload + 1, length - 1};
  if (!fields_whole(fields)) {
    stream_fail(s, E_INVALID, "the request is cut short");
    return;
  }
  switch (s->op) {
    case OP_EXEC: command_exec(s, fields); break;
    case OP_ATTACH: command_attach(s, fields); break;
    case OP_PROCESSES: command_list(s); break;
    case OP_READ: file_read(s, fields); break;
    case OP_WRITE: file_write(s, fields); break;
    case OP_STAT: file_stat(s, fields); break;
    case OP_LIST: file_list(s, fields); break;
    case OP_MKDIR: file_mkdir(s, fields); break;
    case OP_MOVE: file_move(s, fields); break;
    case OP_REMOVE: file_remove(s, fields); break;
    case OP_WATCH: watch_open(s, fields); break;
    case OP_FORWARD: forward_open(s, fields); break;
    case OP_IDENTIFY: identify(s, fields); break;
    case OP_QUIESCE:
      stream_done(s, NULL);
      wire_quiet();
      break;
    case OP_FREEZE: freeze_begin(s, fields); break;
    case OP_THAW: freeze_end(s); break;
    case OP_SHRINK: system_shrink(s); break;
    case OP_METRICS: system_metrics(s); break;
    default: stream_fail(s, E_INVALID, "this guest agent (%s) does not know operation %d", VERSION, s->op);
  }
}

void stream_wake(struct stream *s) {
  if (s->waiting || !s->open) return;
  s->waiting = true;
  s->next = NULL;
  if (last) last->next = s;
  else first = s;
  last = s;
}

bool streams_pump(void) {
  while (first) {
    struct stream *s = first;
    first = s->next;
    if (!first) last = NULL;
    s->waiting = false;
    if (!s->pump) continue;
    /* A pump may close its stream; it then says false. */
    bool more = s->pump(s);
    if (more) {
      stream_wake(s);
      return true;
    }
    if (wire_room() == 0) return false;
  }
  return false;
}

void stream_took(struct stream *s, uint32_t taken) {
  s->owed += taken;
  if (s->owed < WINDOW / 4) return;
  uint8_t bytes[4] = {(uint8_t)s->owed, (uint8_t)(s->owed >> 8), (uint8_t)(s->owed >> 16), (uint8_t)(s->owed >> 24)};
  s->allowed += s->owed;
  s->owed = 0;
  wire_send(s->id, T_CREDIT, 0, bytes, 4);
}

void stream_reply(struct stream *s, const struct out *fields) {
  wire_send(s->id, T_REPLY, 0, fields ? fields->at : NULL, fields ? fields->length : 0);
}

void stream_done(struct stream *s, const struct out *fields) {
  wire_send(s->id, T_REPLY, 1, fields ? fields->at : NULL, fields ? fields->length : 0);
  stream_close(s, false);
}

static void fail(struct stream *s, int code, const char *text, const char *after) {
  uint8_t payload[1024];
  payload[0] = (uint8_t)code;
  int length = snprintf((char *)payload + 1, sizeof payload - 1, "%s%s", text, after);
  if (length > (int)sizeof payload - 2) length = sizeof payload - 2;
  wire_send(s->id, T_ERROR, 0, payload, (size_t)length + 1);
  stream_close(s, false);
}

void stream_fail(struct stream *s, int code, const char *format, ...) {
  char text[900];
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  fail(s, code, text, "");
}

void stream_fail_errno(struct stream *s, int error, const char *format, ...) {
  char text[900], why[128];
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  snprintf(why, sizeof why, ": %s", strerror(error));
  if (why[2] >= 'A' && why[2] <= 'Z' && why[3] >= 'a') why[2] = (char)(why[2] + 32);
  fail(s, code_of(error), text, why);
}

int code_of(int error) {
  switch (error) {
    case ENOENT: case ESRCH: case ECONNREFUSED: case ENXIO: return E_NOT_FOUND;
    case EEXIST: case ENOTEMPTY: case EISDIR: case ENOTDIR: case EBUSY: case ETXTBSY: return E_CONFLICT;
    case EACCES: case EPERM: case EROFS: return E_DENIED;
    case ENOSPC: case EDQUOT: case EMFILE: case ENFILE: case ENOMEM: case EFBIG: case EAGAIN: return E_EXHAUSTED;
    default: return E_INVALID;
  }
}

void stream_close(struct stream *s, bool lost) {
  if (!s->open) return;
  s->open = false;
  struct stream **link = &buckets[s->id % BUCKETS];
  while (*link != s) link = &(*link)->chain;
  *link = s->chain;
  count--;
  if (s->closed) s->closed(s, lost);
  release(s);
}

/* Out of the turns; then nobody knows it. Callers must not touch it after a close. */
static void release(struct stream *s) {
  if (s->waiting) {
    struct stream **link = &first, *before = NULL;
    while (*link != s) {
      before = *link;
      link = &(*link)->next;
    }
    *link = s->next;
    if (last == s) last = before;
  }
  free(s);
}

void streams_lost(void) {
  out_free(&gathered);
  for (size_t i = 0; i < BUCKETS; i++)
    while (buckets[i]) stream_close(buckets[i], true);
}

static bool pump_memory(struct stream *s) {
  struct out *bytes = s->self;
  size_t left = bytes->length - bytes->room; /* room: how much was sent */
  size_t some = left < 32768 ? left : 32768;
  if (some > s->credit) some = s->credit;
  if (some > wire_room()) some = wire_room();
  if (some > 0) {
    wire_send(s->id, T_DATA, 0, bytes->at + bytes->room, some);
    bytes->room += some;
    s->credit -= (uint32_t)some;
  }
  if (bytes->room == bytes->length && wire_room() > 0) {
    wire_send(s->id, T_END, 0, NULL, 0);
    stream_close(s, false);
    return false;
  }
  return s->credit > 0;
}

static void memory_closed(struct stream *s, bool lost) {
  (void)lost;
  struct out *bytes = s->self;
  free(bytes->at);
  free(bytes);
}

void stream_send_all(struct stream *s, struct out all) {
  struct out *bytes = malloc(sizeof *bytes);
  if (!bytes) {
    free(all.at);
    stream_fail(s, E_EXHAUSTED, "the guest agent is out of memory");
    return;
  }
  *bytes = all;
  bytes->room = 0;
  s->self = bytes;
  s->pump = pump_memory;
  s->closed = memory_closed;
  stream_reply(s, NULL);
  stream_wake(s);
}
