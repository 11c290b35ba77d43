import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import { openTestBuilder, type TestBuilder } from '../../src/build/testing.ts'
import { lackingAgent } from '../../src/guest/channel/testing.ts'
import { readDockerfile } from '../../src/recipe/dockerfile/read-dockerfile.ts'
import { lackingForMachines } from '../fixtures/machines.ts'
import { lacking, makeImage, registryUser, startRegistry } from '../fixtures/registry.ts'

const reason = lacking(['mkfs.ext4']) ?? (await lackingForMachines()) ?? lackingAgent()

const dockerfile = `FROM anything
ARG SECRET
ENV GREETING=hello PATH=/opt/bin:$PATH
RUN echo "$GREETING $FROM_IMAGE" > /out && echo "made by step" && test -n "$SECRET"
WORKDIR /srv/app
COPY --chown=guest app/ ./
USER guest
RUN test "$(id -un):$(pwd)" = guest:/srv/app && test -O main.sh && cat main.sh > /dev/null
CMD ["sh", "main.sh"]
HEALTHCHECK CMD test -e /tmp/ready
`

describe('templates built in real machines', { skip: reason ?? false }, () => {
  let builder: TestBuilder
  let from: { image: string }
  let context: string
  before(async () => {
    builder = await openTestBuilder()
    context = join(builder.directory, 'context')
    await mkdir(join(context, 'app'), { recursive: true })
    await mkdir(join(builder.directory, 'image'))
    await writeFile(join(context, 'app/main.sh'), 'echo started; touch /tmp/ready; exec sleep 1000\n')
    const layout = await makeImage(join(builder.directory, 'image'), { env: { FROM_IMAGE: 'image' } })
    from = { image: `oci:${layout}:image` }
  })
  after(() => builder?.[Symbol.asyncDispose]())

  const read = (text: string) => ({
    ...readDockerfile(text, { file: 'Dockerfile', buildArgs: { SECRET: 'xyzzy-secret' } }).recipe,
    from,
  })
  /** Nothing is open at the block server, and no directory is left. */
  const leavesNothing = async () => {
    const { disks, memories, captures } = await builder.parts.blocks.ask(
      'list',
      {},
      { signal: AbortSignal.timeout(10_000) },
    )
    assert.deepEqual([disks, captures, memories.flatMap(({ holders }) => holders)], [[], [], []])
    assert.deepEqual(await readdir(builder.parts.directory), [])
  }

  test('a Dockerfile becomes a snapshot of a machine that is ready, and the second time from layers', async () => {
    const { manifest, log } = await builder.build(read(dockerfile), { context, template: 'web' })
    const messages = log.map(({ message }) => message)
    assert.ok(
      log.some(({ level, message, step }) => level === 'output' && message === 'made by step' && step === '2/6'),
    )
    assert.ok(!messages.some((message) => message.includes('xyzzy-secret')), 'a build argument is in the log')
    assert.ok(!messages.some((message) => message.startsWith('CACHED')))
    assert.equal(manifest.reason, 'template')
    assert.equal(manifest.defaults.user, 'guest')
    assert.equal(manifest.defaults.cwd, '/srv/app')
    assert.equal(manifest.defaults.env['GREETING'], 'hello')
    assert.equal(manifest.defaults.env['FROM_IMAGE'], 'image')
    assert.match(manifest.defaults.env['PATH'] ?? '', /^\/opt\/bin:\/usr\/local\/sbin:/)
    assert.equal(manifest.defaults.env['SECRET'], undefined)
    assert.ok((manifest.snapshot?.prefetch.length ?? 0) > 10)
    assert.equal(await builder.content.reference(`build/${manifest.id}`), manifest.id)
    await leavesNothing()

    const again = await builder.build(read(dockerfile), { context, template: 'web' })
    const cached = again.log.filter(({ message }) => message.startsWith('CACHED'))
    assert.equal(cached.length, 7, 'the image and six steps')
    assert.notEqual(again.manifest.id, manifest.id)
    await leavesNothing()
  })

  test('an image in a private registry takes credentials, and none are left anywhere', async () => {
    await using registry = await startRegistry({ access: 'private' })
    const image = await registry.push('lib/secret:1')
    const recipe = { from: { image } }
    await assert.rejects(builder.build(recipe), /needs credentials, or does not exist; give .*"--registry-user"/)
    const wrong = { username: 'ada', password: 'guess' }
    await assert.rejects(builder.build(recipe, { credentials: wrong }), /refused the credentials of user "ada"/)
    const { manifest, log } = await builder.build(recipe, { credentials: registryUser })
    const { username, password } = registryUser
    const secrets = [password, Buffer.from(`${username}:${password}`).toString('base64')]
    const told = JSON.stringify([manifest, log])
    for (const secret of secrets) {
      assert.ok(!told.includes(secret))
      const found = await promisify(execFile)('grep', ['-rlF', '--', secret, builder.directory]).catch(
        (error: { code: number }) => error,
      )
      assert.equal('code' in found && found.code, 1, 'a secret is left on disk')
    }
    await leavesNothing()
  })

  test('a step that fails says where, how and with which words; what was done before it is kept', async () => {
    const text = 'FROM x\nRUN echo one > /one\nRUN echo "no such thing" >&2; exit 7\n'
    await assert.rejects(
      builder.build(read(text)),
      /^Fault: Dockerfile:3: RUN echo .*: failed with exit code 7: no such thing$/,
    )
    await leavesNothing()
    const log: string[] = []
    const fixed = text.replace('exit 7', 'dd if=/dev/zero of=/big bs=1M count=500')
    await assert.rejects(
      builder.build(read(fixed), { progress: ({ message }) => log.push(message) }),
      /^Fault: Dockerfile:3: .* the disk of the template is full at 256 MiB; ask for a larger one/,
    )
    assert.ok(log.includes('CACHED RUN echo one > /one'), log.join('\n'))
    await leavesNothing()
  })

  test('a start command that ends and a ready check that never answers are told', async () => {
    const failing = { from, start: 'echo "cannot bind" >&2; exit 3', ready: { command: 'false' } }
    await assert.rejects(builder.build(failing), /^Fault: the start command ended with exit code 3 .*: cannot bind$/)
    const waiting = { from, ready: { command: 'echo still starting; exit 1', timeoutMs: 2000 } }
    await assert.rejects(
      builder.build(waiting),
      /not ready within 2 s; "echo still starting; exit 1" said last: exit code 1: still starting/,
    )
    await leavesNothing()
  })

  test('a build that is called off leaves nothing and has no name', async () => {
    const off = new AbortController()
    const called = builder.build(
      { from, steps: [{ step: { kind: 'run', command: 'sleep 100' }, place: 'Dockerfile:2', text: 'RUN sleep 100' }] },
      { template: 'off', signal: off.signal, progress: ({ message }) => message === 'RUN sleep 100' && off.abort() },
    )
    await assert.rejects(called, { name: 'AbortError' })
    await leavesNothing()
  })

  test('what cannot be begun from is told before any machine is started', async () => {
    await assert.rejects(builder.build({ from: { template: 'gone' } }), /there is no template "gone" to begin from/)
    await assert.rejects(
      builder.build({ from: { image: 'oci-archive:/no/such.tar' } }),
      /"oci-archive:\/no\/such\.tar" does not exist on this node/,
    )
    await assert.rejects(builder.build({ from: { image: 'oci-archive:relative.tar' } }), /lacks an absolute path/)
    const other = builder.parts.vmm && process.arch === 'x64' ? ('arm64' as const) : ('amd64' as const)
    await assert.rejects(
      builder.build({ from, arch: other }),
      new RegExp(`the recipe is for ${other}, and this node is`),
    )
    const directory = join(builder.directory, 'other')
    await mkdir(directory)
    const layout = await makeImage(directory, { architecture: other })
    await assert.rejects(
      builder.build({ from: { image: `oci:${layout}:image` } }),
      new RegExp(`is for ${other}, and this node is`),
    )
    const text = 'FROM x\nCOPY gone /\n'
    const steps = readDockerfile(text, { file: 'Dockerfile' }).recipe.steps
    await assert.rejects(builder.build({ from, steps }), /Dockerfile:2: cannot copy "gone"/)
    await leavesNothing()
  })
})
