/*
 * Starts a program without copying the agent: the child shares memory until it becomes the program, on a stack of its own,
 * and uses bare system calls only (the C library's would act on the agent's state). Straight into the workload's control
 * group where the kernel can; moving it afterwards waits for every processor.
 */
#include "agent.h"
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>

#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#define INTO_CGROUP 0x200000000ULL
#define STACK 65536

struct clone3_args {
  uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

static int child(void *argument);
static long clone3_into(struct clone3_args *args, int (*run)(void *), void *argument);

pid_t spawn(struct spawn *s) {
  static uint8_t *stack;
  if (!stack) {
    stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED) {
      stack = NULL;
      s->failed_step = STEP_EXEC;
      s->error = ENOMEM;
      return -1;
    }
  }
  s->failed_step = STEP_NONE;
  static bool no_clone3;
  long pid = -1;
  if (s->cgroup >= 0 && !no_clone3) {
    struct clone3_args args = {.flags = CLONE_VM | CLONE_VFORK | INTO_CGROUP, .exit_signal = SIGCHLD,
                               .stack = (uint64_t)(uintptr_t)stack, .stack_size = STACK, .cgroup = (uint64_t)s->cgroup};
    int cgroup = s->cgroup;
    s->cgroup = -1;
    pid = clone3_into(&args, child, s);
    if (pid < 0) {
      no_clone3 = true;
      s->cgroup = cgroup;
    }
  }
  if (pid < 0) pid = clone(child, stack + STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, s);
  if (pid < 0) {
    s->failed_step = STEP_EXEC;
    s->error = errno;
    return -1;
  }
  if (s->failed_step == STEP_NONE) return (pid_t)pid;
  waitpid((pid_t)pid, NULL, 0);
  return -1;
}

static int give_up(struct spawn *s, int step) {
  s->failed_step = step;
  s->error = errno;
  syscall(SYS_exit, 127);
  return 127;
}

static int child(void *argument) {
  struct spawn *s = argument;
  /* What the kernel calls a signal set is 8 bytes. */
  uint64_t none = 0;
  struct { void *handler; unsigned long flags; void *restorer; uint64_t mask; } by_default = {0};
  syscall(SYS_rt_sigaction, SIGPIPE, &by_default, NULL, 8);
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, 8);
  syscall(SYS_setsid);
  if (s->cgroup >= 0) {
    int procs = (int)syscall(SYS_openat, s->cgroup, "cgroup.procs", O_WRONLY | O_CLOEXEC, 0);
    if (procs < 0 || syscall(SYS_write, procs, "0", 1) != 1) return give_up(s, STEP_CGROUP);
  }
  syscall(SYS_dup3, s->in, 0, 0);
  syscall(SYS_dup3, s->out, 1, 0);
  syscall(SYS_dup3, s->err, 2, 0);
  if (s->terminal) syscall(SYS_ioctl, 0, TIOCSCTTY, 0);
  const struct user *user = s->user;
  if (syscall(SYS_geteuid) == 0) {
    if (syscall(SYS_setgroups, (long)user->group_count, user->groups) != 0 || syscall(SYS_setgid, user->gid) != 0 ||
        syscall(SYS_setuid, user->uid) != 0)
      return give_up(s, STEP_USER);
  } else if ((uid_t)syscall(SYS_geteuid) != user->uid) {
    errno = EPERM;
    return give_up(s, STEP_USER);
  }
  if (syscall(SYS_chdir, s->cwd) != 0) return give_up(s, STEP_CWD);
  syscall(SYS_execve, s->path, s->argv, s->envp);
  return give_up(s, STEP_EXEC);
}

/* As clone() of the C library, which cannot say the control group: the child runs `run` and never returns here. */
static long clone3_into(struct clone3_args *args, int (*run)(void *), void *argument) {
#if defined(__x86_64__)
  register long number __asm__("rax") = SYS_clone3;
  register void *first __asm__("rdi") = args;
  register long second __asm__("rsi") = sizeof *args;
  register void *keep_run __asm__("r12") = (void *)run;
  register void *keep_argument __asm__("r13") = argument;
  __asm__ volatile("syscall\n\t"
                   "test %%rax, %%rax\n\t"
                   "jnz 1f\n\t"
                   "xor %%ebp, %%ebp\n\t"
                   "mov %%r13, %%rdi\n\t"
                   "call *%%r12\n\t"
                   "hlt\n\t"
                   "1:"
                   : "+r"(number), "+r"(first), "+r"(second)
                   : "r"(keep_run), "r"(keep_argument)
                   : "rcx", "r11", "memory");
  if (number < 0) errno = (int)-number;
  return number;
#elif defined(__aarch64__)
  register long number __asm__("x8") = SYS_clone3;
  register long first __asm__("x0") = (long)args;
  register long second __asm__("x1") = sizeof *args;
  register void *keep_run __asm__("x20") = (void *)run;
  register void *keep_argument __asm__("x21") = argument;
  __asm__ volatile("svc #0\n\t"
                   "cbnz x0, 1f\n\t"
                   "mov x29, #0\n\t"
                   "mov x0, x21\n\t"
                   "blr x20\n\t"
                   "brk #0\n\t"
                   "1:"
                   : "+r"(first)
                   : "r"(number), "r"(second), "r"(keep_run), "r"(keep_argument)
                   : "x30", "memory");
  if (first < 0) errno = (int)-first;
  return first;
#else
  (void)args, (void)run, (void)argument;
  errno = ENOSYS;
  return -1;
#endif
}
