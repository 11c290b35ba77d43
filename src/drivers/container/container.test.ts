import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, type TestContext, test } from 'node:test'
import type { z } from 'zod'
import { type Podman, startPodman } from '../../../test/fixtures/podman.ts'
import { lacking, type Registry, startRegistry } from '../../../test/fixtures/registry.ts'
import { systemClock } from '../../kit/system-clock.ts'
import { Fault } from '../../model/fault.ts'
import { TaskSpec } from '../../model/job.ts'
import type { TaskPlan } from '../driver.ts'
import { ContainerDriver, type ContainerOptions } from './container.ts'

/** What containers promise beyond what every driver does, with either form of the driver. */

const { signal } = new AbortController()
const forms = [
  { form: 'plain runtime', skip: lacking(['tini-static']) ?? false },
  { form: 'engine', skip: lacking(['tini-static', 'podman']) ?? false },
] as const

for (const { form, skip } of forms) {
  describe(`containers by ${form}${skip === false ? '' : ` (skipped: ${skip})`}`, { skip }, () => {
    let registry: Registry
    let podman: Podman | undefined
    let image = ''
    before(async () => {
      registry = await startRegistry()
      if (form === 'engine') podman = await startPodman()
      image = await registry.push('lib/tools:1', { env: { FROM: 'image' }, command: ['echo', 'of the image'] })
    })
    after(async () => {
      await podman?.[Symbol.asyncDispose]()
      await registry[Symbol.asyncDispose]()
    })

    const open = (t: TestContext, options: Partial<ContainerOptions> = {}) =>
      World.open(
        t,
        podman ? { runtime: 'podman', dockerHost: podman.host, ...options } : { runtime: 'runc', ...options },
      )

    test("the image's command runs, and args alone replace it", async (t) => {
      const world = await open(t)
      assert.equal(await world.output(await world.run({ image })), 'of the image\n')
      assert.equal(await world.output(await world.run({ image, args: ['echo', 'mine'] })), 'mine\n')
    })

    test("a command replaces the image's entrypoint", async (t) => {
      const world = await open(t)
      const entered = await registry.push('lib/entered:1', { entrypoint: ['echo', 'entry'], command: ['default'] })
      assert.equal(await world.output(await world.run({ image: entered })), 'entry default\n')
      assert.equal(await world.output(await world.run({ image: entered, args: ['given'] })), 'entry given\n')
      assert.equal(await world.output(await world.run({ image: entered, command: ['echo', 'x'] })), 'x\n')
    })

    test("the image's environment, user and directory hold until the task says otherwise", async (t) => {
      const world = await open(t)
      const settled = await registry.push('lib/settled:1', {
        user: 'guest',
        workingDirectory: '/home',
        env: { A: '1' },
      })
      const command = ['sh', '-c', 'echo "$(id -u):$(id -g) $(pwd) $A $B"']
      assert.equal(
        await world.output(await world.run({ image: settled, command, env: { B: '2' } })),
        '1234:1234 /home 1 2\n',
      )
      const other = { image: settled, command, user: 'root', cwd: '/etc', env: { A: 'mine' } }
      assert.equal(await world.output(await world.run(other)), '0:0 /etc mine \n')
    })

    test('an unknown user is refused', async (t) => {
      const world = await open(t)
      await assert.rejects(world.run({ image, user: 'nobody-here' }), /nobody-here/)
    })

    test('an image without a command needs one', async (t) => {
      const world = await open(t)
      const mute = await registry.push('lib/mute:1')
      await assert.rejects(world.run({ image: mute }), (error) => {
        assert.ok(error instanceof Fault && error.code === 'invalid')
        assert.match(error.message, /does not say what to run/)
        return true
      })
    })

    test('two containers of one image do not see what the other writes', async (t) => {
      const world = await open(t)
      const script = 'ls /written 2>/dev/null; echo here > /written; cat /written'
      const command = ['sh', '-c', script]
      assert.equal(await world.output(await world.run({ image, command })), 'here\n')
      assert.equal(await world.output(await world.run({ image, command })), 'here\n')
    })

    test('mounts are there, and what is mounted read-only cannot be written', async (t) => {
      const world = await open(t)
      const shared = join(world.directory, 'shared')
      await mkdir(shared)
      await writeFile(join(shared, 'file'), 'content\n')
      const command = ['sh', '-c', 'cat /ro/file; echo new > /ro/new; echo more > /rw/more; echo done']
      const mounts = [
        { source: shared, target: '/ro', readOnly: true },
        { source: shared, target: '/rw', readOnly: false },
      ]
      const plan = await world.run({ image, command }, { mounts })
      assert.equal(await world.output(plan), 'content\ndone\n')
      assert.match(await readFile(plan.output.stderr, 'utf8'), /Read-only file system/)
      assert.equal(await readFile(join(shared, 'more'), 'utf8'), 'more\n')
      assert.ok(!existsSync(join(shared, 'new')))
    })

    test('a root that is read-only leaves /tmp and the task directory', async (t) => {
      const world = await open(t)
      const command = ['sh', '-c', 'touch /x || echo no; touch /tmp/x && touch "$TUTTI_TASK_DIR/x" && echo yes']
      const plan = await world.run({ image, command, config: { readOnlyRoot: true } })
      assert.equal(await world.output(plan), 'no\nyes\n')
    })

    test('a container has no more rights over the machine than it needs', async (t) => {
      const world = await open(t)
      const script =
        'mount -t tmpfs none /tmp && echo mounted; mknod /tmp/disk b 8 0 && cat /tmp/disk && echo read; exit 0'
      const plan = await world.run({ image, command: ['sh', '-c', script] })
      assert.equal(await world.output(plan), '')
      const all = await world.run({
        image,
        command: ['grep', 'CapBnd', '/proc/self/status'],
        config: { dropCapabilities: ['ALL'] },
      })
      assert.match(await world.output(all), /CapBnd:\s+0+$/m)
    })

    test('without a network there is only the loopback', async (t) => {
      const world = await open(t)
      const plan = await world.run({ image, network: 'none', command: ['ls', '/sys/class/net'] })
      assert.equal(await world.output(plan), 'lo\n')
    })

    test('an unknown setting is refused by name', async (t) => {
      const world = await open(t)
      await assert.rejects(world.run({ image, config: { privileged: true } }), /privileged/)
    })

    test('images in use are kept when room is made, unused ones go', async (t) => {
      const world = await open(t)
      const busy = await registry.push('lib/busy:1', { env: { BUSY: form } })
      const idle = await registry.push('lib/idle:1', { env: { IDLE: form } })
      const plan = await world.start({ image: busy, command: ['sleep', '1000'], config: { init: true } })
      const other = await world.run({ image: idle, command: ['true'] })
      await world.driver.remove(other)
      const names = (await world.driver.images()).flatMap((use) => use.names)
      assert.ok(names.includes(busy) && names.includes(idle))
      assert.equal((await world.driver.evict(0)).length >= 1, true)
      assert.deepEqual(
        (await world.driver.images()).flatMap((use) => use.names),
        [busy],
      )
      // As it would be after a restart of the agent.
      assert.deepEqual(await world.another().evict(0), [])
      await world.driver.remove(plan)
      await world.driver.evict(0)
      assert.deepEqual(await world.driver.images(), [])
    })

    test('nothing is left mounted', async (t) => {
      const world = await open(t)
      const plan = await world.start({ image, command: ['sleep', '1000'] })
      await world.driver.remove(plan)
      assert.ok(!readFileSync('/proc/self/mountinfo', 'utf8').includes(world.directory))
      assert.deepEqual(await readdir(plan.stateDirectory), [])
    })

    test('output that was written while no agent was there comes once, and in order', async (t) => {
      const world = await open(t)
      const script =
        'i=0; while [ $i -lt 3000 ]; do echo "line $i"; i=$((i+1)); [ $((i % 100)) = 0 ] && sleep 0.02; done'
      const plan = await world.plan({ image, command: ['sh', '-c', script] })
      await world.driver.prepare(plan, { signal, progress: () => {} })
      let handle = await world.driver.start(plan, { signal })
      for (let change = 0; change < 5; change++) {
        await systemClock.sleep(60)
        await handle[Symbol.asyncDispose]()
        const found = await world.another().adopt(plan)
        assert.ok(found)
        handle = found
      }
      assert.equal((await handle.exited).code, 0)
      const lines = Array.from({ length: 3000 }, (_, number) => `line ${number}\n`)
      assert.equal(await readFile(plan.output.stdout, 'utf8'), lines.join(''))
    })

    if (form === 'plain runtime') {
      test('a network bridge is refused with what would help', async (t) => {
        const world = await open(t)
        await assert.rejects(world.run({ image, network: 'bridge', command: ['true'] }), /needs Docker or Podman/)
      })

      test('the runtime that died leaves no container behind', async (t) => {
        const world = await open(t)
        const plan = await world.plan({ image, command: ['sleep', '1000'] })
        await world.driver.prepare(plan, { signal, progress: () => {} })
        const handle = await world.driver.start(plan, { signal })
        const supervisor = Number.parseInt(
          await readFile(join(plan.stateDirectory, 'container-1/supervisor'), 'utf8'),
          10,
        )
        const children = readFileSync(`/proc/${supervisor}/task/${supervisor}/children`, 'utf8')
        process.kill(Number(children.trim().split(' ')[0]), 'SIGKILL')
        assert.notEqual((await handle.exited).code, 0)
        // Whoever inherited it may take a moment to bury it.
        const stat = await readFile(`/proc/${handle.pid}/stat`, 'utf8').catch(() => 'gone) Z')
        assert.match(stat, /\) [ZX]/)
      })

      test('a task whose supervisor was killed goes on, and its end is reported as unknown', async (t) => {
        const world = await open(t)
        const plan = await world.start({ image, command: ['sh', '-c', 'sleep 1000'] })
        const supervisor = Number.parseInt(
          await readFile(join(plan.stateDirectory, 'container-1/supervisor'), 'utf8'),
          10,
        )
        process.kill(supervisor, 'SIGKILL')
        const found = await world.another().adopt(plan)
        assert.ok(found?.pid !== undefined)
        process.kill(found.pid, 'SIGKILL')
        const exit = await found.exited
        assert.equal(exit.code, 255)
        assert.match(exit.unknown ?? '', /nobody saw it end/)
      })
    } else {
      test('a port of the node leads into a container with a network of its own', async (t) => {
        const world = await open(t)
        const command = ['sh', '-c', 'mkdir /www; echo hello > /www/index.html; exec httpd -f -p 8080 -h /www']
        const ports = { http: { host: 20_000 + (process.pid % 10_000), to: 8080 } }
        await world.start({ image, network: 'bridge', command }, { ports })
        let text = ''
        for (let tries = 0; text === '' && tries < 200; tries++) {
          await systemClock.sleep(50)
          text = await fetch(`http://127.0.0.1:${ports.http.host}/`).then(
            (answer) => answer.text(),
            () => '',
          )
        }
        assert.equal(text, 'hello\n')
      })

      test('a private image is refused to whom it is not for', async (t) => {
        const world = await open(t)
        await using guarded = await startRegistry({ access: 'private' })
        const secret = await guarded.push('lib/secret:1', { command: ['echo', 'psst'] })
        await assert.rejects(world.run({ image: secret }), (error) => error instanceof Fault && error.code === 'denied')
        const wrong = { username: 'ada', password: 'guess' }
        await assert.rejects(world.run({ image: secret, credentials: wrong }), /refused the credentials of user "ada"/)
        const credentials = { username: 'ada', password: 'open sesame' }
        assert.equal(await world.output(await world.run({ image: secret, credentials })), 'psst\n')
      })

      test('a missing image and one for another architecture have their sentences', async (t) => {
        const world = await open(t)
        await assert.rejects(world.run({ image: `${registry.host}/lib/none:1` }), /does not exist/)
        const other = await registry.push('lib/other:1', { architecture: 's390x', command: ['true'] })
        await assert.rejects(world.run({ image: other }), /is for s390x, and this node is/)
      })
    }
  })
}

test('a node without any runtime says what to install', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-none-'))
  t.after(() => rm(directory, { recursive: true, force: true }))
  const dockerHost = `unix://${directory}/none.sock`
  const driver = new ContainerDriver({ directory, clock: systemClock, runtime: 'docker', dockerHost })
  const facts = await driver.facts()
  assert.equal(facts.healthy, false)
  assert.match(facts.reason ?? '', /does not answer/)
  assert.match(facts.remedy ?? '', /start Docker or Podman/)
  const missing = new ContainerDriver({ directory, clock: systemClock, runtime: 'crun' })
  const other = await missing.facts()
  if (!other.healthy) assert.match(other.remedy ?? '', /apt-get install|root|Linux/)
})

class World {
  readonly directory: string
  readonly driver: ContainerDriver
  readonly #options: ContainerOptions
  #count = 0
  readonly #plans: TaskPlan[] = []

  private constructor(directory: string, options: ContainerOptions) {
    this.directory = directory
    this.#options = options
    this.driver = new ContainerDriver(options)
  }

  static async open(t: TestContext, options: Partial<ContainerOptions>): Promise<World> {
    const directory = await mkdtemp(join(tmpdir(), 'tutti-container-'))
    const world = new World(directory, { directory: join(directory, 'driver'), clock: systemClock, ...options })
    t.after(async () => {
      for (const plan of world.#plans) await world.driver.remove(plan).catch(() => {})
      await world.driver.evict(0).catch(() => {})
      await rm(directory, { recursive: true, force: true })
    })
    return world
  }

  /** The driver as a restarted agent has it. */
  another(): ContainerDriver {
    return new ContainerDriver(this.#options)
  }

  async plan(spec: Omit<z.input<typeof TaskSpec>, 'driver'>, parts: Partial<TaskPlan> = {}): Promise<TaskPlan> {
    this.#count += 1
    const id = `t${process.pid}x${this.#count}-main`
    const at = (name: string) => join(this.directory, id, name)
    for (const part of ['task', 'state', 'logs']) await mkdir(at(part), { recursive: true })
    const parsed = TaskSpec.parse({ driver: 'container', ...spec })
    const plan: TaskPlan = {
      ...{ id, job: 'job', allocation: `t${process.pid}x${this.#count}`, task: 'main', attempt: 1, spec: parsed },
      ...{ env: parsed.env, directory: at('task'), stateDirectory: at('state'), ports: {}, mounts: [] },
      limits: { memory: 0, cores: 0, pids: 0 },
      output: { stdout: at('logs/stdout'), stderr: at('logs/stderr') },
      ...parts,
    }
    this.#plans.push(plan)
    return plan
  }

  async start(spec: Omit<z.input<typeof TaskSpec>, 'driver'>, parts: Partial<TaskPlan> = {}): Promise<TaskPlan> {
    const plan = await this.plan(spec, parts)
    await this.driver.prepare(plan, { signal, progress: () => {} })
    await this.driver.start(plan, { signal })
    return plan
  }

  /** To its end. */
  async run(spec: Omit<z.input<typeof TaskSpec>, 'driver'>, parts: Partial<TaskPlan> = {}): Promise<TaskPlan> {
    const plan = await this.plan(spec, parts)
    await this.driver.prepare(plan, { signal, progress: () => {} })
    await (await this.driver.start(plan, { signal })).exited
    return plan
  }

  async output(plan: TaskPlan): Promise<string> {
    return readFile(plan.output.stdout, 'utf8')
  }
}
