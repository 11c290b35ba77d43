/* Work that may take long, in a process of its own, so that the loop never stands still for it. */
#include "agent.h"
#include <signal.h>

struct worker {
  struct work work;
  struct io *io;
  char text[1024];
  size_t length;
};

static void heard(struct io *io, uint32_t events) {
  (void)events;
  struct worker *worker = io->self;
  ssize_t got = read(io->fd, worker->text + worker->length, sizeof worker->text - 1 - worker->length);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got > 0) {
    worker->length += (size_t)got;
    if (worker->length < sizeof worker->text - 1) return;
  }
  worker->text[worker->length] = 0;
  io_close(io);
  /* One byte code, then the sentence; nothing at all when the process was killed. */
  if (worker->length == 0) worker->work.done(worker->work.argument, E_INTERNAL, "the work was cut off");
  else worker->work.done(worker->work.argument, (uint8_t)worker->text[0], worker->text + 1);
  free(worker);
}

bool worker_start(struct work work) {
  struct worker *worker = calloc(1, sizeof *worker);
  int ends[2];
  if (!worker || pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
    free(worker);
    return false;
  }
  pid_t pid = fork();
  if (pid == 0) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    fcntl(ends[1], F_SETFL, 0);
    char answer[1000] = {0};
    int code = work.run(work.argument, answer + 1, sizeof answer - 1);
    answer[0] = (char)code;
    _exit(write(ends[1], answer, 1 + strlen(answer + 1)) < 0);
  }
  close(ends[1]);
  if (pid < 0) {
    close(ends[0]);
    free(worker);
    return false;
  }
  worker->work = work;
  worker->io = io_open(ends[0], EPOLLIN, heard, worker);
  return true;
}
