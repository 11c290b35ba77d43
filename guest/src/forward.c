/* A TCP connection to a port on the guest's loopback, IPv4 first, then IPv6. */
#include "agent.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#define MOST 512

struct forward {
  struct io *io;
  struct stream *stream;
  struct outbuf out;
  uint16_t port;
  bool v6, connected, host_ended, peer_ended, waiting;
};

static size_t count;

static bool connect_to(struct forward *f, int *error);
static void ready(struct io *io, uint32_t events);

static void want(struct forward *f) {
  if (!f->connected) io_want(f->io, EPOLLOUT);
  else io_want(f->io, (f->peer_ended || f->waiting ? 0 : EPOLLIN) | (f->out.length > 0 ? EPOLLOUT : 0));
}

static bool finished(struct forward *f) {
  if (!f->host_ended || !f->peer_ended || f->out.length > 0) return false;
  stream_close(f->stream, false);
  return true;
}

static void write_out(struct forward *f) {
  ssize_t written = outbuf_flush(&f->out, f->io->fd);
  if (written < 0) {
    stream_fail(f->stream, E_UNAVAILABLE, "the program on port %d of the guest closed the connection", f->port);
    return;
  }
  if (f->host_ended && f->out.length == 0) shutdown(f->io->fd, SHUT_WR);
  struct stream *s = f->stream;
  if (finished(f)) return;
  want(f);
  if (written > 0) stream_took(s, (uint32_t)written);
}

static bool pump(struct stream *s) {
  struct forward *f = s->self;
  static uint8_t bytes[32768];
  if (!f->connected || f->peer_ended) return false;
  size_t some = s->credit < sizeof bytes ? s->credit : sizeof bytes;
  if (some == 0) {
    f->waiting = true;
    want(f);
    return false;
  }
  ssize_t got = read(f->io->fd, bytes, some);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
    f->waiting = false;
    want(f);
    return false;
  }
  if (got < 0) {
    stream_fail_errno(s, errno, "the connection to port %d of the guest broke", f->port);
    return false;
  }
  if (got == 0) {
    f->peer_ended = true;
    wire_send(s->id, T_END, 0, NULL, 0);
    if (!finished(f)) want(f);
    return false;
  }
  wire_send(s->id, T_DATA, 0, bytes, (size_t)got);
  s->credit -= (uint32_t)got;
  return true;
}

static void on_data(struct stream *s, const uint8_t *bytes, size_t length) {
  struct forward *f = s->self;
  if (!outbuf_add(&f->out, bytes, length)) {
    stream_fail(s, E_EXHAUSTED, "the guest agent is out of memory");
    return;
  }
  if (f->connected) write_out(f);
}

static void on_end(struct stream *s) {
  struct forward *f = s->self;
  f->host_ended = true;
  if (f->connected) write_out(f);
}

static void on_closed(struct stream *s, bool lost) {
  (void)lost;
  struct forward *f = s->self;
  if (f->io) io_close(f->io);
  outbuf_free(&f->out);
  free(f);
  count--;
}

static void refused(struct forward *f, int error) {
  if (error == ECONNREFUSED || error == EADDRNOTAVAIL || error == EAFNOSUPPORT || error == ENETUNREACH)
    stream_fail(f->stream, E_NOT_FOUND, "nobody listens on port %d of the guest's loopback", f->port);
  else stream_fail_errno(f->stream, error, "cannot connect to port %d of the guest", f->port);
}

static void ready(struct io *io, uint32_t events) {
  struct forward *f = io->self;
  if (f->connected) {
    if (events & EPOLLOUT) {
      uint32_t id = f->stream->id;
      struct stream *s = f->stream;
      write_out(f);
      if (stream_find(id) != s) return;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
      /* The next turn reads; until then epoll need not repeat itself. */
      f->waiting = true;
      want(f);
      stream_wake(f->stream);
    }
    return;
  }
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(io->fd, SOL_SOCKET, SO_ERROR, &error, &size);
  if (error == 0) {
    f->connected = true;
    stream_reply(f->stream, NULL);
    if (f->out.length > 0 || f->host_ended) write_out(f);
    else want(f);
    return;
  }
  io_close(f->io);
  f->io = NULL;
  if (!f->v6) {
    f->v6 = true;
    if (connect_to(f, &error)) return;
  }
  refused(f, error);
}

static bool connect_to(struct forward *f, int *error) {
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(f->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(f->port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  int one = 1, fd = socket(f->v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    *error = errno;
    return false;
  }
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  int failed = f->v6 ? connect(fd, (struct sockaddr *)&v6, sizeof v6) : connect(fd, (struct sockaddr *)&v4, sizeof v4);
  if (failed && errno != EINPROGRESS) {
    *error = errno;
    close(fd);
    return false;
  }
  f->io = io_open(fd, EPOLLOUT, ready, f);
  return true;
}

void forward_open(struct stream *s, struct bytes fields) {
  uint64_t port = field_number(fields, F_PORT, 0);
  if (port < 1 || port > 65535) {
    stream_fail(s, E_INVALID, "a port is a number from 1 to 65535");
    return;
  }
  struct forward *f = count < MOST ? calloc(1, sizeof *f) : NULL;
  if (!f) {
    stream_fail(s, E_EXHAUSTED, "%zu connections are forwarded into the guest already, which is as many as it takes", count);
    return;
  }
  count++;
  f->stream = s;
  f->port = (uint16_t)port;
  s->self = f;
  s->pump = pump;
  s->data = on_data;
  s->end = on_end;
  s->closed = on_closed;
  int error = 0;
  if (connect_to(f, &error)) return;
  f->v6 = true;
  if (!connect_to(f, &error)) refused(f, error);
}
