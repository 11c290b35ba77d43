/*
 * The port: frames in, frames out, and beginnings in band. Three of the four rules of PROTOCOL.md live here.
 * Bounded: what came in and is no frame yet is at most one frame; when what waits to go out is over HIGH, nothing more is
 * taken in and no stream is asked for DATA.
 */
#include "agent.h"
#include <sys/random.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>

#define HEADER 12
#define LAST 0xA5
#define IN_ROOM (2 * (MAX_PAYLOAD + HEADER + 1))
#define HIGH 262144
#define LOW 131072

static struct io *port;
static bool is_socket, listens;
static uint8_t in[IN_ROOM];
static size_t in_length;
static uint8_t *outgoing;
static size_t out_from, out_length, out_room;
static bool readable, writable = true;
static bool quiet, deaf = true; /* deaf: nothing is a frame until the next marker */
static uint8_t used[16] = "tutti.channel.1\n", next[16];
static bool have_next, begun;
bool wire_lost;

static void port_ready(struct io *io, uint32_t events);
static void accept_ready(struct io *io, uint32_t events);
static void hung_up(void);
static void take_in(void);
static void parse(void);
static bool begin(size_t scan_from);
static void hello(const uint8_t *nonce);
static void put(const void *bytes, size_t length);
static void flush(void);
static void draw_token(uint8_t *token);

void wire_open(int fd) {
  struct stat st;
  is_socket = fstat(fd, &st) == 0 && !S_ISCHR(st.st_mode);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  /* Edge-triggered: a port that nobody is connected to is always hung up, and would never let the loop rest. */
  port = io_open(fd, EPOLLIN | EPOLLOUT | EPOLLET, port_ready, NULL);
  readable = true;
}

void wire_listen(int fd) {
  listens = true;
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  io_open(fd, EPOLLIN, accept_ready, NULL);
}

/* A new connection takes the place of the old one. What is kept of streams is decided when it has begun in band. */
static void accept_ready(struct io *io, uint32_t events) {
  (void)events;
  struct sockaddr_vm from = {0};
  socklen_t size = sizeof from;
  int fd = accept4(io->fd, (struct sockaddr *)&from, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return;
  /* Programs in the guest can reach the port as well, and must not take it away. */
  if (from.svm_family == AF_VSOCK && from.svm_cid != VMADDR_CID_HOST) {
    close(fd);
    return;
  }
  hung_up();
  wire_open(fd);
  writable = true;
}

static void hung_up(void) {
  if (port) io_close(port);
  port = NULL;
  in_length = out_from = out_length = 0;
  readable = begun = false;
  deaf = true;
}

static void port_ready(struct io *io, uint32_t events) {
  (void)io;
  if (events & (EPOLLIN | EPOLLHUP)) readable = true;
  if (events & (EPOLLOUT | EPOLLHUP)) writable = true;
}

void wire_turn(void) {
  /* A few rounds, then pipes and children get their turn. */
  for (int round = 0; round < 4; round++) {
    bool moved = false;
    flush();
    if (port && readable && out_length < HIGH) {
      take_in();
      moved = true;
    }
    while (port && !quiet && out_length < LOW && streams_pump()) moved = true;
    flush();
    if (!moved) return;
  }
  wake_within(0);
}

static void take_in(void) {
  /* A marker that waits for its nonce lies at the front. */
  size_t scan_from = begun || in_length < 15 ? 0 : in_length - 15;
  bool ended = false;
  /* A port gives at most a page at a time. */
  while (port && in_length < sizeof in - 4096) {
    ssize_t got = read(port->fd, in + in_length, sizeof in - in_length);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      /* No more for now. On a port, 0 bytes says that nobody is connected, which means nothing; a socket has ended. */
      readable = false;
      if (is_socket && (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK))) {
        wire_lost = !listens;
        ended = listens;
      }
      break;
    }
    in_length += (size_t)got;
  }
  while (begin(scan_from)) scan_from = 0;
  parse();
  if (ended) hung_up();
}

/* A beginning, when a whole one has come: what was before it is forgotten. A marker without its nonce waits for it. */
static bool begin(size_t scan_from) {
  uint8_t *found = memmem(in + scan_from, in_length - scan_from, used, 16);
  bool newer = false;
  if (have_next) {
    uint8_t *other = memmem(in + scan_from, in_length - scan_from, next, 16);
    if (other && (!found || other < found)) {
      found = other;
      newer = true;
    }
  }
  if (!found) return false;
  size_t at = (size_t)(found - in);
  memmove(in, found, in_length - at);
  in_length -= at;
  deaf = begun = true;
  if (in_length < 32) return false;
  begun = false;
  uint8_t nonce[16];
  memcpy(nonce, in + 16, 16);
  memmove(in, in + 32, in_length - 32);
  in_length -= 32;
  if (newer) memcpy(used, next, 16);
  /* The newer one stays until it is used, so that whoever was told of it can always connect. */
  if (newer || !have_next) draw_token(next);
  have_next = true;
  hello(nonce);
  return true;
}

static void hello(const uint8_t *nonce) {
  bool was_quiet = quiet;
  streams_lost();
  commands_lost(was_quiet);
  out_from = out_length = 0;
  quiet = deaf = false;
  put(nonce, 16);
  uint8_t room[256];
  struct out fields = {room, 0, sizeof room, true};
  out_text(&fields, F_VERSION, VERSION);
  out_field(&fields, F_TOKEN, next, 16);
  out_number(&fields, F_STREAM, stream_first_free());
  out_number(&fields, F_PID, (uint64_t)getpid());
  wire_send(0, T_HELLO, 0, fields.at, fields.length);
}

static void draw_token(uint8_t *token) {
  for (int i = 0; i < 16;) {
    uint8_t byte;
    if (getrandom(&byte, 1, GRND_NONBLOCK) != 1) {
      /* The kernel has no entropy yet, very early: the token is then only hard to guess. */
      static uint64_t mix;
      mix = mix * 6364136223846793005u + (uint64_t)now_ms() + (uintptr_t)&byte + 1442695040888963407u;
      byte = (uint8_t)(mix >> 56);
    }
    if (byte != LAST) token[i++] = byte;
  }
}

static void parse(void) {
  size_t at = 0;
  while (!deaf && in_length - at >= HEADER) {
    const uint8_t *head = in + at;
    uint32_t length = (uint32_t)head[0] | (uint32_t)head[1] << 8 | (uint32_t)head[2] << 16 | (uint32_t)head[3] << 24;
    uint32_t id = (uint32_t)head[4] | (uint32_t)head[5] << 8 | (uint32_t)head[6] << 16 | (uint32_t)head[7] << 24;
    if (length > MAX_PAYLOAD || head[10] || head[11]) {
      deaf = true;
      break;
    }
    if (in_length - at < HEADER + (size_t)length + 1) break;
    if (head[HEADER + length] != LAST) {
      deaf = true;
      break;
    }
    at += HEADER + length + 1;
    if (!quiet) stream_frame(id, head[8], head[9], head + HEADER, length);
  }
  /* While deaf only the beginning of a marker matters, which is in the last 31 bytes. */
  if (deaf && in_length - at > 31) at = in_length - 31;
  if (at > 0) memmove(in, in + at, in_length - at);
  in_length -= at;
}

size_t wire_room(void) { return quiet || out_length >= LOW ? 0 : MAX_PAYLOAD; }

void wire_quiet(void) { quiet = true; }

void wire_send(uint32_t stream, uint8_t type, uint8_t flags, const void *payload, size_t length) {
  wire_send2(stream, type, flags, payload, length, NULL, 0);
}

void wire_send2(uint32_t stream, uint8_t type, uint8_t flags, const void *a, size_t an, const void *b, size_t bn) {
  if (quiet || !port || an + bn > MAX_PAYLOAD) return;
  uint32_t length = (uint32_t)(an + bn);
  uint8_t head[HEADER] = {(uint8_t)length, (uint8_t)(length >> 8), (uint8_t)(length >> 16), (uint8_t)(length >> 24),
                          (uint8_t)stream, (uint8_t)(stream >> 8), (uint8_t)(stream >> 16), (uint8_t)(stream >> 24),
                          type, flags, 0, 0};
  static const uint8_t last = LAST;
  put(head, HEADER);
  if (an) put(a, an);
  if (bn) put(b, bn);
  put(&last, 1);
}

static void put(const void *bytes, size_t length) {
  if (out_from + out_length + length > out_room && out_from > 0) {
    memmove(outgoing, outgoing + out_from, out_length);
    out_from = 0;
  }
  if (out_length + length > out_room) {
    size_t room = out_room ? out_room : HIGH;
    while (room < out_length + length) room *= 2;
    uint8_t *grown = realloc(outgoing, room);
    if (!grown) {
      say("out of memory for the channel");
      abort();
    }
    outgoing = grown;
    out_room = room;
  }
  memcpy(outgoing + out_from + out_length, bytes, length);
  out_length += length;
}

static void flush(void) {
  while (port && out_length > 0 && writable) {
    ssize_t written = write(port->fd, outgoing + out_from, out_length);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      writable = false;
      if (is_socket && errno != EAGAIN && errno != EWOULDBLOCK) {
        wire_lost = !listens;
        if (listens) hung_up();
      }
      return;
    }
    out_from += (size_t)written;
    out_length -= (size_t)written;
    if (out_length == 0) out_from = 0;
  }
}
