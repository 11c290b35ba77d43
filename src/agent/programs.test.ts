import assert from 'node:assert/strict'
import { chmodSync, existsSync, readFileSync, statSync } from 'node:fs'
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { gzipSync } from 'node:zlib'
import { pack } from 'tar-stream'
import { ProcessDriver } from '../drivers/process/process-driver.ts'
import { silentLog } from '../kit/log.ts'
import { seededRandom } from '../kit/random.ts'
import { systemClock } from '../kit/system-clock.ts'
import type { NodeId } from '../model/ids.ts'
import type { JobInput } from '../model/job.ts'
import type { Assignment } from '../wire/messages.ts'
import { type Agent, startAgent } from './agent.ts'
import { SqliteLedger } from './ledger/sqlite.ts'
import { assignmentOf, jobOf, newId, TestControl, testFacts } from './testing.ts'
import { openWorkspace } from './workspace/disk.ts'

/** Real processes whose program is not part of the machine: it comes with the task. */

let top = ''
let agent: Agent | undefined
let control = new TestControl()
const driver = () => new ProcessDriver({ directory: join(top, 'agent', 'processes'), clock: systemClock })

beforeEach(async () => {
  top = await mkdtemp(join(tmpdir(), 'tutti-programs-'))
  // What lies above an agent's directory is for everybody to pass through.
  chmodSync(top, 0o755)
  await mkdir(join(top, 'files'))
  await mkdir(join(top, 'agent'), { mode: 0o700 })
  control = new TestControl()
  agent = await startAgent({
    clock: systemClock,
    random: seededRandom('programs'),
    log: silentLog,
    ledger: SqliteLedger.open(join(top, 'agent', 'ledger.db'), { now: systemClock.now() }),
    workspace: openWorkspace({ root: join(top, 'agent'), clock: systemClock, hostPaths: [join(top, 'files')] }),
    drivers: [driver()],
    probe: { http: async () => {}, tcp: async () => {} },
    node: { id: newId() as string as NodeId, name: 'node-1' },
    facts: async () => testFacts,
    dial: (options) => control.dial(options),
  })
})
afterEach(async () => {
  for (const { id } of agent?.allocations.all() ?? []) control.remove(id)
  await until(() => agent?.allocations.count === 0, 'all allocations being gone')
  await agent?.close()
  await rm(top, { recursive: true, force: true })
})

type Task = Omit<JobInput['tasks'][string], 'driver'>

/** Runs it as a batch job to its end; what it printed. */
async function printed(task: Task, rest: Partial<JobInput> = {}): Promise<string> {
  const one = start(task, rest)
  await until(() => ['complete', 'failed'].includes(control.phase(one.id) ?? ''), 'the task having ended')
  const { phase, message } = control.statuses.get(one.id) ?? {}
  assert.equal(phase, 'complete', `${message}: ${output(one, 'stderr')}`)
  return output(one, 'stdout')
}

function start(task: Task, rest: Partial<JobInput> = {}): Assignment {
  const restart = { attempts: 0 }
  const job = jobOf({ ...rest, type: 'batch', restart, tasks: { main: { driver: 'process', ...task } } })
  const one = assignmentOf(job)
  control.put(job, one)
  return one
}

function output({ id }: Assignment, stream: 'stdout' | 'stderr'): string {
  const path = join(top, 'agent', 'logs', id, `main.${stream}`)
  return existsSync(path) ? readFileSync(path, 'utf8') : ''
}

async function until(reached: () => boolean, what: string): Promise<void> {
  for (let tries = 0; !reached(); tries++) {
    assert.ok(tries < 6000, `waited for ${what}; statuses: ${JSON.stringify([...control.statuses.values()])}`)
    await systemClock.sleep(5)
  }
}

async function tool(): Promise<string> {
  const path = join(top, 'files', 'tool')
  await writeFile(path, '#!/bin/sh\necho "tool says $*"\n')
  return `file://${path}`
}

test('a program that a file artifact brings is run, by its path and by its PATH', async () => {
  const artifacts = [{ url: await tool(), mode: '0755' }]
  assert.equal(await printed({ artifacts, command: ['local/tool', 'hello'] }), 'tool says hello\n')
  const byPath = await printed({ artifacts, env: { PATH: 'local:/usr/bin:/bin' }, command: ['tool', 'again'] })
  assert.equal(byPath, 'tool says again\n')
})

test('a program that is downloaded is run, also when it takes its time to come', async (t) => {
  const server = createServer(async (_, response) => {
    response.write('#!/bin/sh\n')
    await systemClock.sleep(100)
    response.end('echo downloaded\n')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(() => server.close())
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/tool`
  assert.equal(await printed({ artifacts: [{ url, mode: '0755' }], command: 'local/tool' }), 'downloaded\n')
})

test('a program out of an archive is run, with what came beside it', async () => {
  const archive = pack()
  archive.entry({ name: 'app/bin/run', mode: 0o755 }, '#!/bin/sh\nexec cat "$(dirname "$0")/../greeting"\n')
  archive.entry({ name: 'app/greeting' }, 'from the archive\n')
  archive.finalize()
  const parts: Buffer[] = []
  for await (const part of archive) parts.push(part as Buffer)
  await writeFile(join(top, 'files', 'app.tar.gz'), gzipSync(Buffer.concat(parts)))
  const artifacts = [{ url: `file://${join(top, 'files', 'app.tar.gz')}` }]
  assert.equal(await printed({ artifacts, command: 'local/app/bin/run' }), 'from the archive\n')
})

test('a program that a template writes is run, and so is a template that an artifact brought', async () => {
  const content = '#!/bin/sh\necho ${task.name} of ${job.name}\n'
  const templates = [{ content, to: 'bin/run', mode: '0755' }]
  assert.equal(await printed({ templates, command: 'bin/run' }), 'main of web\n')
  await writeFile(join(top, 'files', 'run.tpl'), content)
  const brought = await printed({
    artifacts: [{ url: `file://${join(top, 'files', 'run.tpl')}` }],
    templates: [{ source: 'local/run.tpl', to: 'run', mode: '0755' }],
    command: './run',
  })
  assert.equal(brought, 'main of web\n')
})

test('a working directory that an artifact brings is one', async () => {
  const command = ['/bin/sh', '-c', './tool from inside']
  const artifacts = [{ url: await tool(), mode: '0755', to: 'deep/inside' }]
  assert.equal(await printed({ artifacts, cwd: 'deep/inside', command }), 'tool says from inside\n')
})

test('a program that nothing brings fails the task with a sentence', async () => {
  const one = start({ artifacts: [{ url: await tool() }], command: 'local/other' })
  await until(() => control.phase(one.id) === 'failed', 'the task having failed')
  assert.match(control.statuses.get(one.id)?.message ?? '', /the program "local\/other" of task "main" was not found/)
})

test('a process finds its volume by reference, and the next allocation finds what it left there', async () => {
  const mounts = [{ volume: 'data' }]
  const volumes = { data: {} }
  const put = { mounts, command: ['/bin/sh', '-c', 'echo kept > "$1/note"', 'sh', '${volume.data}'] }
  assert.equal(await printed(put, { volumes }), '')
  assert.equal(await printed({ mounts, command: ['cat', '${volume.data}/note'] }, { volumes }), 'kept\n')
})

test('a process is refused mounts that only a container can have, and told what to do', async () => {
  const host = join(top, 'files')
  const cases: [NonNullable<Task['mounts']>[number], RegExp][] = [
    [{ volume: 'data', to: '/data' }, /volume "data" cannot be mounted at \/data.* use \$\{volume\.data\}/],
    [{ volume: 'data', readOnly: true }, /volume "data" cannot be made read-only for a process/],
    [{ host, to: '/elsewhere' }, /host path .* cannot be mounted at \/elsewhere/],
    [{ host: '/etc' }, /may not be mounted on this node/],
  ]
  for (const [mount, expected] of cases) {
    const one = start({ mounts: [mount], command: '/bin/true' }, { volumes: { data: {} } })
    await until(() => control.phase(one.id) === 'failed', 'the task having failed')
    assert.match(control.statuses.get(one.id)?.message ?? '', expected)
  }
  assert.equal(await printed({ mounts: [{ host, to: host }], command: ['ls', host] }), '')
})

const rootOnly = process.getuid?.() === 0 ? false : 'it takes root to become another user'

test('another user reaches the whole of its task directory by name, and nothing else', { skip: rootOnly }, async () => {
  const look = [
    'set -e',
    'id -un',
    '"$TUTTI_TASK_DIR/local/tool" by its whole path',
    'cat "$TUTTI_TASK_DIR/etc/app.conf"',
    'echo mine > "$TUTTI_TASK_DIR/note"; cat "$HOME/note"; touch local/beside',
    'for secret in ../.. ../../.. ../../../ledger.db ../../../identity.json ../../../state ../../../logs; do',
    '  if [ -d "$secret" ]; then ls "$secret" && echo "saw $secret"; else cat "$secret" && echo "read $secret"; fi',
    'done 2>/dev/null || true',
  ]
  await writeFile(join(top, 'agent', 'identity.json'), '{}', { mode: 0o600 })
  const said = await printed({
    user: 'nobody',
    artifacts: [{ url: await tool(), mode: '0755' }],
    templates: [{ content: 'a = 1\n', to: 'etc/app.conf', mode: '0600' }],
    command: ['/bin/sh', '-c', look.join('\n')],
  })
  assert.equal(said, 'nobody\ntool says by its whole path\na = 1\nmine\n')
  const own = await printed({ user: 'nobody', artifacts: [{ url: await tool(), mode: '0755' }], command: 'local/tool' })
  assert.equal(own, 'tool says \n')
})

test('an agent lets others pass through its directory and look at none of it', { skip: rootOnly }, async () => {
  const one = start({ user: 'nobody', command: ['/bin/sleep', '1000'] })
  await until(() => control.phase(one.id) === 'running', 'the task running')
  const modeOf = (...path: string[]) => (statSync(join(top, 'agent', ...path)).mode & 0o777).toString(8)
  for (const path of [[], ['allocations'], ['allocations', one.id]]) assert.equal(modeOf(...path), '711')
  for (const path of [['state'], ['logs'], ['logs', one.id], ['state', one.id]]) assert.equal(modeOf(...path), '700')
  assert.equal(modeOf('ledger.db'), '600')
  assert.equal(modeOf('allocations', one.id, 'main'), '755')
  const { uid } = statSync(join(top, 'agent', 'allocations', one.id, 'main'))
  assert.notEqual(uid, 0)
})

test('another user under a directory that is closed to it is told which one', { skip: rootOnly }, async () => {
  await chmod(top, 0o700)
  const one = start({ user: 'nobody', command: '/bin/true' })
  await until(() => control.phase(one.id) === 'failed', 'the task having failed')
  const message = control.statuses.get(one.id)?.message ?? ''
  assert.match(message, /user "nobody" cannot enter the task directory/)
  assert.ok(message.includes(top), message)
})
