/**
 * System calls that no container needs and that have let programs out of one. Most need capabilities that are not
 * given anyway; this is the second wall. Listed is what is refused, so that new and harmless calls simply work.
 */
export function seccompProfile(architecture: string): object {
  return {
    defaultAction: 'SCMP_ACT_ALLOW',
    architectures:
      architecture === 'arm64'
        ? ['SCMP_ARCH_AARCH64', 'SCMP_ARCH_ARM']
        : ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32'],
    syscalls: [
      { names: refused, action: 'SCMP_ACT_ERRNO', errnoRet: EPERM },
      // Its flags lie in memory, where the filter cannot look; programs fall back to clone on ENOSYS.
      { names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: ENOSYS },
      {
        names: ['clone', 'unshare'],
        action: 'SCMP_ACT_ERRNO',
        errnoRet: EPERM,
        args: [{ index: 0, value: newUserNamespace, valueTwo: newUserNamespace, op: 'SCMP_CMP_MASKED_EQ' }],
      },
    ],
  }
}

const EPERM = 1
const ENOSYS = 38
/** CLONE_NEWUSER: inside a user namespace of its own a program has every capability again. */
const newUserNamespace = 0x10000000

const refused = [
  // Keys of the kernel's keyring are shared by all containers.
  ...['add_key', 'keyctl', 'request_key'],
  // Programs, modules and kernels loaded into the running one.
  ...['bpf', 'create_module', 'delete_module', 'finit_module', 'init_module', 'kexec_file_load', 'kexec_load'],
  // A file handle reaches past the container's root.
  'open_by_handle_at',
  // Mounts and roots.
  ...['fsconfig', 'fsmount', 'fsopen', 'fspick', 'mount', 'mount_setattr', 'move_mount', 'open_tree', 'pivot_root'],
  ...['swapoff', 'swapon', 'umount', 'umount2', 'setns'],
  // The machine's clock, power, accounting and ports.
  ...['acct', 'adjtimex', 'clock_adjtime', 'clock_settime', 'ioperm', 'iopl', 'reboot', 'settimeofday', 'stime'],
  // Watching the kernel or other processes closely.
  ...['kcmp', 'lookup_dcookie', 'perf_event_open', 'process_vm_readv', 'process_vm_writev', 'quotactl', 'userfaultfd'],
  ...['get_mempolicy', 'mbind', 'move_pages', 'set_mempolicy'],
  // What old kernels left behind.
  ...['get_kernel_syms', 'nfsservctl', 'query_module', 'sysfs', '_sysctl', 'uselib', 'ustat', 'vm86', 'vm86old'],
]
