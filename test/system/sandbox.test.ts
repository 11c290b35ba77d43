import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { after, before, test } from 'node:test'
import type { Sandbox } from '../../src/client/sandbox.ts'
import { Fault } from '../../src/model/fault.ts'
import type { BuildId } from '../../src/model/ids.ts'
import { assertNothingMore, namespacesOf, placesOf, processesOf, tracesOf } from '../fixtures/left.ts'
import { PausedDisks } from '../fixtures/paused-disk.ts'
import { lackingSandboxes, SandboxWorld } from '../fixtures/sandboxes.ts'

const skip = (await lackingSandboxes()) ?? false
const why = skip === false ? '' : ` (skipped: ${skip})`
let world: SandboxWorld

before(async () => {
  if (skip === false) world = await SandboxWorld.open()
})
after(async () => {
  if (process.env['TUTTI_SHOW']) for (const [name, text] of world.cluster.output) console.log(name, text)
  await world?.[Symbol.asyncDispose]()
})

async function out(sandbox: Sandbox, command: string | string[]): Promise<string> {
  const { code, stdout, stderr } = await sandbox.exec(command)
  assert.equal(code, 0, stderr)
  return stdout.trim()
}

test(`fifty clones of one snapshot differ in all that tells machines apart, in their first command${why}`, {
  skip,
}, async () => {
  const clones: Sandbox[] = []
  const said: string[][] = []
  const one = async () => {
    const sandbox = await world.create()
    clones.push(sandbox)
    const before = Date.now()
    const words = await out(
      sandbox,
      'od -An -N16 -tx1 /dev/urandom | tr -d " \\n"; echo; hostname; cat /etc/machine-id; date +%s%3N',
    )
    const lines = words.split('\n')
    const clock = Number(lines.pop())
    assert.ok(clock >= before - 2000 && clock <= Date.now() + 2000, `its clock says ${new Date(clock).toISOString()}`)
    said.push(lines)
  }
  try {
    const waiting = Array.from({ length: 50 }, () => one)
    await Promise.all(
      Array.from({ length: 4 }, async () => {
        for (let next = waiting.pop(); next; next = waiting.pop()) await next()
      }),
    )
    for (const column of [0, 1, 2])
      assert.equal(new Set(said.map((lines) => lines[column])).size, 50, `column ${column}`)
  } finally {
    await Promise.all(clones.map((clone) => clone.kill()))
  }
})

test(`two forks diverge in memory and on disk, and neither sees the other${why}`, { skip }, async () => {
  await using source = await world.create()
  await out(source, 'echo source > /root/file; echo source > /dev/shm/file')
  const forks = await source.fork(2)
  try {
    const [left, right] = forks as [Sandbox, Sandbox]
    await out(left, 'echo left > /root/file; echo left > /dev/shm/file; touch /root/only-left; sync')
    await out(right, 'echo right > /root/file; echo right > /dev/shm/file')
    assert.equal(await out(left, 'cat /root/file /dev/shm/file; ls /root'), 'left\nleft\nfile\nonly-left')
    assert.equal(await out(right, 'cat /root/file /dev/shm/file; ls /root'), 'right\nright\nfile')
    assert.equal(await out(source, 'cat /root/file /dev/shm/file; ls /root'), 'source\nsource\nfile')
    assert.notEqual(await out(left, 'hostname'), await out(right, 'hostname'))
  } finally {
    await Promise.all(forks.map((fork) => fork.kill()))
  }
})

/** Commits without end, and writes down how far it came: what it said it kept must be there. */
const writer = `
import sqlite3, os
db = sqlite3.connect('/root/data.db', isolation_level=None)
db.execute('pragma journal_mode=wal'); db.execute('pragma synchronous=full')
db.execute('create table if not exists t (n integer primary key, v text)')
n = db.execute('select coalesce(max(n), 0) from t').fetchone()[0]
while True:
    n += 1
    db.execute('insert into t values (?, ?)', (n, 'x' * 500))
    with open('/dev/shm/kept.new', 'w') as f: f.write(str(n))
    os.replace('/dev/shm/kept.new', '/dev/shm/kept')
`
const check = `
import sqlite3
kept = int(open('/dev/shm/kept').read() or 0)
db = sqlite3.connect('/root/data.db')
print(db.execute('pragma integrity_check').fetchone()[0], db.execute('select max(n), count(*) from t').fetchone(), kept)
n, count = db.execute('select max(n), count(*) from t').fetchone()
assert n == count and n >= kept, (n, count, kept)
`

test(`a sandbox paused and resumed twenty times under a writing database is whole each time${why}`, {
  skip,
}, async () => {
  await using sandbox = await world.create()
  await sandbox.files.write('/root/writer.py', writer)
  await sandbox.files.write('/root/check.py', check)
  const running = await sandbox.start(['python3', '/root/writer.py'], { detached: true })
  running.exited.catch(() => {})
  await world.cluster.until('it writes', async () => (await sandbox.exec('cat /dev/shm/kept')).code === 0)
  await using disks = await PausedDisks.open(`${world.directory}/blocks/content`)
  let before = 0
  for (let round = 1; round <= 20; round++) {
    await sandbox.pause()
    assert.equal(sandbox.info.phase, 'paused')
    const build = sandbox.info.pausedBuild as BuildId
    const stored = await disks.check(build, '/root/data.db')
    assert.ok(stored >= before, `round ${round}: the disk has ${stored} rows, and ${before} were kept before`)
    await sandbox.resume()
    const said = await out(sandbox, ['python3', '/root/check.py'])
    assert.match(said, /^ok /, `round ${round}: ${said}`)
    const kept = Number(said.split(' ').at(-1))
    assert.ok(kept >= before, `round ${round}: it went back from ${before} to ${kept}`)
    before = kept
  }
  // The writer is the process that began before the first pause.
  assert.match(await out(sandbox, 'ps -e -o args 2>/dev/null || cat /proc/[0-9]*/cmdline | tr "\\0" " "'), /writer\.py/)
  // The file system on the disk, by its own check: what the kernel says after a pass over all of it.
  const errors = await out(
    sandbox,
    'cat /sys/fs/ext4/vda/errors_count; find / -xdev -type f -exec cat {} + >/dev/null; cat /sys/fs/ext4/vda/errors_count',
  )
  assert.equal(errors, '0\n0')
})

test(`agents may die by kill -9: sandboxes run on, and the next agent takes them over${why}`, { skip }, async () => {
  await using sandbox = await world.create()
  await using paused = await world.create()
  await out(paused, 'echo kept > /root/file')
  await paused.pause()
  const counting = 'while :; do n=$((n+1)); echo $n > /dev/shm/n; sleep 0.1; done'
  const running = await sandbox.start(['sh', '-c', counting], { detached: true })
  running.exited.catch(() => {})
  const pid = await out(sandbox, 'pgrep -f "echo .n" 2>/dev/null | head -1; cat /proc/sys/kernel/random/boot_id')
  let before = 0
  for (let round = 0; round < 3; round++) {
    await world.restartAgent()
    await world.cluster.until('it is reached again', async () => (await sandbox.exec('true')).code === 0)
    const now = Number(await out(sandbox, 'cat /dev/shm/n'))
    assert.ok(now > before, `it counted on: ${now} after ${before}`)
    before = now
  }
  assert.equal(await out(sandbox, 'pgrep -f "echo .n" 2>/dev/null | head -1; cat /proc/sys/kernel/random/boot_id'), pid)
  await paused.resume()
  assert.equal(await out(paused, 'cat /root/file'), 'kept')
})

test(`a command that was let go of is joined again, over a pause too${why}`, { skip }, async () => {
  await using sandbox = await world.create()
  const started = await sandbox.start('echo one; read a; echo "two $a"; exit 7', { detached: true })
  const { pid } = await started.started
  started.close()
  await started.exited.catch(() => {})
  await sandbox.pause()
  await sandbox.resume()
  assert.equal((await sandbox.processes()).find((each) => each.pid === pid)?.running, true)
  await sandbox.sendInput(pid, 'x\n')
  const joined = await sandbox.attach(pid)
  assert.deepEqual(await Promise.all([text(joined.stdout), joined.exited]), ['one\ntwo x\n', { code: 7 }])
})

test(`a VM that is killed is a failed sandbox, with the reason${why}`, { skip }, async () => {
  const sandbox = await world.create()
  const { id } = sandbox
  const qemu = world.vms().find((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(placeOf(id)))
  assert.ok(qemu)
  process.kill(qemu, 'SIGKILL')
  await world.cluster.until('it is seen', async () => (await sandbox.refresh()).phase === 'failed')
  assert.match(sandbox.info.reason ?? '', /VM ended/)
  await assert.rejects(sandbox.exec('true'), /failed/)
})

test(`the block server may die by kill -9: guests wait for the next one, and a pause is whole${why}`, {
  skip,
}, async () => {
  await using sandbox = await world.create()
  await out(sandbox, 'echo before > /root/before; sync')
  const first = world.blockServer()
  process.kill(first, 'SIGKILL')
  // Whoever asks next starts it again.
  await using other = await world.create()
  assert.equal(await out(other, 'echo hi'), 'hi')
  assert.notEqual(world.blockServer(), first)
  assert.equal(
    await out(
      sandbox,
      'echo 3 > /proc/sys/vm/drop_caches; cat /root/before; echo after > /root/after; sync; cat /root/after',
    ),
    'before\nafter',
  )
  await sandbox.pause()
  await sandbox.resume()
  assert.equal(await out(sandbox, 'cat /root/before /root/after'), 'before\nafter')
})

test(`a port inside answers through the control plane, and through a port of this machine${why}`, {
  skip,
}, async () => {
  await using sandbox = await world.create()
  const serving = await sandbox.start(
    ['python3', '-m', 'http.server', '8000', '--bind', '127.0.0.1', '--directory', '/etc'],
    { detached: true },
  )
  serving.exited.catch(() => {})
  await world.cluster.until(
    'it listens',
    async () => (await sandbox.exec('cat /proc/net/tcp | grep -q :1F40')).code === 0,
  )
  await using forwarded = await sandbox.forward(8000)
  const answer = await fetch(`http://127.0.0.1:${forwarded.port}/hostname`)
  assert.equal((await answer.text()).trim(), sandbox.id)
})

test(`what cannot be is said in a sentence, and nothing half-made is listed${why}`, { skip }, async () => {
  const before = (await world.tutti.sandboxes.list()).length
  await assert.rejects(world.create({ template: 'bsae' }), /no template.*"bsae"/)
  await world.cluster
    .tutti('template', 'build', '--image', 'oci-archive:/nowhere.tar', '--name', 'none')
    .then(({ code, stderr }) => {
      assert.notEqual(code, 0)
      assert.match(stderr, /nowhere\.tar/)
    })
  const large = await world.tutti.templates
    .build('large', {
      recipe: { from: { template: 'base' }, steps: [], memoryMiB: 4_000_000, diskMiB: 1024, cpus: 1 } as never,
    })
    .then(
      () => 'built',
      (error: Error) => error.message,
    )
  assert.match(large, /memory/)
  assert.equal((await world.tutti.sandboxes.list()).length, before)
  assert.deepEqual(
    (await world.tutti.templates.list()).map(({ name }) => name),
    ['base'],
  )
})

test(`where QEMU cannot leave memory out of what it saves, pauses and forks are whole all the same${why}`, {
  skip,
}, async () => {
  await world.cluster.kill(world.agent, 'SIGTERM')
  world.agent = await world.cluster.startAgent('n1', { env: { TUTTI_EMULATE: '1', TUTTI_SAVE_WHOLE: '1' } })
  await using sandbox = await world.create()
  for (const word of ['one', 'two']) {
    await out(sandbox, `echo ${word} | tee /root/file > /dev/shm/file`)
    await sandbox.pause()
    await sandbox.resume()
    assert.equal(await out(sandbox, 'cat /root/file /dev/shm/file'), `${word}\n${word}`)
  }
  const [fork] = await sandbox.fork(1)
  assert.equal(await out(fork as Sandbox, 'cat /root/file /dev/shm/file'), 'two\ntwo')
  await out(sandbox, 'echo three > /dev/shm/file')
  assert.equal(await out(fork as Sandbox, 'cat /dev/shm/file'), 'two')
  await (fork as Sandbox).kill()
  // What was saved so goes on where memory can be left out.
  await sandbox.pause()
  await world.cluster.kill(world.agent, 'SIGTERM')
  world.agent = await world.cluster.startAgent('n1', { env: { TUTTI_EMULATE: '1' } })
  await sandbox.resume()
  assert.equal(await out(sandbox, 'cat /root/file /dev/shm/file'), 'two\nthree')
})

test(`far more creates at once than there is memory for: what fits is made, all others are told what they lack${why}`, {
  skip,
}, async () => {
  const creates = Number(process.env['TUTTI_CREATES'] ?? 500)
  const { client } = world.tutti
  const [node] = (await client.listNodes()).nodes
  // A job holds all memory but what six clones are reserved, 64 MiB each.
  const heldMiB = Math.floor((node?.facts?.memory ?? 0) / 2 ** 20) - 6 * 64
  const file = join(world.cluster.directory, 'hold.yaml')
  const task = `driver: process, command: [sleep, "100000"], resources: { memory: ${heldMiB}MiB }`
  await writeFile(file, `name: hold\ntasks: { hold: { ${task} } }\n`)
  const held = await world.cluster.tutti('run', file)
  assert.equal(held.code, 0, held.stderr)
  try {
    const outcomes: PromiseSettledResult<Awaited<ReturnType<typeof client.createSandbox>>>[] = []
    const lane = async () => {
      while (outcomes.length < creates)
        outcomes.push(
          ...(await Promise.allSettled([client.createSandbox({ body: { template: 'base', timeoutMs: null } })])),
        )
    }
    await Promise.all(Array.from({ length: 500 }, lane))
    const made = outcomes.flatMap((one) => (one.status === 'fulfilled' ? [one.value.sandbox.id] : []))
    const told = outcomes.flatMap((one) => (one.status === 'rejected' ? [Fault.from(one.reason)] : []))
    assert.ok(made.length > 0 && made.length <= 6, `${made.length} were made`)
    for (const { code, message } of told) {
      assert.equal(code, 'exhausted', message)
      assert.match(message, /^no node can take a sandbox of "base": [^\n]*memory[^\n]*$|^[^\n]*try again[^\n]*$/)
    }
    const listed = (await world.tutti.sandboxes.list()).map(({ id }) => id)
    assert.deepEqual(listed.sort(), [...made].sort())
    for (const id of made) await client.killSandbox({ sandbox: id })
  } finally {
    assert.equal((await world.cluster.tutti('stop', 'hold')).code, 0)
  }
  await using one = await world.create()
  assert.equal(await out(one, 'echo hi'), 'hi')
})

test(`after many are created and killed, no process, namespace, socket, memory, chunk or file of them is left${why}`, {
  skip,
}, async () => {
  const rounds = Number(process.env['TUTTI_LEAK_ROUNDS'] ?? 40)
  const places = new Set<string>()
  // With one gone through all of it, so that what is made once and kept is there already.
  await (await world.create())[Symbol.asyncDispose]()
  const traces = () => tracesOf(world.directory, world.blockServer())
  const before = { ...(await traces()), files: [], mounts: [], sockets: [], open: [] }
  for (let round = 0; round < rounds; round += 2) {
    const pair = await Promise.all([world.create(), world.create()])
    if (round % 10 === 0) {
      await out(pair[0], 'echo hi')
      for (const place of placesOf(world.directory)) places.add(place)
    }
    await Promise.all(pair.map((sandbox) => sandbox.kill()))
  }
  assert.deepEqual(await world.tutti.sandboxes.list(), [])
  // What is left belongs to the pool, which goes with the agent.
  for (const place of placesOf(world.directory)) places.add(place)
  await world.cluster.kill(world.agent, 'SIGTERM')
  assert.ok(places.size > 0)
  assert.deepEqual(namespacesOf(places), [])
  await assertNothingMore((what, holds) => world.cluster.until(what, holds), traces, before)
  const ours = [world.blockServer(), world.server.pid]
  assert.deepEqual(
    processesOf(world.cluster.directory).filter(({ pid }) => !ours.includes(pid)),
    [],
  )
  world.agent = await world.cluster.startAgent('n1', { env: { TUTTI_EMULATE: '1' } })
})

/** The place of a sandbox's VM, as its record says. */
function placeOf(id: string): string {
  const record = JSON.parse(readFileSync(`${world.directory}/sandboxes/${id}.json`, 'utf8')) as { place: string }
  return `/vms/${record.place}`
}
