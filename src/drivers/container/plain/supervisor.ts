import { spawn } from 'node:child_process'
import { open } from 'node:fs/promises'
import type { AttemptFiles } from './attempt.ts'

/**
 * The small parent of one container: a shell that mounts the root directory, keeps the runtime as its child, and writes
 * down how it ended. It has its own session and mount namespace: it outlives the agent, and whatever becomes of it, the
 * mount goes when the last of its processes does. The agent finds all it must know in the attempt's files.
 *
 *     supervisor   the shell's own line of /proc/<pid>/stat: who to look for
 *     pid          the container's first process, written by the runtime once it runs
 *     exit         "<code> <processes killed for want of memory>", written once, last
 *
 * What reads these files waits for the end of line, so one write makes them whole.
 */
const script = `
trap : HUP INT TERM QUIT
cd "$1" || exit 1
read -r me </proc/$$/stat && echo "$me" >supervisor || exit 1
if [ "$7" = copy ] || ! mount -t overlay tutti -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" rootfs 2>mount.log
then cp -a --reflink=auto "$2/." rootfs 2>>mount.log || { echo "125 0" >exit; exit 1; }
fi
"$3" --root "$4" --log "$1/runtime.log" --log-format json run $8 --bundle "$1" --pid-file "$1/pid" "$5" </dev/null
code=$?
killed=0
[ -r "$6" ] && while read -r name count; do [ "$name" = oom_kill ] && killed=$count; done <"$6"
first=none
[ -e pid ] && read -r first <pid
[ -d "/proc/$first" ] && "$3" --root "$4" delete --force "$5" >/dev/null 2>&1
echo "$code $killed" >exit
exec "$3" --root "$4" delete --force "$5" >/dev/null 2>&1
`

export interface SuperviseOptions {
  files: AttemptFiles
  lower: string
  runtime: string
  runtimeRoot: string
  containerId: string
  oomFile: string
  rootfs: 'overlay' | 'copy'
  /** The runtime can leave the cgroup standing until its counters have been read. */
  keep: boolean
  output: { stdout: string; stderr: string }
  /** Called when the shell has ended, while we live. */
  onEnd: () => void
}

/** Resolves as soon as it has been spawned. */
export async function supervise(options: SuperviseOptions): Promise<number | undefined> {
  const { files, lower, runtime, runtimeRoot, containerId, rootfs, output, onEnd } = options
  await using stdout = await open(output.stdout, 'a', 0o640)
  await using stderr = await open(output.stderr, 'a', 0o640)
  const parameters = [files.directory, lower, runtime, runtimeRoot, containerId, options.oomFile, rootfs]
  const child = spawn(
    'unshare',
    ['--mount', '--propagation', 'slave', 'sh', '-c', script, 'tutti-container', ...parameters].concat(
      options.keep ? ['--keep'] : [],
    ),
    // Nothing of the agent's environment, which may hold secrets.
    { detached: true, stdio: ['ignore', stdout.fd, stderr.fd], cwd: '/', env: { PATH: process.env['PATH'] } },
  )
  child.on('error', onEnd)
  child.on('exit', onEnd)
  child.unref()
  return child.pid
}
