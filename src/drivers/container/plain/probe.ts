import { existsSync, lstatSync, readlinkSync } from 'node:fs'
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { lastLine, runTool } from '../../../images/run-tool.ts'
import { capabilitiesFor } from './bundle.ts'

export interface Runtime {
  name: 'runc' | 'crun'
  /** Absolute. */
  path: string
  version: string
  seccomp: boolean
  /** `run` can leave the container's cgroup standing after its end. */
  keep: boolean
}

export type Probe = { runtime: Runtime } | { reason: string; remedy: string }

const install = 'apt-get install runc skopeo umoci'

/** Whether a plain runtime really starts something here: many are installed where the kernel's set-up is not for them. */
export async function probeRuntime(directory: string, names: readonly Runtime['name'][]): Promise<Probe> {
  if (process.platform !== 'linux') return { reason: 'containers need Linux', remedy: 'use a Linux node' }
  if (process.getuid?.() !== 0)
    return { reason: 'containers without Docker or Podman need root', remedy: 'run the agent as root' }
  const missing = await missingTools(['skopeo', 'umoci', 'unshare'])
  if (missing.length > 0) return { reason: `${missing.join(' and ')} not installed`, remedy: install }
  const reasons: string[] = []
  for (const name of names) {
    const outcome = await tryRuntime(directory, name)
    if ('version' in outcome) return { runtime: outcome }
    reasons.push(`${name}: ${outcome.reason}`)
  }
  return { reason: reasons.join('; '), remedy: install }
}

async function missingTools(programs: readonly string[]): Promise<string[]> {
  const answers = await Promise.all(
    programs.map((program) =>
      runTool(program, ['--version']).then(
        () => undefined,
        () => program,
      ),
    ),
  )
  return answers.filter((program) => program !== undefined)
}

async function tryRuntime(directory: string, name: Runtime['name']): Promise<Runtime | { reason: string }> {
  const version = await runTool(name, ['--version']).catch(() => undefined)
  if (version?.code !== 0) return { reason: 'not installed' }
  await mkdir(directory, { recursive: true })
  const bundle = await mkdtemp(join(directory, 'probe-'))
  const id = `tutti-${basename(bundle)}`
  const root = join(bundle, 'state')
  try {
    await writeFile(join(bundle, 'config.json'), JSON.stringify(await smallestConfig(bundle, id)))
    const result = await runTool(name, ['--root', root, 'run', '--bundle', bundle, id])
    if (result.code !== 42) return { reason: lastLine(result) }
    const help = await runTool(name, ['run', '--help'])
    const [line = ''] = version.stdout.split('\n')
    return {
      name,
      path: (await runTool('sh', ['-c', 'command -v "$1"', 'sh', name])).stdout.trim(),
      version: line.replace(/^\S+ version /, ''),
      seccomp: /seccomp/i.test(version.stdout),
      keep: /--keep/.test(help.stdout),
    }
  } finally {
    await runTool(name, ['--root', root, 'delete', '--force', id]).catch(() => {})
    await rm(bundle, { recursive: true, force: true })
  }
}

/** A container of this machine's own programs, read-only: needs no image. */
async function smallestConfig(bundle: string, id: string): Promise<object> {
  const rootfs = join(bundle, 'rootfs')
  await mkdir(join(rootfs, 'proc'), { recursive: true })
  const binds: object[] = []
  for (const directory of ['bin', 'lib', 'lib32', 'lib64', 'usr', 'nix'].filter((name) => existsSync(`/${name}`))) {
    if (lstatSync(`/${directory}`).isSymbolicLink())
      await symlink(readlinkSync(`/${directory}`), join(rootfs, directory))
    else {
      const options = ['rbind', 'rprivate', 'ro']
      binds.push({ destination: `/${directory}`, type: 'bind', source: `/${directory}`, options })
    }
  }
  return {
    ociVersion: '1.0.2',
    hostname: 'probe',
    root: { path: rootfs, readonly: false },
    process: {
      terminal: false,
      user: { uid: 0, gid: 0 },
      args: ['/bin/sh', '-c', 'exit 42'],
      env: ['PATH=/usr/bin:/bin'],
      cwd: '/',
      capabilities: capabilitiesFor(0, []),
      noNewPrivileges: true,
    },
    mounts: [{ destination: '/proc', type: 'proc', source: 'proc' }, ...binds],
    linux: {
      cgroupsPath: `/tutti/${id}`,
      resources: { devices: [{ allow: false, access: 'rwm' }] },
      namespaces: ['pid', 'ipc', 'uts', 'mount', 'network'].map((type) => ({ type })),
    },
  }
}
